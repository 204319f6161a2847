"""gansmith.allocator: freed memory is used again without page faults, and settings of the user's own stay."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

import gansmith
from gansmith.allocator import keep_freed_memory
from gansmith.cli import main

LIBC, VERSION = platform.libc_ver()
glibc = pytest.mark.skipif(LIBC != "glibc", reason="glibc's allocator")

# 64 MB, ten times, which glibc by itself takes from the system and gives back each time.
FAULTS = """
import ctypes, resource, sys
import torch
from gansmith.allocator import keep_freed_memory

ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: pages of 4 kB, so that faults can be counted
done = keep_freed_memory() if sys.argv[1] == "kept" else None
for i in range(20):
    if i == 10:  # what comes first is new memory in either case
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    tensor = torch.ones(1 << 24)
    del tensor
print(done, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(code: str, *words: str, **more: str) -> list[str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    env = {**plain, "PYTHONPATH": str(Path(gansmith.__file__).parents[1]), **more}
    done = subprocess.run([sys.executable, "-c", code, *words], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@glibc
@pytest.mark.skipif(
    LIBC == "glibc" and tuple(map(int, VERSION.split(".")[:2])) < (2, 36),
    reason="before glibc 2.36 blocks above 32 MB may go back in any case",
)
def test_freed_memory_is_used_again_without_page_faults() -> None:
    (said, kept), (_, given_back) = run(FAULTS, "kept"), run(FAULTS, "as it is")
    assert said == "True"
    assert int(kept) < 1_000 < 100_000 < int(given_back)


@glibc
@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_settings_of_the_environment_stay(name: str) -> None:
    value = "glibc.malloc.arena_max=2" if name == "GLIBC_TUNABLES" else "131072"
    assert run(FAULTS, "kept", **{name: value})[0] == "False"


def test_every_command_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("gansmith.cli.keep_freed_memory", lambda: asked.append(1))
    assert CliRunner().invoke(main, ["recipes", "ls"]).exit_code == 0
    assert asked == [1]


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False

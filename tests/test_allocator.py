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
import ctypes, resource
from gansmith.allocator import keep_freed_memory

C = ctypes.CDLL(None)
C.prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: pages of 4 kB, so that faults can be counted
C.malloc.restype, C.malloc.argtypes, C.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]

def faults():
    for i in range(12):
        if i == 2:  # what comes first is new memory in either case
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        block = C.malloc(1 << 26)
        ctypes.memset(block, 1, 1 << 26)
        C.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

as_it_is = faults()
print(as_it_is, keep_freed_memory(), faults())
"""


def run(code: str, **more: str) -> list[str]:
    plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    env = {**plain, "PYTHONPATH": str(Path(gansmith.__file__).parents[1]), **more}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@glibc
@pytest.mark.skipif(
    LIBC == "glibc" and tuple(map(int, VERSION.split(".")[:2])) < (2, 36),
    reason="before glibc 2.36 blocks above 32 MB may go back in any case",
)
def test_freed_memory_is_used_again_without_page_faults() -> None:
    given_back, said, kept = run(FAULTS)
    assert said == "True" and int(kept) < 1_000 < 100_000 < int(given_back)


@glibc
@pytest.mark.parametrize("name", ["MALLOC_TRIM_THRESHOLD_", "MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_settings_of_the_environment_stay(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "glibc.malloc.arena_max=2" if name == "GLIBC_TUNABLES" else "131072")
    assert keep_freed_memory() is False


def test_every_command_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("gansmith.cli.keep_freed_memory", lambda: asked.append(1))
    assert CliRunner().invoke(main, ["recipes", "ls"]).exit_code == 0
    assert asked == [1]


def test_elsewhere_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False

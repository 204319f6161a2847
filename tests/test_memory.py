"""Training from a memory map takes memory for its batches: sixteen times the pictures, the same memory."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import gansmith
from gansmith.data.cache import Draft

MB = 1 << 20
SIDE = 64
SMALL, LARGE = 20, 320
"""MB of the sets."""

# Prints the most anonymous memory, in kB, that was seen before a round. RssAnon is without the pages of files, which
# the system keeps as long as nobody else wants the room.
TRAIN = """
import re, sys
from pathlib import Path
from unittest.mock import patch
import gansmith
from gansmith.data.cache import load_entry

def note(record):
    status = Path("/proc/self/status").read_text()
    seen.append(int(re.search(r"RssAnon:\\s+(\\d+) kB", status).group(1)))
    return False

seen = []
entry, memory, side, out = sys.argv[1:]
data = load_entry(Path(entry), print).data
keys = {"img_size": int(side), "channels": 3, "data.memory": memory, "n_cpu": 2, "log_interval": 1}
keys |= {"networks.G.widths": [8], "networks.D.widths": [8]}
with patch("gansmith.build.load_sets", lambda *args, **options: (data,)), patch("gansmith.run.record.plot_curves"):
    gansmith.train("gan", out=out, steps=12, device="cpu", overrides=keys, quiet=True, enough=note)
assert len(seen) == 12, seen
print(max(seen))
"""


def prepared(folder: Path, megabytes: int) -> Path:
    """A set in the cache's own form; the same megabyte over and over, for nobody looks at it."""
    images = np.random.default_rng(0).integers(0, 256, (MB // (3 * SIDE**2), 3, SIDE, SIDE), dtype=np.uint8)
    with Draft(folder / f"set-{megabytes}", print) as draft:
        while draft.count * 3 * SIDE**2 < megabytes * MB:
            draft.write(images)
        data = draft.finish("noise", None, (), [])
    assert isinstance(data.images, np.memmap) and data.images.nbytes >= megabytes * MB
    return draft.path


def taken(entry: Path, memory: str) -> float:
    """MB of anonymous memory during a few rounds, in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(Path(gansmith.__file__).parents[1])}
    words = [str(entry), memory, str(SIDE), str(entry.with_name(f"{entry.name}-{memory}"))]
    done = subprocess.run([sys.executable, "-c", TRAIN, *words], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.splitlines()[-1]) / 1024


@pytest.mark.slow  # three processes with torch
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see which memory is not a file's")
def test_a_memory_mapped_set_takes_no_memory_of_its_size(tmp_path: Path) -> None:
    small, large = prepared(tmp_path, SMALL), prepared(tmp_path, LARGE)
    mapped = taken(small, "map"), taken(large, "map")
    assert abs(mapped[1] - mapped[0]) < 0.1 * (LARGE - SMALL), f"{mapped} MB for sets of {SMALL} and {LARGE} MB"
    # The measure sees a set that is held: the same one, read into memory.
    held = taken(large, "device") - mapped[1]
    assert 0.85 * LARGE < held < 1.3 * LARGE, f"{held} MB for a set of {LARGE} MB"

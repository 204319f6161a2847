"""What it brings that the command line lets glibc keep freed memory (gansmith.allocator).

    python benchmarks/allocator.py --recipe gan

Trainings with and without, in turns, each a process of its own: images per second, page faults a round (both without
the first rounds), and the process's largest memory. Linux with glibc.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

WARM_UP = 10
"""Rounds before the clock and the count of faults start."""

TRAIN = """
import json, pathlib, resource, sys, time
import gansmith
from gansmith.allocator import keep_freed_memory

recipe, rounds, keep, out = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "kept", sys.argv[4]
if keep:
    keep_freed_memory()
usage = lambda: resource.getrusage(resource.RUSAGE_SELF)
seen = []

def note(record):
    seen.append((time.perf_counter(), usage().ru_minflt))
    return False

keys = {"checkpoint.interval": 10**9, "sample_interval": 10**9, "evaluation.every": 0, "evaluation.best": None}
gansmith.train(recipe, steps=rounds, out=out, device="cpu", overrides=keys, quiet=True, enough=note)
(began, faults), (ended, more) = seen[int(sys.argv[5])], seen[-1]
rounds = len(seen) - 1 - int(sys.argv[5])
last = json.loads(pathlib.Path(out, "metrics.jsonl").read_text().splitlines()[-1])
images = last["images"] / last["round"] * rounds
print(json.dumps([images / (ended - began), (more - faults) / rounds, usage().ru_maxrss / 1024]))
"""

CASES = {"as glibc does": "given back", "freed memory kept": "kept"}


def measure(recipe: str, rounds: int, case: str) -> tuple[float, float, float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", TRAIN, recipe, str(rounds), case, str(Path(folder, "run")), str(WARM_UP)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(done.returncode)
        speed, faults, peak = json.loads(done.stdout.splitlines()[-1])
        return speed, faults, peak


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, usage=argparse.SUPPRESS)
    parser.add_argument("--recipe", default="gan")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=200)
    options = parser.parse_args()
    for name, least in (("repeats", 1), ("rounds", WARM_UP + 2)):
        if getattr(options, name) < least:
            parser.error(f"--{name} is {getattr(options, name)}; it must be at least {least}")
    from gansmith import plan
    from gansmith.allocator import keep_freed_memory
    from gansmith.errors import UserError

    if not keep_freed_memory():
        parser.error("nothing to measure: this is not glibc, or the environment sets MALLOC_... or GLIBC_TUNABLES")

    try:
        plan(options.recipe)
    except UserError as error:
        parser.error(str(error))
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in CASES}
    for _ in range(options.repeats):
        for name, case in CASES.items():
            found[name].append(measure(options.recipe, options.rounds, case))
    base = [speed for speed, _, _ in found["as glibc does"]]
    for name, rows in found.items():
        speeds, faults, peaks = zip(*rows, strict=True)
        ratio = statistics.median(speed / other for speed, other in zip(speeds, base, strict=True))
        print(
            f"{options.recipe:14s} {name:18s} {statistics.median(speeds):8,.0f} images/s"
            f"  ({min(speeds):,.0f} to {max(speeds):,.0f})  {ratio:5.2f} times"
            f"  {statistics.median(faults):8,.1f} page faults a round  {statistics.median(peaks):6,.0f} MB at most"
        )


if __name__ == "__main__":
    main()

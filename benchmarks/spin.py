"""How long idle OpenMP threads spin: what it costs on an idle machine and beside other work (gan, images per second).

    python benchmarks/spin.py

Interleaved, each a process of its own; prints the median and the range of `--repeats` runs. Linux with GNU OpenMP.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

TRAIN = "import sys, gansmith; gansmith.train('gan', steps=int(sys.argv[1]), out=sys.argv[2], device='cpu', quiet=True)"


def burn() -> None:
    import torch

    torch.set_num_threads(1)
    a = torch.randn(1024, 1024)
    while True:
        a @ a


def speed(spin: str | None, steps: int) -> float:
    """Images per second of one training in a fresh process."""
    env = {key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    if spin is not None:
        env["GOMP_SPINCOUNT"] = spin
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        subprocess.run([sys.executable, "-c", TRAIN, str(steps), str(run)], env=env, check=True)
        last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
        return last["images"] / last["seconds"]


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, usage=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--steps", type=int, default=400, help="rounds of a training; beside other work a fifth of that"
    )
    parser.add_argument("--busy", type=int, default=os.cpu_count() or 1, help="other processes  [as many as cores]")
    options = parser.parse_args()
    for name in ("repeats", "steps", "busy"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; it must be at least 1")
    for busy, steps in ((0, options.steps), (options.busy, -(-options.steps // 5))):
        burners = [multiprocessing.Process(target=burn, daemon=True) for _ in range(busy)]
        for burner in burners:
            burner.start()
        found: dict[str | None, list[float]] = {None: [], "10000": []}
        for _ in range(options.repeats):
            for spin, speeds in found.items():
                speeds.append(speed(spin, steps))
        for burner in burners:
            burner.terminate()
        for spin, speeds in found.items():
            print(
                f"{busy} other processes  GOMP_SPINCOUNT={spin or 'default':8s}"
                f"  {statistics.median(speeds):7,.0f} images/s  ({min(speeds):,.0f} to {max(speeds):,.0f})",
                flush=True,
            )


if __name__ == "__main__":
    main()

"""Samples of gan's generator against the matrix products in them, which is the least they can take.

    python benchmarks/sampling.py --n 20000

Interleaved in one process: `Sampler.pixels` in its chunks of 64 rows (so that a sample does not depend on how many are
asked for), G's five products for as many rows at a time, and the same with all rows of 1,024 at a time. Also the time
from the start of `gansmith train gan --steps 1` to its end, which is more than the first step takes.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch

from gansmith import plan
from gansmith.build import build_network, build_prior
from gansmith.inference import CHUNK, Sampler

WIDTHS = (100, 128, 256, 512, 1024, 784)


def products(n: int, rows: int) -> Callable[[], None]:
    layers = [
        (torch.randn(rows, a), torch.randn(b, a), torch.randn(b)) for a, b in zip(WIDTHS, WIDTHS[1:], strict=False)
    ]

    def run() -> None:
        for _ in range(n // rows):
            for x, w, b in layers:
                torch.addmm(b, x, w.t())

    return run


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, usage=argparse.SUPPRESS)
    parser.add_argument("--n", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--starts", type=int, default=5)
    options = parser.parse_args()
    for name in ("repeats", "starts"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; it must be at least 1")
    if options.n < 1024:
        parser.error(f"--n is {options.n}; it must be at least 1024")
    n = options.n // 1024 * 1024
    recipe = plan("gan").recipe
    prior = build_prior(recipe)
    sampler = Sampler(build_network(recipe, "G", prior), prior)
    z = prior.sample(n, torch.Generator().manual_seed(0))
    cases: dict[str, Callable[[], object]] = {
        "Sampler.pixels": lambda: sampler.pixels(z),
        f"products, {CHUNK} rows": products(n, CHUNK),
        "products, 1024 rows": products(n, 1024),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(options.repeats + 1):
        for name, run in cases.items():
            began = time.perf_counter()
            with torch.no_grad():
                run()
            seconds[name].append(time.perf_counter() - began)
    ours = seconds["Sampler.pixels"][1:]  # the first of each is a warm-up
    for name, found in seconds.items():
        ratio = statistics.median(b / a for a, b in zip(ours, found[1:], strict=True))
        speed = n / statistics.median(found[1:])
        print(f"{name:20s} {speed:10,.0f} images/s   {ratio:5.2f} of the time of Sampler.pixels")

    starts = []
    for _ in range(options.starts):
        with tempfile.TemporaryDirectory() as folder:
            began = time.perf_counter()
            command = [
                sys.executable,
                "-m",
                "gansmith",
                "train",
                "gan",
                "--steps",
                "1",
                "--quiet",
                "--out",
                folder + "/run",
            ]
            subprocess.run(command, check=True)
            starts.append(time.perf_counter() - began)
    print(f"gansmith train gan --steps 1: {statistics.median(starts):.1f} s ({min(starts):.1f} to {max(starts):.1f})")


if __name__ == "__main__":
    main()

"""One epoch of the post's GAN, from the first batch to the last: the post's script against `gansmith train gan`.

    python benchmarks/epoch.py --repeats 5

Interleaved, each a process of its own as a user starts it: `benchmarks/post_loop.py` (which needs torchvision), the
recipe gan by the command line, and the floor: the matrix products of the recipe's update (0.934 GFLOP a round), one
after the other, with nothing around them. Prints medians and ranges.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROUNDS = 938
BATCH = 64
G, D = (100, 128, 256, 512, 1024, 784), (784, 512, 256, 1)


def post(device: str) -> float:
    command = [sys.executable, str(Path(__file__).with_name("post_loop.py")), "--n_epochs", "1", "--device", device]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1].split()[0])


def ours(device: str) -> float:
    """The clock of the run's log: rounds, lines of the log, pictures and checkpoints, not the start of the process."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        command = [sys.executable, "-m", "gansmith", "train", "gan", "--n_epochs", "1", "--quiet"]
        command += ["--device", device, "--out", str(run)]
        subprocess.run(command, check=True)
        return float(json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["seconds"])


def floor(device: str) -> float:
    """Each layer's products: output, weight gradient, input gradient; D on real and on fake images, G once."""
    import torch

    calls = []
    for widths, passes in ((G, 1), (D, 2)):
        for i, (before, after) in enumerate(zip(widths, widths[1:], strict=False)):
            for which in range(passes):
                x, w = torch.randn(BATCH, before, device=device), torch.randn(after, before, device=device)
                b, g = torch.randn(after, device=device), torch.randn(BATCH, after, device=device)
                # Nobody needs the gradient of z or of real images.
                calls.append((x, w, b, g, i > 0 or which == 1))

    def round() -> None:
        for x, w, b, g, input_gradient in calls:
            torch.addmm(b, x, w.t())
            g.t() @ x
            if input_gradient:
                g @ w

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    for _ in range(20):
        round()
    wait()
    began = time.perf_counter()
    for _ in range(ROUNDS):
        round()
    wait()
    return time.perf_counter() - began


CASES = {"the post's script": post, "gansmith train gan": ours, "matrix products alone": floor}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    found: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(options.repeats):
        for name, measure in CASES.items():
            found[name].append(measure(options.device))
    base = found["the post's script"]
    print(f"{'':30s} {'seconds per epoch':>26s}   {'times the post':>14s}")
    for name, seconds in found.items():
        ratio = statistics.median(b / s for b, s in zip(base, seconds, strict=True))
        spread = f"({min(seconds):.2f} to {max(seconds):.2f})"
        print(f"{name:30s} {statistics.median(seconds):8.2f} {spread:>17s}   {ratio:14.2f}")


if __name__ == "__main__":
    main()

"""One epoch of the post's GAN, from the first batch to the last: the post's script against `gansmith train gan`.

    python benchmarks/epoch.py --repeats 5
    python benchmarks/epoch.py --repeats 5 --device cuda

Interleaved, each a process of its own as a user starts it: `benchmarks/post_loop.py`, the recipe gan by the command
line, and the floor: the matrix products of the recipe's update (0.934 GFLOP a round), one after the other, with nothing
around them. Prints medians, ranges, and what they were measured on. TF32 is off in all three.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

EPOCH = 938
BATCH = 64
G, D = (100, 128, 256, 512, 1024, 784), (784, 512, 256, 1)


def post(device: str, steps: int) -> float:
    command = [sys.executable, str(Path(__file__).with_name("post_loop.py")), "--steps", str(steps), "--device", device]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1].split()[0])


def ours(device: str, steps: int) -> float:
    """The clock of the run's log: rounds, lines of the log, pictures and checkpoints, not the start of the process.

    On CUDA the last player's step may lack, for the loop waits in each move, at the check that gradients are finite.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        command = [sys.executable, "-m", "gansmith", "train", "gan", "--steps", str(steps), "--quiet"]
        command += ["--device", device, "--out", str(run)]
        subprocess.run(command, check=True)
        return float(json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])["seconds"])


def floor(device: str, steps: int) -> float:
    """Each layer's products: output, weight gradient, input gradient; D on real and on fake images, G once."""
    import torch
    from rounds import seconds_of

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

    def rounds(n: int) -> None:
        for _ in range(n):
            round()

    rounds(20)
    return seconds_of(lambda: rounds(steps), torch.device(device))


CASES = {"the post's script": post, "gansmith train gan": ours, "matrix products alone": floor}


def driver() -> str:
    try:
        ask = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        return subprocess.run(ask, check=True, capture_output=True, text=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        return "that nvidia-smi does not tell"


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, usage=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=EPOCH, help="rounds; %(default)s are an epoch")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda (cuda:0, ...)")
    options = parser.parse_args()
    for name in ("repeats", "steps"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; it must be at least 1")
    from gansmith.engine import choose_device
    from gansmith.errors import UserError
    from gansmith.run.folder import environment

    try:
        device = choose_device(options.device)
    except UserError as error:
        parser.error(str(error))
    if device.type not in ("cpu", "cuda"):  # elsewhere nothing here waits for the device
        parser.error(f"--device is {device}; it must be cpu or cuda")
    found: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(options.repeats):
        for name, measure in CASES.items():
            found[name].append(measure(str(device), options.steps))
    base = found["the post's script"]
    what = "an epoch" if options.steps == EPOCH else f"{options.steps} rounds"
    print(f"{'':30s} {f'seconds for {what}':>30s}   {'times the post':>14s}")
    for name, seconds in found.items():
        ratio = statistics.median(b / s for b, s in zip(base, seconds, strict=True))
        spread = f"({min(seconds):.3f} to {max(seconds):.3f})"
        print(f"{name:30s} {statistics.median(seconds):9.3f} {spread:>20s}   {ratio:14.2f}")
    on = environment(device) | {"driver": driver() if device.type == "cuda" else None}
    keys = ("device", "device_name", "cuda", "driver", "cores", "threads", "torch", "torchvision", "python")
    print("on " + ", ".join(f"{key} {on[key]}" for key in keys if on[key] is not None))


if __name__ == "__main__":
    main()

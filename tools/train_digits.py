"""Trains the digit classifier that ships: python tools/train_digits.py [--out FILE], 6 minutes on one thread

It learns from MNIST's 60,000 training images alone. The 10,000 test images are read once, at the end, for the accuracy
that is printed and stored. How long to train was chosen with --hold-back 5000: that trains on the others, prints the
accuracy on those held back after every epoch, and writes nothing.

The same machine and torch give the same file, byte for byte; other processors round differently. The sha256 that is
printed is what gansmith/metrics/digits.py checks.
"""

import argparse
import hashlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor
from torch.nn import functional as F

from gansmith.data import ImageSet, Wanted, load_sets
from gansmith.metrics.digits import WEIGHTS, Digits

BATCH, RATE, DECAY, DROPOUT = 128, 3e-3, 0.01, 0.25
TURN, SCALE, SHEAR, SHIFT = 0.2, 0.12, 0.2, 2  # at most: radians, natural logarithm, share of the side, pixels


def tensors(data: ImageSet) -> tuple[Tensor, Tensor]:
    """Images (N, 1, 28, 28) in [0, 1] and labels (N,)."""
    return torch.tensor(data.images, dtype=torch.float32) / 255, torch.tensor(data.labels)


def augment(x: Tensor) -> Tensor:
    """Turned, scaled, sheared and shifted, each of them on every other image: so that sharp ones are seen too.

    No noise and no blur: what the classifier learns to overlook, the distance between its features overlooks too.
    """

    def draw(limit: float) -> Tensor:
        return limit * (2 * torch.rand(len(x)) - 1) * (torch.rand(len(x)) < 0.5)

    turn, shear, wide, high = draw(TURN), draw(SHEAR), draw(SCALE).exp(), draw(SCALE).exp()
    dx, dy = (draw(SHIFT) / (x.shape[-1] / 2) for _ in range(2))
    top = torch.stack([wide * turn.cos(), shear - high * turn.sin(), dx], 1)
    bottom = torch.stack([wide * turn.sin(), high * turn.cos(), dy], 1)
    grid = F.affine_grid(torch.stack([top, bottom], 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, align_corners=False)


@torch.no_grad()
def accuracy(net: Digits, x: Tensor, y: Tensor) -> float:
    net.eval()
    right = sum((net(a).logits.argmax(1) == b).sum().item() for a, b in zip(x.split(500), y.split(500), strict=True))
    net.train()
    return right / len(y)


def train(x: Tensor, y: Tensor, epochs: int, held: tuple[Tensor, Tensor] | None) -> Digits:
    """AdamW, the rate rising over 15 % of the steps and falling to 0 over the rest."""
    net = Digits(dropout=DROPOUT).to(memory_format=torch.channels_last)  # a third faster than the other layout
    optimizer = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
    steps = epochs * math.ceil(len(x) / BATCH)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, steps, pct_start=0.15, anneal_strategy="linear")
    start = time.monotonic()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for rows in torch.randperm(len(x)).split(BATCH):
            images = augment(x[rows]).contiguous(memory_format=torch.channels_last)
            loss = F.cross_entropy(net(images).logits, y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            total += loss.item() * len(rows)
        spent = time.monotonic() - start
        text = f"epoch {epoch}/{epochs}: loss {total / len(x):.4f}, {spent:.0f} s"
        text += f", about {spent / epoch * (epochs - epoch):.0f} s to go" if epoch < epochs else ""
        text += f", {accuracy(net, *held):.2%} of those held back are right" if held else ""
        print(text, flush=True)
    return net


def main(argv: Sequence[str] | None = None) -> None:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=60_000, help="how many of the training images")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--hold-back", type=int, default=0, help="the last so many choose the epochs, nothing is written"
    )
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # sums in another order are other weights
    torch.manual_seed(args.seed)

    (data,) = load_sets(Wanted("mnist", (28, 28), 1, split="train"))
    x, y = (part[: args.images] for part in tensors(data))
    if args.hold_back:
        split = len(x) - args.hold_back
        train(x[:split], y[:split], args.epochs, (x[split:], y[split:]))
        return
    net = train(x, y, args.epochs, None)

    stored = {name: tensor.half().contiguous() for name, tensor in net.state_dict().items()}
    net.load_state_dict(stored)  # the accuracy is that of the rounded weights
    (unseen,) = load_sets(Wanted("mnist", (28, 28), 1, split="test"))
    right = accuracy(net, *tensors(unseen))
    about = {
        "what": "classifier of MNIST digits for gansmith.metrics, made by tools/train_digits.py",
        "test_accuracy": right,
        "images": len(x),
        "data_sha256": data.digest,
        "epochs": args.epochs,
        "seed": args.seed,
        "optimizer": f"AdamW, one cycle to {RATE}, weight decay {DECAY}, batch {BATCH}, dropout {DROPOUT}",
        "augmentation": f"half of each: turn {TURN} rad, scale e^{SCALE}, shear {SHEAR}, shift {SHIFT} px",
        "torch": torch.__version__,
    }
    # One key: safetensors writes several in an order that changes from process to process.
    body = safetensors.torch.save(stored, {"gansmith": json.dumps(about)})
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(body)
    print(f"{right:.2%} of the 10,000 test images are right")
    print(f"{args.out}: {len(body)} bytes, sha256 {hashlib.sha256(body).hexdigest()}")


if __name__ == "__main__":
    main()

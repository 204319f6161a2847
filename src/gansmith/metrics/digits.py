"""A small classifier of MNIST's digits, and its weights: tools/train_digits.py makes them.

Distances between its features are distances in this network alone: comparable with one another, never with an FID.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor, nn

from gansmith.errors import UserError

WEIGHTS = Path(__file__).with_name("weights") / "digits.safetensors"
SHA256 = "a4f43ee784a2ccb63929d93f68df80da013df3f71d3c16c3a88975fd4a4d9ad5"
SIDE, DIM, CLASSES = 28, 64, 10


class Outputs(NamedTuple):
    """What a classifier says of N images, float32."""

    features: Tensor  # (N, dim), what the last linear layer reads
    logits: Tensor  # (N, classes)


class Digits(nn.Module):
    """Images (N, 1, 28, 28) in [0, 1] -> `Outputs`: four convolutions, 64 features, 10 logits.

    No batch statistics. Leaky units all the way: no feature is dead, and their covariance has full rank.
    """

    def __init__(self, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.LeakyReLU(0.1), nn.MaxPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding=1), nn.LeakyReLU(0.1), nn.MaxPool2d(2)),
            *(nn.Conv2d(32, 64, 3, padding=1), nn.LeakyReLU(0.1)),
            *(nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.LeakyReLU(0.1)),
            *(nn.Flatten(), nn.Linear(64 * 4 * 4, DIM), nn.LeakyReLU(0.1)),
        )
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(DIM, CLASSES)

    def forward(self, x: Tensor) -> Outputs:
        features = self.trunk(x)
        return Outputs(features, self.head(self.dropout(features)))


def load() -> Digits:
    """The trained classifier, on the CPU, in eval mode, without gradients. UserError if its file is damaged."""
    try:
        data = WEIGHTS.read_bytes()
    except OSError as error:
        raise UserError(f"metrics/weights/{WEIGHTS.name} of gansmith cannot be read ({error}); reinstall it") from error
    if hashlib.sha256(data).hexdigest() != SHA256:
        raise UserError(f"metrics/weights/{WEIGHTS.name} of gansmith is damaged; reinstall it")
    with torch.device("meta"):  # draws no numbers: a training may be under way whose random stream must not move
        net = Digits()
    net.load_state_dict({name: tensor.float() for name, tensor in safetensors.torch.load(data).items()}, assign=True)
    return net.requires_grad_(False).eval()

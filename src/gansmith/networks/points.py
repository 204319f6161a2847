"""A generator for points, which lie anywhere in space: for toy sets in the plane.

Legend: N samples, Z latents, C H W image, here 1 1 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from gansmith.networks.blocks import Shape
from gansmith.schema import NonNegativeFloat, PositiveInt


class Generator(nn.Module):
    """z (N, Z) -> points (N, C, H, W), unbounded: Linear and LeakyReLU (slope 0: ReLU), the last layer linear."""

    values = "raw"

    def __init__(
        self,
        latent_dim: int,
        shape: Shape,
        *,
        widths: Sequence[PositiveInt] = (128, 128),
        slope: NonNegativeFloat = 0.2,
    ) -> None:
        super().__init__()
        self.shape = shape
        layers: list[nn.Module] = []
        for before, after in zip((latent_dim, *widths), widths, strict=False):
            layers += [nn.Linear(before, after), nn.LeakyReLU(slope, inplace=True)]
        self.model = nn.Sequential(*layers, nn.Linear((latent_dim, *widths)[-1], math.prod(shape)))

    def forward(self, z: Tensor) -> Tensor:
        return self.model(z).view(len(z), *self.shape)

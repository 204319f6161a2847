"""A generator for single numbers, smooth so that the density of what it makes is smooth: for toy sets on the line.

Legend: N samples, Z latents, C H W image, here 1 1 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn

from gansmith.networks.blocks import Shape
from gansmith.schema import PositiveFloat, PositiveInt


class Generator(nn.Module):
    """z (N, Z) -> x (N, C, H, W), unbounded: a straight line plus a network of SiLU layers that starts at 0.

    The line starts as G(z) = shift + scale (z_1 + ... + z_Z): p_g starts as the prior's density, moved and stretched.
    """

    def __init__(
        self,
        latent_dim: int,
        shape: Shape,
        *,
        widths: Sequence[PositiveInt] = (64, 64),
        shift: float = 0.0,
        scale: PositiveFloat = 1.0,
    ) -> None:
        super().__init__()
        self.shape = shape
        size = math.prod(shape)
        layers: list[nn.Module] = []
        for before, after in zip((latent_dim, *widths), widths, strict=False):
            layers += [nn.Linear(before, after), nn.SiLU()]
        last = nn.Linear((latent_dim, *widths)[-1], size)
        self.line = nn.Linear(latent_dim, size)
        nn.init.constant_(self.line.weight, scale)
        nn.init.constant_(self.line.bias, shift)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.model = nn.Sequential(*layers, last)

    def forward(self, z: Tensor) -> Tensor:
        return (self.line(z) + self.model(z)).view(z.shape[0], *self.shape)

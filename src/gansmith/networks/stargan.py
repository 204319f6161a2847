"""StarGAN's networks: a translator that is told attributes, a critic that tells them (Choi et al. 2018, 1711.09020).

Source: tables 4 and 5 of the paper's appendix, and the authors' code (github.com/yunjey/stargan). Weights start as
PyTorch's layers do. Legend: K attributes.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gansmith.networks.blocks import Residual, Shape, Slope, Width, at_least, check_multiple, conv, down, up
from gansmith.schema import PositiveInt


class Translator(nn.Module):
    """Images x (N, C, H, W) and wished attributes, bits (N, K) -> images (N, C, H, W) in (-1, 1).

    Each bit is one more map of the input. 7x7 of `width` maps, two 4x4 halvings, `blocks` residual blocks of 4 `width`,
    two 4x4 doublings, 7x7; each layer but the last is normalised per picture, with a ReLU. Borders are zeros: with
    reflected ones a constant map adds a constant, which the norm takes away, and no attribute would be seen.
    """

    values = "signed"

    def __init__(self, shape: Shape, classes: int, *, width: Width = 64, blocks: PositiveInt = 6) -> None:
        super().__init__()
        check_multiple(*shape[1:], 4, least=8)
        self.model = nn.Sequential(
            *(*conv(shape[0] + classes, width, 7), nn.ReLU(inplace=True)),
            *(*conv(width, 2 * width, 4, 2), nn.ReLU(inplace=True)),
            *(*conv(2 * width, 4 * width, 4, 2), nn.ReLU(inplace=True)),
            *(Residual(4 * width, reflect=False) for _ in range(blocks)),
            *(*up(4 * width, 2 * width, 4), nn.ReLU(inplace=True)),
            *(*up(2 * width, width, 4), nn.ReLU(inplace=True)),
            *(*conv(width, shape[0], 7, norm=False), nn.Tanh()),
        )

    def forward(self, x: Tensor, bits: Tensor) -> Tensor:
        maps = bits.to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return self.model(torch.cat((x, maps), 1))


class Told(NamedTuple):
    """What the critic says of pictures."""

    score: Tensor
    """(N, h, w), logits: one for each patch"""
    attributes: Tensor
    """(N, K), logits: no sigmoid here, the cross-entropy has it"""


class Critic(nn.Module):
    """Images (N, C, H, W) -> `Told`: `layers` 4x4 halvings of `width` maps, doubled by each layer, and two heads.

    Nothing is normalised, as the gradient penalty asks. `layers` null: as many as leave 2 pixels of the shorter side,
    and at most the paper's 6.
    """

    def __init__(
        self, shape: Shape, classes: int, *, width: Width = 64, layers: PositiveInt | None = None, slope: Slope = 0.01
    ) -> None:
        super().__init__()
        channels, h, w = shape
        n = min(6, max(1, min(h, w).bit_length() - 2)) if layers is None else layers
        at_least(shape, 1 << n, f" with {n} layers")
        maps = [channels, *(width << i for i in range(n))]
        self.body = nn.Sequential(*down(maps, slope=slope))
        self.score = nn.Conv2d(maps[-1], 1, 3, padding=1, bias=False)
        self.attributes = nn.Conv2d(maps[-1], classes, (h >> n, w >> n), bias=False)

    def forward(self, x: Tensor) -> Told:
        maps = self.body(x)
        return Told(self.score(maps).squeeze(1), self.attributes(maps).flatten(1))

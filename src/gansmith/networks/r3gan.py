"""R3GAN's networks (Huang et al. 2024, arXiv 2501.05441, config E): residual, mirrored, nothing is normalised.

From 4x4, or from what H and W come down to by halving, one stage for each size. Weights start as N(0, gain^2 / fan in).
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, conv_transpose2d, leaky_relu

from gansmith.networks.blocks import Added, Shape, Width, halvings
from gansmith.schema import PositiveInt


def _conv(before: int, after: int, kernel: int = 1, *, groups: int = 1, gain: float = 1.0) -> nn.Conv2d:
    layer = nn.Conv2d(before, after, kernel, padding=kernel // 2, groups=groups, bias=False)
    nn.init.normal_(layer.weight, 0.0, gain / math.sqrt(layer.weight[0].numel()))
    return layer


class Activation(nn.Module):
    """LeakyReLU 0.2 of maps (N, M, h, w) plus a learned number for each."""

    def __init__(self, maps: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(maps, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return leaky_relu(x + self.bias, 0.2)


class Bottleneck(Added):
    """x + f(x) on maps (N, M, h, w): 1x1 to 2 M maps, 3x3 in groups, 1x1 back, which starts at 0; so f(x) = 0 first.

    The groups have 16 maps, where that divides. The first two convolutions have the gain sqrt(2 / 1.04), which keeps a
    LeakyReLU's variance, over the 4th root of the number of blocks.
    """

    def __init__(self, maps: int, blocks: int) -> None:
        inner, gain = 2 * maps, math.sqrt(2 / 1.04) * blocks**-0.25
        middle = _conv(inner, inner, 3, groups=inner // 16 if inner % 16 == 0 else 1, gain=gain)
        first, last = _conv(maps, inner, gain=gain), _conv(inner, maps, gain=0.0)
        super().__init__(first, Activation(inner), middle, Activation(inner), last)


class Resample(nn.Module):
    """Maps (N, M, h, w) of twice or half the size, by the filter 1 3 3 1: bilinear, with zeros beyond the border."""

    filter: Tensor

    def __init__(self, up: bool) -> None:
        super().__init__()
        side = torch.tensor([1.0, 3.0, 3.0, 1.0]) / (4 if up else 8)
        self.register_buffer("filter", torch.outer(side, side)[None, None], persistent=False)
        self.resample = conv_transpose2d if up else conv2d

    def forward(self, x: Tensor) -> Tensor:
        maps = x.shape[1]
        return self.resample(x, self.filter.expand(maps, -1, -1, -1), stride=2, padding=1, groups=maps)


def _stages(shape: Shape, width: int, most: int, blocks: int) -> tuple[list[int], list[list[nn.Module]]]:
    """How many maps each stage has, and its blocks, from the smallest size to that of the image."""
    maps = [min(width << i, most) for i in reversed(range(halvings(*shape[1:]) + 1))]
    return maps, [[Bottleneck(n, len(maps) * blocks) for _ in range(blocks)] for n in maps]


def _fit(before: int, after: int) -> list[nn.Module]:
    return [_conv(before, after)] if before != after else []


class Generator(nn.Module):
    """z (N, Z) -> images (N, C, H, W), not bounded: a learned picture times a linear map of z, then the stages.

    `width` maps at the size of the image, twice as many at half of it, `most` at most; the paper's have 768 or less.
    """

    def __init__(
        self, latent_dim: int, shape: Shape, *, width: Width = 128, most: PositiveInt = 128, blocks: PositiveInt = 1
    ) -> None:
        super().__init__()
        maps, stages = _stages(shape, width, most, blocks)
        self.start = nn.Parameter(torch.randn(maps[0], *(side >> len(maps) - 1 for side in shape[1:])))
        self.scale = nn.Linear(latent_dim, maps[0], bias=False)
        nn.init.normal_(self.scale.weight, 0.0, latent_dim**-0.5)
        layers = stages[0]
        for before, after, stage in zip(maps, maps[1:], stages[1:], strict=False):
            layers += [*_fit(before, after), Resample(up=True), *stage]
        self.model = nn.Sequential(*layers, _conv(maps[-1], shape[0]))

    def forward(self, z: Tensor) -> Tensor:
        return self.model(self.scale(z)[:, :, None, None] * self.start)


class Critic(nn.Module):
    """Images (N, C, H, W) -> scores (N,): G's stages backwards, a weighted sum over each map, a linear layer."""

    def __init__(self, shape: Shape, *, width: Width = 128, most: PositiveInt = 128, blocks: PositiveInt = 1) -> None:
        super().__init__()
        maps, stages = _stages(shape, width, most, blocks)
        maps, stages = maps[::-1], stages[::-1]
        layers = [_conv(shape[0], maps[0]), *stages[0]]
        for before, after, stage in zip(maps, maps[1:], stages[1:], strict=False):
            layers += [Resample(up=False), *_fit(before, after), *stage]
        self.model = nn.Sequential(*layers)
        h, w = (side >> len(maps) - 1 for side in shape[1:])
        self.sum = nn.Parameter(torch.randn(maps[-1], h, w) / math.sqrt(h * w))
        self.last = nn.Linear(maps[-1], 1, bias=False)
        nn.init.normal_(self.last.weight, 0.0, maps[-1] ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.model(x) * self.sum).sum((2, 3))).squeeze(1)

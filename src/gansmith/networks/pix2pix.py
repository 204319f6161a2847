"""pix2pix's networks: a U-Net and a critic of pairs (Isola et al. 2017, arXiv 1611.07004, appendix 6.1); DualGAN's.

The paper normalises by the statistics of a batch of one, in testing too: here each picture is normalised by its own.
Weights start as N(0, 0.02^2). Legend: a the input, b what belongs to it.
"""

import math
from typing import Annotated

import torch
from torch import Tensor, nn

from gansmith.networks.blocks import AlwaysDropout, AnySize, Patch, PatchCritic, Shape, Width, conv, start_normal, up
from gansmith.schema import Fraction, PositiveFloat, Range

Depth = Annotated[int, Range(1, 8)]


class UNet(AnySize):
    """a (N, C, H, W) -> b (N, C, H, W) in (-1, 1), of any size whose sides are multiples of 2^depth.

    `depth` 4x4 convolutions halve the maps, as many transposed ones double them, each on its own input and on what
    went into the halving across from it. `width` maps double up to 8 `width`. LeakyReLU 0.2 on the way down, ReLU on
    the way up, and there, in the first three layers, dropout that never goes off: the paper's only noise. Neither the
    first nor the innermost maps are normalised, nor is the output. `depth` null: as many as the size of the training
    pictures allows, at least 4, which the dropout needs, and at most the paper's 8.
    """

    values = "signed"

    def __init__(self, shape: Shape, *, width: Width = 64, depth: Depth | None = None, dropout: Fraction = 0.5) -> None:
        if depth is None:
            depth = max(4, math.gcd(*shape[1:], 256).bit_length() - 1)
        super().__init__(shape, 1 << depth)
        maps = [shape[0], *(width * min(1 << i, 8) for i in range(depth))]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i in range(depth):
            layers = conv(maps[i], maps[i + 1], 4, 2, norm=0 < i < depth - 1)
            self.down.append(nn.Sequential(*([nn.LeakyReLU(0.2)] if i > 0 else []), *layers))
        for i in reversed(range(depth)):
            before = maps[i + 1] * (1 if i == depth - 1 else 2)
            drop = [AlwaysDropout(dropout)] if max(1, depth - 3) <= i else []
            self.up.append(nn.Sequential(nn.ReLU(), *up(before, maps[i], 4, norm=i > 0), *drop))
        start_normal(self, 0.02)

    def forward(self, a: Tensor) -> Tensor:
        maps = [a]
        for halve in self.down:
            maps.append(halve(maps[-1]))
        h = maps.pop()
        for i, double in enumerate(self.up):
            h = double(torch.cat((h, maps.pop()), 1) if i > 0 else h)
        return torch.tanh(h)


class Discriminator(nn.Module):
    """a and b (N, C, H, W) -> a map of scores (N, h, w): how real b looks beside a, patch by patch."""

    def __init__(self, shape: Shape, *, width: Width = 64, patch: Patch = 70) -> None:
        super().__init__()
        self.critic = PatchCritic((2 * shape[0], *shape[1:]), width=width, patch=patch)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.critic(torch.cat((a, b), 1))


class ClippedPatchCritic(PatchCritic):
    """DualGAN's critic of patches: all weights in [-clip, clip] after every step (arXiv 1704.02510, Algorithm 1)."""

    def __init__(self, shape: Shape, *, width: Width = 64, patch: Patch = 70, clip: PositiveFloat = 0.1) -> None:
        super().__init__(shape, width=width, patch=patch)
        self.clip = clip

    @torch.no_grad()
    def constrain(self) -> None:
        for weight in self.parameters():
            weight.clamp_(-self.clip, self.clip)

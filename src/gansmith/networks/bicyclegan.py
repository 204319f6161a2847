"""BicycleGAN's networks: a U-Net that takes a code, an encoder, critics of two scales (Zhu et al. 2017, 1711.11586).

Layers are those of the authors' code (github.com/junyanz/BicycleGAN). Weights start as N(0, 0.02^2). Legend: Z
numbers of a code, a the input, b what belongs to it.
"""

import math
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from gansmith.networks.blocks import AnySize, Patch, PatchCritic, Scales, Shape, Width, at_least, conv, start_normal, up
from gansmith.schema import Fraction, Range

Depth = Annotated[int, Range(1, 8)]


class UNet(AnySize):
    """a (N, C, H, W) and z (N, Z) -> b (N, C, H, W) in (-1, 1), of any size whose sides are multiples of 2^depth.

    pix2pix's U-Net, but for its noise: z stands beside the maps, at each of their places, before every halving
    (`z_at: all`), or beside the input alone. Dropout, off in eval mode, follows the doublings inside the fifth halving,
    but for the innermost. `depth` null: as many halvings as the training pictures allow, at most the paper's 8.
    """

    values = "signed"

    def __init__(
        self,
        latent_dim: int,
        shape: Shape,
        *,
        width: Width = 64,
        depth: Depth | None = None,
        dropout: Fraction = 0.5,
        z_at: Literal["all", "input"] = "all",
    ) -> None:
        if depth is None:
            depth = max(1, math.gcd(*shape[1:], 256).bit_length() - 1)
        super().__init__(shape, 1 << depth)
        self.codes = [latent_dim if z_at == "all" or i == 0 else 0 for i in range(depth)]
        maps = [shape[0], *(width * min(1 << i, 8) for i in range(depth))]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i in range(depth):
            layers = conv(maps[i] + self.codes[i], maps[i + 1], 4, 2, norm=0 < i < depth - 1)
            self.down.append(nn.Sequential(*([nn.LeakyReLU(0.2)] if i > 0 else []), *layers))
        for i in reversed(range(depth)):
            before = maps[i + 1] * (1 if i == depth - 1 else 2)
            drop = [nn.Dropout(dropout)] if 4 <= i < depth - 1 else []
            self.up.append(nn.Sequential(nn.ReLU(), *up(before, maps[i], 4, norm=i > 0), *drop))
        start_normal(self, 0.02)

    def forward(self, a: Tensor, z: Tensor) -> Tensor:
        maps = [a]
        for halve, width in zip(self.down, self.codes, strict=True):
            everywhere = z[:, :width, None, None].expand(-1, -1, *maps[-1].shape[2:])
            maps.append(halve(torch.cat((maps[-1], everywhere), 1)))
        h = maps.pop()
        for i, double in enumerate(self.up):
            h = double(torch.cat((h, maps.pop()), 1) if i > 0 else h)
        return torch.tanh(h)


class HalvingResidual(nn.Module):
    """(N, before, H, W) -> (N, after, H / 2, W / 2): f(x) and a linear layer of x, both halved by means, added up.

    f is two 3x3 convolutions, each on maps that are normalised per picture and have passed a LeakyReLU 0.2.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.model = nn.Sequential(
            *(nn.InstanceNorm2d(before, affine=True), nn.LeakyReLU(0.2), *conv(before, before, 3), nn.LeakyReLU(0.2)),
            *(*conv(before, after, 3, norm=False), nn.AvgPool2d(2)),
        )
        self.short = nn.Sequential(nn.AvgPool2d(2), *conv(before, after, 1, norm=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) + self.short(x)


class Encoder(nn.Module):
    """b (N, C, H, W) -> mu and log sigma^2 of its code, each (N, Z): q(z | b) = N(mu, diag sigma^2).

    A 4x4 convolution with stride 2, `blocks` halving residual blocks of width, 2 width, 3 width and then 4 width maps,
    the mean over the picture, a linear layer for each. The paper has 4 blocks for 256x256 and 3 for 128x128.
    """

    def __init__(
        self, latent_dim: int, shape: Shape, *, width: Width = 64, blocks: Annotated[int, Range(1, 6)] = 4
    ) -> None:
        super().__init__()
        least = 2 << blocks  # the last block normalises maps of two pixels a side, or more
        at_least(shape, least, f" with {blocks} blocks")
        maps = [width * min(i + 1, 4) for i in range(blocks + 1)]
        self.model = nn.Sequential(
            *conv(shape[0], width, 4, 2, norm=False),
            *(HalvingResidual(*both) for both in zip(maps, maps[1:], strict=False)),
            *(nn.LeakyReLU(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        )
        self.mu, self.logvar = nn.Linear(maps[-1], latent_dim), nn.Linear(maps[-1], latent_dim)
        start_normal(self, 0.02)

    def forward(self, b: Tensor) -> tuple[Tensor, Tensor]:
        h = self.model(b)
        return self.mu(h), self.logvar(h)


class Critic(Scales):
    """A patch critic for each of `scales`, each half as wide as the one before.

    The paper's two see 70 and 140 pixels.
    """

    def __init__(
        self, shape: Shape, *, width: Width = 64, patch: Patch = 70, scales: Annotated[int, Range(1, 4)] = 2
    ) -> None:
        least = (patch + 2) // 3 << (scales - 1)
        at_least(shape, least, f" with a patch of {patch} and {scales} scales")
        c, h, w = shape
        halved = [(c, -(-h // (1 << i)), -(-w // (1 << i))) for i in range(scales)]
        super().__init__(PatchCritic(size, width=max(1, width >> i), patch=patch) for i, size in enumerate(halved))

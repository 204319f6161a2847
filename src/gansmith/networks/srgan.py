"""SRGAN's networks: SRResNet and a critic of pictures of one size (Ledig et al. 2017, arXiv 1609.04802, figure 4)."""

from __future__ import annotations

from math import ceil

from torch import nn

from gansmith.networks.blocks import Added, Scale, Scores, Shape, Upscaler, check_multiple
from gansmith.schema import PositiveInt


class Block(Added):
    """x + f(x) on maps (N, width, h, w): f is two 3x3 convolutions with BatchNorm, and a PReLU between them."""

    def __init__(self, width: int) -> None:
        first, second = ([nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)] for _ in range(2))
        super().__init__(*first, nn.PReLU(), *second)


class Generator(Upscaler):
    """(N, C, h, w) of any size -> (N, C, H, W) in (-1, 1): 9x9 convolution, `blocks` residual blocks, and for each
    doubling a convolution to four times the maps, which become pixels; at last a 9x9 convolution and tanh.
    """

    values = "signed"

    def __init__(self, shape: Shape, *, scale: Scale = 4, width: PositiveInt = 64, blocks: PositiveInt = 16) -> None:
        super().__init__(shape, scale)
        c = shape[0]
        self.first = nn.Sequential(nn.Conv2d(c, width, 9, padding=4), nn.PReLU())
        last = [nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)]
        self.blocks = nn.Sequential(*[Block(width) for _ in range(blocks)], *last)
        up: list[nn.Module] = []
        for _ in range(self.doublings):
            up += [nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.PReLU()]
        self.up = nn.Sequential(*up, nn.Conv2d(width, c, 9, padding=4), nn.Tanh())
        self.reach = 4 + 2 * blocks + 1 + ceil(sum(0.5**i for i in range(self.doublings)) + 4 / scale)


class Discriminator(Scores):
    """(N, C, H, W), H and W at least 16 -> scores (N,), logits.

    Four pairs of 3x3 convolutions, the second of each with stride 2, of `width` maps, doubled by each pair; BatchNorm
    but in the first, LeakyReLU 0.2; then `units` and one.
    """

    def __init__(self, shape: Shape, *, width: PositiveInt = 64, units: PositiveInt = 1024) -> None:
        c, h, w = shape
        check_multiple(h, w, 1, least=16)
        layers: list[nn.Module] = []
        before = c
        for pair in range(4):
            for stride in (1, 2):
                norm = len(layers) > 0
                layers.append(nn.Conv2d(before, width << pair, 3, stride, 1, bias=not norm))
                layers += [nn.BatchNorm2d(width << pair)] if norm else []
                layers.append(nn.LeakyReLU(0.2, inplace=True))
                before = width << pair
        flat = before * ceil(h / 16) * ceil(w / 16)
        head = (nn.Flatten(), nn.Linear(flat, units), nn.LeakyReLU(0.2, inplace=True), nn.Linear(units, 1))
        super().__init__(*layers, *head)

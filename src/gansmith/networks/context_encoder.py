"""The context encoder's network (Pathak et al. 2016, arXiv 1604.07379, and its authors' code)."""

from torch import nn

from gansmith.networks.blocks import Layers, Shape, Width, down, halvings, start_normal, up
from gansmith.schema import PositiveInt


class Generator(Layers):
    """Pictures with a hole (N, C, H, W) -> whole pictures (N, C, H, W) in (-1, 1).

    4x4 convolutions halve the maps until the shorter side is under 8; of what is left a convolution as large as that
    makes `bottleneck` numbers, from which as many transposed ones go back: all of a picture is seen everywhere. `width`
    maps double up to 8 `width`; LeakyReLU 0.2 on the way down, ReLU on the way up; normalised per picture but for the
    first layer, the numbers and the last layer. Weights start as N(0, 0.02^2). H and W are multiples of 4, at least 8.
    """

    values = "signed"

    def __init__(self, shape: Shape, *, width: Width = 64, bottleneck: PositiveInt = 4000) -> None:
        c, h, w = shape
        depth = halvings(h, w)
        maps = [c, *(width * min(1 << i, 8) for i in range(depth))]
        layers = down(maps, norm=True)
        rest = (h >> depth, w >> depth)
        layers += [nn.Conv2d(maps[-1], bottleneck, rest), nn.LeakyReLU(0.2, inplace=True)]
        layers += [nn.ConvTranspose2d(bottleneck, maps[-1], rest), nn.InstanceNorm2d(maps[-1], affine=True)]
        for i in reversed(range(depth)):
            layers += [nn.ReLU(inplace=True), *up(maps[i + 1], maps[i], 4, norm=i > 0)]
        super().__init__(*layers, nn.Tanh())
        start_normal(self, 0.02)

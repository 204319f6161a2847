"""Super-resolution: SRGAN's SRResNet and critic of pictures of one size (Ledig et al. 2017, 1609.04802, figure 4).

And ESRGAN's generator (Wang et al. 2018, arXiv 1809.00219, section 3.1), whose critic is SRGAN's.
"""

from math import ceil

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from gansmith.networks.blocks import Added, Scale, Scores, Shape, UpConv, Upscaler, Width, check_multiple, conv
from gansmith.schema import PositiveInt

SCALE = 0.2
"""Of what ESRGAN's residual blocks add (beta)."""
SEEN = 96
"""The most pixels away that counts when large pictures are made in tiles. In 23 blocks each sees 350, but what lies
further away hardly matters: with the weights of Real-ESRGAN x4plus, which is this network, it changed strips of Set14's
comic and baboon by at most 0.03 levels of 256. With 64 pixels it was 4.4 levels, with 32 14, and with 10, which is what
Real-ESRGAN's own code takes, 52."""


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

    def __init__(self, shape: Shape, *, scale: Scale = 4, width: Width = 64, blocks: PositiveInt = 16) -> None:
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

    def __init__(self, shape: Shape, *, width: Width = 64, units: PositiveInt = 1024) -> None:
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


class DenseBlock(nn.Module):
    """x + 0.2 f(x): five 3x3 convolutions, each on x and all before it, of `growth` maps but the last; LeakyReLU 0.2.

    Weights start at a tenth of He's deviation, biases at 0.
    """

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        sizes = [growth] * 4 + [width]
        self.convs = nn.ModuleList(nn.Conv2d(width + i * growth, n, 3, padding=1) for i, n in enumerate(sizes))
        for name, parameter in self.convs.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.kaiming_normal_(parameter).data.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        *convs, last = self.convs
        seen = x
        for layer in convs:
            seen = torch.cat((seen, leaky_relu(layer(seen), 0.2)), 1)
        return x + SCALE * last(seen)


class ResidualInResidual(nn.Module):
    """x + 0.2 f(x): f is three dense blocks."""

    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.model = nn.Sequential(*[DenseBlock(width, growth) for _ in range(3)])

    def forward(self, x: Tensor) -> Tensor:
        return x + SCALE * self.model(x)


class DenseGenerator(Upscaler):
    """(N, C, h, w) of any size -> (N, C, H, W), in [0, 1] after training, by a linear layer.

    A convolution, `blocks` residual-in-residual dense blocks and a convolution, added to what went in; each doubling is
    nearest-neighbour and a convolution; two convolutions at last. All are 3x3, without BatchNorm.
    """

    values = "unit"

    def __init__(
        self, shape: Shape, *, scale: Scale = 4, width: Width = 64, blocks: PositiveInt = 23, growth: PositiveInt = 32
    ) -> None:
        super().__init__(shape, scale)
        c = shape[0]
        self.first = nn.Conv2d(c, width, 3, padding=1)
        trunk = [ResidualInResidual(width, growth) for _ in range(blocks)]
        self.blocks = nn.Sequential(*trunk, nn.Conv2d(width, width, 3, padding=1))
        up: list[nn.Module] = []
        for _ in range(self.doublings):
            up += [UpConv(width, width), nn.LeakyReLU(0.2, inplace=True)]
        first, last = conv(width, width, 3, norm=False), conv(width, c, 3, norm=False)
        self.up = nn.Sequential(*up, *first, nn.LeakyReLU(0.2, inplace=True), *last)
        self.reach = min(SEEN, 1 + 15 * blocks + 1 + 3)

"""What families of networks share: sizes that fit, first weights, rows of layers, layers, the patch critic."""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, conv2d, conv_transpose2d, dropout, pad

from gansmith.schema import NonNegativeFloat, PositiveInt

Shape = tuple[int, int, int]
"""(C, H, W)"""
Width = PositiveInt
"""How many maps the widest picture has; the others have multiples of it."""
Widths = Sequence[PositiveInt]
"""How many units each hidden layer has."""
Slope = NonNegativeFloat
"""Of a LeakyReLU below 0; with 0 it is a ReLU."""
Scale = Literal[2, 4, 8]
Patch = Literal[16, 34, 70, 142, 286]
"""The side in pixels of what one score of a patch critic sees: 9 * 2^n - 2 after n strided layers."""


# ---- sizes that fit ----------------------------------------------------------------------------------------------


def size(height: int, width: int) -> str:
    """(H, W) as `img_size` takes it."""
    return str(height) if height == width else f"{height},{width}"


def check_size(height: int, width: int, nearest: tuple[int, int], rule: str, what: str = "img_size") -> None:
    """A ValueError that states the rule and the nearest (H, W) that fits, unless that is (H, W) itself."""
    if (height, width) != nearest:
        raise ValueError(
            f"{what} is {size(height, width)}; height and width must be {rule}; the nearest is {size(*nearest)}"
        )


def check_multiple(height: int, width: int, of: int, *, least: int = 1, what: str = "img_size") -> None:
    """A ValueError that names the nearest (H, W), unless both are multiples of `of` and at least `least`."""
    nearest = [max(-(-least // of), (side + of // 2) // of) * of for side in (height, width)]
    rule = f"multiples of {of}" + (f", at least {least}" if least > of else "")
    check_size(height, width, (nearest[0], nearest[1]), rule, what)


def at_least(shape: Shape, least: int, why: str = "") -> None:
    """A ValueError that names the nearest (H, W), unless both sides are at least `least`."""
    height, width = shape[1:]
    check_size(height, width, (max(height, least), max(width, least)), f"at least {least}{why}")


def halvings(height: int, width: int) -> int:
    """How often both sides can be halved before the shorter is under 4: twice for 28, 4 times for 64.

    A ValueError that names the nearest (H, W) for sides that are no multiples of 4, or under 8.
    """
    check_multiple(height, width, 4, least=8)
    common = math.gcd(height, width)
    return min((common & -common).bit_length() - 1, min(height, width).bit_length() - 3)


# ---- first weights -----------------------------------------------------------------------------------------------


def start_normal(net: nn.Module, deviation: float) -> None:
    """Weights of linear and convolutional layers ~ N(0, deviation^2), their biases 0."""
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, deviation)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


# ---- rows of layers ----------------------------------------------------------------------------------------------


class Layers(nn.Module):
    """One layer after the other."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Any:
        return self.model(x)


class Scores(Layers):
    """Layers that end in one number, (N, 1) -> (N,), or in one map, (N, 1, h, w) -> (N, h, w): logits."""

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).squeeze(1)


class FromZ(Layers):
    """Layers from z (N, Z) to images (N, C, H, W)."""

    def forward(self, z: Tensor) -> Tensor:
        return self.model(z)


class Added(Layers):
    """x + f(x), f the layers."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self.model(x)


class AnySize(nn.Module):
    """A network for pictures of all sizes that are multiples of a number, and at least `least`, on both sides."""

    def __init__(self, shape: Shape, multiple: int, *, least: int = 1) -> None:
        super().__init__()
        check_multiple(*shape[1:], multiple, least=least)
        self.multiple, self.least = multiple, least

    def check_size(self, height: int, width: int) -> None:
        """A ValueError that names the nearest (H, W), unless pictures of this size can be translated."""
        check_multiple(height, width, self.multiple, least=self.least, what="its size")


# ---- layers ------------------------------------------------------------------------------------------------------


def conv(
    before: int, after: int, kernel: int, stride: int = 1, *, norm: bool = True, reflect: bool = False
) -> list[nn.Module]:
    """A convolution, (N, before, H, W) -> (N, after, H / stride, W / stride) or, for 4x4 with stride 1, one less.

    With `norm`, the mean and variance of each picture's own maps normalise them: a picture does not depend on others.
    """
    layer = (ReflectConv if reflect else nn.Conv2d)(before, after, kernel, stride, (kernel - 1) // 2, bias=not norm)
    return [layer, nn.InstanceNorm2d(after, affine=True)] if norm else [layer]  # the norm has the bias


def down(
    maps: Sequence[int], kernel: int = 4, *, norm: bool = False, reflect: bool = False, slope: float = 0.2
) -> list[nn.Module]:
    """Convolutions with stride 2 from each number of maps to the next, each with a LeakyReLU.

    With `norm` as in `conv`, but for the first, which sees the picture.
    """
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(pairwise(maps)):
        layers += conv(before, after, kernel, 2, norm=norm and i > 0, reflect=reflect)
        layers.append(nn.LeakyReLU(slope, inplace=True))
    return layers


def up(before: int, after: int, kernel: Literal[3, 4], *, norm: bool = True) -> list[nn.Module]:
    """A transposed convolution, (N, before, H, W) -> (N, after, 2 H, 2 W), with `norm` as in `conv`."""
    layer = nn.ConvTranspose2d(before, after, kernel, 2, 1, output_padding=kernel % 2, bias=not norm)
    return [layer, nn.InstanceNorm2d(after, affine=True)] if norm else [layer]


class ReflectConv(nn.Conv2d):
    """A convolution of maps (N, C, H, W) that are reflected at their borders, by as many pixels as `padding` says.

    Rows first, then columns: no pixel then has a gradient of more than two terms, but of maps under 2 `padding` + 2.
    CUDA adds the terms up in any order, and the sum of three depends on it: a resumed run would be another.
    """

    def forward(self, x: Tensor) -> Tensor:
        high, wide = (int(n) for n in self.padding)
        x = pad(pad(x, (0, 0, high, high), mode="reflect"), (wide, wide, 0, 0), mode="reflect")
        return conv2d(x, self.weight, self.bias, self.stride)


class UpConv(nn.Conv2d):
    """Nearest-neighbour doubling, then a 3x3 convolution: (N, before, H, W) -> (N, after, 2 H, 2 W), as one layer.

    Two of three taps of the convolution fall on copies of one pixel. With these added up, 3x3 weights w become the
    4x4 weights of a transposed convolution of stride 2, [w2, w1 + w2, w0 + w1, w0] along each side: the same function
    of w, borders included, in 4/9 of the products.
    """

    def __init__(self, before: int, after: int, *, bias: bool = True) -> None:
        super().__init__(before, after, 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight.transpose(0, 1).flip(2, 3)
        w = pad(w, (0, 1)) + pad(w, (1, 0))
        w = pad(w, (0, 0, 0, 1)) + pad(w, (0, 0, 1, 0))
        return conv_transpose2d(x, w, self.bias, stride=2, padding=1)


class Upscaler(nn.Module):
    """What makes pictures `scale` times as large as it is given: (N, C, h, w) of any size -> (N, C, H, W).

    `shape` is that of the large ones. `first` makes maps, to which `blocks` add what they make of them; `up` enlarges.
    """

    first: nn.Module
    blocks: nn.Module
    up: nn.Module
    reach: int
    """How many pixels away what it is given can change what it makes."""

    def __init__(self, shape: Shape, scale: int) -> None:
        super().__init__()
        check_multiple(*shape[1:], scale, least=scale)
        self.doublings = scale.bit_length() - 1

    def check_size(self, height: int, width: int) -> None:
        """Pictures of all sizes can be enlarged."""

    def forward(self, low: Tensor) -> Tensor:
        h = self.first(low)
        return self.up(h + self.blocks(h))


class Residual(Added):
    """x + f(x) on maps (N, width, H, W): f is two 3x3 convolutions, reflected by default, with a ReLU between them."""

    def __init__(self, width: int, *, reflect: bool = True) -> None:
        first, second = (conv(width, width, 3, reflect=reflect) for _ in range(2))
        super().__init__(*first, nn.ReLU(inplace=True), *second)


class Maxout(nn.Module):
    """Linear maps (N, in) -> (N, units): each unit is the largest of its `pieces` (arXiv 1302.4389)."""

    def __init__(self, before: int, units: int, pieces: int) -> None:
        super().__init__()
        self.pieces = pieces
        self.linear = nn.Linear(before, units * pieces)

    def forward(self, x: Tensor) -> Tensor:
        # Piece p of unit u is row p * units + u: the maximum then runs over whole rows, which is several times faster.
        return self.linear(x).unflatten(1, (self.pieces, -1)).max(1).values


class AlwaysDropout(nn.Module):
    """Dropout, from torch's own stream, that is on in eval mode too: the noise of a generator that takes no z."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.share, training=True)


class SmallGenerator(FromZ):
    """z (N, Z) -> images (N, C, H, W) in (-1, 1): linear layers, two transposed convolutions, BatchNorm, ReLU.

    `hidden` layers of 16 `width` units come before the one that makes the first maps, in InfoGAN one. For small
    pictures, H and W multiples of 4. Source: InfoGAN, arXiv 1606.03657, appendix C.1.
    """

    values = "signed"

    def __init__(self, latent_dim: int, shape: Shape, *, width: Width = 64, hidden: PositiveInt = 1) -> None:
        check_multiple(*shape[1:], 4)
        h, w = shape[1] // 4, shape[2] // 4
        layers: list[nn.Module] = []
        for before, after in pairwise([latent_dim, *[16 * width] * hidden, 2 * width * h * w]):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU(inplace=True)]
        super().__init__(
            *layers,
            nn.Unflatten(1, (2 * width, h, w)),
            *(nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)),
            *(nn.ConvTranspose2d(width, shape[0], 4, 2, 1), nn.Tanh()),
        )


class SmallCritic(Scores):
    """Images (N, C, H, W) -> scores (N,), logits: two strided convolutions and a linear layer (DCGAN, 1511.06434).

    LeakyReLU, and BatchNorm (unless `norm` is false) but for the first and the last layer; H and W multiples of 4.
    """

    def __init__(self, shape: Shape, *, width: Width = 32, slope: Slope = 0.2, norm: bool = True) -> None:
        check_multiple(*shape[1:], 4)
        super().__init__(
            *(nn.Conv2d(shape[0], width, 4, 2, 1), nn.LeakyReLU(slope, inplace=True)),
            nn.Conv2d(width, 2 * width, 4, 2, 1, bias=not norm),  # BatchNorm has the bias
            *([nn.BatchNorm2d(2 * width)] if norm else []),
            nn.LeakyReLU(slope, inplace=True),
            *(nn.Flatten(), nn.Linear(2 * width * (shape[1] // 4) * (shape[2] // 4), 1)),
        )


class Scales(nn.Module):
    """Images (N, C, H, W) -> a tuple of maps of scores (N, h, w), logits: of the picture, of its half, ..."""

    def __init__(self, critics: Iterable[nn.Module]) -> None:
        super().__init__()
        self.critics = nn.ModuleList(critics)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        found: list[Tensor] = []
        for critic in self.critics:
            found.append(critic(x))
            x = avg_pool2d(x, 3, 2, 1, count_include_pad=False)
        return tuple(found)


class PatchCritic(Scores):
    """Images (N, C, H, W) -> a map of scores (N, h, w), logits, one for each patch of `patch` by `patch` pixels.

    4x4 convolutions of `width` maps, doubled up to 8 `width`, all but the last two with stride 2; LeakyReLU 0.2;
    normalised per picture but for the first and the last. Source: pix2pix, arXiv 1611.07004, appendix 6.1.2.
    """

    def __init__(self, shape: Shape, *, width: Width = 64, patch: Patch = 70) -> None:
        strided = ((patch + 2) // 9).bit_length() - 1
        least = 3 << strided  # the two layers without stride take one pixel each
        at_least(shape, least, f" with a patch of {patch}")
        maps = [width * min(1 << i, 8) for i in range(strided + 1)]
        layers = down([shape[0], *maps[:-1]], norm=True)
        layers += [*conv(maps[-2], maps[-1], 4), nn.LeakyReLU(0.2, inplace=True)]
        super().__init__(*layers, *conv(maps[-1], 1, 4, norm=False))
        start_normal(self, 0.02)

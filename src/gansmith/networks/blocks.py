"""What families of networks share: sizes that fit, first weights, layers, the patch critic.

Legend: N samples, C H W image.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import dropout

from gansmith.schema import PositiveInt

Shape = tuple[int, int, int]
"""(C, H, W)"""
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


# ---- first weights -----------------------------------------------------------------------------------------------


def start_normal(net: nn.Module, deviation: float) -> None:
    """Weights of linear and convolutional layers ~ N(0, deviation^2), their biases 0."""
    for layer in net.modules():
        if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, deviation)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


# ---- layers ------------------------------------------------------------------------------------------------------


def conv(
    before: int, after: int, kernel: int, stride: int = 1, *, norm: bool = True, reflect: bool = False
) -> list[nn.Module]:
    """A convolution, (N, before, H, W) -> (N, after, H / stride, W / stride) or, for 4x4 with stride 1, one less.

    With `norm`, the mean and variance of each picture's own maps normalise them: a picture does not depend on others.
    """
    mode: Literal["reflect", "zeros"] = "reflect" if reflect else "zeros"
    padding = (kernel - 1) // 2
    layer = nn.Conv2d(before, after, kernel, stride, padding, bias=not norm, padding_mode=mode)
    return [layer, nn.InstanceNorm2d(after, affine=True)] if norm else [layer]  # the norm has the bias


def up(before: int, after: int, kernel: Literal[3, 4], *, norm: bool = True) -> list[nn.Module]:
    """A transposed convolution, (N, before, H, W) -> (N, after, 2 H, 2 W), with `norm` as in `conv`."""
    layer = nn.ConvTranspose2d(before, after, kernel, 2, 1, output_padding=kernel % 2, bias=not norm)
    return [layer, nn.InstanceNorm2d(after, affine=True)] if norm else [layer]


def small_generator(before: int, shape: Shape, width: int) -> nn.Sequential:
    """(N, before) -> images (N, C, H, W) in (-1, 1): two linear layers, two transposed convolutions, BatchNorm, ReLU.

    For small pictures; H and W multiples of 4. Source: InfoGAN, arXiv 1606.03657, appendix C.1.
    """
    h, w = shape[1] // 4, shape[2] // 4
    return nn.Sequential(
        *(nn.Linear(before, 16 * width), nn.BatchNorm1d(16 * width), nn.ReLU(inplace=True)),
        *(nn.Linear(16 * width, 2 * width * h * w), nn.BatchNorm1d(2 * width * h * w), nn.ReLU(inplace=True)),
        nn.Unflatten(1, (2 * width, h, w)),
        *(nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True)),
        *(nn.ConvTranspose2d(width, shape[0], 4, 2, 1), nn.Tanh()),
    )


def small_critic(channels: int, shape: Shape, width: int, slope: float) -> nn.Sequential:
    """(N, channels, H, W) -> (N, 1): two strided convolutions and a linear layer after DCGAN's rules (1511.06434)."""
    return nn.Sequential(
        *(nn.Conv2d(channels, width, 4, 2, 1), nn.LeakyReLU(slope, inplace=True)),
        nn.Conv2d(width, 2 * width, 4, 2, 1, bias=False),  # BatchNorm has the bias
        *(nn.BatchNorm2d(2 * width), nn.LeakyReLU(slope, inplace=True)),
        *(nn.Flatten(), nn.Linear(2 * width * (shape[1] // 4) * (shape[2] // 4), 1)),
    )


class Residual(nn.Module):
    """x + f(x) on maps (N, width, H, W): f is two reflected 3x3 convolutions with a ReLU between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = (conv(width, width, 3, reflect=True) for _ in range(2))
        self.model = nn.Sequential(*first, nn.ReLU(inplace=True), *second)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.model(x)


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


class PatchCritic(nn.Module):
    """Images (N, C, H, W) -> a map of scores (N, h, w), logits, one for each patch of `patch` by `patch` pixels.

    4x4 convolutions of `width` maps, doubled up to 8 `width`, all but the last two with stride 2; LeakyReLU 0.2;
    normalised per picture but for the first and the last. Source: pix2pix, arXiv 1611.07004, appendix 6.1.2.
    """

    def __init__(self, shape: Shape, *, width: PositiveInt = 64, patch: Patch = 70) -> None:
        super().__init__()
        strided = ((patch + 2) // 9).bit_length() - 1
        least = 3 << strided  # the two layers without stride take one pixel each
        nearest = max(shape[1], least), max(shape[2], least)
        check_size(*shape[1:], nearest, f"at least {least} with a patch of {patch}")
        maps = [width * min(1 << i, 8) for i in range(strided + 1)]
        layers = [*conv(shape[0], width, 4, 2, norm=False), nn.LeakyReLU(0.2, inplace=True)]
        for i in range(1, strided + 1):
            layers += [*conv(maps[i - 1], maps[i], 4, 2 if i < strided else 1), nn.LeakyReLU(0.2, inplace=True)]
        self.model = nn.Sequential(*layers, *conv(maps[-1], 1, 4, norm=False))
        start_normal(self, 0.02)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).squeeze(1)

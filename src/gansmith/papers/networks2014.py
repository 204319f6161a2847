"""The networks of the 2014 paper (arXiv 1406.2661), after the authors' experiments: their layers, their first weights.

Legend: N samples, Z latents, C H W image. Weights start as U(-irange, irange), biases at 0. `max_col_norm` bounds the
norm of each unit's incoming weights after every step (0: no bound); the player applies it, through `constrain`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from gansmith.networks import blocks
from gansmith.networks.blocks import Shape
from gansmith.schema import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)
ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "linear": nn.Identity}


class Constrained(nn.Module):
    """A network whose weight vectors stay within a norm."""

    max_col_norm: float = 0.0

    @torch.no_grad()
    def constrain(self) -> None:
        """w <- w min(1, max_col_norm / |w|) for the incoming weights w of every unit, or piece of a maxout unit."""
        if self.max_col_norm:
            for layer in self.modules():
                if isinstance(layer, nn.Linear):
                    norm = layer.weight.norm(dim=1, keepdim=True)
                    layer.weight.mul_(norm.clamp(max=self.max_col_norm) / (norm + 1e-7))


class Generator(Constrained):
    """z (N, Z) -> images (N, C, H, W), fully connected: `widths` hidden units, each layer with its activation.

    `sparse_out` > 0 gives each output unit that many weights from N(0, 1) and zeros else. `sigmoid_bias` is where the
    biases of hidden sigmoid layers start. `bias_from_data` starts the output's biases at the logit of the mean training
    image, clipped to [1e-7, 1 - 1e-7]: a pixel that is always black starts black.
    """

    def __init__(
        self,
        latent_dim: int,
        shape: Shape,
        mean_image: Tensor | None,
        *,
        widths: Sequence[PositiveInt] = (1200, 1200),
        hidden: Sequence[Literal["relu", "sigmoid"]] = ("relu", "relu"),
        output: Literal["sigmoid", "linear"] = "sigmoid",
        irange: PositiveFloat = 0.05,
        irange_out: PositiveFloat = 0.05,
        sparse_out: NonNegativeInt = 0,
        sigmoid_bias: float = 0.0,
        bias_from_data: bool = True,
        max_col_norm: NonNegativeFloat = 0.0,
    ) -> None:
        super().__init__()
        if len(widths) != len(hidden):
            raise ValueError(f"hidden names {len(hidden)} activations for {len(widths)} layers in widths")
        if bias_from_data and output != "sigmoid":
            raise ValueError("bias_from_data needs a sigmoid output: the mean of the data is a probability only there")
        self.shape = shape
        self.values = "unit" if output == "sigmoid" else None  # a linear output takes whatever range the data has
        self.max_col_norm = max_col_norm
        layers: list[nn.Module] = []
        before = latent_dim
        for width, activation in zip(widths, hidden, strict=True):
            bias = sigmoid_bias if activation == "sigmoid" else 0.0
            layers += [_linear(before, width, irange, bias), ACTIVATIONS[activation]()]
            before = width
        last = _linear(before, math.prod(shape), irange_out)
        if sparse_out:
            _make_sparse(last.weight, sparse_out)
        if bias_from_data and mean_image is not None:  # there is none where trained weights are loaded
            last.bias.data.copy_(torch.logit(mean_image.flatten().double(), eps=1e-7))
        self.model = nn.Sequential(*layers, last, ACTIVATIONS[output]())

    def forward(self, z: Tensor) -> Tensor:
        return self.model(z).view(z.shape[0], *self.shape)


class FrontedGenerator(Constrained):
    """z (N, Z) -> images (N, C, H, W): new layers in front of a pretrained `Generator` (TFD, second stage).

    ReLU `front`, sigmoid of as many units as the pretrained G takes latents (`inner_dim`), then that G as `model`.
    """

    values = "unit"

    def __init__(
        self,
        latent_dim: int,
        shape: Shape,
        *,
        front: PositiveInt = 8000,
        inner_dim: PositiveInt = 100,
        widths: Sequence[PositiveInt] = (8000, 8000),
        irange: PositiveFloat = 0.05,
        sigmoid_bias: float = -2.0,
        max_col_norm: NonNegativeFloat = 1.9365,
    ) -> None:
        super().__init__()
        self.max_col_norm = max_col_norm
        self.front = nn.Sequential(
            *(_linear(latent_dim, front, irange), nn.ReLU()),
            *(_linear(front, inner_dim, irange, sigmoid_bias), nn.Sigmoid()),
        )
        sigmoids: list[Literal["relu", "sigmoid"]] = ["sigmoid"] * (len(widths) - 1)
        pretrained = Generator(inner_dim, shape, None, widths=widths, hidden=["relu", *sigmoids], irange=irange)
        self.shape = shape
        self.model = pretrained.model  # under the name that it had: its weights load as they were saved

    def forward(self, z: Tensor) -> Tensor:
        return self.model(self.front(z)).view(z.shape[0], *self.shape)


class ConvGenerator(nn.Module):
    """z (N, Z) -> images (N, C, 32, 32): ReLU and sigmoid layers, 80 maps of 10 by 10, one transposed convolution.

    The output is linear and has a bias of its own for every value of the image.
    """

    def __init__(
        self,
        latent_dim: int,
        shape: Shape,
        *,
        width: PositiveInt = 8000,
        maps: PositiveInt = 80,
        irange: PositiveFloat = 0.05,
    ) -> None:
        super().__init__()
        _check_32(shape)
        self.model = nn.Sequential(
            *(_linear(latent_dim, width, irange), nn.ReLU()),
            *(_linear(width, maps * 100, irange), nn.Sigmoid()),
            nn.Unflatten(1, (maps, 10, 10)),
            _start(nn.ConvTranspose2d(maps, shape[0], 5, stride=3, bias=False), irange),
        )
        self.bias = nn.Parameter(torch.zeros(shape))

    def forward(self, z: Tensor) -> Tensor:
        return self.model(z) + self.bias


class Maxout(blocks.Maxout):
    """`blocks.Maxout` with the first weights of this paper."""

    def __init__(self, before: int, units: int, pieces: int, irange: float) -> None:
        super().__init__(before, units, pieces)
        _start(self.linear, irange)


class Discriminator(Constrained):
    """Images (N, C, H, W) -> scores (N,): maxout layers with dropout on the input of each layer, the last included.

    `dropout` is the share that is dropped in front of each layer: pixels first, the score's layer last; what stays is
    scaled up by 1 / (1 - share) in training. It is on while G's gradient is taken, too.
    """

    def __init__(
        self,
        shape: Shape,
        *,
        units: Sequence[PositiveInt] = (240, 240),
        pieces: PositiveInt = 5,
        dropout: Sequence[Fraction] = (0.2, 0.5, 0.5),
        irange: PositiveFloat = 0.005,
        max_col_norm: NonNegativeFloat = 0.0,
    ) -> None:
        super().__init__()
        _check_dropout(dropout, len(units) + 1)
        self.max_col_norm = max_col_norm
        layers: list[nn.Module] = []
        before = math.prod(shape)
        for width, share in zip(units, dropout, strict=False):
            layers += [nn.Dropout(share), Maxout(before, width, pieces, irange)]
            before = width
        self.model = nn.Sequential(*layers, nn.Dropout(dropout[-1]), _linear(before, 1, irange))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.flatten(1)).squeeze(1)


class MaxoutConv(nn.Module):
    """Convolution, the largest of `pieces` neighbouring channels, then max-pooling that covers the whole map."""

    def __init__(
        self, before: int, maps: int, kernel: int, padding: int, pool: int, stride: int, pieces: int, irange: float
    ) -> None:
        super().__init__()
        self.pieces = pieces
        self.conv = _start(nn.Conv2d(before, maps * pieces, kernel, padding=padding), irange)
        self.pool = nn.MaxPool2d(pool, stride, ceil_mode=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.conv(x).unflatten(1, (-1, self.pieces)).amax(2))


class ConvDiscriminator(nn.Module):
    """Images (N, C, 32, 32) -> scores (N,): three maxout convolutions, a maxout layer, dropout on every input."""

    def __init__(
        self,
        shape: Shape,
        *,
        maps: Sequence[PositiveInt] = (32, 32, 192),
        units: PositiveInt = 500,
        pieces: PositiveInt = 5,
        dropout: Sequence[Fraction] = (0.2, 0.5, 0.5, 0.5, 0.5),
        irange: PositiveFloat = 0.005,
    ) -> None:
        super().__init__()
        _check_32(shape)
        if len(maps) != 3:
            raise ValueError(
                f"maps is {list(maps)}; it must name the maps of three convolutions, such as [32, 32, 192]"
            )
        _check_dropout(dropout, 5)
        a, b, c = maps
        drop = [nn.Dropout(share) for share in dropout]  # of single values, on feature maps as well
        self.model = nn.Sequential(
            *(drop[0], MaxoutConv(shape[0], a, 8, 4, pool=4, stride=2, pieces=2, irange=irange)),  # 33, then 16
            *(drop[1], MaxoutConv(a, b, 8, 3, pool=4, stride=2, pieces=2, irange=irange)),  # 15, then 7
            *(drop[2], MaxoutConv(b, c, 5, 3, pool=2, stride=2, pieces=2, irange=irange)),  # 9, then 5
            nn.Flatten(),
            *(drop[3], Maxout(c * 25, units, pieces, irange)),
            *(drop[4], _linear(units, 1, irange)),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).squeeze(1)


def _linear(before: int, after: int, irange: float, bias: float = 0.0) -> nn.Linear:
    layer = _start(nn.Linear(before, after), irange)
    nn.init.constant_(layer.bias, bias)
    return layer


def _start(layer: Layer, irange: float) -> Layer:
    nn.init.uniform_(layer.weight, -irange, irange)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


@torch.no_grad()
def _make_sparse(weight: Tensor, n: int) -> None:
    """Each row (one unit's incoming weights) keeps n places, from N(0, 1)."""
    if n > weight.shape[1]:
        raise ValueError(f"sparse_out is {n}; the nearest is {weight.shape[1]}, all weights of the last layer")
    places = torch.rand_like(weight).argsort(1)[:, :n]
    weight.zero_().scatter_(1, places, torch.randn(len(weight), n))


def _check_32(shape: Shape) -> None:
    if shape[1:] != (32, 32):
        raise ValueError(f"img_size is {blocks.size(*shape[1:])}; it must be 32")


def _check_dropout(dropout: Sequence[float], layers: int) -> None:
    if len(dropout) != layers or 1.0 in dropout:
        raise ValueError(f"dropout is {list(dropout)}; it must be {layers} shares below 1, one per layer")

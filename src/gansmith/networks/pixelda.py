"""PixelDA's networks for digits: a translator with noise, a critic, a classifier (Bousmalis et al. 2017, 1612.05424).

Layers are those of the authors' code (github.com/tensorflow/models, research/domain_adaptation). Where it normalises a
map by the batch, here a picture's maps are normalised by their own common mean and variance, which keeps the relations
of maps, and with them colours. Weights start as N(0, 0.02^2).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout

from gansmith.networks.blocks import Added, Layers, Scores, Shape, Width, check_multiple, conv, halvings, start_normal
from gansmith.schema import Fraction, NonNegativeFloat, PositiveInt


def normed(before: int, after: int, stride: int = 1) -> list[nn.Module]:
    """A 3x3 convolution, and the norm of all maps of a picture together."""
    return [*conv(before, after, 3, stride, norm=False), nn.GroupNorm(1, after)]


class Residual(Added):
    """x + f(x) on maps (N, width, H, W): f is two normalised 3x3 convolutions with a ReLU between them."""

    def __init__(self, width: int) -> None:
        super().__init__(*normed(width, width), nn.ReLU(inplace=True), *normed(width, width))


class Translator(nn.Module):
    """a (N, C, H, W) and z (N, Z) -> pictures (N, C, H, W) in (-1, 1), of the size of the training pictures.

    A linear layer, a norm and a ReLU make one more map of z; then a 3x3 convolution, `blocks` residual blocks, and a
    1x1 convolution. Nothing is halved: what stands where stays.
    """

    values = "signed"

    def __init__(self, latent_dim: int, shape: Shape, *, width: Width = 64, blocks: PositiveInt = 6) -> None:
        super().__init__()
        c, h, w = shape
        self.noise = nn.Sequential(
            *(nn.Linear(latent_dim, h * w), nn.Unflatten(1, (1, h, w)), nn.GroupNorm(1, 1), nn.ReLU(inplace=True))
        )
        self.model = nn.Sequential(
            *(*conv(c + 1, width, 3, norm=False), nn.ReLU(inplace=True)),
            *(Residual(width) for _ in range(blocks)),
            *(*conv(width, c, 1, norm=False), nn.Tanh()),
        )
        start_normal(self, 0.02)

    def forward(self, a: Tensor, z: Tensor) -> Tensor:
        return self.model(torch.cat((a, self.noise(z)), 1))


class Noisy(nn.Dropout):
    """Dropout, then noise ~ N(0, deviation^2) on each number; neither in eval mode."""

    def __init__(self, share: float, deviation: float) -> None:
        super().__init__(share)
        self.deviation = deviation

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return dropout(x, self.p) + self.deviation * torch.randn_like(x)


class Critic(Scores):
    """Images (N, C, H, W) -> scores (N,), logits.

    3x3 convolutions: the first keeps the size, the others halve and double the maps until the shorter side is under 8;
    LeakyReLU 0.2, `dropout` and `noise` after each; a linear layer.
    """

    def __init__(
        self, shape: Shape, *, width: Width = 64, dropout: Fraction = 0.1, noise: NonNegativeFloat = 0.2
    ) -> None:
        n = halvings(*shape[1:])
        layers = [*conv(shape[0], width, 3, norm=False), nn.LeakyReLU(0.2), Noisy(dropout, noise)]
        for i in range(n):
            layers += [*normed(width << i, width << (i + 1), 2), nn.LeakyReLU(0.2), Noisy(dropout, noise)]
        super().__init__(*layers, nn.Flatten(), nn.Linear((width << n) * (shape[1] >> n) * (shape[2] >> n), 1))
        start_normal(self, 0.02)


class Classifier(Layers):
    """Images (N, C, H, W) -> logits (N, K) of K classes: no softmax here, the cross-entropy has it.

    Two 5x5 convolutions of `maps`, each with a ReLU and a maximum over 2x2, and two hidden layers of `units`; H and W
    multiples of 4. Source: the authors' classifier of MNIST, which is that of Ganin & Lempitsky 2015 (1409.7495).
    """

    def __init__(
        self, shape: Shape, classes: int, *, maps: tuple[PositiveInt, PositiveInt] = (32, 48), units: PositiveInt = 100
    ) -> None:
        check_multiple(*shape[1:], 4, least=8)
        pooled = [nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        super().__init__(
            *(*conv(shape[0], maps[0], 5, norm=False), *pooled, *conv(maps[0], maps[1], 5, norm=False), *pooled),
            *(nn.Flatten(), nn.Linear(maps[1] * shape[1] * shape[2] // 16, units), nn.ReLU(inplace=True)),
            *(nn.Linear(units, units), nn.ReLU(inplace=True), nn.Linear(units, classes)),
        )
        start_normal(self, 0.02)

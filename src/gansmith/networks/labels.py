"""Small networks that say of a picture how real it is, its class, its cluster or its latents.

Two strided convolutions of width w and 2 w, a hidden layer of 16 w, and a linear layer: the body of InfoGAN's D
(arXiv 1606.03657, appendix C.1) and, without any norm, of ClusterGAN's networks (1809.03627). `norm`: the second
convolution's maps are normalised, each picture's by themselves, so that no statistics mix real pictures and fakes.
Legend: K classes; H and W multiples of 4, at least 8.
"""

from typing import NamedTuple

from torch import Tensor, nn

from gansmith.networks.blocks import Layers, Scores, Shape, Slope, Width, check_multiple, conv
from gansmith.schema import Fraction, PositiveInt


def body(shape: Shape, width: int, slope: float, outputs: int, *, norm: bool, dropout: float = 0.0) -> nn.Sequential:
    """Images (N, C, H, W) -> (N, outputs)."""
    check_multiple(*shape[1:], 4, least=8)
    hidden = 2 * width * (shape[1] // 4) * (shape[2] // 4)
    return nn.Sequential(
        *(*conv(shape[0], width, 4, 2, norm=False), nn.LeakyReLU(slope, inplace=True)),
        *(*conv(width, 2 * width, 4, 2, norm=norm), nn.LeakyReLU(slope, inplace=True)),
        *(nn.Flatten(), nn.Dropout(dropout), nn.Linear(hidden, 16 * width), nn.LeakyReLU(slope, inplace=True)),
        *(nn.Dropout(dropout), nn.Linear(16 * width, outputs)),
    )


class Critic(Scores):
    """Images (N, C, H, W) -> scores (N,), logits: the body with one output, and no statistics of a batch."""

    def __init__(self, shape: Shape, *, width: Width = 16, slope: Slope = 0.2, norm: bool = True) -> None:
        super().__init__(*body(shape, width, slope, 1, norm=norm))


class SemiSupervised(Layers):
    """Images (N, C, H, W) -> K + 1 logits (N, K + 1): the classes, and last that it is a fake (arXiv 1606.01583)."""

    def __init__(
        self, shape: Shape, classes: int, *, width: Width = 32, slope: Slope = 0.2, dropout: Fraction = 0.0
    ) -> None:
        super().__init__(*body(shape, width, slope, classes + 1, norm=True, dropout=dropout))


class Judged(NamedTuple):
    """What AC-GAN's D says of pictures."""

    score: Tensor
    """(N,), a logit"""
    category: Tensor
    """(N, K), logits: no softmax here, the cross-entropy has it"""


class AuxiliaryClassifier(SemiSupervised):
    """Images (N, C, H, W) -> `Judged`: one score and K logits of the class from one body (arXiv 1610.09585)."""

    def forward(self, x: Tensor) -> Judged:
        said = self.model(x)
        return Judged(said[:, 0], said[:, 1:])


class Encoded(NamedTuple):
    """What ClusterGAN's E makes of pictures."""

    noise: Tensor
    """(N, Z - K), an estimate of z_n"""
    category: Tensor
    """(N, K), logits of z_c"""


class Encoder(Layers):
    """Images (N, C, H, W) -> `Encoded`, an estimate of the latents (N, Z) that made them (arXiv 1809.03627)."""

    def __init__(
        self, latent_dim: int, shape: Shape, *, width: Width = 16, categories: PositiveInt = 10, slope: Slope = 0.2
    ) -> None:
        super().__init__(*body(shape, width, slope, latent_dim, norm=False))
        self.split = [latent_dim - categories, categories]

    def forward(self, x: Tensor) -> Encoded:
        return Encoded(*self.model(x).split(self.split, 1))

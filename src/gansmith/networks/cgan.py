"""The conditional GAN's MNIST networks (Mirza & Osindero 2014, arXiv 1411.1784, 4.1), and convolutional ones.

In the paper's the label, as a one-hot vector, and the other input meet after a hidden layer of their own, with dropout
on all hidden units. In the convolutional ones the one-hot label is a part of z, and further channels of the image.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from gansmith.networks.blocks import Maxout, Shape, Slope, SmallCritic, SmallGenerator, Width
from gansmith.schema import Fraction, PositiveInt

Three = tuple[PositiveInt, PositiveInt, PositiveInt]


class Generator(nn.Module):
    """z (N, Z), y (N,) -> images (N, C, H, W) in (0, 1); `widths` are the ReLU units on z, on y and on both."""

    values = "unit"

    def __init__(
        self, latent_dim: int, shape: Shape, classes: int, *, widths: Three = (200, 1000, 1200), dropout: Fraction = 0.5
    ) -> None:
        super().__init__()
        self.shape, self.classes = shape, classes
        of_z, of_y, of_both = widths
        self.z = nn.Sequential(nn.Linear(latent_dim, of_z), nn.ReLU(), nn.Dropout(dropout))
        self.y = nn.Sequential(nn.Linear(classes, of_y), nn.ReLU(), nn.Dropout(dropout))
        self.model = nn.Sequential(
            *(nn.Linear(of_z + of_y, of_both), nn.ReLU(), nn.Dropout(dropout)),
            *(nn.Linear(of_both, math.prod(shape)), nn.Sigmoid()),
        )

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        both = torch.cat((self.z(z), self.y(one_hot(y, self.classes).to(z.dtype))), 1)
        return self.model(both).view(z.shape[0], *self.shape)


class Discriminator(nn.Module):
    """Images (N, C, H, W), y (N,) -> scores (N,), logits; maxout `units` of `pieces` each on x, on y and on both."""

    def __init__(
        self,
        shape: Shape,
        classes: int,
        *,
        units: Three = (240, 50, 240),
        pieces: Three = (5, 5, 4),
        dropout: Fraction = 0.5,
    ) -> None:
        super().__init__()
        self.classes = classes
        of_x, of_y, of_both = units
        self.x = nn.Sequential(Maxout(math.prod(shape), of_x, pieces[0]), nn.Dropout(dropout))
        self.y = nn.Sequential(Maxout(classes, of_y, pieces[1]), nn.Dropout(dropout))
        joint = Maxout(of_x + of_y, of_both, pieces[2])
        self.model = nn.Sequential(joint, nn.Dropout(dropout), nn.Linear(of_both, 1))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        both = torch.cat((self.x(x.flatten(1)), self.y(one_hot(y, self.classes).to(x.dtype))), 1)
        return self.model(both).squeeze(1)


class ConvGenerator(nn.Module):
    """z (N, Z), y (N,) -> images (N, C, H, W) in (-1, 1); H and W multiples of 4."""

    values = "signed"

    def __init__(self, latent_dim: int, shape: Shape, classes: int, *, width: Width = 16) -> None:
        super().__init__()
        self.classes = classes
        self.model = SmallGenerator(latent_dim + classes, shape, width=width).model

    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return self.model(torch.cat((z, one_hot(y, self.classes).to(z.dtype)), 1))


class ConvDiscriminator(nn.Module):
    """Images (N, C, H, W), y (N,) -> scores (N,), logits; H and W multiples of 4."""

    def __init__(self, shape: Shape, classes: int, *, width: Width = 32, slope: Slope = 0.2) -> None:
        super().__init__()
        self.classes = classes
        self.model = SmallCritic((shape[0] + classes, *shape[1:]), width=width, slope=slope).model

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        maps = one_hot(y, self.classes).to(x.dtype)[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return self.model(torch.cat((x, maps), 1)).squeeze(1)

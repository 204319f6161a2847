"""Fully connected networks: the post's generator and discriminator (PyTorch-GAN's `gan.py`), and one for points."""

import math

import torch
from torch import Tensor, nn

from gansmith.networks.blocks import FromZ, Shape, Slope, Widths
from gansmith.schema import Decay, Fraction, PositiveFloat


class Generator(FromZ):
    """z (N, Z) -> images (N, C, H, W) in (-1, 1): Linear, BatchNorm (not after the first), LeakyReLU; at last tanh."""

    values = "signed"

    def __init__(
        self,
        latent_dim: int,
        shape: Shape,
        *,
        widths: Widths = (128, 256, 512, 1024),
        slope: Slope = 0.2,
        batchnorm_eps: PositiveFloat = 0.8,
        batchnorm_momentum: Decay = 0.1,
        batchnorm: bool = True,
    ) -> None:
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(zip((latent_dim, *widths), widths, strict=False)):
            layers.append(nn.Linear(before, after))
            if i > 0 and batchnorm:
                layers.append(nn.BatchNorm1d(after, eps=batchnorm_eps, momentum=batchnorm_momentum))
            layers.append(nn.LeakyReLU(slope, inplace=True))
        layers.append(nn.Linear((latent_dim, *widths)[-1], math.prod(shape)))
        super().__init__(*layers, nn.Tanh(), nn.Unflatten(1, shape))


class PointGenerator(Generator):
    """z (N, Z) -> points (N, C, H, W), here 1 1 2, that lie anywhere in the plane: the last layer is linear."""

    values = "raw"

    def __init__(self, latent_dim: int, shape: Shape, *, widths: Widths = (128, 128), slope: Slope = 0.2) -> None:
        super().__init__(latent_dim, shape, widths=widths, slope=slope, batchnorm=False)
        del self.model[-2]  # the tanh


class Discriminator(nn.Module):
    """Images (N, C, H, W) -> one score each (N,), a logit: Linear, LeakyReLU, `dropout` if any; no sigmoid."""

    def __init__(
        self, shape: Shape, *, widths: Widths = (512, 256), slope: Slope = 0.2, dropout: Fraction = 0.0
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip((math.prod(shape), *widths), widths, strict=False):
            layers += [nn.Linear(before, after), nn.LeakyReLU(slope, inplace=True)]
            layers += [nn.Dropout(dropout)] if dropout else []
        layers.append(nn.Linear((math.prod(shape), *widths)[-1], 1))
        self.model = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.flatten(1)).squeeze(1)


class ClippedCritic(Discriminator):
    """The same, all weights in [-clip, clip] after every step: Arjovsky et al. 2017, Algorithm 1 (arXiv 1701.07875)."""

    def __init__(
        self, shape: Shape, *, widths: Widths = (512, 256), slope: Slope = 0.2, clip: PositiveFloat = 0.01
    ) -> None:
        super().__init__(shape, widths=widths, slope=slope)
        self.clip = clip

    @torch.no_grad()
    def constrain(self) -> None:
        for weight in self.parameters():
            weight.clamp_(-self.clip, self.clip)

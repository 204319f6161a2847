"""Spectrally normalised critics (Miyato et al. 2018, arXiv 1802.05957, table 3b; Miyato & Koyama 2018, 1802.05637)."""

from __future__ import annotations

from torch import Tensor, nn

from gansmith.networks.blocks import Scores, Shape, Slope, halvings, iterate_spectra, normalise_spectrally
from gansmith.schema import PositiveInt


def _trunk(shape: Shape, width: int, slope: float) -> tuple[nn.Sequential, int, int]:
    """Images -> maps (N, F, h, w), F, and h w: at each size a 3x3 convolution, then a 4x4 one of stride 2."""
    n, before = halvings(*shape[1:]), shape[0]
    layers: list[nn.Module] = []
    for after in (width << i for i in range(n)):
        layers += [nn.Conv2d(before, after, 3, 1, 1), nn.LeakyReLU(slope, inplace=True)]
        layers += [nn.Conv2d(after, after, 4, 2, 1), nn.LeakyReLU(slope, inplace=True)]
        before = after
    layers += [nn.Conv2d(before, width << n, 3, 1, 1), nn.LeakyReLU(slope, inplace=True)]
    return nn.Sequential(*layers), width << n, (shape[1] >> n) * (shape[2] >> n)


class Critic(Scores):
    """Images (N, C, H, W) -> scores (N,): the paper's standard CNN; no BatchNorm, each layer of spectral norm 1."""

    def __init__(self, shape: Shape, *, width: PositiveInt = 64, slope: Slope = 0.1) -> None:
        trunk, maps, places = _trunk(shape, width, slope)
        super().__init__(*trunk, nn.Flatten(), nn.Linear(maps * places, 1))
        normalise_spectrally(self)

    def constrain(self) -> None:
        iterate_spectra(self)


class ProjectionCritic(nn.Module):
    """Images (N, C, H, W), y (N,) -> scores psi(phi(x)) + <V y, phi(x)> (N,): arXiv 1802.05637, eq. 5.

    phi sums the last maps over all places, psi is linear, V y a learned vector for each label. `Critic`'s layers stand
    in for the paper's residual ones; V has spectral norm 1 too.
    """

    def __init__(self, shape: Shape, classes: int, *, width: PositiveInt = 64, slope: Slope = 0.1) -> None:
        super().__init__()
        self.model, maps, _ = _trunk(shape, width, slope)
        self.psi = nn.Linear(maps, 1)
        self.embed = nn.Embedding(classes, maps)
        normalise_spectrally(self)

    def constrain(self) -> None:
        iterate_spectra(self)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        phi = self.model(x).sum((2, 3))
        return self.psi(phi).squeeze(1) + (self.embed(y) * phi).sum(1)

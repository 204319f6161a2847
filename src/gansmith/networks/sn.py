"""Spectrally normalised critics (Miyato et al. 2018, arXiv 1802.05957, table 3b; Miyato & Koyama 2018, 1802.05637)."""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot
from torch.nn.utils import parametrize

from gansmith.networks.blocks import Scores, Shape, Slope, Width, halvings


class Spectral(nn.Module):
    """W -> W / sigma, sigma = u' W v: what `torch.nn.utils.parametrize` puts before a weight, as a matrix of its rows.

    u and v are W's first singular vectors, by the power iteration. Source: Miyato et al. 2018 (arXiv 1802.05957),
    section 2.1 and Algorithm 1: one iteration for each update. So all passes between two steps see one W / sigma;
    torch's own iterates in each pass. Sums of products in place of `mv`, which autocast would round to bfloat16.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        rows, columns = weight.flatten(1).shape
        self.register_buffer("u", normalize(torch.randn(rows), dim=0))
        self.register_buffer("v", normalize(torch.randn(columns), dim=0))
        for _ in range(15):  # u and v start near those of the first W
            self.iterate(weight)

    @torch.no_grad()
    def iterate(self, weight: Tensor) -> None:
        """v <- W' u / |W' u|, u <- W v / |W v|."""
        w = weight.flatten(1)
        self.v.copy_(normalize((w * self.u[:, None]).sum(0), dim=0))
        self.u.copy_(normalize((w * self.v).sum(1), dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        return weight / (weight.flatten(1) * (self.u[:, None] * self.v)).sum()


class Normalised(nn.Module):
    """A critic whose linear and convolutional layers and embeddings have spectral norm 1."""

    def normalise(self) -> None:
        """Once all layers are there."""
        for layer in [*self.modules()]:
            if isinstance(layer, (nn.Linear, nn.Conv2d, nn.Embedding)):
                parametrize.register_parametrization(layer, "weight", Spectral(layer.weight))

    def constrain(self) -> None:
        """One power iteration for each layer's new weights."""
        for layer in self.modules():
            if isinstance(layer, parametrize.ParametrizationList) and isinstance(layer[0], Spectral):
                layer[0].iterate(layer.original)


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


class Critic(Normalised, Scores):
    """Images (N, C, H, W) -> scores (N,): the paper's standard CNN; no BatchNorm, each layer of spectral norm 1."""

    def __init__(self, shape: Shape, *, width: Width = 64, slope: Slope = 0.1) -> None:
        trunk, maps, places = _trunk(shape, width, slope)
        super().__init__(*trunk, nn.Flatten(), nn.Linear(maps * places, 1))
        self.normalise()


class ProjectionCritic(Normalised):
    """Images (N, C, H, W), y (N,) -> scores psi(phi(x)) + <V y, phi(x)> (N,): arXiv 1802.05637, eq. 5.

    phi sums the last maps over all places, psi is linear, V y a learned vector for each label. `Critic`'s layers stand
    in for the paper's residual ones; V has spectral norm 1 too.
    """

    def __init__(self, shape: Shape, classes: int, *, width: Width = 64, slope: Slope = 0.1) -> None:
        super().__init__()
        self.model, maps, _ = _trunk(shape, width, slope)
        self.psi = nn.Linear(maps, 1)
        self.embed = nn.Embedding(classes, maps)
        self.normalise()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        phi = self.model(x).sum((2, 3))
        # A product in place of a look-up, whose gradient CUDA adds up in any order: a resumed run would be another.
        rows = one_hot(y, self.embed.num_embeddings).to(phi.dtype) @ self.embed.weight
        return self.psi(phi).squeeze(1) + (rows * phi).sum(1)

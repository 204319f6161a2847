"""The adversarial auto-encoder's networks (Makhzani et al. 2016, arXiv 1511.05644, appendix A.1).

Fully connected, two hidden layers of 1000 ReLU units in each; weights start as N(0, 0.01^2).
"""

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from gansmith.networks.blocks import FromZ, Shape, Widths, start_normal

Posterior = Literal["deterministic", "gaussian"]


def _layers(before: int, widths: Widths, after: int) -> nn.Sequential:
    """(N, before) -> (N, after), linear at the end."""
    hidden = [layer for a, b in pairwise((before, *widths)) for layer in (nn.Linear(a, b), nn.ReLU(inplace=True))]
    net = nn.Sequential(*hidden, nn.Linear((before, *widths)[-1], after))
    start_normal(net, 0.01)
    return net


class Encoder(nn.Module):
    """Images (N, C, H, W) -> codes z (N, Z).

    `posterior` gaussian: in training z ~ N(mu(x), sigma(x)^2), drawn as mu + sigma N(0, 1) from torch's own stream;
    in eval mode z = mu(x).
    """

    def __init__(
        self, latent_dim: int, shape: Shape, *, widths: Widths = (1000, 1000), posterior: Posterior = "deterministic"
    ) -> None:
        super().__init__()
        self.gaussian = posterior == "gaussian"
        self.model = _layers(math.prod(shape), widths, latent_dim * (1 + self.gaussian))

    def forward(self, x: Tensor) -> Tensor:
        said = self.model(x.flatten(1))
        if not self.gaussian:
            return said
        mean, log_variance = said.chunk(2, 1)
        return mean + (log_variance / 2).exp() * torch.randn_like(mean) if self.training else mean


class Decoder(FromZ):
    """z (N, Z) -> images (N, C, H, W) in (0, 1): a sigmoid at the end."""

    values = "unit"

    def __init__(self, latent_dim: int, shape: Shape, *, widths: Widths = (1000, 1000)) -> None:
        super().__init__(*_layers(latent_dim, widths, math.prod(shape)), nn.Sigmoid(), nn.Unflatten(1, shape))


class Critic(nn.Module):
    """Codes z (N, Z) -> one score each (N,), a logit."""

    def __init__(self, latent_dim: int, *, widths: Widths = (1000, 1000)) -> None:
        super().__init__()
        self.model = _layers(latent_dim, widths, 1)

    def forward(self, z: Tensor) -> Tensor:
        return self.model(z).squeeze(1)

"""BEGAN: the boundary equilibrium game of Berthelot et al. 2017 (arXiv 1703.10717). D is an auto-encoder."""

from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor

from gansmith.errors import UserError
from gansmith.games.critique import full
from gansmith.games.game import SAMPLE, Batch, Losses, Metrics, OneMove, Player
from gansmith.priors import Prior
from gansmith.schema import Fraction, PositiveFloat


def energy(x: Tensor, reconstruction: Tensor) -> Tensor:
    """L(x) = |x - D(x)|, the mean over one sample's pixels: (N,). The paper's section 3.1 with eta = 1."""
    if reconstruction.shape != x.shape:
        raise UserError(
            f"D returned {tuple(reconstruction.shape)} for images {tuple(x.shape)}; began needs an auto-encoder"
        )
    return (full(x) - full(reconstruction)).abs().flatten(1).mean(1)


@dataclass
class Began(OneMove):
    """L_D = L(x) - k L(G(z_D)),  L_G = L(G(z_G)),  k <- k + lambda_k (gamma L(x) - L(G(z_G))), k in [0, 1].

    Both gradients are taken at the same point, on noise of their own; k starts at 0 and is the game's memory. "game/M"
    is the paper's measure of convergence, L(x) + |gamma L(x) - L(G(z_G))|. Source: section 3.4.
    """

    G: Player
    D: Player
    prior: Prior
    noise: torch.Generator
    accumulate: int = 1
    _: KW_ONLY
    gamma: Fraction = 0.5
    lambda_k: PositiveFloat = 0.001

    sees = ()
    makers = SAMPLE

    def __post_init__(self) -> None:
        self.k = torch.zeros((), device=self.noise.device, dtype=self.G.dtype)

    def round(self, *batches: Batch) -> Metrics:
        metrics = super().round(*batches)
        real, fake = metrics["D/real"], metrics["loss/G"]
        balance = self.gamma * real - fake
        metrics |= {"D/fake": fake, "game/k": self.k, "game/M": real + balance.abs()}
        self.k = (self.k + self.lambda_k * balance).clamp(0, 1)
        return metrics

    def losses(self, part: Batch) -> Losses:
        x, n = part["x"], len(part)
        with torch.no_grad():
            x_d = self.G.lend(self.prior.sample(n, self.noise, self.G.dtype))
        x_g = self.G.net(self.prior.sample(n, self.noise, self.G.dtype))
        energy_real = energy(x, self.D.net(x)).mean()
        loss_d = energy_real - self.k * energy(x_d, self.D.net(x_d)).mean()
        loss_g = energy(x_g, self.D.lend(x_g)).mean()
        return {"D": (self.D, loss_d), "G": (self.G, loss_g)}, {"D/real": energy_real}

    def state_dict(self) -> dict[str, Any]:
        return {"k": self.k}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.k = state["k"].to(self.k)

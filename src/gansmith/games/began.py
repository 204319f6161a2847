"""BEGAN: the boundary equilibrium game of Berthelot et al. 2017 (arXiv 1703.10717). D is an auto-encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gansmith.errors import UserError
from gansmith.games.critique import full
from gansmith.games.game import Game, Metrics, RealBatch, parts
from gansmith.players import MeanGradients, Player
from gansmith.priors import Prior
from gansmith.schema import Fraction, PositiveFloat


def energy(x: Tensor, reconstruction: Tensor) -> Tensor:
    """L(x) = |x - D(x)|, the mean over one sample's pixels: (N,). The paper's section 3.1 with eta = 1."""
    if reconstruction.shape != x.shape:
        raise UserError(
            f"D returned {tuple(reconstruction.shape)} for images {tuple(x.shape)}; began needs an auto-encoder"
        )
    return (full(x) - full(reconstruction)).abs().flatten(1).mean(1)


class Began(Game):
    """L_D = L(x) - k L(G(z_D)),  L_G = L(G(z_G)),  k <- k + lambda_k (gamma L(x) - L(G(z_G))), k in [0, 1].

    Both gradients are taken at the same point, on noise of their own; k starts at 0 and is the game's memory. "game/M"
    is the paper's measure of convergence, L(x) + |gamma L(x) - L(G(z_G))|. Source: section 3.4.
    """

    def __init__(
        self,
        G: Player,
        D: Player,
        prior: Prior,
        noise: torch.Generator,
        accumulate: int = 1,
        *,
        gamma: Fraction = 0.5,
        lambda_k: PositiveFloat = 0.001,
    ) -> None:
        self.G, self.D = G, D
        self.players = (G, D)
        self.prior = prior
        self.noise = noise
        self.accumulate = accumulate
        self.gamma = gamma
        self.lambda_k = lambda_k
        self.k = torch.zeros((), device=noise.device, dtype=G.dtype)

    def round(self, *batches: RealBatch) -> Metrics:
        (real,) = batches
        of_d, of_g = MeanGradients(self.D), MeanGradients(self.G)
        for x_real, share in parts(real, self.accumulate):
            n = len(x_real)
            with torch.no_grad():
                x_d = self.G.lend(self.prior.sample(n, self.noise, self.G.dtype))
            x_g = self.G.net(self.prior.sample(n, self.noise, self.G.dtype))
            energy_real = energy(x_real, self.D.net(x_real)).mean()
            loss_d = energy_real - self.k * energy(x_d, self.D.net(x_d)).mean()
            loss_g = energy(x_g, self.D.lend(x_g)).mean()
            of_d.add(loss_d, share, {"D/real": energy_real})
            of_g.add(loss_g, share)
        (grads_d,), (grads_g,) = of_d.take(), of_g.take()
        self.D.step(grads_d)
        self.G.step(grads_g)
        real_mean, fake_mean = of_d.means["D/real"], of_g.loss
        balance = self.gamma * real_mean - fake_mean
        metrics = {
            "loss/D": of_d.loss,
            "loss/G": fake_mean,
            "D/real": real_mean,
            "D/fake": fake_mean,
            "grad/D": grads_d.norm,
            "grad/G": grads_g.norm,
            "game/k": self.k,
            "game/M": real_mean + balance.abs(),
        }
        self.k = (self.k + self.lambda_k * balance).clamp(0, 1)
        return metrics

    def state_dict(self) -> dict[str, Any]:
        return {"k": self.k}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.k = state["k"].to(self.k)

"""EBGAN: the energy-based game of Zhao et al. 2017 (arXiv 1609.03126). D is an auto-encoder."""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize, relu

from gansmith.errors import UserError
from gansmith.games.critique import full
from gansmith.games.game import SAMPLE, Batch, Losses, OneMove, Player
from gansmith.networks.ebgan import Coded
from gansmith.priors import Prior
from gansmith.schema import NonNegativeFloat, PositiveFloat


def energy(x: Tensor, said: Any) -> Tensor:
    """E(x) = |Dec(Enc(x)) - x|^2, the mean over one sample's pixels: (N,)."""
    if not isinstance(said, Coded) or said.reconstruction.shape != x.shape:
        raise UserError(
            f"networks.D: for images {tuple(x.shape)} ebgan needs an auto-encoder that returns a"
            " gansmith.networks.ebgan.Coded, (reconstruction, code), such as ebgan_autoencoder"
        )
    return (full(said.reconstruction) - full(x)).square().flatten(1).mean(1)


def pull_away(codes: Tensor) -> Tensor:
    """PT(S) = sum_{i != j} cos(S_i, S_j)^2 / (N (N - 1)) over codes (N, code): 0-dim, 0 for a single one."""
    n = len(codes)
    with torch.autocast(codes.device.type, enabled=False):  # which would round the cosines to bfloat16
        s = normalize(codes, eps=1e-6)  # a code of 0 is at right angles to all others, and has a finite gradient
        return 2 * (s @ s.T).triu(1).square().sum() / max(1, n * (n - 1))


@dataclass
class EBGAN(OneMove):
    """L_D = E(x) + max(0, margin - E(G(z))),  L_G = E(G(z)) + pull_away PT(codes of G(z)): eq. 1, 2 and section 2.4.

    Both gradients are taken at the same point, on the same fakes; one pass of D over them serves both. G's gradient
    goes through both places that its picture has in E. PT looks at the codes of the whole batch, of all processes.
    """

    G: Player
    D: Player
    prior: Prior
    noise: torch.Generator
    everywhere: Callable[[Tensor], Tensor]
    _: KW_ONLY
    margin: PositiveFloat = 1.0
    pull_away: NonNegativeFloat = 0.1

    sees = ()
    makers = SAMPLE
    accumulate = 1  # PT has to see the whole batch

    def losses(self, part: Batch) -> Losses:
        x = part["x"]
        x_fake = self.G.net(self.prior.sample(len(part), self.noise, self.G.dtype))
        said = self.D.net(x_fake)
        real, fake = energy(x, self.D.net(x)), energy(x_fake, said)
        loss_d = (real + relu(self.margin - fake)).mean()
        term = pull_away(self.everywhere(full(said.code)))
        loss_g = fake.mean() + self.pull_away * term
        logged = {"D/real": real.mean(), "D/fake": fake.mean(), "game/pull_away": term}
        return {"D": (self.D, loss_d), "G": (self.G, loss_g)}, logged

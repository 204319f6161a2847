"""The two-player game of Goodfellow et al. 2014 (arXiv 1406.2661), played simultaneously or in turns.

G and D are players, `real` and `fake` in a critique are D's scores.
"""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor

from gansmith.games.critique import criticised, judged, per_sample, score
from gansmith.games.game import SAMPLE, Adversarial, Batch, InTurns, Losses, OneMove, Player
from gansmith.penalties import PenaltySum
from gansmith.priors import Prior
from gansmith.schema import PositiveInt


@dataclass
class Simultaneous(OneMove, Adversarial):
    """Both gradients are taken at the same point, then both players move.

    This is the update of the post (G steps first, D then learns from the same, detached fakes: neither gradient sees
    the other's move) and of the authors' 2014 code. One pass of D over the fakes serves both losses.
    """

    G: Player
    D: Player
    prior: Prior
    penalty: PenaltySum

    makers = SAMPLE

    def latent(self, n: int) -> Tensor:
        """Fresh z (n, Z)."""
        return self.prior.sample(n, self.noise, self.G.dtype)

    def losses(self, part: Batch) -> Losses:
        x, n = part["x"], len(part)
        fake = self.G.net(self.latent(n))  # (N, C, H, W), with its graph
        c = criticised(self.D.net, x, fake)
        loss_d = per_sample(self.objective.d, c).mean()
        loss_d = loss_d + self.penalty(score(self.D.probe), x, fake.detach(), self.noise, self.D.moves)
        loss_g = per_sample(self.objective.g, c).mean()
        return {"D": (self.D, loss_d), "G": (self.G, loss_g)}, judged(c, self.objective)


@dataclass
class Alternating(InTurns, Simultaneous):
    """Algorithm 1 as printed: n_critic steps of D, each on fresh noise and a fresh batch, then one of G on fresh noise.

    A round takes n_critic batches. G's move needs no real images, unless its loss does (`g_uses_real`): then those of
    the round's last batch.
    """

    _: KW_ONLY
    n_critic: PositiveInt = 1

    def losses_d(self, part: Batch) -> Losses:
        x, n = part["x"], len(part)
        with torch.no_grad():
            fake = self.G.lend(self.latent(n))
        c = criticised(self.D.net, x, fake)
        loss = per_sample(self.objective.d, c).mean()
        loss = loss + self.penalty(score(self.D.probe), x, fake, self.noise, self.D.moves)
        return {"D": (self.D, loss)}, judged(c, self.objective)

    def losses_g(self, part: Batch) -> Losses:
        fake = self.G.net(self.latent(len(part)))
        return {"G": (self.G, self.loss_g(self.D.lend, fake, part["x"]))}, {}

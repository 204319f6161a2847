"""The two-player game of Goodfellow et al. 2014 (arXiv 1406.2661), played simultaneously or in turns.

Legend: N samples, Z latents, C H W image. G and D are players, `real` and `fake` in a critique are D's scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gansmith.games.critique import Critique, mean, per_sample, score, scores, theory
from gansmith.games.game import Game, Metrics, RealBatch
from gansmith.objectives import Objective
from gansmith.penalties import PenaltySum
from gansmith.players import Gradients, Player
from gansmith.priors import Prior
from gansmith.schema import PositiveInt


class TwoPlayer(Game):
    """What both orders of play share: the parts, and what they log."""

    def __init__(
        self,
        G: Player,
        D: Player,
        prior: Prior,
        objective: Objective,
        penalty: PenaltySum,
        noise: torch.Generator,
    ) -> None:
        self.G, self.D = G, D
        self.players = (G, D)
        self.prior = prior
        self.objective = objective
        self.penalty = penalty
        self.noise = noise

    def latent(self, n: int) -> Tensor:
        """Fresh z (n, Z)."""
        return self.prior.sample(n, self.noise, self.G.dtype)

    def metrics(self, c: Critique, loss_d: Tensor, loss_g: Tensor, d: Gradients, g: Gradients) -> Metrics:
        return {
            "loss/D": loss_d.detach(),
            "loss/G": loss_g.detach(),
            "D/real": mean(c.real, self.objective.output),
            "D/fake": mean(c.fake, self.objective.output),
            "grad/D": d.norm,
            "grad/G": g.norm,
            **(theory(c) if self.objective.probability else {}),
        }


class Simultaneous(TwoPlayer):
    """Both gradients are taken at the same point, then both players move.

    This is the update of the post (G steps first, D then learns from the same, detached fakes: neither gradient sees
    the other's move) and of the authors' 2014 code. One pass of D over the fakes serves both losses.
    """

    def round(self, *batches: RealBatch) -> Metrics:
        (real,) = batches
        n = len(real.images)
        fake = self.G.net(self.latent(n))  # (N, C, H, W), with its graph
        c = Critique(scores(self.D.net(real.images), n), scores(self.D.net(fake), n))
        loss_d = per_sample(self.objective.d, c).mean()
        loss_d = loss_d + self.penalty(score(self.D.net), real.images, fake.detach(), self.noise)
        loss_g = per_sample(self.objective.g, c).mean()
        grads_d = self.D.gradients(loss_d, retain_graph=True)  # d loss_d / d theta_D, nothing else
        grads_g = self.G.gradients(loss_g)  # d loss_g / d theta_G, nothing else
        self.D.step(grads_d)
        self.G.step(grads_g)
        return self.metrics(c, loss_d, loss_g, grads_d, grads_g)


class Alternating(TwoPlayer):
    """Algorithm 1 as printed: n_critic steps of D, each on fresh noise and a fresh batch, then one of G on fresh noise.

    A round takes n_critic batches. G's move needs no real images, unless its loss does (`g_uses_real`): then those of
    the round's last batch.
    """

    def __init__(
        self,
        G: Player,
        D: Player,
        prior: Prior,
        objective: Objective,
        penalty: PenaltySum,
        noise: torch.Generator,
        *,
        n_critic: PositiveInt = 1,
    ) -> None:
        super().__init__(G, D, prior, objective, penalty, noise)
        self.batches_per_round = n_critic

    def round(self, *batches: RealBatch) -> Metrics:
        for real in batches:
            c, loss_d, grads_d = self.move_d(real.images)
        loss_g, grads_g = self.move_g(batches[-1].images)
        return self.metrics(c, loss_d, loss_g, grads_d, grads_g)

    def move_d(self, x_real: Tensor) -> tuple[Critique, Tensor, Gradients]:
        n = len(x_real)
        with torch.no_grad():
            x_fake = self.G.lend(self.latent(n))
        c = Critique(scores(self.D.net(x_real), n), scores(self.D.net(x_fake), n))
        loss = per_sample(self.objective.d, c).mean()
        loss = loss + self.penalty(score(self.D.net), x_real, x_fake, self.noise)
        grads = self.D.gradients(loss)
        self.D.step(grads)
        return c, loss, grads

    def move_g(self, x_real: Tensor) -> tuple[Tensor, Gradients]:
        n = len(x_real)
        fake = scores(self.D.lend(self.G.net(self.latent(n))), n)
        real = scores(self.D.lend(x_real), n) if self.objective.g_uses_real else fake
        loss = per_sample(self.objective.g, Critique(real, fake)).mean()
        grads = self.G.gradients(loss)
        self.G.step(grads)
        return loss, grads

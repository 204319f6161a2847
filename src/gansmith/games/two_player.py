"""The two-player game of Goodfellow et al. 2014 (arXiv 1406.2661), played simultaneously or in turns.

Legend: N samples, Z latents, C H W image. G and D are players, `real` and `fake` in a critique are D's scores.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gansmith.games.critique import Critique, jsd, mean, per_sample, score, scores, theory
from gansmith.games.game import Game, Metrics, RealBatch, parts
from gansmith.objectives import Objective
from gansmith.penalties import PenaltySum
from gansmith.players import Gradients, MeanGradients, Player
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
        accumulate: int = 1,
    ) -> None:
        self.G, self.D = G, D
        self.players = (G, D)
        self.prior = prior
        self.objective = objective
        self.penalty = penalty
        self.noise = noise
        self.accumulate = accumulate

    def latent(self, n: int) -> Tensor:
        """Fresh z (n, Z)."""
        return self.prior.sample(n, self.noise, self.G.dtype)

    def judged(self, c: Critique) -> Metrics:
        """What D says of real and generated images."""
        said = {"D/real": mean(c.real, self.objective.output), "D/fake": mean(c.fake, self.objective.output)}
        return {**said, **(theory(c) if self.objective.probability else {})}

    def metrics(self, of_d: MeanGradients, of_g: MeanGradients, d: Gradients, g: Gradients) -> Metrics:
        return {
            "loss/D": of_d.loss,
            "loss/G": of_g.loss,
            "grad/D": d.norm,
            "grad/G": g.norm,
            **of_d.means,
            **({"value/jsd": jsd(of_d.means["value/V"])} if "value/V" in of_d.means else {}),  # of the whole batch's V
        }


class Simultaneous(TwoPlayer):
    """Both gradients are taken at the same point, then both players move.

    This is the update of the post (G steps first, D then learns from the same, detached fakes: neither gradient sees
    the other's move) and of the authors' 2014 code. One pass of D over the fakes serves both losses.
    """

    def round(self, *batches: RealBatch) -> Metrics:
        (real,) = batches
        of_d, of_g = MeanGradients(self.D), MeanGradients(self.G)
        for x_real, share in parts(real, self.accumulate):
            self.differentiate(x_real, share, of_d, of_g)  # whose graphs end with it
        (grads_d,), (grads_g,) = of_d.take(), of_g.take()
        self.D.step(grads_d)
        self.G.step(grads_g)
        return self.metrics(of_d, of_g, grads_d, grads_g)

    def differentiate(self, x_real: Tensor, share: float, of_d: MeanGradients, of_g: MeanGradients) -> None:
        n = len(x_real)
        fake = self.G.net(self.latent(n))  # (N, C, H, W), with its graph
        c = Critique(scores(self.D.net(x_real), n), scores(self.D.net(fake), n))
        loss_d = per_sample(self.objective.d, c).mean()
        loss_d = loss_d + self.penalty(score(self.D.net), x_real, fake.detach(), self.noise, self.D.moves)
        loss_g = per_sample(self.objective.g, c).mean()
        of_d.add(loss_d, share, self.judged(c), retain_graph=True)  # d loss_d / d theta_D, nothing else
        of_g.add(loss_g, share)  # d loss_g / d theta_G, nothing else


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
        accumulate: int = 1,
        *,
        n_critic: PositiveInt = 1,
    ) -> None:
        super().__init__(G, D, prior, objective, penalty, noise, accumulate)
        self.batches_per_round = n_critic

    def round(self, *batches: RealBatch) -> Metrics:
        for real in batches:
            of_d, grads_d = self.move_d(real)
        of_g, grads_g = self.move_g(batches[-1])
        return self.metrics(of_d, of_g, grads_d, grads_g)

    def move_d(self, real: RealBatch) -> tuple[MeanGradients, Gradients]:
        of_d = MeanGradients(self.D)
        for x_real, share in parts(real, self.accumulate):
            n = len(x_real)
            with torch.no_grad():
                x_fake = self.G.lend(self.latent(n))
            c = Critique(scores(self.D.net(x_real), n), scores(self.D.net(x_fake), n))
            loss = per_sample(self.objective.d, c).mean()
            loss = loss + self.penalty(score(self.D.net), x_real, x_fake, self.noise, self.D.moves)
            of_d.add(loss, share, self.judged(c))
        (grads,) = of_d.take()
        self.D.step(grads)
        return of_d, grads

    def move_g(self, last: RealBatch) -> tuple[MeanGradients, Gradients]:
        of_g = MeanGradients(self.G)
        for x_real, share in parts(last, self.accumulate):
            n = len(x_real)
            fake = scores(self.D.lend(self.G.net(self.latent(n))), n)
            real = scores(self.D.lend(x_real), n) if self.objective.g_uses_real else fake
            of_g.add(per_sample(self.objective.g, Critique(real, fake)).mean(), share)
        (grads,) = of_g.take()
        self.G.step(grads)
        return of_g, grads

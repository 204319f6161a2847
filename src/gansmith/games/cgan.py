"""Conditional GAN: both players are told the label (Mirza & Osindero 2014, arXiv 1411.1784)."""

from dataclasses import dataclass

from gansmith.games.critique import Critique, judged, per_sample, score, scores
from gansmith.games.game import LABELLED, Batch, Losses
from gansmith.games.two_player import Simultaneous


@dataclass
class ConditionalGAN(Simultaneous):
    """min_G max_D E[log D(x|y)] + E[log(1 - D(G(z|y)|y))], eq. 2, with the losses of the objective; y (N,) are labels.

    Fakes are made for the labels of the batch; both gradients are taken at the same point, then both players move.
    """

    needs = (("x", "y"),)
    makers = LABELLED

    def losses(self, part: Batch) -> Losses:
        x, y, n = part["x"], part["y"], len(part)
        fake = self.G.net(self.latent(n), y)
        c = Critique(scores(self.D.net(x, y), n), scores(self.D.net(fake, y), n))
        loss_d = per_sample(self.objective.d, c).mean()
        told = score(lambda x: self.D.probe(x, y))
        loss_d = loss_d + self.penalty(told, x, fake.detach(), self.noise, self.D.moves)
        loss_g = per_sample(self.objective.g, c).mean()
        return {"D": (self.D, loss_d), "G": (self.G, loss_g)}, judged(c, self.objective)

"""Semi-supervised GAN: D has a class for each label and one for fakes (Odena 2016, arXiv 1606.01583).

Legend: K classes; x pictures with their labels y (N,), u pictures without.
"""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gansmith.games.critique import Critique, full, judged, per_sample
from gansmith.games.game import Batch, Losses, Maker, Moved
from gansmith.games.two_player import Simultaneous
from gansmith.schema import NonNegativeFloat


@dataclass
class SemiSupervisedGAN(Simultaneous):
    """With p = softmax(D), class K the fakes, and the losses of the objective, by default:

        L_D = -E log p(y | x) - lambda_unlabelled (E log(1 - p(K | u)) + E log p(K | G(z))) / 2,
        L_G = -E log(1 - p(K | G(z))).

    The labels are the paper's; the pictures without any are those of Salimans et al. 2016 (arXiv 1606.03498), section
    5: they are anything but fakes. With lambda_unlabelled 0, D is a classifier that learns from the labels alone.
    """

    _: KW_ONLY
    lambda_unlabelled: NonNegativeFloat = 1.0

    needs = (("x", "y"), ("u",))
    makers = {
        "sample": Maker(("G",), {"z": "latent"}, "u", lambda G, z: G(z)),
        "classify": Maker(("D",), {"x": "x"}, "y", lambda D, x: D(x)[:, :-1]),
    }

    def losses(self, part: Batch) -> Losses:
        u, n = part["u"], len(part)
        fake = self.G.net(self.latent(n))
        supervised = cross_entropy(full(self.D.net(part["x"])), part["y"])
        c = Critique((real_score(self.D.net(u)),), (real_score(self.D.net(fake)),))
        unsupervised = per_sample(self.objective.d, c).mean()
        unsupervised = unsupervised + self.penalty(self.probed, u, fake.detach(), self.noise, self.D.moves)
        loss_d = supervised + self.lambda_unlabelled * unsupervised
        moved: Moved = {"D": (self.D, loss_d), "G": (self.G, per_sample(self.objective.g, c).mean())}
        return moved, {**judged(c, self.objective), "game/supervised": supervised, "game/unsupervised": unsupervised}

    def probed(self, x: Tensor) -> Tensor:
        return real_score(self.D.probe(x))


def real_score(logits: Tensor) -> Tensor:
    """log((1 - p(K)) / p(K)) of logits (N, K + 1), (N,): the score whose sigmoid is the probability of no fake."""
    logits = full(logits)
    return torch.logsumexp(logits[:, :-1], 1) - logits[:, -1]

"""PixelDA: a classifier for a domain without labels, taught on translated pictures (Bousmalis et al. 2017, 1612.05424).

Legend: a pictures of the source (N, C, H, W) with labels y (N,), b pictures of the target, which have none. G(a, z)
makes a look like b, D tells these from b, T gives logits (N, K) of the class.
"""

from dataclasses import KW_ONLY, dataclass

import torch
from torch.nn.functional import cross_entropy

from gansmith.games.critique import full
from gansmith.games.game import Adversarial, Batch, InTurns, Losses, Maker, Metrics, Player, move
from gansmith.priors import Prior
from gansmith.schema import NonNegativeFloat


@dataclass
class PixelDA(InTurns, Adversarial):
    """min_{G, T} max_D alpha L_d(D, G) + beta L_t(T, G), L_t = H(y, T(G(a, z))) + H(y, T(a)): section 3.1.

    A round is the two steps of section 3.1: D and T move with G fixed, then G moves with D and T fixed, on the same
    pictures and noise drawn anew. H is the cross-entropy of logits. With `source_only` T learns from a alone, and G and
    D rest: what T is worth without adaptation.
    """

    G: Player
    D: Player
    T: Player
    prior: Prior
    _: KW_ONLY
    alpha: NonNegativeFloat = 1.0
    beta: NonNegativeFloat = 0.89
    source_only: bool = False

    needs = (("a", "y"), ("b",))
    generators = ("G", "T")
    makers = {
        "a2b": Maker(("G",), {"a": "a", "z": "latent"}, "b", lambda G, a, z: G(a, z)),
        "classify": Maker(("T",), {"b": "b"}, "y", lambda T, b: T(b)),
        "classify_a": Maker(("T",), {"a": "a"}, "y", lambda T, a: T(a)),
    }

    def round(self, *batches: Batch) -> Metrics:
        if self.source_only:
            return move(batches[0], self.accumulate, self.losses_source)
        return super().round(*batches)

    def losses_source(self, part: Batch) -> Losses:
        return {"T": (self.T, self.beta * cross_entropy(full(self.T.net(part["a"])), part["y"]))}, {}

    def losses_d(self, part: Batch) -> Losses:
        a, b, y, n = part["a"], part["b"], part["y"], len(part)
        with torch.no_grad():
            fake = self.G.lend(a, self.prior.sample(n, self.noise, self.G.dtype))
        loss, said = self.loss_d(self.D.net, b, fake)
        task = cross_entropy(full(self.T.net(fake)), y) + cross_entropy(full(self.T.net(a)), y)
        return {"D": (self.D, self.alpha * loss), "T": (self.T, self.beta * task)}, said

    def losses_g(self, part: Batch) -> Losses:
        fake = self.G.net(part["a"], self.prior.sample(len(part), self.noise, self.G.dtype))
        adversarial = self.loss_g(self.D.lend, fake, part["b"])
        task = cross_entropy(full(self.T.lend(fake)), part["y"])
        loss = self.alpha * adversarial + self.beta * task
        return {"G": (self.G, loss)}, {"game/adversarial": adversarial, "game/task": task}

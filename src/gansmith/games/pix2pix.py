"""pix2pix: from one picture of a pair to the other (Isola et al. 2017, arXiv 1611.07004).

Legend: a the input (N, C, H, W), b the output that belongs to it. D looks at both.
"""

from dataclasses import KW_ONLY, dataclass
from functools import partial

from torch.nn.functional import l1_loss

from gansmith.games.critique import full
from gansmith.games.game import Adversarial, Batch, InTurns, Losses, Maker, Player
from gansmith.schema import NonNegativeFloat


@dataclass
class Pix2Pix(InTurns, Adversarial):
    """G* = arg min_G max_D L_cGAN(G, D) + lambda_l1 E[|b - G(a)|_1]: eq. 1 to 4, with the losses of the objective.

    One step of D, then one of G against the D that has moved, on the same G(a): section 3.3. G's noise is its dropout,
    drawn from torch's own stream.
    """

    G: Player
    D: Player
    _: KW_ONLY
    lambda_l1: NonNegativeFloat = 100.0

    needs = (("a", "b"),)
    makers = {"a2b": Maker(("G",), {"a": "a"}, "b", lambda G, a: G(a))}

    def losses_d(self, part: Batch) -> Losses:
        a, b = part["a"], part["b"]
        fake_b = self.G.net(a)
        self.made.append(fake_b)
        loss, said = self.loss_d(partial(self.D.net, a), b, fake_b.detach())
        return {"D": (self.D, loss)}, said

    def losses_g(self, part: Batch) -> Losses:
        a, b, fake_b = part["a"], part["b"], self.made.pop(0)
        adversarial = self.loss_g(partial(self.D.lend, a), fake_b, b)
        l1 = l1_loss(full(fake_b), b)
        return {"G": (self.G, adversarial + self.lambda_l1 * l1)}, {"game/adversarial": adversarial, "game/l1": l1}

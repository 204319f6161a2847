"""DualGAN: between two domains without pairs, with Wasserstein critics (Yi et al. 2017, arXiv 1704.02510).

Legend: a and b pictures (N, C, H, W) of the two domains; AB makes b of a, BA makes a of b; DA and DB judge a and b.
"""

from dataclasses import KW_ONLY, dataclass

import torch
from torch.nn.functional import l1_loss

from gansmith.games.critique import full, score
from gansmith.games.game import TRANSLATE, Adversarial, Batch, InTurns, Losses, Player
from gansmith.penalties import PenaltySum
from gansmith.schema import NonNegativeFloat, PositiveInt


@dataclass
class DualGAN(InTurns, Adversarial):
    """n_critic moves of DA and DB, each on a batch of its own; then one of AB and BA, on the last of them: Algorithm 1.

    DA and DB: E DA(BA(b)) - E DA(a) and E DB(AB(a)) - E DB(b), eq. 1 and 2, and the penalties. AB and BA: lambda_a
    |a - BA(AB(a))|_1 + lambda_b |b - AB(BA(b))|_1 - E DB(AB(a)) - E DA(BA(b)), eq. 3, |.|_1 a mean over pixels. The
    critics' networks clip their weights. The only noise is the translators' dropout, from torch's own stream.
    """

    AB: Player
    BA: Player
    DA: Player
    DB: Player
    penalty: PenaltySum
    _: KW_ONLY
    n_critic: PositiveInt = 2
    lambda_a: NonNegativeFloat = 100.0
    lambda_b: NonNegativeFloat = 100.0

    needs = (("a",), ("b",))
    generators = ("AB", "BA")
    critics = ("DA", "DB")
    makers = TRANSLATE

    def losses_d(self, part: Batch) -> Losses:
        a, b = part["a"], part["b"]
        with torch.no_grad():
            fake_b, fake_a = self.AB.lend(a), self.BA.lend(b)
        loss_a, said_a = self.loss_d(self.DA.net, a, fake_a, "_A")
        loss_b, said_b = self.loss_d(self.DB.net, b, fake_b, "_B")
        loss_a = loss_a + self.penalty(score(self.DA.probe), a, fake_a, self.noise, self.DA.moves)
        loss_b = loss_b + self.penalty(score(self.DB.probe), b, fake_b, self.noise, self.DB.moves)
        return {"DA": (self.DA, loss_a), "DB": (self.DB, loss_b)}, {**said_a, **said_b}

    def losses_g(self, part: Batch) -> Losses:
        a, b = part["a"], part["b"]
        fake_b, fake_a = self.AB.net(a), self.BA.net(b)
        adversarial = self.loss_g(self.DB.lend, fake_b, b) + self.loss_g(self.DA.lend, fake_a, a)
        cycle_a, cycle_b = l1_loss(full(self.BA.net(fake_b)), a), l1_loss(full(self.AB.net(fake_a)), b)
        loss = adversarial + self.lambda_a * cycle_a + self.lambda_b * cycle_b
        said = {"game/adversarial": adversarial, "game/cycle_a": cycle_a, "game/cycle_b": cycle_b}
        return {"G": ((self.AB, self.BA), loss)}, said

"""CycleGAN: between two domains without pairs (Zhu et al. 2017, arXiv 1703.10593).

Legend: a and b pictures (N, C, H, W) of the two domains; AB makes b of a, BA makes a of b; DA and DB judge a and b.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Literal

from torch.nn.functional import l1_loss, mse_loss

from gansmith.games.critique import full
from gansmith.games.game import TRANSLATE, Adversarial, Batch, Losses, Moved, OneMove, Player
from gansmith.games.pool import Pool
from gansmith.schema import NonNegativeFloat, NonNegativeInt


@dataclass
class CycleGAN(OneMove, Adversarial):
    """L_GAN(AB, DB) + L_GAN(BA, DA) + lambda_cycle (|BA(AB(a)) - a|_1 + |AB(BA(b)) - b|_1), eq. 3,

    and lambda_identity lambda_cycle (|BA(a) - a|_1 + |AB(b) - b|_1), section 5.2. The paper's least squares loss of the
    translators has no 1/2, and ours has: so lambda_cycle 5 is its 10, and the whole loss is half of its own, which Adam
    does not see. The critics see fakes out of pools of `pool` past ones (section 4). Fakes are those of the translators
    before their step, as in the authors' code, so all gradients are taken at one point.
    """

    AB: Player
    BA: Player
    DA: Player
    DB: Player
    _: KW_ONLY
    lambda_cycle: NonNegativeFloat = 5.0
    lambda_identity: NonNegativeFloat = 0.5
    pool: NonNegativeInt = 50
    distance: Literal["l1", "l2"] = "l1"
    """Of a picture from its cycle: the mean of absolute, or of squared differences."""

    needs = (("a",), ("b",))
    generators = ("AB", "BA")
    critics = ("DA", "DB")
    makers = TRANSLATE

    def __post_init__(self) -> None:
        self.past = {"a": Pool(self.pool), "b": Pool(self.pool)}

    def pools(self) -> Mapping[str, Pool]:
        return self.past

    def losses(self, part: Batch) -> Losses:
        a, b = part["a"], part["b"]
        fake_b, fake_a = self.AB.net(a), self.BA.net(b)
        apart = l1_loss if self.distance == "l1" else mse_loss
        cycle = apart(full(self.BA.net(fake_b)), a) + apart(full(self.AB.net(fake_a)), b)
        adversarial = self.loss_g(self.DB.lend, fake_b, b) + self.loss_g(self.DA.lend, fake_a, a)
        loss = adversarial + self.lambda_cycle * cycle
        said = {"game/adversarial": adversarial, "game/cycle": cycle}
        if self.lambda_identity:
            said["game/identity"] = l1_loss(full(self.BA.net(a)), a) + l1_loss(full(self.AB.net(b)), b)
            loss = loss + self.lambda_identity * self.lambda_cycle * said["game/identity"]
        past_a, past_b = (self.past[of].swap(fake.detach(), self.noise) for of, fake in (("a", fake_a), ("b", fake_b)))
        loss_a, said_a = self.loss_d(self.DA.net, a, past_a, "_A")
        loss_b, said_b = self.loss_d(self.DB.net, b, past_b, "_B")
        moved: Moved = {"G": ((self.AB, self.BA), loss), "DA": (self.DA, loss_a), "DB": (self.DB, loss_b)}
        return moved, {**said, **said_a, **said_b}

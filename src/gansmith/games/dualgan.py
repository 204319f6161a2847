"""DualGAN: between two domains without pairs, with Wasserstein critics (Yi et al. 2017, arXiv 1704.02510).

Legend: a and b pictures (N, C, H, W) of the two domains; AB makes b of a, BA makes a of b; DA and DB judge a and b.
"""

from __future__ import annotations

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor
from torch.nn.functional import l1_loss

from gansmith.games.critique import criticised, full, loss_g, per_sample, score, shown
from gansmith.games.game import Batch, Game, Maker, Metrics
from gansmith.objectives import Objective
from gansmith.penalties import PenaltySum
from gansmith.players import Moved, Player, move
from gansmith.schema import NonNegativeFloat, PositiveInt


@dataclass
class DualGAN(Game):
    """n_critic moves of DA and DB, each on a batch of its own; then one of AB and BA, on the last of them: Algorithm 1.

    DA and DB: E DA(BA(b)) - E DA(a) and E DB(AB(a)) - E DB(b), eq. 1 and 2, and the penalties. AB and BA: lambda_a
    |a - BA(AB(a))|_1 + lambda_b |b - AB(BA(b))|_1 - E DB(AB(a)) - E DA(BA(b)), eq. 3, |.|_1 a mean over pixels. The
    critics' networks clip their weights. The only noise is the translators' dropout, from torch's own stream.
    """

    AB: Player
    BA: Player
    DA: Player
    DB: Player
    objective: Objective
    penalty: PenaltySum
    noise: torch.Generator
    accumulate: int = 1
    _: KW_ONLY
    n_critic: PositiveInt = 2
    lambda_a: NonNegativeFloat = 100.0
    lambda_b: NonNegativeFloat = 100.0

    needs = (("a",), ("b",))
    generators = ("AB", "BA")
    critics = ("DA", "DB")
    makers = {
        "a2b": Maker(("AB",), {"a": "a"}, "b", lambda AB, a: AB(a)),
        "b2a": Maker(("BA",), {"b": "b"}, "a", lambda BA, b: BA(b)),
    }

    def __post_init__(self) -> None:
        self.batches_per_round = self.n_critic

    def round(self, *batches: Batch) -> Metrics:
        for batch in batches:
            metrics = move(batch, self.accumulate, self.losses_d)
        return metrics | move(batches[-1], self.accumulate, self.losses_g)

    def losses_d(self, part: Batch) -> tuple[Moved, Metrics]:
        a, b = part["a"], part["b"]
        with torch.no_grad():
            fake_b, fake_a = self.AB.lend(a), self.BA.lend(b)
        moved: dict[str, tuple[Player, Tensor]] = {}
        said: Metrics = {}
        for of, critic, real, fake in (("A", self.DA, a, fake_a), ("B", self.DB, b, fake_b)):
            c = criticised(critic.net, real, fake)
            penalty = self.penalty(score(critic.probe), real, fake, self.noise, critic.moves)
            moved[f"D{of}"] = critic, per_sample(self.objective.d, c).mean() + penalty
            said |= shown(c, self.objective, f"_{of}")
        return moved, said

    def losses_g(self, part: Batch) -> tuple[Moved, Metrics]:
        a, b = part["a"], part["b"]
        fake_b, fake_a = self.AB.net(a), self.BA.net(b)
        adversarial = loss_g(self.objective, self.DB.lend, fake_b, b) + loss_g(self.objective, self.DA.lend, fake_a, a)
        cycle_a, cycle_b = l1_loss(full(self.BA.net(fake_b)), a), l1_loss(full(self.AB.net(fake_a)), b)
        loss = adversarial + self.lambda_a * cycle_a + self.lambda_b * cycle_b
        said = {"game/adversarial": adversarial, "game/cycle_a": cycle_a, "game/cycle_b": cycle_b}
        return {"G": ((self.AB, self.BA), loss)}, said

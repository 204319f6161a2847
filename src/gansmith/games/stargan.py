"""StarGAN: one translator for all attributes (Choi et al. 2018, arXiv 1711.09020).

Legend: x pictures (N, C, H, W), c their attributes (N, K), bits of 0 and 1, c' those that are wished.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, l1_loss

from gansmith.errors import UserError
from gansmith.games.critique import Critique, full, judged, per_sample, score, scores
from gansmith.games.game import Adversarial, Batch, InTurns, Losses, Maker, Metrics, Player
from gansmith.penalties import PenaltySum
from gansmith.schema import NonNegativeFloat, PositiveInt


def edit(G: Any, D: Any, x: Tensor, bits: Tensor) -> Tensor:
    """G(x, c'): where a bit is NaN the picture keeps what D finds in it."""
    return G(x, torch.where(bits.isnan(), (D(x).attributes > 0).to(bits.dtype), bits))


def attribute_loss(said: Any, bits: Tensor) -> Tensor:
    """-log P(c | x), a sum over the attributes, the mean over the batch, of logits."""
    logits = getattr(said, "attributes", None)
    if not isinstance(logits, Tensor) or logits.shape != bits.shape:
        raise UserError(
            f"networks.D: of {len(bits)} pictures stargan needs to be told {bits.shape[1]} attributes: a"
            " gansmith.networks.stargan.Told, (score, attributes), as stargan_critic gives"
        )
    return binary_cross_entropy_with_logits(full(logits), bits, reduction="sum") / len(bits)


@dataclass
class StarGAN(InTurns, Adversarial):
    """L_D = objective.d + lambda_attributes BCE(D(x), c), with the penalties, and

    L_G = objective.g + lambda_attributes BCE(D(G(x, c')), c') + lambda_cycle |G(G(x, c'), c) - x|_1: eq. 1 to 6 and 8.

    A round is n_critic moves of D, each on a batch, and one of G, on the last batch and its c'. Each c' is the c of a
    picture of the whole batch, drawn with replacement: of attributes that exclude one another no two are ever wished.
    """

    G: Player
    D: Player
    penalty: PenaltySum
    everywhere: Callable[[Tensor], Tensor]
    _: KW_ONLY
    n_critic: PositiveInt = 5
    lambda_attributes: NonNegativeFloat = 1.0
    lambda_cycle: NonNegativeFloat = 10.0

    needs = (("x", "bits"),)
    makers = {"edit": Maker(("G", "D"), {"x": "x", "bits": "bits"}, "x", edit)}

    def round(self, *batches: Batch) -> Metrics:
        return super().round(*(batch.plus(wished=self.wishes(batch["bits"])) for batch in batches))

    def wishes(self, bits: Tensor) -> Tensor:
        """c' (N, K)"""
        whole = self.everywhere(bits)
        return whole[torch.randint(len(whole), (len(bits),), generator=self.noise, device=bits.device)]

    def losses_d(self, part: Batch) -> Losses:
        x, n = part["x"], len(part)
        with torch.no_grad():
            fake = self.G.lend(x, part["wished"])
        real = self.D.net(x)
        c, told = Critique(scores(real, n), scores(self.D.net(fake), n)), attribute_loss(real, part["bits"])
        loss = per_sample(self.objective.d, c).mean() + self.lambda_attributes * told
        loss = loss + self.penalty(score(self.D.probe), x, fake, self.noise, self.D.moves)
        return {"D": (self.D, loss)}, {**judged(c, self.objective), "game/attributes_real": told}

    def losses_g(self, part: Batch) -> Losses:
        x = part["x"]
        fake = self.G.net(x, part["wished"])
        said = self.D.lend(fake)
        adversarial = self.loss_g(lambda seen: said if seen is fake else self.D.lend(seen), fake, x)
        told, cycle = attribute_loss(said, part["wished"]), l1_loss(full(self.G.net(fake, part["bits"])), x)
        loss = adversarial + self.lambda_attributes * told + self.lambda_cycle * cycle
        return {"G": (self.G, loss)}, {"game/attributes_fake": told, "game/cycle": cycle}

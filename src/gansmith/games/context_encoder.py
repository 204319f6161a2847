"""Context encoder: what belongs into a hole (Pathak et al. 2016, arXiv 1604.07379).

Legend: x pictures (N, C, H, W), mask (N, 1, H, W) 1 in the hole and else 0, holed = x without what is in the hole.
"""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from gansmith.games.critique import fill, full
from gansmith.games.game import Adversarial, Batch, InTurns, Losses, Maker, Player
from gansmith.schema import NonNegativeFloat, NonNegativeInt


@dataclass
class ContextEncoder(InTurns, Adversarial):
    """lambda_rec L_rec + lambda_adv L_adv, eq. 3: L_rec is the mean of w (G(holed) - x)^2 over the pixels that count.

    These are the hole, w = 1, and a border of `overlap` pixels around it, which G sees and makes again, w =
    border_weight. D tells x from the picture whose hole G has filled. A move of D, then one of G on the same G(holed),
    as in the authors' code.
    """

    G: Player
    D: Player
    _: KW_ONLY
    lambda_rec: NonNegativeFloat = 0.999
    lambda_adv: NonNegativeFloat = 0.001
    overlap: NonNegativeInt = 4
    border_weight: NonNegativeFloat = 10.0

    needs = (("holed", "mask", "x"),)
    makers = {"fill": Maker(("G",), {"holed": "holed", "mask": "mask"}, "x", fill)}

    def losses_d(self, part: Batch) -> Losses:
        x = part["x"]
        made = full(self.G.net(part["holed"]))
        self.made.append(made)
        loss, said = self.loss_d(self.D.net, x, torch.where(part["mask"] > 0, made.detach(), x))
        return {"D": (self.D, loss)}, said

    def losses_g(self, part: Batch) -> Losses:
        x, mask, made = part["x"], part["mask"], self.made.pop(0)
        adversarial = self.loss_g(self.D.lend, torch.where(mask > 0, made, x), x)
        reconstruction = self.reconstruction(made, x, mask)
        loss = self.lambda_rec * reconstruction + self.lambda_adv * adversarial
        return {"G": (self.G, loss)}, {"game/adversarial": adversarial, "game/reconstruction": reconstruction}

    def reconstruction(self, made: Tensor, x: Tensor, mask: Tensor) -> Tensor:
        """The mean over a picture's pixels that count, then over pictures: 0-dim."""
        wide = max_pool2d(mask, 2 * self.overlap + 1, 1, self.overlap)
        weight = mask + self.border_weight * (wide - mask)
        return ((weight * (made - x).square()).mean(1).sum((1, 2)) / wide.sum((1, 2, 3))).mean()

"""Context-conditional GAN: a classifier that learns from filled holes (Denton et al. 2016, arXiv 1611.06430).

Legend: x pictures (N, C, H, W) with labels y (N,), u pictures without; mask (N, 1, H, W) is 1 in a hole of u and else
0, holed = u without what is in the hole, or with a coarse copy of it there. D says a score and logits of K classes.
"""

from dataclasses import KW_ONLY, dataclass

from torch.nn.functional import cross_entropy

from gansmith.games.critique import criticised, fill, full, judged, per_sample
from gansmith.games.game import Adversarial, Batch, Losses, Maker, Moved, OneMove, Player
from gansmith.schema import NonNegativeFloat


@dataclass
class ContextConditionalGAN(OneMove, Adversarial):
    """D moves along lambda_gan L_D(u, filled) - E log p(y | x), and G along L_G(filled), of the objective's losses.

    filled = mask G(holed) + (1 - mask) u: D looks at the whole picture, most of which is real. Both gradients are taken
    at one point. With lambda_gan 0, D is a classifier that learns from the labels alone.
    """

    G: Player
    D: Player
    _: KW_ONLY
    lambda_gan: NonNegativeFloat = 1.0

    needs = (("x", "y"), ("u", "holed", "mask"))
    makers = {
        "fill": Maker(("G",), {"holed": "holed", "mask": "mask"}, "u", fill),
        "classify": Maker(("D",), {"x": "x"}, "y", lambda D, x: D(x).category),
    }

    def losses(self, part: Batch) -> Losses:
        u = part["u"]
        filled = fill(self.G.net, part["holed"], part["mask"])
        c = criticised(self.D.net, u, filled.detach())
        supervised = cross_entropy(full(self.D.net(part["x"]).category), part["y"])
        loss_d = supervised + self.lambda_gan * per_sample(self.objective.d, c).mean()
        moved: Moved = {"D": (self.D, loss_d), "G": (self.G, self.loss_g(self.D.lend, filled, u))}
        return moved, {**judged(c, self.objective), "game/supervised": supervised}

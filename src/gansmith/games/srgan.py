"""Super-resolution: from small pictures to large ones (Ledig et al. 2017, 1609.04802; Wang et al. 2018, 1809.00219).

Legend: low (N, C, h, w) and x (N, C, H, W) the same pictures, small and large. F(x) are features of a frozen network.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import l1_loss, mse_loss

from gansmith.errors import UserError
from gansmith.games.critique import criticised, full, judged, per_sample
from gansmith.games.game import Adversarial, Batch, Losses, Maker, OneMove, Player
from gansmith.schema import NonNegativeFloat

DISTANCES = {"l1": l1_loss, "l2": mse_loss}


def enlarged(G: Player, part: Batch) -> Tensor:
    """G(low), of the size of x."""
    made, x = G.net(part["low"]), part["x"]
    if made.shape != x.shape:
        sizes = f"{tuple(part['low'].shape[2:])} into {tuple(made.shape[2:])}, and x is {tuple(x.shape[2:])}"
        raise UserError(f"G makes {sizes}: networks.G.scale must be the scale of the view low")
    return full(made)


UPSCALE = {"upscale": Maker(("G",), {"low": "low"}, "x", lambda G, low: G(low))}


@dataclass
class Regression(OneMove):
    """G moves along the mean distance of G(low) from x: what both papers start from."""

    G: Player
    accumulate: int = 1
    _: KW_ONLY
    distance: Literal["l1", "l2"] = "l2"

    needs = (("low", "x"),)
    critics = ()
    makers = UPSCALE

    def losses(self, part: Batch) -> Losses:
        return {"G": (self.G, DISTANCES[self.distance](enlarged(self.G, part), part["x"]))}, {}


@dataclass
class SuperResolution(OneMove, Adversarial):
    """lambda_features |F(G(low)) - F(x)| + lambda_gan L_GAN(G, D) + lambda_pixel |G(low) - x|_1; D tells x from G(low).

    SRGAN: the features' distance is a mean of squares, and lambda_pixel 0 (eq. 3 and 5). ESRGAN: it is a mean of
    absolute values, and scores are relativistic averages (eq. 1 to 3). Both gradients are taken at one point, as in
    ESRGAN's code: G moves first there, and D sees the pictures of the G before its move.
    """

    G: Player
    D: Player
    F: nn.Module
    _: KW_ONLY
    distance: Literal["l1", "l2"] = "l2"
    lambda_features: NonNegativeFloat = 0.006
    lambda_gan: NonNegativeFloat = 1e-3
    lambda_pixel: NonNegativeFloat = 0.0

    needs = (("low", "x"),)
    frozen = ("F",)
    makers = UPSCALE

    def losses(self, part: Batch) -> Losses:
        x = part["x"]
        made = enlarged(self.G, part)
        c = criticised(self.D.net, x, made.detach())
        with torch.no_grad():
            wanted = full(self.F(x))
        said = {
            "game/features": DISTANCES[self.distance](full(self.F(made)), wanted),
            "game/adversarial": self.loss_g(self.D.lend, made, x),
            "game/pixel": l1_loss(made, x),
        }
        weights = (self.lambda_features, self.lambda_gan, self.lambda_pixel)
        loss = torch.stack([w * term for w, term in zip(weights, said.values(), strict=True)]).sum()
        loss_d = per_sample(self.objective.d, c).mean()
        return {"D": (self.D, loss_d), "G": (self.G, loss)}, {**judged(c, self.objective), **said}

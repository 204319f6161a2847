"""UNIT: between two domains through one shared latent space (Liu et al. 2017, arXiv 1703.00848).

Legend: a and b pictures (N, C, H, W) of the two domains; mu the mean of a code (N, K, h, w). EA and EB encode, S holds
the layers that both domains share, GA and GB decode, DA and DB judge a and b.
"""

from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import l1_loss

from gansmith.games.critique import full
from gansmith.games.game import Adversarial, Batch, InTurns, Losses, Maker, Moved, Player
from gansmith.schema import NonNegativeFloat


def square(*means: Tensor) -> Tensor:
    """KL(N(mu, I) || N(0, I)) = |mu|^2 / 2 up to a factor: the mean of mu^2, added up over `means`."""
    return torch.stack([full(mu).square().mean() for mu in means]).sum()


@dataclass
class UNIT(InTurns, Adversarial):
    """Two variational auto-encoders, z ~ N(mu(x), I), with codes of one space: section 3.

    L = lambda_gan L_GAN + lambda_kl KL(mu) + lambda_l1 (|GA(a) - a|_1 + |GB(b) - b|_1), and with the weights
    lambda_kl_cycle and lambda_cycle the last two of the pictures that were translated there and back. A round is a move
    of both critics, then one of all others on noise drawn anew. Translations are made from mu, without noise. KL and
    |.|_1 are means over all numbers, as the weights of the authors' code expect.
    """

    EA: Player
    EB: Player
    S: Player
    GA: Player
    GB: Player
    DA: Player
    DB: Player
    _: KW_ONLY
    lambda_gan: NonNegativeFloat = 10.0
    lambda_kl: NonNegativeFloat = 0.1
    lambda_l1: NonNegativeFloat = 100.0
    lambda_kl_cycle: NonNegativeFloat = 0.1
    lambda_cycle: NonNegativeFloat = 100.0

    needs = (("a",), ("b",))
    generators = ("EA", "EB", "S", "GA", "GB")
    critics = ("DA", "DB")
    makers = {
        "a2b": Maker(("EA", "S", "GB"), {"a": "a"}, "b", lambda EA, S, GB, a: GB(S(EA(a))[1])),
        "b2a": Maker(("EB", "S", "GA"), {"b": "b"}, "a", lambda EB, S, GA, b: GA(S(EB(b))[1])),
    }

    def code(self, encode: Callable[[Tensor], Tensor], share: Callable[..., Any], x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of x's code, and what the shared layers make of a draw around it, for either decoder."""
        maps = encode(x)
        drawn = torch.randn(maps.shape, generator=self.noise, device=maps.device, dtype=maps.dtype)
        mu, decoded = share(maps, drawn)
        return mu, decoded

    def losses_d(self, part: Batch) -> Losses:
        with torch.no_grad():
            fake_b = self.GB.lend(self.code(self.EA.lend, self.S.lend, part["a"])[1])
            fake_a = self.GA.lend(self.code(self.EB.lend, self.S.lend, part["b"])[1])
        loss_a, said_a = self.loss_d(self.DA.net, part["a"], fake_a, "_A")
        loss_b, said_b = self.loss_d(self.DB.net, part["b"], fake_b, "_B")
        moved: Moved = {"DA": (self.DA, self.lambda_gan * loss_a), "DB": (self.DB, self.lambda_gan * loss_b)}
        return moved, {**said_a, **said_b}

    def losses_g(self, part: Batch) -> Losses:
        a, b = part["a"], part["b"]
        mu_a, h_a = self.code(self.EA.net, self.S.net, a)
        mu_b, h_b = self.code(self.EB.net, self.S.net, b)
        fake_b, fake_a = self.GB.net(h_a), self.GA.net(h_b)
        mu_aba, h_aba = self.code(self.EB.net, self.S.net, fake_b)
        mu_bab, h_bab = self.code(self.EA.net, self.S.net, fake_a)
        said = {
            "adversarial": self.loss_g(self.DB.lend, fake_b, b) + self.loss_g(self.DA.lend, fake_a, a),
            "kl": square(mu_a, mu_b),
            "l1": l1_loss(full(self.GA.net(h_a)), a) + l1_loss(full(self.GB.net(h_b)), b),
            "kl_cycle": square(mu_aba, mu_bab),
            "cycle": l1_loss(full(self.GA.net(h_aba)), a) + l1_loss(full(self.GB.net(h_bab)), b),
        }
        weights = self.lambda_gan, self.lambda_kl, self.lambda_l1, self.lambda_kl_cycle, self.lambda_cycle
        loss = torch.stack([w * term for w, term in zip(weights, said.values(), strict=True)]).sum()
        moved: Moved = {"G": ((self.EA, self.EB, self.S, self.GA, self.GB), loss)}
        return moved, {f"game/{name}": term for name, term in said.items()}

"""MUNIT: between two domains, with a content that is kept and a style that is drawn (Huang et al. 2018, 1804.04732).

Legend: a and b pictures (N, C, H, W) of the two domains, c their contents (N, K, h, w), s styles (N, Z). A and B are
auto-encoders: A(a) = (content, style), and A(content, style) is a picture. DA and DB judge a and b.
"""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor
from torch.nn.functional import l1_loss

from gansmith.games.critique import full
from gansmith.games.game import Adversarial, Batch, InTurns, Losses, Maker, Moved, Player
from gansmith.priors import Prior
from gansmith.schema import NonNegativeFloat


def l1(one: Tensor, other: Tensor) -> Tensor:
    return l1_loss(full(one), full(other))


@dataclass
class MUNIT(InTurns, Adversarial):
    """lambda_gan L_GAN + lambda_image L_x + lambda_content L_c + lambda_style L_s + lambda_cycle L_cc, eq. 5.

    With styles s_a, s_b ~ the prior, x_ab = B(c_a, s_b), x_ba = A(c_b, s_a), and |.| the mean of absolute values:
    L_x = |A(A(a)) - a|, L_c = |content of B(x_ab) - c_a|, L_s = |style of B(x_ab) - s_b|, L_cc = |A(content of B(x_ab),
    style of a) - a|, each in both directions. The gradient of L_c goes through both sides, as in the authors' code. A
    round is a move of both critics, then one of A and B on styles drawn anew. The paper's least squares loss has no 1/2
    and ours has: lambda_gan 2 is its 1.
    """

    A: Player
    B: Player
    DA: Player
    DB: Player
    prior: Prior
    _: KW_ONLY
    lambda_gan: NonNegativeFloat = 2.0
    lambda_image: NonNegativeFloat = 10.0
    lambda_content: NonNegativeFloat = 1.0
    lambda_style: NonNegativeFloat = 1.0
    lambda_cycle: NonNegativeFloat = 0.0

    needs = (("a",), ("b",))
    generators = ("A", "B")
    critics = ("DA", "DB")
    makers = {
        "a2b": Maker(("A", "B"), {"a": "a", "z": "latent"}, "b", lambda A, B, a, z: B(A(a)[0], z)),
        "b2a": Maker(("B", "A"), {"b": "b", "z": "latent"}, "a", lambda B, A, b, z: A(B(b)[0], z)),
        "a2b_like": Maker(("A", "B"), {"a": "a", "b": "b"}, "b", lambda A, B, a, b: B(A(a)[0], B(b)[1])),
        "b2a_like": Maker(("B", "A"), {"b": "b", "a": "a"}, "a", lambda B, A, b, a: A(B(b)[0], A(a)[1])),
    }

    def style(self, part: Batch) -> Tensor:
        return self.prior.sample(len(part), self.noise, self.A.dtype)  # (N, Z)

    def losses_d(self, part: Batch) -> Losses:
        s_a, s_b = self.style(part), self.style(part)
        with torch.no_grad():
            x_ab = self.B.lend(self.A.lend(part["a"])[0], s_b)
            x_ba = self.A.lend(self.B.lend(part["b"])[0], s_a)
        loss_a, said_a = self.loss_d(self.DA.net, part["a"], x_ba, "_A")
        loss_b, said_b = self.loss_d(self.DB.net, part["b"], x_ab, "_B")
        moved: Moved = {"DA": (self.DA, self.lambda_gan * loss_a), "DB": (self.DB, self.lambda_gan * loss_b)}
        return moved, {**said_a, **said_b}

    def losses_g(self, part: Batch) -> Losses:
        A, B, a, b = self.A.net, self.B.net, part["a"], part["b"]
        s_a, s_b = self.style(part), self.style(part)
        (c_a, own_a), (c_b, own_b) = A(a), B(b)
        x_ab, x_ba = B(c_a, s_b), A(c_b, s_a)
        (c_a_again, s_b_again), (c_b_again, s_a_again) = B(x_ab), A(x_ba)
        adversarial = self.loss_g(self.DB.lend, x_ab, b) + self.loss_g(self.DA.lend, x_ba, a)
        said = {
            "game/adversarial": adversarial,
            "game/image": l1(A(c_a, own_a), a) + l1(B(c_b, own_b), b),
            "game/content": l1(c_a_again, c_a) + l1(c_b_again, c_b),
            "game/style": l1(s_a_again, s_a) + l1(s_b_again, s_b),
        }
        weights = [self.lambda_gan, self.lambda_image, self.lambda_content, self.lambda_style]
        if self.lambda_cycle:
            said["game/cycle"] = l1(A(c_a_again, own_a), a) + l1(B(c_b_again, own_b), b)
            weights.append(self.lambda_cycle)
        loss = torch.stack([w * term for w, term in zip(weights, said.values(), strict=True)]).sum()
        return {"G": ((self.A, self.B), loss)}, said

"""ClusterGAN: latents made of clusters, and an encoder that finds them again (Mukherjee et al. 2019, arXiv 1809.03627).

Legend: K clusters; z = (z_n, z_c), noise and a one-hot cluster.
"""

from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot

from gansmith.errors import UserError
from gansmith.games.critique import criticised, full, judged, per_sample, score
from gansmith.games.game import SAMPLE, Adversarial, Batch, InTurns, Losses, Maker, Player
from gansmith.penalties import PenaltySum
from gansmith.priors import Codes
from gansmith.schema import NonNegativeFloat, PositiveInt


def reconstruct(G: Any, E: Any, x: Tensor) -> Tensor:
    """G(z_n, z_c) of what E sees in x, z_c its likeliest cluster."""
    code = E(x)
    cluster = one_hot(code.category.argmax(1), code.category.shape[1]).to(x.dtype)
    return G(torch.cat((code.noise, cluster), 1))


@dataclass
class ClusterGAN(InTurns, Adversarial):
    """min_{G, E} max_D adversarial + beta_noise |z_n - E(G(z))_n|^2 + beta_category H(z_c, E(G(z))_c).

    The adversarial part is that of the objective and the penalties: the paper's choice for pictures is WGAN-GP. A round
    is n_critic moves of D, each on a batch and fresh latents, and one of G with E. |.|^2 is a sum over components.
    """

    G: Player
    E: Player
    D: Player
    prior: Codes
    penalty: PenaltySum
    _: KW_ONLY
    n_critic: PositiveInt = 5
    beta_noise: NonNegativeFloat = 10.0
    beta_category: NonNegativeFloat = 10.0

    generators = ("G", "E")
    makers = {
        **SAMPLE,
        "reconstruct": Maker(("G", "E"), {"x": "x"}, "x", reconstruct),
        "cluster": Maker(("E",), {"x": "x"}, "y", lambda E, x: E(x).category),
    }

    def __post_init__(self) -> None:
        if not isinstance(self.prior, Codes) or self.prior.continuous:
            raise ValueError("it needs the prior codes with continuous 0")
        super().__post_init__()

    def losses_d(self, part: Batch) -> Losses:
        x, n = part["x"], len(part)
        with torch.no_grad():
            fake = self.G.lend(self.prior.sample(n, self.noise, self.G.dtype))
        c = criticised(self.D.net, x, fake)
        loss = per_sample(self.objective.d, c).mean()
        loss = loss + self.penalty(score(self.D.probe), x, fake, self.noise, self.D.moves)
        return {"D": (self.D, loss)}, judged(c, self.objective)

    def losses_g(self, part: Batch) -> Losses:
        z = self.prior.sample(len(part), self.noise, self.G.dtype)
        fake, (noise, cluster, _) = self.G.net(z), self.prior.split(z)
        code = self.E.net(fake)
        if code.category.shape != cluster.shape:
            raise UserError(
                f"E finds {code.category.shape[1]} clusters, and the prior has {self.prior.categories}:"
                " networks.E.categories must equal prior.categories"
            )
        noise_error = (full(code.noise) - noise).square().sum(1).mean()
        category_error = cross_entropy(full(code.category), cluster)
        loss = self.loss_g(self.D.lend, fake, part["x"])
        loss = loss + self.beta_noise * noise_error + self.beta_category * category_error
        return {"G": ((self.G, self.E), loss)}, {"game/noise": noise_error, "game/category": category_error}

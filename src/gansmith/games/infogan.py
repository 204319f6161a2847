"""InfoGAN: the two-player game plus a lower bound on I(c; G(z, c)) (Chen et al. 2016, arXiv 1606.03657)."""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gansmith.errors import UserError
from gansmith.games.game import SAMPLE, Adversarial, Batch, Losses, Metrics, Player, move
from gansmith.networks.infogan import Heads
from gansmith.priors import Codes
from gansmith.schema import NonNegativeFloat, PositiveFloat


@dataclass
class InfoGAN(Adversarial):
    """Three moves a round, each on fresh latents: D, then G, then G and Q together on the information loss

        -E[log Q(c | G(z, c))] = lambda_category CE(category) + lambda_code E[(code - mu)^2 / 2],

    where Q is D's trunk with heads for the category (logits) and for the codes (means of normals with deviation 1).
    Source: eq. 5 and 6; the constants of both terms are left out. The third move goes through both players' own
    optimizers: each parameter has one.
    """

    G: Player
    D: Player
    prior: Codes
    _: KW_ONLY
    lambda_category: PositiveFloat = 1.0
    lambda_code: NonNegativeFloat = 1.0

    makers = SAMPLE
    eager = {"D": "each of its moves uses some heads only, and it gives the others a gradient of zero instead of none"}

    def __post_init__(self) -> None:
        if not isinstance(self.prior, Codes):
            raise ValueError("it needs the prior codes")

    def latent(self, n: int) -> Tensor:
        return self.prior.sample(n, self.noise, self.G.dtype)

    def round(self, *batches: Batch) -> Metrics:
        (batch,) = batches
        d = move(batch, self.accumulate, self.losses_d)
        g = move(batch, self.accumulate, self.losses_g)
        return move(batch, self.accumulate, self.losses_info) | d | g  # of two norms of a player's gradient the first

    def losses_d(self, part: Batch) -> Losses:
        with torch.no_grad():
            fake = self.G.lend(self.latent(len(part)))
        loss, said = self.loss_d(self.D.net, part["x"], fake)
        return {"D": (self.D, loss)}, said

    def losses_g(self, part: Batch) -> Losses:
        fake = self.G.net(self.latent(len(part)))
        return {"G": (self.G, self.loss_g(self.D.lend, fake, part["x"]))}, {}

    def losses_info(self, part: Batch) -> Losses:
        z = self.latent(len(part))
        category, code = self.information_losses(z, self.D.net(self.G.net(z)))
        loss = self.lambda_category * category + self.lambda_code * code
        return {"info": ((self.G, self.D), loss)}, {"game/category": category, "game/code": code}

    def information_losses(self, z: Tensor, heads: Heads) -> tuple[Tensor, Tensor]:
        """-log Q of z's category and of its codes, each the mean over the batch, without constants."""
        parts = self.prior.split(z)
        for name, head, part in zip(("categories", "continuous"), heads[1:], parts[1:], strict=True):
            if head.shape != part.shape:
                raise UserError(
                    f"D's head for {name} gives {head.shape[1]}, the prior has {part.shape[1]}:"
                    f" networks.D.{name} must equal prior.{name}"
                )
        category = cross_entropy(heads.category, parts.category)
        code = ((heads.code - parts.code) ** 2 / 2).sum(1).mean()
        return category, code

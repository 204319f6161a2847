"""InfoGAN: the two-player game plus a lower bound on I(c; G(z, c)) (Chen et al. 2016, arXiv 1606.03657)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from gansmith.errors import UserError
from gansmith.games.critique import Critique, mean, per_sample, scores
from gansmith.games.game import Game, Metrics, RealBatch, parts
from gansmith.networks.infogan import Heads
from gansmith.objectives import Objective
from gansmith.players import MeanGradients, Player
from gansmith.priors import Codes
from gansmith.schema import NonNegativeFloat, PositiveFloat


class InfoGAN(Game):
    """Three moves a round, each on fresh latents: D, then G, then G and Q together on the information loss

        -E[log Q(c | G(z, c))] = lambda_category CE(category) + lambda_code E[(code - mu)^2 / 2],

    where Q is D's trunk with heads for the category (logits) and for the codes (means of normals with deviation 1).
    Source: eq. 5 and 6; the constants of both terms are left out. The third move goes through both players' own
    optimizers: each parameter has one.
    """

    eager: Mapping[str, str] = {
        "D": "each of its moves uses some heads only, and it gives the others a gradient of zero instead of none"
    }

    def __init__(
        self,
        G: Player,
        D: Player,
        prior: Codes,
        objective: Objective,
        noise: torch.Generator,
        accumulate: int = 1,
        *,
        lambda_category: PositiveFloat = 1.0,
        lambda_code: NonNegativeFloat = 1.0,
    ) -> None:
        if not isinstance(prior, Codes):
            raise ValueError("it needs the prior codes")
        self.G, self.D = G, D
        self.players = (G, D)
        self.prior = prior
        self.objective = objective
        self.noise = noise
        self.accumulate = accumulate
        self.lambda_category = lambda_category
        self.lambda_code = lambda_code

    def latent(self, n: int) -> Tensor:
        return self.prior.sample(n, self.noise, self.G.dtype)

    def round(self, *batches: RealBatch) -> Metrics:
        (real,) = batches
        of_d, of_g, of_info = MeanGradients(self.D), MeanGradients(self.G), MeanGradients(self.G, self.D)

        for x_real, share in parts(real, self.accumulate):
            n = len(x_real)
            with torch.no_grad():
                x_fake = self.G.lend(self.latent(n))
            c = Critique(scores(self.D.net(x_real), n), scores(self.D.net(x_fake), n))
            said = {"D/real": mean(c.real, self.objective.output), "D/fake": mean(c.fake, self.objective.output)}
            of_d.add(per_sample(self.objective.d, c).mean(), share, said)
        (grads_d,) = of_d.take()
        self.D.step(grads_d)

        for x_real, share in parts(real, self.accumulate):
            n = len(x_real)
            fake = scores(self.D.lend(self.G.net(self.latent(n))), n)
            real_for_g = scores(self.D.lend(x_real), n) if self.objective.g_uses_real else fake
            of_g.add(per_sample(self.objective.g, Critique(real_for_g, fake)).mean(), share)
        (grads_g,) = of_g.take()
        self.G.step(grads_g)

        for x_real, share in parts(real, self.accumulate):
            z = self.latent(len(x_real))
            category, code = self.information_losses(z, self.D.net(self.G.net(z)))
            loss_info = self.lambda_category * category + self.lambda_code * code
            of_info.add(loss_info, share, {"game/category": category, "game/code": code})
        info_g, info_q = of_info.take()
        self.G.step(info_g)
        self.D.step(info_q)

        return {
            "loss/D": of_d.loss,
            "loss/G": of_g.loss,
            "loss/info": of_info.loss,
            **of_d.means,
            "grad/D": grads_d.norm,
            "grad/G": grads_g.norm,
            **of_info.means,
        }

    def information_losses(self, z: Tensor, heads: Heads) -> tuple[Tensor, Tensor]:
        """-log Q of z's category and of its codes, each the mean over the batch, without constants."""
        parts = self.prior.split(z)
        for name, head, part in (
            ("categories", heads.category, parts.category),
            ("continuous", heads.code, parts.code),
        ):
            if head.shape != part.shape:
                raise UserError(
                    f"D's head for {name} gives {head.shape[1]}, the prior has {part.shape[1]}:"
                    f" networks.D.{name} must equal prior.{name}"
                )
        category = cross_entropy(heads.category, parts.category)
        code = ((heads.code - parts.code) ** 2 / 2).sum(1).mean()
        return category, code

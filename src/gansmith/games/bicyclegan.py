"""BicycleGAN: many pictures that belong to one, by a code (Zhu et al. 2017, arXiv 1711.11586).

Legend: a the input (N, C, H, W), b a picture that belongs to it, z codes (N, Z). G(a, z) makes b, E(b) = mu, log
sigma^2 is a code's distribution; D_VAE and D_LR judge pictures, without a.
"""

from dataclasses import KW_ONLY, dataclass

import torch
from torch import Tensor
from torch.nn.functional import l1_loss

from gansmith.games.critique import full
from gansmith.games.game import Adversarial, Batch, Losses, Maker, OneMove, Player
from gansmith.priors import Prior
from gansmith.schema import NonNegativeFloat


def kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, I)) = sum_k (mu_k^2 + sigma_k^2 - 1 - log sigma_k^2) / 2, the mean over pictures."""
    return (full(mu).square() + full(logvar).exp() - 1 - full(logvar)).sum(1).mean() / 2


@dataclass
class BicycleGAN(OneMove, Adversarial):
    """G*, E* = arg min_{G, E} max_{D_VAE, D_LR} L_cVAE-GAN + L_cLR-GAN, eq. 9, with |.|_1 the mean of absolute values.

    b -> z -> b: z ~ E(b); G and E move along L_GAN(G(a, z), D_VAE) + lambda_l1 |G(a, z) - b|_1 + lambda_kl KL(E(b)).
    z -> b -> z: z ~ N(0, I); G alone moves along L_GAN(G(a, z), D_LR) + lambda_latent |mu(G(a, z)) - z|_1. E must not
    move along that last term, or both could hide the code in the picture (section 4). All gradients are taken at one
    point, as in the authors' code. Their least squares loss has no 1/2, and ours has: lambda_gan 2 is their 1.
    """

    G: Player
    E: Player
    D_VAE: Player
    D_LR: Player
    prior: Prior
    _: KW_ONLY
    lambda_gan: NonNegativeFloat = 2.0
    lambda_l1: NonNegativeFloat = 10.0
    lambda_latent: NonNegativeFloat = 0.5
    lambda_kl: NonNegativeFloat = 0.01

    needs = (("a", "b"),)
    generators = ("G", "E")
    critics = ("D_VAE", "D_LR")
    makers = {
        "a2b": Maker(("G",), {"a": "a", "z": "latent"}, "b", lambda G, a, z: G(a, z)),
        "reconstruct": Maker(("G", "E"), {"a": "a", "b": "b"}, "b", lambda G, E, a, b: G(a, E(b)[0])),
    }

    def losses(self, part: Batch) -> Losses:
        a, b, n = part["a"], part["b"], len(part)
        mu, logvar = self.E.net(b)
        drawn = torch.randn(mu.shape, generator=self.noise, device=mu.device, dtype=mu.dtype)
        fake_vae = self.G.net(a, mu + (logvar / 2).exp() * drawn)
        z = self.prior.sample(n, self.noise, self.G.dtype)
        fake_lr = self.G.net(a, z)
        said = {
            "game/l1": l1_loss(full(fake_vae), b),
            "game/kl": kl(mu, logvar),
            "game/latent": l1_loss(full(self.E.lend(fake_lr)[0]), z),
        }
        of_vae = self.lambda_gan * self.loss_g(self.D_VAE.lend, fake_vae, b)
        of_lr = self.lambda_gan * self.loss_g(self.D_LR.lend, fake_lr, b)
        d_vae, said_vae = self.loss_d(self.D_VAE.net, b, fake_vae.detach(), "_VAE")
        d_lr, said_lr = self.loss_d(self.D_LR.net, b, fake_lr.detach(), "_LR")
        return {
            "G+E": ((self.G, self.E), of_vae + self.lambda_l1 * said["game/l1"] + self.lambda_kl * said["game/kl"]),
            "G": (self.G, of_lr + self.lambda_latent * said["game/latent"]),
            "D_VAE": (self.D_VAE, d_vae),
            "D_LR": (self.D_LR, d_lr),
        }, {**said, **said_vae, **said_lr}

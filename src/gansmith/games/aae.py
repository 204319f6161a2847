"""Adversarial auto-encoder: the critic looks at codes (Makhzani et al. 2016, arXiv 1511.05644).

Legend: N samples, Z latents. E encodes pictures, Dec decodes codes, D tells draws of the prior from codes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from gansmith.games.critique import criticised, full, per_sample
from gansmith.games.game import Adversarial, Batch, Losses, Maker, Metrics, Player, move
from gansmith.priors import Prior


@dataclass
class AdversarialAutoencoder(Adversarial):
    """Reconstruction, then regularisation, on each batch: section 2 of the paper.

    E and Dec move along mean (Dec(E(x)) - x)^2; then D learns to tell z ~ p(z) (real) from E(x) (fake); then E moves so
    that its codes pass for draws of the prior. E steps twice a round, through the one optimizer that it has.
    """

    E: Player
    Dec: Player
    D: Player
    prior: Prior

    generators = ("E", "Dec")
    sees = ()
    makers = {
        "sample": Maker(("Dec",), {"z": "latent"}, "x", lambda Dec, z: Dec(z)),
        "reconstruct": Maker(("E", "Dec"), {"x": "x"}, "x", lambda E, Dec, x: Dec(E(x))),
    }

    def round(self, *batches: Batch) -> Metrics:
        (batch,) = batches
        reconstruction = move(batch, self.accumulate, self.losses_reconstruction)
        d = move(batch, self.accumulate, self.losses_d)
        return reconstruction | d | move(batch, self.accumulate, self.losses_e)  # of two norms of E's the second

    def losses_reconstruction(self, part: Batch) -> Losses:
        x = part["x"]
        return {"reconstruction": ((self.E, self.Dec), mse_loss(full(self.Dec.net(self.E.net(x))), x))}, {}

    def losses_d(self, part: Batch) -> Losses:
        with torch.no_grad():
            codes = self.E.lend(part["x"])
        loss, said = self.loss_d(self.D.net, self.drawn(codes), codes)
        return {"D": (self.D, loss)}, said

    def losses_e(self, part: Batch) -> Losses:
        codes = self.E.net(part["x"])
        c = criticised(self.D.lend, self.drawn(codes), codes)
        return {"E": (self.E, per_sample(self.objective.g, c).mean())}, {}

    def drawn(self, codes: Tensor) -> Tensor:
        """As many draws of the prior."""
        return self.prior.sample(len(codes), self.noise, codes.dtype)

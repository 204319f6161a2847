"""Adversarial auto-encoder: the critic looks at codes (Makhzani et al. 2016, arXiv 1511.05644).

Legend: N samples, Z latents. E encodes pictures, Dec decodes codes, D tells draws of the prior from codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from gansmith.games.critique import Critique, criticised, full, per_sample, shown
from gansmith.games.game import Batch, Game, Maker, Metrics
from gansmith.objectives import Objective
from gansmith.players import Moved, Player, move
from gansmith.priors import Prior


@dataclass
class AdversarialAutoencoder(Game):
    """Reconstruction, then regularisation, on each batch: section 2 of the paper.

    E and Dec move along mean (Dec(E(x)) - x)^2; then D learns to tell z ~ p(z) (real) from E(x) (fake); then E moves so
    that its codes pass for draws of the prior. E steps twice a round, through the one optimizer that it has.
    """

    E: Player
    Dec: Player
    D: Player
    prior: Prior
    objective: Objective
    noise: torch.Generator
    accumulate: int = 1

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

    def losses_reconstruction(self, part: Batch) -> tuple[Moved, Metrics]:
        x = part["x"]
        return {"reconstruction": ((self.E, self.Dec), mse_loss(full(self.Dec.net(self.E.net(x))), x))}, {}

    def losses_d(self, part: Batch) -> tuple[Moved, Metrics]:
        with torch.no_grad():
            codes = self.E.lend(part["x"])
        c = self.critique(part, codes, self.D.net)
        said = shown(c, self.objective)
        return {"D": (self.D, per_sample(self.objective.d, c).mean())}, said

    def losses_e(self, part: Batch) -> tuple[Moved, Metrics]:
        c = self.critique(part, self.E.net(part["x"]), self.D.lend)
        return {"E": (self.E, per_sample(self.objective.g, c).mean())}, {}

    def critique(self, part: Batch, codes: Tensor, critic: Callable[[Tensor], Any]) -> Critique:
        return criticised(critic, self.prior.sample(len(part), self.noise, codes.dtype), codes)

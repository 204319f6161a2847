"""Objectives: for each a loss of D and a loss of G, pure functions of D's scores, element by element.

`real` and `fake` are D's scores (logits) on real and generated images, of any one shape; so are the losses. Who
averages them is `games.critique`, who moves is the player.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import log

import torch
from torch import Tensor
from torch.nn.functional import softplus

Loss = Callable[[Tensor, Tensor], Tensor]


def logistic_d(real: Tensor, fake: Tensor) -> Tensor:
    """-(log D(x) + log(1 - D(G(z)))) / 2 with D = sigmoid(score): the discriminator of Goodfellow et al. 2014, eq. 1.

    Half the sum, as in the authors' code and in most code since. On logits: softplus never takes log of 0.
    """
    return (softplus(-real) + softplus(fake)) / 2


def non_saturating_g(real: Tensor, fake: Tensor) -> Tensor:
    """-log D(G(z)): what section 3 of Goodfellow et al. 2014 trains in practice; strong where D is sure."""
    return softplus(-fake)


def minimax_g(real: Tensor, fake: Tensor) -> Tensor:
    """log(1 - D(G(z))): the game's own value, eq. 1 of Goodfellow et al. 2014; weak where D is sure."""
    return -softplus(fake)


def wasserstein_d(real: Tensor, fake: Tensor) -> Tensor:
    """D(G(z)) - D(x): the critic of Arjovsky et al. 2017, eq. 2 (arXiv 1701.07875); needs a Lipschitz constraint."""
    return fake - real


def wasserstein_g(real: Tensor, fake: Tensor) -> Tensor:
    """-D(G(z)): Arjovsky et al. 2017, Algorithm 1."""
    return -fake


def relativistic_d(real: Tensor, fake: Tensor) -> Tensor:
    """-log sigmoid(D(x) - D(G(z))): RSGAN of Jolicoeur-Martineau 2018 (arXiv 1807.00734), pairs by position."""
    return softplus(fake - real)


def relativistic_g(real: Tensor, fake: Tensor) -> Tensor:
    """-log sigmoid(D(G(z)) - D(x)): the same with the roles exchanged; needs the scores of real images."""
    return softplus(real - fake)


@dataclass(frozen=True)
class Objective:
    """A row: both losses, their paper, and the facts that the tests hold them to."""

    d: Loss
    g: Loss
    paper: str
    at_zero: tuple[float, float]
    """Both losses where all scores are 0."""
    alive: bool = True
    """G's gradient keeps its strength where D is sure that the fakes are fakes."""
    g_uses_real: bool = False
    """G's loss needs D's scores of real images."""
    lipschitz: bool = False
    """D must be Lipschitz: a penalty or a bound on its weights has to see to that."""
    probability: bool = True
    """sigmoid(score) is the probability D(x) of the paper; otherwise the score itself is D(x)."""

    def output(self, score: Tensor) -> Tensor:
        """The paper's D(x): what is logged."""
        return torch.sigmoid(score) if self.probability else score


OBJECTIVES: dict[str, Objective] = {
    "non_saturating": Objective(logistic_d, non_saturating_g, paper="arXiv 1406.2661", at_zero=(log(2), log(2))),
    "minimax": Objective(logistic_d, minimax_g, paper="arXiv 1406.2661", at_zero=(log(2), -log(2)), alive=False),
    "wasserstein": Objective(
        wasserstein_d,
        wasserstein_g,
        paper="arXiv 1701.07875",
        at_zero=(0.0, 0.0),
        lipschitz=True,
        probability=False,
    ),
    "relativistic": Objective(
        relativistic_d,
        relativistic_g,
        paper="arXiv 1807.00734",
        at_zero=(log(2), log(2)),
        g_uses_real=True,
        probability=False,
    ),
}

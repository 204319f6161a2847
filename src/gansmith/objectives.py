"""Objectives: for each a loss of D and a loss of G, pure functions of D's scores: element by element, or over all.

`real` and `fake` are D's scores (logits) on real and generated images, of any one shape; so are the losses. Who
averages them is `games.critique`, who moves is the player. Keyword-only parameters are keys of the recipe.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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


def least_squares_d(real: Tensor, fake: Tensor, *, a: float = 0.0, b: float = 1.0) -> Tensor:
    """((D(x) - b)^2 + (D(G(z)) - a)^2) / 2: LSGAN of Mao et al. 2017, eq. 2 (arXiv 1611.04076); 0-1 coding."""
    return ((real - b) ** 2 + (fake - a) ** 2) / 2


def least_squares_g(real: Tensor, fake: Tensor, *, c: float = 1.0) -> Tensor:
    """(D(G(z)) - c)^2 / 2: the same, eq. 2."""
    return (fake - c) ** 2 / 2


def relativistic_average_d(real: Tensor, fake: Tensor) -> Tensor:
    """-(log s(D(x) - mean D(G(z))) + log(1 - s(D(G(z)) - mean D(x)))) / 2, s the sigmoid: RaGAN (arXiv 1807.00734)."""
    return (softplus(fake.mean(0) - real) + softplus(fake - real.mean(0))) / 2


def relativistic_average_g(real: Tensor, fake: Tensor) -> Tensor:
    """The same with the roles exchanged: Jolicoeur-Martineau 2018, section 4.2."""
    return relativistic_average_d(fake, real)


@dataclass(frozen=True)
class Objective:
    """A row: both losses, their paper, and what else a game or a person has to know of them."""

    d: Loss
    g: Loss
    paper: str
    g_uses_real: bool = False
    """G's loss needs D's scores of real images."""
    lipschitz: bool = False
    """D must be Lipschitz: a penalty or a bound on its weights has to see to that."""
    probability: bool = True
    """sigmoid(score) is the probability D(x) of the paper; otherwise the score itself is D(x)."""
    batch: bool = False
    """The losses look at the whole batch, over all processes; it cannot be cut into accumulated parts."""

    def output(self, score: Tensor) -> Tensor:
        """The paper's D(x): what is logged."""
        return torch.sigmoid(score) if self.probability else score


OBJECTIVES: dict[str, Objective] = {
    "non_saturating": Objective(logistic_d, non_saturating_g, paper="arXiv 1406.2661"),
    "minimax": Objective(logistic_d, minimax_g, paper="arXiv 1406.2661"),
    "wasserstein": Objective(wasserstein_d, wasserstein_g, paper="arXiv 1701.07875", lipschitz=True, probability=False),
    "relativistic": Objective(
        relativistic_d, relativistic_g, paper="arXiv 1807.00734", g_uses_real=True, probability=False
    ),
    "relativistic_average": Objective(
        relativistic_average_d,
        relativistic_average_g,
        paper="arXiv 1807.00734",
        g_uses_real=True,
        probability=False,
        batch=True,
    ),
    "least_squares": Objective(least_squares_d, least_squares_g, paper="arXiv 1611.04076", probability=False),
}

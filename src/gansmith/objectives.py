"""Objectives: for each a loss of D and a loss of G, pure functions of D's scores: element by element, or over all.

`real` and `fake` are D's scores (logits) on real and generated images, of any one shape; so are the losses. Who
averages them is `games.critique`, who moves is the player. Keyword-only parameters are keys of the recipe.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

from gansmith.schema import PositiveFloat

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


def hinge_d(real: Tensor, fake: Tensor, *, margin: PositiveFloat = 1.0) -> Tensor:
    """max(0, margin - D(x)) + max(0, margin + D(G(z))): Lim & Ye 2017 (arXiv 1705.02894); G's loss is -D(G(z))."""
    return relu(margin - real) + relu(margin + fake)


def boundary_seeking_g(real: Tensor, fake: Tensor) -> Tensor:
    """(log D(G(z)) - log(1 - D(G(z))))^2 / 2: continuous BGAN, Hjelm et al. 2018 (arXiv 1702.08431).

    The difference of the logs is the score itself, so that nothing takes the log of 0.
    """
    return fake**2 / 2


def softmax_d(real: Tensor, fake: Tensor) -> Tensor:
    """-log p(x), p = exp(D(x)) / Z, Z = sum of exp(D) over all real and generated images: Lin 2017 (arXiv 1704.06191).

    The mean is the paper's sum_{x real} mu(x) / |B+| + ln Z with mu = -D: the targets are 1 / |B+| on real images.
    """
    return torch.logsumexp(torch.cat((real, fake)), 0) - real


def softmax_g(real: Tensor, fake: Tensor) -> Tensor:
    """-(log p(x) + log p(G(z))) / 2, whose mean is sum_{all} mu / |B| + ln Z: the same, all targets 1 / |B|."""
    return torch.logsumexp(torch.cat((real, fake)), 0) - (real + fake) / 2


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
    zero: bool = False
    """A score of 0 lies between real and fake, though it is no logit."""
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
    "hinge": Objective(hinge_d, wasserstein_g, paper="arXiv 1705.02894", probability=False, zero=True),
    "boundary_seeking": Objective(logistic_d, boundary_seeking_g, paper="arXiv 1702.08431"),
    "softmax": Objective(
        softmax_d, softmax_g, paper="arXiv 1704.06191", g_uses_real=True, probability=False, batch=True
    ),
}

ALIASES: dict[str, str] = {
    **dict.fromkeys(("gan", "vanilla", "bce", "ns", "nsgan"), "non_saturating"),
    **dict.fromkeys(("saturating", "mmgan"), "minimax"),
    "wgan": "wasserstein",
    **dict.fromkeys(("relativistic_gan", "rgan", "rsgan", "rpgan"), "relativistic"),
    **dict.fromkeys(("ragan", "rasgan"), "relativistic_average"),
    **dict.fromkeys(("lsgan", "ls", "mse"), "least_squares"),
    **{"bgan": "boundary_seeking", "softmax_gan": "softmax"},
}
"""Other names that people type, and the row of each."""

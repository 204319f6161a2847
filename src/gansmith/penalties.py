"""Penalties: pure functions that are added to a player's loss, one value per sample (N,)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from gansmith.errors import UserError
from gansmith.schema import PositiveFloat, Range

AboveOne = Annotated[float, Range(1, open_low=True)]
Scores = Callable[[Tensor], Tensor]
"""D as a penalty sees it: images (N, C, H, W) -> one score per sample (N,)."""


def wgan_gp(score: Scores, x_real: Tensor, x_fake: Tensor, noise: torch.Generator, *, target: float = 1.0) -> Tensor:
    """(|grad D(x^)| - target)^2 at x^ = a x_real + (1 - a) x_fake, a ~ U(0, 1) per sample: (N,).

    The norm is that of the whole image of one sample. Source: Gulrajani et al. 2017, eq. 3 (arXiv 1704.00028).
    """
    return (_norm(_gradient(score, _between(x_real, x_fake, noise))) - target) ** 2


def wgan_div(score: Scores, x_real: Tensor, x_fake: Tensor, noise: torch.Generator, *, p: AboveOne = 6.0) -> Tensor:
    """|grad D(x^)|^p at points x^ between real and generated images, as in `wgan_gp`: (N,).

    The paper's k is the weight. Source: the Wasserstein divergence of Wu et al. 2018, Algorithm 1, with k = 2 and p = 6
    (arXiv 1712.01026).
    """
    return _norm(_gradient(score, _between(x_real, x_fake, noise))) ** p


def dragan(
    score: Scores,
    x_real: Tensor,
    x_fake: Tensor,
    noise: torch.Generator,
    everywhere: Callable[[Tensor], Tensor],
    *,
    c: PositiveFloat = 0.5,
) -> Tensor:
    """(|grad D(x^)| - 1)^2 at x^ = a x + (1 - a) (x + c std(X) u), a ~ U(0, 1) per sample, u ~ U(0, 1) per pixel: (N,).

    std(X) is one number, over all pixels of the whole batch of real images; the fakes play no part. Source: Kodali et
    al. 2017 (arXiv 1705.07215), x^ as in the authors' code.
    """
    alpha = _alpha(x_real, noise)
    u = torch.rand(x_real.shape, generator=noise, device=x_real.device, dtype=x_real.dtype)
    x = x_real + (1 - alpha) * c * everywhere(x_real).std(correction=0) * u
    return (_norm(_gradient(score, x)) - 1) ** 2


def r1(score: Scores, x_real: Tensor, x_fake: Tensor, noise: torch.Generator) -> Tensor:
    """|grad D(x)|^2 at real images: (N,). The paper has gamma / 2 before it, which is the weight here.

    Source: R1 of Mescheder et al. 2018, eq. 9 (arXiv 1801.04406).
    """
    return _gradient(score, x_real).square().sum(1)


def r2(score: Scores, x_real: Tensor, x_fake: Tensor, noise: torch.Generator) -> Tensor:
    """|grad D(G(z))|^2 at generated images, which stay where they are: (N,). R2, eq. 10 there, weighted alike."""
    return _gradient(score, x_fake.to(x_real.dtype)).square().sum(1)  # which autocast makes in bfloat16


def _alpha(x: Tensor, noise: torch.Generator) -> Tensor:
    """A number of U(0, 1) for each sample: (N, 1, 1, 1)."""
    return torch.rand(len(x), 1, 1, 1, generator=noise, device=x.device, dtype=x.dtype)


def _between(x_real: Tensor, x_fake: Tensor, noise: torch.Generator) -> Tensor:
    """A point on the line from each real image to a generated one: (N, C, H, W)."""
    alpha = _alpha(x_real, noise)
    return alpha * x_real + (1 - alpha) * x_fake


def _gradient(score: Scores, x: Tensor) -> Tensor:
    """The gradient of each sample's score by all its pixels: (N, C H W). Nothing flows back into x."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(score(x).sum(), x, create_graph=True)
    return gradient.flatten(1)


def _norm(gradient: Tensor) -> Tensor:
    return torch.linalg.vector_norm(gradient, dim=1)  # whose derivative at 0 is taken as 0


@dataclass(frozen=True)
class Penalty:
    """A row: the function, its paper, and whether it looks at the whole batch.

    Such a function also takes `everywhere`, which gives the rows of all processes, and refuses accumulated parts.
    """

    function: Callable[..., Tensor]
    paper: str
    batch: bool = False


PENALTIES: dict[str, Penalty] = {
    "wgan_gp": Penalty(wgan_gp, paper="arXiv 1704.00028"),
    "wgan_div": Penalty(wgan_div, paper="arXiv 1712.01026"),
    "dragan": Penalty(dragan, paper="arXiv 1705.07215", batch=True),
    "r1": Penalty(r1, paper="arXiv 1801.04406"),
    "r2": Penalty(r2, paper="arXiv 1801.04406"),
}


@dataclass
class Term:
    """A penalty of a recipe, with its weight, which a schedule may set, and its moves: 0, every, 2 every, ..."""

    weight: float
    penalty: Callable[..., Tensor]
    every: int = 1


class PenaltySum:
    """The weighted sum of a recipe's penalties: a 0-dim tensor, 0 where there are none.

    A lazy one counts on every k-th move of the player alone, there with k times its weight, so that its mean over k
    moves is that of an eager one; between, it is not computed and draws nothing. Source: section 3.1 of Karras et al.
    2020 (arXiv 1912.04958); there it is a step of its own, here a part of the loss, so Adam's rates stay as they are.
    """

    def __init__(self, terms: Sequence[Term]) -> None:
        self.terms = tuple(terms)

    def __call__(
        self, score: Scores, x_real: Tensor, x_fake: Tensor, noise: torch.Generator, move: int | None = None
    ) -> Tensor:
        """The sum on a batch; `move`: how often the player has moved. UserError where a lazy penalty lacks it."""
        total = x_real.new_zeros(())
        for term in self.terms:
            if move is None and term.every > 1:
                raise UserError(
                    f"penalties: every is {term.every}, and the game does not say which move this is, as in"
                    " penalty(score, x_real, x_fake, noise, D.moves); it must be 1"
                )
            if move is None or move % term.every == 0:
                total = total + term.weight * term.every * term.penalty(score, x_real, x_fake, noise).mean()
        return total

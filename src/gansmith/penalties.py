"""Penalties: pure functions that are added to a player's loss, one value per sample (N,)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gansmith.errors import UserError

Scores = Callable[[Tensor], Tensor]
"""D as a penalty sees it: images (N, C, H, W) -> one score per sample (N,)."""


def wgan_gp(score: Scores, x_real: Tensor, x_fake: Tensor, noise: torch.Generator, *, target: float = 1.0) -> Tensor:
    """(|grad D(x^)| - target)^2 at x^ = a x_real + (1 - a) x_fake, a ~ U(0, 1) per sample: (N,).

    The norm is that of the whole image of one sample. Source: Gulrajani et al. 2017, eq. 3 (arXiv 1704.00028).
    """
    alpha = torch.rand(len(x_real), 1, 1, 1, generator=noise, device=x_real.device, dtype=x_real.dtype)
    x = (alpha * x_real + (1 - alpha) * x_fake).detach().requires_grad_()
    (gradient,) = torch.autograd.grad(score(x).sum(), x, create_graph=True)
    return (torch.linalg.vector_norm(gradient.flatten(1), dim=1) - target) ** 2


@dataclass(frozen=True)
class Penalty:
    """A row: the function and its paper."""

    function: Callable[..., Tensor]
    paper: str


PENALTIES: dict[str, Penalty] = {"wgan_gp": Penalty(wgan_gp, paper="arXiv 1704.00028")}


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

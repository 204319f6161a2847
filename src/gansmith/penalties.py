"""Penalties: pure functions that are added to a player's loss, one value per sample (N,)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

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
    """A row: the function, its paper, and its value for a linear critic, which its test holds it to."""

    function: Callable[..., Tensor]
    paper: str
    at_linear: Callable[[float], float]
    """The value for D(x) = <a, x>, given |a|."""


PENALTIES: dict[str, Penalty] = {
    "wgan_gp": Penalty(wgan_gp, paper="arXiv 1704.00028", at_linear=lambda norm: (norm - 1.0) ** 2),
}


class PenaltySum:
    """The weighted sum of a recipe's penalties: a 0-dim tensor, 0 where there are none."""

    def __init__(self, terms: Sequence[tuple[float, Callable[..., Tensor]]]) -> None:
        self.terms = tuple(terms)

    def __call__(self, score: Scores, x_real: Tensor, x_fake: Tensor, noise: torch.Generator) -> Tensor:
        total = x_real.new_zeros(())
        for weight, penalty in self.terms:
            total = total + weight * penalty(score, x_real, x_fake, noise).mean()
        return total

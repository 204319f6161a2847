"""What a classifier says of samples: how evenly the classes are hit, and how surely."""

from __future__ import annotations

import torch
from torch import Tensor

from gansmith.errors import UserError
from gansmith.metrics.vectors import MeanStd


def total_variation(counts: Tensor) -> float:
    """1/2 sum_k |p_k - 1/K| with p = counts (K,) / their sum: 0 if all are equal, 1 - 1/K if one class has all."""
    p = counts.double() / counts.sum()
    return (p - 1 / len(p)).abs().sum().item() / 2


def kl_to_uniform(counts: Tensor) -> float:
    """sum_k p_k log(K p_k), in nats, p = counts (K,) / their sum: 0 if all are equal, log K if one class has all."""
    p = counts.double() / counts.sum()
    return torch.xlogy(p, p * len(p)).sum().item()


def inception_score(p: Tensor, splits: int = 10) -> MeanStd:
    """exp(mean_x KL(p(y|x) || p(y))), p(y) the mean of p(y|x): mean and std over `splits` runs of rows of equal length.

    p (N, K): float64, each row with sum 1; UserError unless N is at least `splits`. From 1 to K. Computed as
    exp(H(p(y)) - mean_x H(p(y|x))), where a probability of 0 does no harm. Shuffle what is sorted by class. Source:
    Salimans et al. 2016, section 4 (arXiv 1606.03498).
    """
    n, entropies = len(p), torch.special.entr
    if n < splits:
        raise UserError(f"splits={splits} of {n} samples: there must be 1 to {n}")
    parts = [p[i * n // splits : (i + 1) * n // splits] for i in range(splits)]
    scores = torch.stack([entropies(part.mean(0)).sum() - entropies(part).sum(1).mean() for part in parts]).exp()
    return MeanStd(scores.mean().item(), scores.std(correction=0).item())

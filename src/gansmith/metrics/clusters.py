"""Classes that were told (N,) against the true ones (N,), whole numbers from 0; clusters have no names of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from gansmith.errors import UserError


def cluster_accuracy(told: Tensor, labels: Tensor) -> float:
    """The share that is right where every cluster stands for a class of its own: the best of all such assignments.

    UserError without scipy, which finds it.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise UserError("cluster_accuracy needs scipy, which is not installed: pip install scipy") from error
    counts = together(told, labels).numpy()
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum()) / len(labels)


def nmi(told: Tensor, labels: Tensor) -> float:
    """I(told; labels) / ((H(told) + H(labels)) / 2), from 0 to 1; 1 where both are one class."""
    p = together(told, labels).double() / len(labels)
    rows, columns, both = (-torch.special.xlogy(q, q).sum().item() for q in (p.sum(1), p.sum(0), p))
    return 1.0 if rows + columns == 0 else 2 * (rows + columns - both) / (rows + columns)


def ari(told: Tensor, labels: Tensor) -> float:
    """The adjusted Rand index (Hubert & Arabie 1985): 1 for the same partition, 0 on average for a random one."""

    def pairs(n: Tensor) -> float:
        return (n * (n - 1) // 2).sum().item()

    counts = together(told, labels)
    rows, columns, both = pairs(counts.sum(1)), pairs(counts.sum(0)), pairs(counts)
    by_chance, most = rows * columns / max(1, pairs(counts.sum())), (rows + columns) / 2
    return 1.0 if most == by_chance else (both - by_chance) / (most - by_chance)


def together(told: Tensor, labels: Tensor) -> Tensor:
    """How often each (K, K) of told classes goes with each label."""
    k = 1 + int(torch.maximum(told.max(), labels.max()))
    return torch.bincount(k * told + labels, minlength=k * k).view(k, k)

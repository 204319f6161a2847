"""Classes that were told (N,) against the true ones (N,), whole numbers from 0; clusters have no names of their own."""

from __future__ import annotations

import torch
from torch import Tensor


def accuracy(told: Tensor, labels: Tensor) -> float:
    """The share that is right."""
    return (told == labels).double().mean().item()


def cluster_accuracy(told: Tensor, labels: Tensor) -> float:
    """The share that is right where every cluster stands for a class of its own: the best of all such assignments."""
    counts = together(told, labels)
    classes = best_assignment(counts.tolist())
    return sum(int(counts[i, j]) for i, j in enumerate(classes)) / len(labels)


def best_assignment(gain: list[list[int]]) -> list[int]:
    """The column of each row of a square table, all different, with the largest sum of gains.

    The Hungarian method with shortest augmenting paths, O(K^3): Kuhn 1955, Jonker and Volgenant 1987. A row after the
    other enters; prices of rows and columns keep cost(i, j) - row[i] - column[j] >= 0, and 0 where i has j.
    """
    k = len(gain)
    row, column, owner = [0] * k, [0] * (k + 1), [-1] * (k + 1)  # column k is where a new row starts from
    for new in range(k):
        owner[k], j = new, k
        least, before, seen = [float("inf")] * k, [k] * k, [False] * (k + 1)
        while owner[j] >= 0:
            seen[j], i = True, owner[j]
            for free in (c for c in range(k) if not seen[c]):
                slack = -gain[i][free] - row[i] - column[free]
                if slack < least[free]:
                    least[free], before[free] = slack, j
            nearest = min((c for c in range(k) if not seen[c]), key=least.__getitem__)
            step = int(least[nearest])
            for c in range(k + 1):
                if seen[c]:
                    row[owner[c]] += step
                    column[c] -= step
                elif c < k:
                    least[c] -= step
            j = nearest
        while j != k:
            owner[j] = owner[before[j]]
            j = before[j]
    found = [0] * k
    for c in range(k):
        found[owner[c]] = c
    return found


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

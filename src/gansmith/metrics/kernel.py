"""The kernel distance between two sets of features: KID where the features are Inception's pool3."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gansmith.errors import UserError
from gansmith.metrics.vectors import blocks, vectors


class KernelDistance(NamedTuple):
    """MMD^2 over random subsets."""

    mean: float
    std: float
    """Between subsets (ddof 0), which share images: not an error of `mean`."""


def mmd2(a: Tensor, b: Tensor) -> float:
    """mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean k(a_i, b_j), with k(x, y) = (<x, y> / d + 1)^3.

    a (N, d), b (M, d), N and M at least 2, else UserError. Unbiased, so it may be below 0 for equal distributions.
    Source: Binkowski et al. 2018 (arXiv 1801.01401); Gretton et al. 2012, eq. 3.
    """
    a = vectors("features", a)
    b = vectors("features", b, a.shape[1])
    n, m = len(a), len(b)
    if min(n, m) < 2:
        raise UserError(f"features of {n} and {m} images: the unbiased estimate needs at least 2 of each")
    within = _kernel_sum(a, a, a.device) / (n * (n - 1)) + _kernel_sum(b, b, a.device) / (m * (m - 1))
    return within - 2 * _kernel_sum(a, b, a.device) / (n * m)


def kernel_distance(a: Tensor, b: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> KernelDistance:
    """Mean and standard deviation of `mmd2` over `subsets` draws of `size` rows of each set, without replacement.

    a (N, d), b (M, d), N and M at least `size`, else UserError. Source: Binkowski et al. 2018 (arXiv 1801.01401).
    """
    if size < 2 or subsets < 1:
        raise UserError(f"subsets={subsets} of size={size}: at least 1 subset of 2 is needed")
    for x in (a, b):
        if len(vectors("features", x)) < size:
            raise UserError(f"features of {len(x)} images: subsets of {size} need at least {size}")
    draws = torch.Generator().manual_seed(seed)

    def subset(x: Tensor) -> Tensor:
        return x[torch.randperm(len(x), generator=draws)[:size].to(x.device)]

    values = torch.tensor([mmd2(subset(a), subset(b)) for _ in range(subsets)], dtype=torch.float64)
    return KernelDistance(values.mean().item(), values.std(correction=0).item())


def _kernel_sum(x: Tensor, y: Tensor, device: torch.device) -> float:
    """The sum of k over all pairs; of a set with itself (the same object) without the pairs of a row with itself."""
    d = x.shape[1]
    zero = torch.zeros(d, dtype=torch.float64, device=device)
    total = zero.new_zeros(())
    for row, a, _ in blocks(x, zero):
        for column, b, _ in blocks(y, zero):
            k = (a @ b.T).div_(d).add_(1).pow_(3)
            if x is y and row == column:
                k.fill_diagonal_(0)
            total += k.sum()
    return total.item()

"""The kernel distance between two sets of features: KID where the features are Inception's pool3."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gansmith.errors import UserError
from gansmith.metrics.vectors import MeanStd


class Interval(NamedTuple):
    """A value with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def mmd(a: Tensor, b: Tensor) -> Interval:
    """MMD^2 as in `kernel_distance`, of all rows at once, with an interval: for sets of a few dozen images.

    1.96 standard errors to either side, by the jackknife over both sets: the variance is the sum over the two of
    (n - 1) / n sum_i (value without row i - their mean)^2. a (N, d), b (M, d), both with 3 rows at least, else
    UserError. Source: Efron & Stein 1981 (doi 10.1214/aos/1176345462).
    """
    if (fewest := min(len(a), len(b))) < 3:
        raise UserError(f"features of {fewest} images: an interval needs at least 3")
    n, m = len(a), len(b)
    own, others = (_row_sums(x, x) - _kernel(x, x) for x in (a, b))
    cross, back = _row_sums(a, b), _row_sums(b, a)

    def value(within: Tensor, n: int, beside: Tensor, m: int, between: Tensor) -> Tensor:
        return within / (n * (n - 1)) + beside / (m * (m - 1)) - 2 * between / (n * m)

    whole = value(own.sum(), n, others.sum(), m, cross.sum())
    left_a = value(own.sum() - 2 * own, n - 1, others.sum(), m, cross.sum() - cross)
    left_b = value(own.sum(), n, others.sum() - 2 * others, m - 1, cross.sum() - back)
    variance = sum((len(left) - 1) * left.var(correction=0) for left in (left_a, left_b))
    error = 1.96 * float(variance) ** 0.5
    return Interval(whole.item(), whole.item() - error, whole.item() + error)


def _kernel(a: Tensor, b: Tensor) -> Tensor:
    """k(a_i, b_i), row by row: (N,)."""
    return ((a.double() * b.double()).sum(1) / a.shape[1] + 1) ** 3


def _row_sums(a: Tensor, b: Tensor) -> Tensor:
    """sum_j k(a_i, b_j): (N,), some rows at a time."""
    parts = torch.split(a.double(), max(1, 2**24 // len(b)))
    return torch.cat([((part @ b.double().T / a.shape[1] + 1) ** 3).sum(1) for part in parts])


def kernel_distance(a: Tensor, b: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> MeanStd:
    """Mean and standard deviation of MMD^2 over `subsets` draws of `size` rows of each set, without replacement.

    MMD^2 = mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean k(a_i, b_j), k(x, y) = (<x, y> / d + 1)^3. It
    is unbiased, so it may be below 0 for equal distributions. a (N, d), b (M, d), N and M at least `size`, else
    UserError. Source: Binkowski et al. 2018 (arXiv 1801.01401); Gretton et al. 2012, eq. 3.
    """
    from torchmetrics.image.kid import poly_mmd  # a second to import

    if (fewest := min(len(a), len(b))) < size:
        raise UserError(f"features of {fewest} images: subsets of {size} need at least {size}")
    draws = torch.Generator().manual_seed(seed)

    def subset(x: Tensor) -> Tensor:
        return x[torch.randperm(len(x), generator=draws)[:size].to(x.device)].double()

    values = torch.stack([poly_mmd(subset(a), subset(b)) for _ in range(subsets)])
    return MeanStd(values.mean().item(), values.std(correction=0).item())

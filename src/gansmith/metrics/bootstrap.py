"""How sure a difference between the scores of two rows of trainings is, from a handful of seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

RESAMPLES = 20_000
Values = Sequence[tuple[int, float]]
"""(seed, value) of each run of a row, by seed."""


def interval(first: Values, other: Values) -> tuple[float, float] | None:
    """A 95 % interval of the difference of means, other - first, by the bootstrap; None for fewer than 3 values.

    Values are drawn again with replacement: the differences where both rows have the same seeds, because runs of one
    seed share noise and the order of the images, and are not independent; else those of each row by itself. The
    interval lies between two quantiles of the means of such draws. With few seeds those at 2.5 and 97.5 % are too near
    to each other; they are moved out by what Student's t asks for normal values (the expanded percentile interval of
    Hesterberg 2015, arXiv 1411.5279). No bootstrap leaves the range of the differences, so that n pairs hold the truth
    in at most 1 - 2^(1 - n) of all cases. Measured for normal values (tests/test_compare.py): 75, 87, 92 and 95 % for
    3, 4, 5 and 10 pairs.
    """
    a, b = (np.array([value for _, value in values]) for values in (first, other))
    seeds = [seed for seed, _ in first]
    paired = seeds == [seed for seed, _ in other] and len(set(seeds)) == len(seeds)
    groups = [b - a] if paired else [b, -a]
    if min(map(len, groups)) < 3 or not all(np.isfinite(group).all() for group in groups):
        return None
    rng = np.random.default_rng(0)
    means = sum(group[rng.integers(len(group), size=(RESAMPLES, len(group)))].mean(1) for group in groups)
    n = sum(map(len, groups))
    free = n - len(groups)
    tail = NormalDist().cdf(-student(free) * math.sqrt(n / free))
    low, high = np.quantile(means, (tail, 1 - tail))
    return float(low), float(high)


def student(free: int) -> float:
    """The 97.5 % quantile of Student's t: its expansion in 1 / degrees of freedom (Abramowitz & Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(0.975)
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + sum(term / free**k for k, term in enumerate(terms, start=1))

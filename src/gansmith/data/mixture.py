"""A p_data that is known: equal normals, which points on the line or in the plane are drawn from."""

from dataclasses import dataclass
from math import pi, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
GOOD = 3  # deviations, as in VEEGAN: Srivastava et al. 2017, arXiv 1705.07761
_GOLDEN, _PLASTIC = (1 + sqrt(5)) / 2, 1.324717957244746  # the roots of g^2 = g + 1 and of g^3 = g + 1
_STEPS = {1: (1 / _GOLDEN,), 2: (1 / _PLASTIC, 1 / _PLASTIC**2)}


@dataclass(frozen=True)
class Mixture:
    """p(x) = 1/K sum_k N(x; m_k, s^2 I), x in D = 1 or 2 dimensions."""

    means: tuple[tuple[float, ...], ...]  # (K, D)
    deviation: float
    window: tuple[float, float]  # what pictures show of each axis
    n_train: int = 50_000

    @property
    def dim(self) -> int:
        return len(self.means[0])

    def __call__(self, x: Numbers) -> Numbers:
        """p(x) (N,) at points (N, D)."""
        away = self.distances(x)
        return np.exp(-(away**2) / 2).mean(1) / (self.deviation * sqrt(2 * pi)) ** self.dim

    def distances(self, x: Numbers) -> Numbers:
        """From points (N, D) to each mean (N, K), in deviations."""
        axes = (np.subtract.outer(x[:, d], [mean[d] for mean in self.means]) for d in range(self.dim))
        return np.sqrt(sum(axis**2 for axis in axes)) / self.deviation

    def hits(self, x: Numbers) -> NDArray[np.int64]:
        """How many of points (N, D) are good and nearest to each mean: (K,). Good: at most GOOD deviations away."""
        away = self.distances(x)
        return np.bincount(away.argmin(1)[away.min(1) <= GOOD], minlength=len(self.means))

    def points(self, start: int, n: int) -> NDArray[np.float32]:
        """n points (n, D) of a sequence whose every stretch follows p more evenly than random numbers would.

        u_i = frac(1/2 + i (1/g, .., 1/g^D)) with g^(D+1) = g + 1, for D = 1 the golden ratio (Roberts 2018). Where the
        first coordinate falls decides the part of the mixture, and its rest and the others the place in it.
        """
        u = (0.5 + np.multiply.outer(np.arange(start, start + n), _STEPS[self.dim])) % 1.0
        k = len(self.means)
        part = np.minimum((u[:, 0] * k).astype(np.int64), k - 1)
        u[:, 0] = u[:, 0] * k - part
        tiny = np.finfo(np.float64).eps
        inverse = NormalDist().inv_cdf
        standard = np.array([inverse(v) for v in np.clip(u, tiny, 1 - tiny).ravel()]).reshape(n, -1)
        return (np.array(self.means)[part] + self.deviation * standard).astype(np.float32)

    def mesh(self, n: int) -> Numbers:
        """The middles (n * n, 2) of the cells that fill the window of the plane, in the order of pixels."""
        low, high = self.window
        x = low + (np.arange(n) + 0.5) / n * (high - low)
        return np.stack([np.tile(x, n), np.repeat(x[::-1], n)], 1)

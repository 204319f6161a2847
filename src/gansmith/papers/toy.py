"""Toy sets, whose density is known: numbers on the line for Figure 1 of arXiv 1406.2661, points in the plane."""

import hashlib
from dataclasses import dataclass
from itertools import product
from math import pi, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from gansmith.data.imageset import ImageSet
from gansmith.data.prepare import Wanted
from gansmith.errors import UserError

Numbers = NDArray[np.float64]
GOOD = 3  # deviations, as in VEEGAN: Srivastava et al. 2017, arXiv 1705.07761
_GOLDEN, _PLASTIC = (1 + sqrt(5)) / 2, 1.324717957244746  # the roots of g^2 = g + 1 and of g^3 = g + 1
_STEPS = {1: (1 / _GOLDEN,), 2: (1 / _PLASTIC, 1 / _PLASTIC**2)}


@dataclass(frozen=True)
class Mixture:
    """A p_data that is known, equal normals: p(x) = 1/K sum_k N(x; m_k, s^2 I), x in D = 1 or 2 dimensions."""

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


N_TEST = 10_000
_D = sqrt(2)
TOYS: dict[str, Mixture] = {
    "normal_1d": Mixture(((0.0,),), 1.0, (-4.0, 4.0), 10_000),
    "two_normals_1d": Mixture(((-2.0,), (2.0,)), 0.5, (-4.0, 4.0), 10_000),
    # eight on a circle of radius 2: Metz et al. 2017, arXiv 1611.02163
    "ring": Mixture(
        ((2.0, 0.0), (_D, _D), (0.0, 2.0), (-_D, _D), (-2.0, 0.0), (-_D, -_D), (0.0, -2.0), (_D, -_D)),
        0.02,
        (-2.7, 2.7),
    ),
    # five by five, two apart: Srivastava et al. 2017, arXiv 1705.07761; Lin et al. 2018, arXiv 1712.04086
    "grid": Mixture(tuple(product((-4.0, -2.0, 0.0, 2.0, 4.0), repeat=2)), 0.05, (-5.0, 5.0)),
}


def load_toy(name: str, wanted: Wanted) -> ImageSet:
    """A toy set by name: `x` (N, 1, 1, D), float32, with its `density`. UserError for any other size."""
    density = TOYS[name]
    counts = {"train": (0, density.n_train), "test": (density.n_train, N_TEST)}
    if wanted.split not in counts:
        raise UserError(f"{name} has no {wanted.split} split; use split 'train' or 'test'")
    if (*wanted.size, wanted.channels) != (1, density.dim, 1):
        holds, size = ("single numbers", "1") if density.dim == 1 else ("points", "1,2")
        raise UserError(
            f"{name} holds {holds}: it needs img_size {size} and channels 1, not {wanted.side} and"
            f" {wanted.channels}, and data.values raw, as in the recipe {name if density.dim == 2 else 'figure1'}"
        )
    images = density.points(*counts[wanted.split]).reshape(-1, 1, 1, density.dim)
    images.flags.writeable = False
    digest = hashlib.sha256(f"gansmith toy 2 {name} {density} {wanted.split} {N_TEST}".encode()).hexdigest()
    return ImageSet(name, {"x": images}, (), digest, density)

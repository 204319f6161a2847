"""Toy sets on the line, whose density is known: Figure 1 of the 2014 paper (arXiv 1406.2661) needs p_data itself."""

import hashlib
from dataclasses import dataclass
from math import pi, sqrt
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from gansmith.data.imageset import ImageSet
from gansmith.data.prepare import Wanted
from gansmith.errors import UserError

COUNT = 10_000
SPLITS = ("train", "test")
GOLDEN = (sqrt(5) - 1) / 2
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Mixture:
    """p(x) = sum_k w_k N(x; m_k, s_k^2) on the line; `window` is the part that pictures show."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]
    window: tuple[float, float]

    def __call__(self, x: Numbers) -> Numbers:
        """p(x), of x's shape."""
        parts = zip(self.weights, self.means, self.deviations, strict=True)
        return sum((w * np.exp(-(((x - m) / s) ** 2) / 2) / (s * sqrt(2 * pi)) for w, m, s in parts), np.zeros_like(x))

    def points(self, start: int, n: int) -> NDArray[np.float32]:
        """n points (n,) of a sequence whose every stretch follows p, within a few 1/n of its distribution function.

        u_i = frac(1/2 + i g), g the golden ratio, is spread more evenly than random numbers; where u falls decides the
        part of the mixture, and the rest of u the place in it.
        """
        u = (0.5 + GOLDEN * np.arange(start, start + n)) % 1.0
        ends = np.cumsum(self.weights)
        part = np.minimum(np.searchsorted(ends, u, side="right"), len(ends) - 1)
        rest = (u - (ends - self.weights)[part]) / np.array(self.weights)[part]
        inverse = NormalDist().inv_cdf
        tiny = np.finfo(np.float64).eps
        standard = np.array([inverse(v) for v in np.clip(rest, tiny, 1 - tiny)])
        return (np.array(self.means)[part] + np.array(self.deviations)[part] * standard).astype(np.float32)


TOYS: dict[str, Mixture] = {
    "normal_1d": Mixture((1.0,), (0.0,), (1.0,), (-4.0, 4.0)),
    "two_normals_1d": Mixture((0.5, 0.5), (-2.0, 2.0), (0.5, 0.5), (-4.0, 4.0)),
}


def load_toy(name: str, wanted: Wanted) -> ImageSet:
    """A toy set by name: `x` (10000, 1, 1, 1), float32, with `density`. UserError for any other size."""
    if wanted.split not in SPLITS:
        raise UserError(f"{name} has no {wanted.split} split; use split 'train' or 'test'")
    if (*wanted.size, wanted.channels) != (1, 1, 1):
        raise UserError(
            f"{name} holds single numbers: it needs img_size 1 and channels 1, not {wanted.side} and"
            f" {wanted.channels}, and data.values raw, as in the recipe figure1"
        )
    density = TOYS[name]
    images = density.points(SPLITS.index(wanted.split) * COUNT, COUNT).reshape(-1, 1, 1, 1)
    images.flags.writeable = False
    digest = hashlib.sha256(f"gansmith toy 1 {name} {density} {wanted.split} {COUNT}".encode()).hexdigest()
    return ImageSet(name, {"x": images}, (), digest, density)

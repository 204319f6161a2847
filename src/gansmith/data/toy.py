"""Toy sets, whose density is known: numbers on the line for Figure 1 of arXiv 1406.2661, points in the plane."""

import hashlib
from itertools import product
from math import sqrt

from gansmith.data.imageset import ImageSet
from gansmith.data.mixture import Mixture
from gansmith.data.prepare import Wanted
from gansmith.errors import UserError

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

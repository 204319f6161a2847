"""The distributions of a generator's input z: one flat vector (N, Z) per sample, whatever it is made of."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gansmith.schema import NonNegativeInt, PositiveFloat, PositiveInt


class Prior:
    """Draws z (N, Z), and knows the path between two of them; `width` is Z."""

    width: int

    def sample(self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        """n draws (n, Z) on the generator's device."""
        raise NotImplementedError

    def between(self, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        """The points (T, Z) of the straight line from a (Z,) to b (Z,) at t (T,) in [0, 1]."""
        return torch.lerp(a.expand(len(t), -1), b.expand(len(t), -1), t[:, None])

    def traversals(self) -> Sequence[str]:
        """The names of the parts of z that mean something by themselves; none for plain noise."""
        return ()


class GreatCircle(Prior):
    """A prior without a direction of its own: it interpolates on the great circle."""

    def __init__(self, *, dim: PositiveInt = 100) -> None:
        self.width = dim

    def between(self, a: Tensor, b: Tensor, t: Tensor) -> Tensor:
        return slerp(a, b, t)


class Normal(GreatCircle):
    """z ~ N(0, 1)^dim; on the great circle the norm of such a z stays typical."""

    def sample(self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(n, self.width, generator=generator, device=generator.device, dtype=dtype)


class Spherical(GreatCircle):
    """z = n / |n| with n ~ N(0, 1)^dim: uniform on the unit sphere, where great circles stay; covariance I / dim.

    The third noise of the 2014 paper's code (arXiv 1406.2661).
    """

    def sample(self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        return normalize(torch.randn(n, self.width, generator=generator, device=generator.device, dtype=dtype))


class Uniform(Prior):
    """z ~ U(-bound, bound)^dim. Interpolates on the straight line, which stays inside the cube."""

    def __init__(self, *, dim: PositiveInt = 100, bound: float = 1.0) -> None:
        if bound <= 0:
            raise ValueError(f"bound is {bound}; it must be above 0")
        self.width = dim
        self.bound = bound

    def sample(self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        u = torch.rand(n, self.width, generator=generator, device=generator.device, dtype=dtype)
        return (2 * u - 1) * self.bound


class Parts(NamedTuple):
    """z (N, Z) of a `Codes` prior, cut into what it is made of."""

    noise: Tensor
    """(N, dim)"""
    category: Tensor
    """(N, categories), one-hot"""
    code: Tensor
    """(N, continuous)"""


class Codes(Prior):
    """z = (noise, one-hot category, continuous codes ~ U(-1, 1)): InfoGAN's input (arXiv 1606.03657, section 7).

    `noise_scale` multiplies the noise: with normal noise it is its deviation, ClusterGAN's sigma (arXiv 1809.03627).
    """

    def __init__(
        self,
        *,
        dim: PositiveInt = 62,
        categories: PositiveInt = 10,
        continuous: NonNegativeInt = 2,
        noise: Literal["uniform", "normal"] = "uniform",
        noise_scale: PositiveFloat = 1.0,
    ) -> None:
        self.noise: Prior = Uniform(dim=dim) if noise == "uniform" else Normal(dim=dim)
        self.noise_scale = noise_scale
        self.categories = categories
        self.continuous = continuous
        self.width = dim + categories + continuous

    def sample(self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float32) -> Tensor:
        device = generator.device
        noise = self.noise.sample(n, generator, dtype) * self.noise_scale
        category = torch.randint(self.categories, (n,), generator=generator, device=device)
        code = torch.rand(n, self.continuous, generator=generator, device=device, dtype=dtype) * 2 - 1
        one_hot = torch.nn.functional.one_hot(category, self.categories).to(dtype)
        return torch.cat([noise, one_hot, code], dim=1)

    def split(self, z: Tensor) -> Parts:
        """z (N, Z) as its parts, each a view."""
        return Parts(*torch.split(z, [self.noise.width, self.categories, self.continuous], dim=1))

    def traversals(self) -> Sequence[str]:
        return ("category", *(f"code{i + 1}" for i in range(self.continuous)))

    def traverse(self, z: Tensor, name: str, columns: int = 10) -> Tensor:
        """Copies (N, columns, Z) of z (N, Z) in which the named part alone goes through its values.

        A category goes through all its classes, as many columns as there are; a code goes from -2 to 2, twice as far as
        it did in training, as in the paper's Figure 2.
        """
        if name == "category":
            values = torch.eye(self.categories, dtype=z.dtype, device=z.device)
            start = self.noise.width
        else:
            values = torch.linspace(-2, 2, columns, dtype=z.dtype, device=z.device)[:, None]
            start = self.noise.width + self.categories + self.traversals().index(name) - 1
        copies = z[:, None, :].repeat(1, len(values), 1)
        copies[:, :, start : start + values.shape[1]] = values
        return copies


def slerp(a: Tensor, b: Tensor, t: Tensor) -> Tensor:
    """sin((1-t)w)/sin(w) a + sin(tw)/sin(w) b with w the angle between a and b: (T, Z) from a, b (Z,) and t (T,).

    Source: Shoemake 1985. The norm goes evenly from |a| to |b| where they differ.
    """
    norm_a, norm_b = a.norm(), b.norm()
    cosine = torch.clamp(torch.dot(a, b) / (norm_a * norm_b), -1, 1)
    angle = torch.acos(cosine)
    t = t[:, None]
    if angle < 1e-3 or math.pi - angle < 1e-3:  # the same direction, or no single great circle
        return (1 - t) * a + t * b
    direction = (torch.sin((1 - t) * angle) * a / norm_a + torch.sin(t * angle) * b / norm_b) / torch.sin(angle)
    return direction * ((1 - t) * norm_a + t * norm_b)


PRIORS: dict[str, type[Prior]] = {"normal": Normal, "uniform": Uniform, "spherical": Spherical, "codes": Codes}

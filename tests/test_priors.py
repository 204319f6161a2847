"""Priors: moments, determinism, the parts of a code, and the paths between two points."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gansmith.priors import PRIORS, Codes, Normal, Prior, Spherical, Uniform, slerp

N = 4000
SIGMAS = 6  # of the estimator: with fixed seeds a pass stays a pass, and a wrong distribution is hundreds away


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def examples() -> dict[str, Prior]:
    return {
        "normal": Normal(dim=5),
        "uniform": Uniform(dim=5, bound=2.0),
        "spherical": Spherical(dim=5),
        "codes": Codes(dim=3, categories=4, continuous=2),
    }


def vectors(count: int, dim: int = 24, seed: int = 1) -> Tensor:
    return torch.randn(count, dim, generator=noise(seed), dtype=torch.float64)


def within(value: Tensor, expected: float, error: float) -> bool:
    return bool((value - expected).abs().max() < SIGMAS * error)


def test_every_row_has_an_example_here() -> None:
    assert tuple(PRIORS) == ("normal", "uniform", "spherical", "codes")
    assert {name: type(p) for name, p in examples().items()} == PRIORS


@pytest.mark.parametrize("name", PRIORS)
def test_the_generator_alone_decides(name: str) -> None:
    prior = examples()[name]
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = prior.sample(9, noise(4))
        torch.manual_seed(2)
        before = torch.get_rng_state()
        second = prior.sample(9, noise(4))
        assert torch.equal(torch.get_rng_state(), before)  # the global stream is left alone
    assert first.shape == (9, prior.width) and torch.equal(first, second)
    assert not torch.equal(first, prior.sample(9, noise(5)))
    stream = noise(4)
    assert torch.equal(prior.sample(9, stream), first)
    assert not torch.equal(prior.sample(9, stream), first)  # and it moves on


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", PRIORS)
def test_dtype_is_the_networks(name: str, dtype: torch.dtype) -> None:
    assert examples()[name].sample(3, noise(), dtype).dtype == dtype


# ---- distributions ----------------------------------------------------------------------------------------------


def test_normal_moments() -> None:
    z = Normal(dim=5).sample(N, noise(3), torch.float64)
    root = math.sqrt(N)
    assert within(z.mean(0), 0, 1 / root)
    assert within((z**2).mean(0), 1, math.sqrt(2) / root)  # Var z^2 = 2
    assert within((z**4).mean(0), 3, math.sqrt(96) / root)  # Var z^4 = 105 - 9
    products = (z.T @ z / N)[~torch.eye(5, dtype=torch.bool)]
    assert within(products, 0, 1 / root)


@pytest.mark.parametrize("dim", [2, 5])
def test_spherical_moments(dim: int) -> None:
    """Norm 1, mean 0, covariance I / d; E z^4 = 3 / (d (d + 2)), so Var z^2 = 2 (d - 1) / (d^2 (d + 2))."""
    z = Spherical(dim=dim).sample(N, noise(3), torch.float64)
    root = math.sqrt(N)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(N, dtype=torch.float64), rtol=1e-14, atol=0)
    assert within(z.mean(0), 0, 1 / math.sqrt(dim) / root)
    assert within((z**2).mean(0), 1 / dim, math.sqrt(2 * (dim - 1) / (dim**2 * (dim + 2))) / root)
    fourth = 3 / (dim * (dim + 2))  # a projected cube would have the first two moments as well
    assert within((z**4).mean(0), fourth, math.sqrt(105 / (dim * (dim + 2) * (dim + 4) * (dim + 6)) - fourth**2) / root)
    products = (z.T @ z / N)[~torch.eye(dim, dtype=torch.bool)]
    assert within(products, 0, 1 / math.sqrt(dim * (dim + 2)) / root)


def test_spherical_is_the_direction_of_the_normal_draw() -> None:
    n = Normal(dim=7).sample(20, noise(3), torch.float64)
    z = Spherical(dim=7).sample(20, noise(3), torch.float64)
    torch.testing.assert_close(z * n.norm(dim=1, keepdim=True), n, rtol=1e-13, atol=0)


@pytest.mark.parametrize("bound", [0.5, 1.0, 3.0])
def test_uniform_moments(bound: float) -> None:
    z = Uniform(dim=5, bound=bound).sample(N, noise(3), torch.float64)
    root = math.sqrt(N)
    assert (z.abs() <= bound).all() and (z.abs().amax(0) > 0.99 * bound).all()
    assert within(z.mean(0), 0, bound / math.sqrt(3) / root)
    assert within((z**2).mean(0), bound**2 / 3, bound**2 * math.sqrt(4 / 45) / root)
    assert within((z[:, :1] * z[:, 1:]).mean(0), 0, bound**2 / 3 / root)


@pytest.mark.parametrize("bound", [0.0, -1.0])
def test_uniform_needs_a_width(bound: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        Uniform(dim=2, bound=bound)


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_codes_parts(kind: str) -> None:
    prior = Codes(dim=3, categories=4, continuous=2, noise=kind)  # type: ignore[arg-type]
    assert prior.width == 9
    z = prior.sample(N, noise(3), torch.float64)
    parts = prior.split(z)
    assert torch.equal(torch.cat(parts, 1), z)
    assert [p.shape[1] for p in parts] == [3, 4, 2]
    root = math.sqrt(N)
    assert torch.equal(parts.category.sum(1), torch.ones(N, dtype=torch.float64))
    assert torch.equal(parts.category.amax(1), torch.ones(N, dtype=torch.float64))
    assert within(parts.category.mean(0), 1 / 4, math.sqrt(3 / 16) / root)
    assert (parts.code.abs() <= 1).all()
    assert within(parts.code.mean(0), 0, 1 / math.sqrt(3) / root)
    assert within((parts.code**2).mean(0), 1 / 3, math.sqrt(4 / 45) / root)
    assert within((parts.noise**2).mean(0), 1 / 3 if kind == "uniform" else 1, math.sqrt(2) / root)
    assert (parts.noise.abs().max() > 1) == (kind == "normal")
    assert within((parts.category[:, :, None] * parts.code[:, None, :]).mean(0), 0, 0.5 / math.sqrt(3) / root)


def test_codes_without_continuous_ones() -> None:
    prior = Codes(dim=3, categories=4, continuous=0)
    z = prior.sample(6, noise())
    assert z.shape == (6, 7) and prior.split(z).code.shape == (6, 0)
    assert prior.traversals() == ("category",)


# ---- traversals -------------------------------------------------------------------------------------------------


def test_traversals_are_named() -> None:
    assert Codes(dim=3, categories=4, continuous=2).traversals() == ("category", "code1", "code2")
    assert Normal().traversals() == () and Uniform().traversals() == ()


@pytest.mark.parametrize(("name", "columns"), [("category", 4), ("code1", 7), ("code2", 7)])
def test_traverse_changes_the_named_part_alone(name: str, columns: int) -> None:
    prior = Codes(dim=3, categories=4, continuous=2)
    z = prior.sample(5, noise(2), torch.float64)
    kept = z.clone()
    walks = prior.traverse(z, name, 7)
    assert torch.equal(z, kept) and walks.shape == (5, columns, 9)
    place = {"category": slice(3, 7), "code1": slice(7, 8), "code2": slice(8, 9)}[name]
    values = {"category": torch.eye(4, dtype=torch.float64)}.get(
        name, torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None]
    )
    assert torch.equal(walks[:, :, place], values.expand(5, -1, -1))
    rest = torch.ones(9, dtype=torch.bool)
    rest[place] = False
    assert torch.equal(walks[:, :, rest], z[:, None, rest].expand(-1, columns, -1))


# ---- paths ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRIORS)
def test_paths_begin_and_end_at_their_points(name: str) -> None:
    prior = examples()[name]
    a, b = prior.sample(2, noise(6), torch.float64)
    path = prior.between(a, b, torch.linspace(0, 1, 11, dtype=torch.float64))
    assert path.shape == (11, prior.width)
    torch.testing.assert_close(path[0], a, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(path[-1], b, rtol=1e-14, atol=1e-14)
    back = prior.between(b, a, torch.linspace(0, 1, 11, dtype=torch.float64))
    torch.testing.assert_close(path.flip(0), back, rtol=1e-12, atol=1e-12)


def test_straight_paths_stay_in_the_cube_and_keep_the_pace() -> None:
    prior = Uniform(dim=8, bound=1.5)
    a, b = prior.sample(2, noise(6), torch.float64)
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    path = prior.between(a, b, t)
    torch.testing.assert_close(path, (1 - t)[:, None] * a + t[:, None] * b)
    assert path.abs().max() <= 1.5


def test_slerp_turns_evenly_in_the_plane_of_both() -> None:
    a, b = vectors(2)
    a, b = a / a.norm(), b / b.norm()
    steps = 13
    path = slerp(a, b, torch.linspace(0, 1, steps, dtype=torch.float64))
    angle = math.acos(float(a @ b))
    torch.testing.assert_close(path.norm(dim=1), torch.ones(steps, dtype=torch.float64), rtol=1e-13, atol=0)
    cosines = (path[1:] * path[:-1]).sum(1)
    torch.testing.assert_close(cosines, torch.full_like(cosines, math.cos(angle / (steps - 1))), rtol=1e-12, atol=0)
    assert torch.linalg.matrix_rank(torch.cat([path, a[None], b[None]]), tol=1e-10) == 2


def test_slerp_keeps_the_norm_even_where_a_chord_would_shorten_it() -> None:
    a, b = vectors(2, dim=1000)
    t = torch.linspace(0, 1, 21, dtype=torch.float64)
    norms = slerp(a, b, t).norm(dim=1)
    torch.testing.assert_close(norms, (1 - t) * a.norm() + t * b.norm(), rtol=1e-12, atol=0)
    assert torch.lerp(a, b, torch.tensor(0.5, dtype=torch.float64)).norm() < 0.75 * a.norm()  # what it is there for


def test_slerp_is_symmetric_scales_and_turns_with_its_space() -> None:
    a, b = vectors(2)
    t = torch.linspace(0, 1, 8, dtype=torch.float64)
    path = slerp(a, b, t)
    torch.testing.assert_close(slerp(b, a, 1 - t), path, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(slerp(3 * a, 3 * b, t), 3 * path, rtol=1e-12, atol=1e-13)
    rotation, _ = torch.linalg.qr(vectors(24, seed=2))
    torch.testing.assert_close(slerp(rotation @ a, rotation @ b, t), path @ rotation.T, rtol=1e-11, atol=1e-12)


def test_slerp_between_two_axes_is_the_circle() -> None:
    a, b = torch.eye(2, dtype=torch.float64)
    t = torch.linspace(0, 1, 10, dtype=torch.float64)
    circle = torch.stack([torch.cos(t * math.pi / 2), torch.sin(t * math.pi / 2)], 1)
    torch.testing.assert_close(slerp(a, b, t), circle)


def test_normal_noise_takes_the_great_circle() -> None:
    prior = Normal(dim=400)
    a, b = prior.sample(2, noise(6), torch.float64)
    t = torch.linspace(0, 1, 9, dtype=torch.float64)
    path = prior.between(a, b, t)
    torch.testing.assert_close(path, slerp(a, b, t))
    norms = path.norm(dim=1)
    assert norms.min() >= min(a.norm(), b.norm()) * (1 - 1e-12) and norms.max() <= max(a.norm(), b.norm()) * (1 + 1e-12)


@pytest.mark.parametrize("dim", [2, 3, 100])
def test_spherical_paths_stay_on_the_sphere_at_an_even_pace(dim: int) -> None:
    prior = Spherical(dim=dim)
    a, b = prior.sample(2, noise(6), torch.float64)
    path = prior.between(a, b, torch.linspace(0, 1, 9, dtype=torch.float64))
    torch.testing.assert_close(path.norm(dim=1), torch.ones(9, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close((path[1:] * path[:-1]).sum(1).acos(), (a @ b).acos().expand(8) / 8, rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("factor", [1.0, 2.5])
def test_slerp_of_one_direction_is_straight(dtype: torch.dtype, factor: float) -> None:
    a = vectors(1)[0].to(dtype)
    t = torch.linspace(0, 1, 5, dtype=dtype)
    expected = torch.lerp(a.expand(5, -1), factor * a.expand(5, -1), t[:, None])
    torch.testing.assert_close(slerp(a, factor * a, t), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slerp_of_opposite_directions_has_no_nan(dtype: torch.dtype) -> None:
    """There is no single great circle: the path may choose, but stays finite, inside, and right at both ends."""
    for a in vectors(20).to(dtype):
        path = slerp(a, -a, torch.linspace(0, 1, 7, dtype=dtype))
        assert torch.isfinite(path).all() and (path.norm(dim=1) <= a.norm() * (1 + 1e-4)).all()
        torch.testing.assert_close(path[0], a, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(path[-1], -a, rtol=1e-4, atol=1e-4)

"""Priors: moments, determinism, the parts of a code, and the paths between two points."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gansmith.priors import PRIORS, Codes, Normal, Prior, Spherical, Uniform, slerp

N = 4000
SIGMAS = 6  # of the estimator: with fixed seeds a pass stays a pass, and a wrong distribution is hundreds away
EXAMPLES: dict[str, Prior] = {
    "normal": Normal(dim=5),
    "uniform": Uniform(dim=5, bound=2.0),
    "spherical": Spherical(dim=5),
    "codes": Codes(dim=3, categories=4, continuous=2),
}


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def vectors(count: int, dim: int = 24, seed: int = 1) -> Tensor:
    return torch.randn(count, dim, generator=noise(seed), dtype=torch.float64)


def times(n: int) -> Tensor:
    return torch.linspace(0, 1, n, dtype=torch.float64)


def within(value: Tensor, expected: float, deviation: float) -> bool:
    return bool((value - expected).abs().max() < SIGMAS * deviation / math.sqrt(N))


@pytest.mark.parametrize("name", PRIORS)
def test_the_generator_alone_decides(name: str) -> None:
    assert {row: type(prior) for row, prior in EXAMPLES.items()} == PRIORS
    prior = EXAMPLES[name]
    before = torch.get_rng_state()
    stream = noise(4)
    first = prior.sample(9, stream)
    assert first.shape == (9, prior.width) and torch.equal(first, prior.sample(9, noise(4)))
    assert not torch.equal(first, prior.sample(9, noise(5))) and not torch.equal(first, prior.sample(9, stream))
    assert torch.equal(torch.get_rng_state(), before)  # the global stream is left alone
    assert {prior.sample(3, noise(), dtype).dtype for dtype in (torch.float32, torch.float64)} == {
        torch.float32,
        torch.float64,
    }


# ---- distributions -----------------------------------------------------------------------------------------------


def test_normal_moments() -> None:
    z = Normal(dim=5).sample(N, noise(3), torch.float64)
    assert within(z.mean(0), 0, 1)
    assert within((z**2).mean(0), 1, math.sqrt(2))  # Var z^2 = 2
    assert within((z**4).mean(0), 3, math.sqrt(96))  # Var z^4 = 105 - 9
    assert within((z.T @ z / N)[~torch.eye(5, dtype=torch.bool)], 0, 1)


@pytest.mark.parametrize("dim", [2, 5])
def test_spherical_moments(dim: int) -> None:
    """Norm 1, mean 0, covariance I / d; E z^4 = 3 / (d (d + 2)), so Var z^2 = 2 (d - 1) / (d^2 (d + 2))."""
    z = Spherical(dim=dim).sample(N, noise(3), torch.float64)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(N, dtype=torch.float64), rtol=1e-14, atol=0)
    assert within(z.mean(0), 0, 1 / math.sqrt(dim))
    assert within((z**2).mean(0), 1 / dim, math.sqrt(2 * (dim - 1) / (dim**2 * (dim + 2))))
    fourth = 3 / (dim * (dim + 2))  # a projected cube would have the first two moments as well
    assert within((z**4).mean(0), fourth, math.sqrt(105 / (dim * (dim + 2) * (dim + 4) * (dim + 6)) - fourth**2))
    assert within((z.T @ z / N)[~torch.eye(dim, dtype=torch.bool)], 0, 1 / math.sqrt(dim * (dim + 2)))


@pytest.mark.parametrize("bound", [0.5, 3.0])
def test_uniform_moments(bound: float) -> None:
    z = Uniform(dim=5, bound=bound).sample(N, noise(3), torch.float64)
    assert (z.abs() <= bound).all() and (z.abs().amax(0) > 0.99 * bound).all()
    assert within(z.mean(0), 0, bound / math.sqrt(3))
    assert within((z**2).mean(0), bound**2 / 3, bound**2 * math.sqrt(4 / 45))
    assert within((z[:, :1] * z[:, 1:]).mean(0), 0, bound**2 / 3)
    with pytest.raises(ValueError, match="above 0"):
        Uniform(dim=2, bound=-bound)


@pytest.mark.parametrize("kind", ["uniform", "normal"])
def test_codes_parts(kind: str) -> None:
    prior = Codes(dim=3, categories=4, continuous=2, noise=kind)  # type: ignore[arg-type]
    z = prior.sample(N, noise(3), torch.float64)
    parts = prior.split(z)
    assert torch.equal(torch.cat(parts, 1), z) and [p.shape[1] for p in parts] == [3, 4, 2]
    assert (parts.category.sum(1) == 1).all() and (parts.category.amax(1) == 1).all()
    assert within(parts.category.mean(0), 1 / 4, math.sqrt(3 / 16))
    assert (parts.code.abs() <= 1).all()
    assert within(parts.code.mean(0), 0, 1 / math.sqrt(3))
    assert within((parts.code**2).mean(0), 1 / 3, math.sqrt(4 / 45))
    assert within((parts.noise**2).mean(0), 1 / 3 if kind == "uniform" else 1, math.sqrt(2))
    assert (parts.noise.abs().max() > 1) == (kind == "normal")
    assert within((parts.category[:, :, None] * parts.code[:, None, :]).mean(0), 0, 0.5 / math.sqrt(3))


def test_codes_without_continuous_ones() -> None:
    prior = Codes(dim=3, categories=4, continuous=0)
    z = prior.sample(6, noise())
    assert z.shape == (6, 7) and prior.split(z).code.shape == (6, 0)
    assert prior.traversals() == ("category",) and Normal().traversals() == ()


@pytest.mark.parametrize(("name", "columns"), [("category", 4), ("code1", 7), ("code2", 7)])
def test_traverse_changes_the_named_part_alone(name: str, columns: int) -> None:
    prior = Codes(dim=3, categories=4, continuous=2)
    assert prior.traversals() == ("category", "code1", "code2")
    z = prior.sample(5, noise(2), torch.float64)
    kept = z.clone()
    walks = prior.traverse(z, name, 7)
    assert torch.equal(z, kept) and walks.shape == (5, columns, 9)
    place = {"category": slice(3, 7), "code1": slice(7, 8), "code2": slice(8, 9)}[name]
    codes = torch.linspace(-2, 2, 7, dtype=torch.float64)[:, None]
    values = torch.eye(4, dtype=torch.float64) if name == "category" else codes
    assert torch.equal(walks[:, :, place], values.expand(5, -1, -1))
    rest = torch.ones(9, dtype=torch.bool)
    rest[place] = False
    assert torch.equal(walks[:, :, rest], z[:, None, rest].expand(-1, columns, -1))


# ---- paths -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRIORS)
def test_paths_begin_and_end_at_their_points(name: str) -> None:
    prior = EXAMPLES[name]
    a, b = prior.sample(2, noise(6), torch.float64)
    path = prior.between(a, b, times(11))
    assert path.shape == (11, prior.width)
    torch.testing.assert_close(path[[0, -1]], torch.stack([a, b]), rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(path.flip(0), prior.between(b, a, times(11)), rtol=1e-12, atol=1e-12)
    round = name in ("normal", "spherical")
    t = times(11)[:, None]
    torch.testing.assert_close(path, slerp(a, b, times(11)) if round else (1 - t) * a + t * b)


@pytest.mark.parametrize("dim", [2, 3, 100])
def test_slerp_turns_evenly_on_the_sphere_in_the_plane_of_both(dim: int) -> None:
    a, b = Spherical(dim=dim).sample(2, noise(6), torch.float64)
    path = Spherical(dim=dim).between(a, b, times(9))
    torch.testing.assert_close(path.norm(dim=1), torch.ones(9, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close((path[1:] * path[:-1]).sum(1).acos(), (a @ b).acos().expand(8) / 8, rtol=1e-9, atol=0)
    assert torch.linalg.matrix_rank(torch.cat([path, a[None], b[None]]), tol=1e-10) == 2


def test_slerp_keeps_the_norm_even_where_a_chord_would_shorten_it() -> None:
    a, b = vectors(2, dim=1000)
    norms = slerp(a, b, times(21)).norm(dim=1)
    torch.testing.assert_close(norms, (1 - times(21)) * a.norm() + times(21) * b.norm(), rtol=1e-12, atol=0)
    assert torch.lerp(a, b, torch.tensor(0.5, dtype=torch.float64)).norm() < 0.75 * a.norm()  # what it is there for


def test_slerp_scales_and_turns_with_its_space() -> None:
    a, b = vectors(2)
    path = slerp(a, b, times(8))
    torch.testing.assert_close(slerp(3 * a, 3 * b, times(8)), 3 * path, rtol=1e-12, atol=1e-13)
    rotation, _ = torch.linalg.qr(vectors(24, seed=2))
    torch.testing.assert_close(slerp(rotation @ a, rotation @ b, times(8)), path @ rotation.T, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slerp_of_one_direction_is_straight_and_of_opposite_ones_has_no_nan(dtype: torch.dtype) -> None:
    """There is no single great circle between these: the path may choose, but stays inside, and right at both ends."""
    t = times(7).to(dtype)
    for a in vectors(20).to(dtype):
        for factor in (1.0, 2.5):
            expected = torch.lerp(a.expand(7, -1), factor * a.expand(7, -1), t[:, None])
            torch.testing.assert_close(slerp(a, factor * a, t), expected, rtol=1e-5, atol=1e-6)
        path = slerp(a, -a, t)
        assert torch.isfinite(path).all() and (path.norm(dim=1) <= a.norm() * (1 + 1e-4)).all()
        torch.testing.assert_close(path[[0, -1]], torch.stack([a, -a]), rtol=1e-4, atol=1e-4)

"""The Parzen window: a Gaussian in closed form, a density that integrates to 1, the laws of scale, real MNIST."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gansmith.data import Wanted, load_sets
from gansmith.errors import UserError
from gansmith.metrics import vectors
from gansmith.papers.parzen import SIGMAS, choose_sigma, log_likelihood, parzen

F64 = torch.float64


def uniform(n: int, d: int, seed: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.rand(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def naive(x: Tensor, samples: Tensor, sigma: float) -> Tensor:
    """The formula from the differences, pair by pair, in float64."""
    x, samples = x.double(), samples.double()
    exponents = torch.stack([-(x_i - samples).square().sum(1) / (2 * sigma**2) for x_i in x])
    return exponents.logsumexp(1) - math.log(len(samples)) - x.shape[1] * math.log(sigma * math.sqrt(2 * math.pi))


def test_the_bandwidths_are_those_of_the_authors_evaluator() -> None:
    np.testing.assert_allclose(SIGMAS, np.logspace(-1, 0, 10), rtol=1e-15)
    assert f"{SIGMAS[2]:.5f}" == "0.16681"


def test_one_sample_is_a_gaussian() -> None:
    x, centre = uniform(7, 5, 0), uniform(1, 5, 1)
    for sigma, row in zip((0.1, 0.7, 3.0), log_likelihood(x, centre, (0.1, 0.7, 3.0)), strict=True):
        expected = torch.distributions.Normal(centre[0], sigma).log_prob(x).sum(1)
        torch.testing.assert_close(row, expected, rtol=1e-12, atol=1e-12)


def test_the_density_integrates_to_one() -> None:
    step = 0.01
    grid = torch.arange(-8, 9, step, dtype=F64)[:, None]
    for row in log_likelihood(grid, uniform(13, 1, 0), (0.1, 0.3, 1.0)):
        assert row.exp().sum().item() * step == pytest.approx(1, abs=1e-12)


def test_it_is_the_log_of_the_mean_density() -> None:
    """Not of the sum: samples that come twice change nothing, and N samples are the mean of N Gaussians."""
    x, samples = uniform(6, 4, 0), uniform(9, 4, 1)
    found = log_likelihood(x, samples, (0.2,))[0]
    each = torch.stack([log_likelihood(x, sample[None], (0.2,))[0] for sample in samples])
    torch.testing.assert_close(found, each.exp().mean(0).log(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(log_likelihood(x, samples.repeat(5, 1), (0.2,))[0], found, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_sparse_images_against_the_plain_formula(dtype: torch.dtype) -> None:
    """Ink on a fifth of 784 pixels, as in MNIST: exponents of -1e4, and norms that cancel. No graph is kept."""
    ink = [(uniform(n, 784, seed) * (uniform(n, 784, seed + 1) < 0.2)).to(dtype) for n, seed in ((50, 0), (60, 2))]
    found = log_likelihood(ink[0], ink[1].requires_grad_(), SIGMAS)
    assert found.shape == (10, 50) and found.dtype == F64 and not found.requires_grad
    for row, sigma in zip(found, SIGMAS, strict=True):
        torch.testing.assert_close(row, naive(*ink, sigma).detach(), rtol=0, atol=1e-8)


def test_the_law_of_scale() -> None:
    """From [0, 1] to [-1, 1] with twice the bandwidth, a density falls by 2^d: 543.4 nats for 28 by 28."""
    x, samples = uniform(5, 784, 0), uniform(8, 784, 1)
    near = log_likelihood(x, samples, SIGMAS)
    far = log_likelihood(2 * x - 1, 2 * samples - 1, [2 * sigma for sigma in SIGMAS])
    torch.testing.assert_close(far - near, torch.full_like(near, -784 * math.log(2)), rtol=0, atol=1e-8)
    assert 784 * math.log(2) == pytest.approx(543.4, abs=0.05)


def test_only_distances_count() -> None:
    """The same after a turn and a shift of everything, however far."""
    x, samples = uniform(5, 6, 0), uniform(8, 6, 1)
    turn = torch.linalg.qr(uniform(6, 6, 2)).Q
    moved = [s @ turn + 1000 for s in (x, samples)]
    torch.testing.assert_close(log_likelihood(*moved, SIGMAS), log_likelihood(x, samples, SIGMAS), rtol=0, atol=1e-8)


def test_far_points_neither_underflow_nor_hide_near_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block of far samples before and after the near one: the running sum must keep what counts."""
    monkeypatch.setattr(vectors, "ROWS", 2)
    x = torch.tensor([[0.0], [1000.0]], dtype=F64)
    samples = torch.tensor([[500.0], [600.0], [0.2], [700.0], [800.0], [900.0]], dtype=F64)
    found = log_likelihood(x, samples, (0.1,))[0]
    constant = math.log(6) + math.log(0.1 * math.sqrt(2 * math.pi))
    assert found[0].item() == pytest.approx(-2 - constant, abs=1e-7)  # exp(-0.2^2 / (2 * 0.1^2))
    assert found[1].item() == pytest.approx(-0.5e6 - constant, rel=1e-12)  # exp(-100^2 / (2 * 0.1^2))


# ---- the bandwidth ----------------------------------------------------------------------------------------------


def test_the_best_bandwidth_for_one_sample_is_the_root_mean_square_distance() -> None:
    """For one sample and points at distance r in d dimensions the maximum is at sigma^2 = r^2 / d."""
    samples = torch.full((1, 4), 0.5, dtype=F64)
    valid = samples + torch.tensor([[0.4, 0, 0, 0], [0, -0.4, 0, 0], [0.2, 0.2, -0.2, 0.2]], dtype=F64)
    choice = choose_sigma(samples, valid, sigmas=(0.15, 0.19, 0.2, 0.21, 0.25))
    assert choice.sigma == 0.2 and not choice.at_edge
    assert choice.valid == max(choice.curve) == choice.curve[2]
    assert choice.valid == pytest.approx(-2 - 4 * math.log(0.2 * math.sqrt(2 * math.pi)), rel=1e-12)


@pytest.mark.parametrize(("sigmas", "at_edge"), [((0.2, 0.3), True), ((0.3, 0.2, 0.1), False), ((0.2,), False)])
def test_a_bandwidth_at_the_edge_is_told(sigmas: tuple[float, ...], at_edge: bool) -> None:
    choice = choose_sigma(torch.zeros(1, 4), torch.full((3, 4), 0.2), sigmas=sigmas)
    assert (choice.sigma, choice.at_edge) == (0.2, at_edge)


def test_the_bandwidth_comes_from_the_validation_images_alone() -> None:
    samples = torch.zeros(1, 4, dtype=F64)
    valid, test = torch.full((3, 4), 0.2, dtype=F64), torch.full((5, 4), 0.5, dtype=F64)
    grid = (0.1, 0.2, 0.5, 0.9)
    fit = parzen(samples, valid, test, sigmas=grid)
    assert fit.chosen.sigma == 0.2
    assert fit.chosen == choose_sigma(samples, valid, sigmas=grid)
    assert fit.mean == pytest.approx(-4 * 0.25 / 0.08 - 4 * math.log(0.2 * math.sqrt(2 * math.pi)), rel=1e-12)
    assert parzen(samples, test, valid, sigmas=grid).chosen.sigma == 0.5


def test_the_error_is_that_over_test_images() -> None:
    """Log-likelihoods c - 2, c - 2, c - 8: mean c - 4, standard deviation sqrt(8) (ddof 0)."""
    samples, sigma = torch.zeros(1, 1, dtype=F64), 0.1
    test = torch.tensor([[0.2], [0.2], [0.4]], dtype=F64)
    fit = parzen(samples, test, test, sigmas=(sigma,))
    assert fit.mean == pytest.approx(-4 - math.log(sigma * math.sqrt(2 * math.pi)), rel=1e-12)
    assert fit.standard_error == pytest.approx(math.sqrt(8 / 3), rel=1e-12)


# ---- real MNIST -------------------------------------------------------------------------------------------------


def digits(split: str, first: int, last: int) -> Tensor:
    (data,) = load_sets(Wanted("mnist", (28, 28), 1, split=split, say=lambda _: None, progress=False))
    return torch.from_numpy(np.array(data.images[first:last])).flatten(1).float() / 255


def test_the_sigma_of_real_digits_and_the_plain_formula_of_them() -> None:
    train, valid, test = digits("train", 0, 1000), digits("train", 50000, 50200), digits("test", 0, 20)
    fit = parzen(train, valid, test)
    assert fit.chosen.sigma == SIGMAS[3] and not fit.chosen.at_edge
    torch.testing.assert_close(
        log_likelihood(test, train, [fit.chosen.sigma])[0], naive(test, train, fit.chosen.sigma), rtol=0, atol=1e-8
    )


@pytest.mark.slow
def test_real_digits_score_what_they_score() -> None:
    """10,000 training digits as samples: the score that a perfect generator is near. About 6 seconds of one core."""
    fit = parzen(digits("train", 0, 10000), digits("train", 50000, 51000), digits("test", 0, 10000))
    assert fit.chosen.sigma == SIGMAS[2] and not fit.chosen.at_edge
    assert fit.chosen.valid == pytest.approx(238.12, abs=0.1)
    assert fit.mean == pytest.approx(241.19, abs=0.1)
    assert fit.standard_error == pytest.approx(2.13, abs=0.01)


# ---- bad input --------------------------------------------------------------------------------------------------


def test_what_cannot_be_scored_is_refused() -> None:
    sets = [uniform(4, 784, i) for i in range(3)]
    parzen(*(s * (1 + 5e-7) for s in sets))  # rounding is forgiven
    for which, name in enumerate(("samples", "validation images", "test images")):
        bad = [2 * s - 1 if i == which else s for i, s in enumerate(sets)]
        with pytest.raises(UserError, match=rf"^{name}: numbers from -0\.9.*\[0, 1\].* 543\.4 nats lower"):
            parzen(*bad)
    x = uniform(3, 4, 0)
    for call, said in (
        (lambda: log_likelihood(uniform(3, 5, 0), x, (0.2,)), "images: vectors of 5 numbers, but those .* have 4"),
        (lambda: choose_sigma(x, x / 0), "validation images: not all numbers are finite"),
        (lambda: log_likelihood(x, x, ()), "sigmas: .*all above 0"),
        (lambda: log_likelihood(x, x, (0.1, 0.0)), "sigmas: .*all above 0"),
    ):
        with pytest.raises(UserError, match=said):
            call()

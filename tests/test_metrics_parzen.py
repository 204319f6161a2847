"""The Parzen window: a Gaussian in closed form, a density that integrates to 1, the laws of scale, real MNIST."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gansmith.data import load_images
from gansmith.errors import UserError
from gansmith.metrics import vectors
from gansmith.metrics.parzen import SIGMAS, choose_sigma, log_likelihood, parzen

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
    """Ink on a fifth of 784 pixels, as in MNIST: exponents of -1e4, and norms that cancel."""
    ink = [(uniform(n, 784, seed) * (uniform(n, 784, seed + 1) < 0.2)).to(dtype) for n, seed in ((50, 0), (60, 2))]
    found = log_likelihood(*ink, SIGMAS)
    assert found.shape == (10, 50) and found.dtype == F64
    for row, sigma in zip(found, SIGMAS, strict=True):
        torch.testing.assert_close(row, naive(*ink, sigma), rtol=0, atol=1e-8)


def test_the_law_of_scale() -> None:
    """From [0, 1] to [-1, 1] with twice the bandwidth, a density falls by 2^d: 543.4 nats for 28 by 28."""
    x, samples = uniform(5, 784, 0), uniform(8, 784, 1)
    near = log_likelihood(x, samples, SIGMAS)
    far = log_likelihood(2 * x - 1, 2 * samples - 1, [2 * sigma for sigma in SIGMAS])
    torch.testing.assert_close(far - near, torch.full_like(near, -784 * math.log(2)), rtol=0, atol=1e-8)
    assert 784 * math.log(2) == pytest.approx(543.4, abs=0.05)


def test_the_law_of_dead_pixels() -> None:
    """A pixel that is always 0 adds -log(sigma sqrt(2 pi)): .872 nats at the usual bandwidth, 209 for a border of 2."""
    x, samples, sigma = uniform(5, 30, 0), uniform(8, 30, 1), SIGMAS[2]
    padded = [torch.cat([s, s.new_zeros(len(s), 240)], 1) for s in (x, samples)]
    gain = log_likelihood(*padded, [sigma]) - log_likelihood(x, samples, [sigma])
    torch.testing.assert_close(gain / 240, torch.full_like(gain, -math.log(sigma * math.sqrt(2 * math.pi))))
    assert gain.mean().item() / 240 == pytest.approx(0.872, abs=5e-4)
    assert gain.mean().item() == pytest.approx(209, abs=0.5)


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


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_blocks_and_order_change_nothing(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    x, samples = uniform(30, 12, 0), uniform(50, 12, 1)
    whole = log_likelihood(x, samples, SIGMAS)
    order_x, order = torch.randperm(30, generator=torch.Generator().manual_seed(2)), torch.arange(50).flip(0)
    monkeypatch.setattr(vectors, "ROWS", rows)
    torch.testing.assert_close(log_likelihood(x, samples, SIGMAS), whole, rtol=0, atol=1e-10)
    shuffled = log_likelihood(x[order_x], samples[order], SIGMAS)
    torch.testing.assert_close(shuffled, whole[:, order_x], rtol=0, atol=1e-10)


def test_no_setting_of_torch_rounds_it() -> None:
    """bfloat16 by autocast and by the precision of products, which TF32 goes by as well: the same bits."""
    x, samples = uniform(20, 100, 0, torch.float32), uniform(30, 100, 1, torch.float32)
    plain = log_likelihood(x, samples, SIGMAS)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(log_likelihood(x, samples, SIGMAS), plain)
    finally:
        torch.set_float32_matmul_precision(before)


class Largest(TorchDispatchMode):
    """The size in bytes of the largest tensor that an operation made; views of its inputs are not."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        held = {a.untyped_storage().data_ptr() for a in args if isinstance(a, Tensor)}
        if isinstance(out, Tensor) and out.untyped_storage().data_ptr() not in held:
            self.size = max(self.size, out.nelement() * out.element_size())
        return out


def test_memory_is_bounded() -> None:
    x, samples = uniform(6000, 3, 0), uniform(7000, 3, 1)  # all pairs: 336 MB
    with Largest() as largest:
        log_likelihood(x, samples, (0.2,))
    assert largest.size <= 8 * 2**20


def test_no_graph_is_kept() -> None:
    samples = uniform(4, 3, 0).requires_grad_()
    assert not log_likelihood(uniform(2, 3, 1), samples, (0.2,)).requires_grad


# ---- the bandwidth ----------------------------------------------------------------------------------------------


def test_the_best_bandwidth_for_one_sample_is_the_root_mean_square_distance() -> None:
    """For one sample and points at distance r in d dimensions the maximum is at sigma^2 = r^2 / d."""
    samples = torch.full((1, 4), 0.5, dtype=F64)
    valid = samples + torch.tensor([[0.4, 0, 0, 0], [0, -0.4, 0, 0], [0.2, 0.2, -0.2, 0.2]], dtype=F64)
    choice = choose_sigma(samples, valid, sigmas=(0.15, 0.19, 0.2, 0.21, 0.25))
    assert choice.sigma == 0.2 and not choice.at_edge
    assert choice.valid == max(choice.curve) == choice.curve[2]
    assert choice.valid == pytest.approx(-2 - 4 * math.log(0.2 * math.sqrt(2 * math.pi)), rel=1e-12)


@pytest.mark.parametrize(
    ("sigmas", "sigma", "at_edge"),
    [((0.2, 0.3), 0.2, True), ((0.1, 0.2), 0.2, True), ((0.3, 0.2, 0.1), 0.2, False), ((0.2,), 0.2, False)],
)
def test_a_bandwidth_at_the_edge_is_told(sigmas: tuple[float, ...], sigma: float, at_edge: bool) -> None:
    samples, valid = torch.zeros(1, 4), torch.full((3, 4), 0.2)
    choice = choose_sigma(samples, valid, sigmas=sigmas)
    assert (choice.sigma, choice.at_edge) == (sigma, at_edge)


def test_the_bandwidth_comes_from_the_validation_images_alone() -> None:
    samples = torch.zeros(1, 4, dtype=F64)
    valid, test = torch.full((3, 4), 0.2, dtype=F64), torch.full((5, 4), 0.5, dtype=F64)
    grid = (0.1, 0.2, 0.5, 0.9)
    fit = parzen(samples, valid, test, sigmas=grid)
    assert fit.sigma == 0.2
    assert (fit.sigma, fit.valid, fit.curve, fit.at_edge) == choose_sigma(samples, valid, sigmas=grid)
    assert fit.mean == pytest.approx(-4 * 0.25 / 0.08 - 4 * math.log(0.2 * math.sqrt(2 * math.pi)), rel=1e-12)
    assert parzen(samples, test, valid, sigmas=grid).sigma == 0.5


def test_the_error_is_that_over_test_images() -> None:
    """Log-likelihoods c - 2, c - 2, c - 8: mean c - 4, standard deviation sqrt(8) (ddof 0)."""
    samples, sigma = torch.zeros(1, 1, dtype=F64), 0.1
    test = torch.tensor([[0.2], [0.2], [0.4]], dtype=F64)
    fit = parzen(samples, test, test, sigmas=(sigma,))
    assert fit.mean == pytest.approx(-4 - math.log(sigma * math.sqrt(2 * math.pi)), rel=1e-12)
    assert fit.standard_error == pytest.approx(math.sqrt(8 / 3), rel=1e-12)


# ---- real MNIST -------------------------------------------------------------------------------------------------


def test_real_digits_score_what_they_score() -> None:
    """10,000 training digits as samples: the score that a perfect generator is near. About 6 seconds of one core."""

    def digits(split: str, first: int, last: int) -> Tensor:
        images = load_images("mnist", img_size=28, channels=1, split=split, say=lambda _: None, progress=False).images
        return torch.from_numpy(np.array(images[first:last])).flatten(1).float() / 255

    train, valid, test = digits("train", 0, 10000), digits("train", 50000, 51000), digits("test", 0, 10000)
    fit = parzen(train, valid, test)
    assert fit.sigma == SIGMAS[2] and not fit.at_edge
    assert fit.valid == pytest.approx(238.12, abs=0.1)
    assert fit.mean == pytest.approx(241.19, abs=0.1)
    assert fit.standard_error == pytest.approx(2.13, abs=0.01)
    plain = naive(test[:20], train, fit.sigma)
    torch.testing.assert_close(log_likelihood(test[:20], train, [fit.sigma])[0], plain, rtol=0, atol=1e-8)


# ---- bad input --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("which", [0, 1, 2])
def test_images_outside_the_unit_interval_are_refused(which: int) -> None:
    sets = [uniform(4, 784, 0), uniform(4, 784, 1), uniform(4, 784, 2)]
    parzen(*(s * (1 + 5e-7) for s in sets))  # rounding is forgiven
    sets[which] = 2 * sets[which] - 1
    name = ("samples", "validation images", "test images")[which]
    with pytest.raises(UserError, match=rf"^{name}: numbers from -0\.9\d+ to 0\.9\d+; .*\[0, 1\].* 543\.4 nats lower"):
        parzen(*sets)
    sets[which] = torch.full((4, 784), 1 + 2e-6, dtype=F64)
    with pytest.raises(UserError, match=rf"^{name}: "):
        parzen(*sets)


def test_sets_that_do_not_fit_are_refused() -> None:
    x = uniform(3, 4, 0)
    with pytest.raises(UserError, match="images: vectors of 5 numbers, but those to compare with have 4"):
        log_likelihood(uniform(3, 5, 0), x, (0.2,))
    with pytest.raises(UserError, match=r"samples: shape \(0, 4\); it must be \(N, d\)"):
        log_likelihood(x, x[:0], (0.2,))
    with pytest.raises(UserError, match=r"test images: shape \(3, 1, 2, 2\); it must be \(N, d\)"):
        parzen(x, x, x.view(3, 1, 2, 2))
    with pytest.raises(UserError, match="validation images: not all numbers are finite"):
        choose_sigma(x, x.clone().index_fill_(0, torch.tensor([1]), math.nan))
    for sigmas in ((), (0.1, 0.0), (-1.0,), (math.nan,)):
        with pytest.raises(UserError, match="sigmas: .*all above 0"):
            log_likelihood(x, x, sigmas)

"""The Frechet distance: Gaussians in closed form, singular covariances, and two other implementations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gansmith.errors import UserError
from gansmith.metrics import vectors
from gansmith.metrics.frechet import Moments, frechet_distance, from_moments, moments

F64 = torch.float64


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


def turn(d: int, seed: int) -> Tensor:
    return torch.linalg.qr(normal(d, d, seed)).Q


def gaussian(mean: Tensor, cov: Tensor, seed: int = 0) -> Tensor:
    """Features whose mean and covariance (ddof 1) are those given, not nearly but to rounding."""
    x = normal(4 * len(mean) + 3, len(mean), seed)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / (len(x) - 1)), x.T, upper=False).T
    return white @ torch.linalg.cholesky(cov).T + mean


def correlated(n: int, d: int, seed: int) -> Tensor:
    """Skewed features with a covariance of many scales, as a network's are."""
    return (normal(n, d, seed) @ (normal(d, d, 99) / math.sqrt(d))).relu() + 0.1 * normal(n, d, seed + 1)


def test_moments_are_the_sample_mean_and_covariance() -> None:
    x = correlated(50, 7, 0)
    found = moments(x)
    assert found.n == 50
    np.testing.assert_allclose(found.mean, x.numpy().mean(0), rtol=1e-13)
    np.testing.assert_allclose(found.cov, np.cov(x.numpy(), rowvar=False), rtol=1e-11, atol=1e-14)


def test_an_offset_leaves_the_covariance() -> None:
    x = normal(50, 7, 0)
    torch.testing.assert_close(moments(x + 1e6).cov, moments(x).cov, rtol=0, atol=1e-8)


def test_diagonal_covariances() -> None:
    """|m1 - m2|^2 + sum (s1 - s2)^2."""
    m1, m2 = torch.tensor([1.0, 2, 3], dtype=F64), torch.tensor([0.0, 2, 5], dtype=F64)
    s1, s2 = torch.tensor([1.0, 2, 0.1], dtype=F64), torch.tensor([3.0, 2, 0.4], dtype=F64)
    found = frechet_distance(gaussian(m1, s1.square().diag()), gaussian(m2, s2.square().diag(), 1))
    assert found == pytest.approx(1 + 4 + 4 + 0.09, rel=1e-11)


def test_covariances_that_commute() -> None:
    axes, zero = turn(6, 5), torch.zeros(6, dtype=F64)
    s1, s2 = torch.linspace(0.1, 2, 6, dtype=F64), torch.linspace(3, 0.5, 6, dtype=F64)
    a, b = (gaussian(zero, axes * s.square() @ axes.T, seed) for seed, s in ((0, s1), (1, s2)))
    assert frechet_distance(a, b) == pytest.approx((s1 - s2).square().sum().item(), rel=1e-11)


def test_covariances_that_do_not_commute() -> None:
    """For 2 by 2 matrices (Tr M^(1/2))^2 = Tr M + 2 det(M)^(1/2), here with M = C1 C2 = [[8, 9], [5, 9]]."""
    c1, c2 = torch.tensor([[2.0, 1], [1, 1]], dtype=F64), torch.tensor([[3.0, 0], [0, 9]], dtype=F64)
    c1[1, 1], c2[0, 1], c2[1, 0] = 2, 1, 1
    product = c1 @ c2
    root = math.sqrt(product.trace().item() + 2 * math.sqrt(torch.linalg.det(product).item()))
    expected = c1.trace().item() + c2.trace().item() - 2 * root
    zero = torch.zeros(2, dtype=F64)
    assert (c1 @ c2 - c2 @ c1).abs().max() > 1
    assert frechet_distance(gaussian(zero, c1), gaussian(zero, c2, 1)) == pytest.approx(expected, rel=1e-11)


def test_a_translation_costs_its_squared_length() -> None:
    x = correlated(60, 8, 0)
    shift = torch.linspace(-1, 2, 8, dtype=F64)
    assert frechet_distance(x, x + shift) == pytest.approx(shift.square().sum().item(), rel=1e-10)


def test_it_grows_with_the_square_of_scale() -> None:
    a, b = correlated(60, 8, 0), correlated(70, 8, 5)
    assert frechet_distance(1000 * a, 1000 * b) == pytest.approx(1e6 * frechet_distance(a, b), rel=1e-10)


def test_no_distance_from_itself() -> None:
    x = correlated(300, 100, 0)
    assert 0 <= frechet_distance(x, x.flip(0)) <= 1e-8 * moments(x).cov.trace().item()
    for seed in range(30):  # where rounding goes either way, never below 0
        x = correlated(12, 5, seed)
        assert 0 <= frechet_distance(x, x.flip(0)) < 1e-12


def test_symmetric_and_the_same_from_every_side() -> None:
    a, b = correlated(60, 8, 0), correlated(70, 8, 5) + 0.3
    found = frechet_distance(a, b)
    assert found > 0.1
    assert frechet_distance(b, a) == pytest.approx(found, rel=1e-11)
    axes = turn(8, 3)
    assert frechet_distance(a @ axes, b @ axes) == pytest.approx(found, rel=1e-11)


def test_singular_covariances_in_closed_form() -> None:
    """Dead features and shared ones: deviations s1 and s2 along the same axes, most of them 0."""
    d = 40
    s1, s2 = torch.zeros(d, dtype=F64), torch.zeros(d, dtype=F64)
    s1[:10], s2[5:20] = torch.linspace(1, 3, 10, dtype=F64), torch.linspace(0.5, 2, 15, dtype=F64)
    expected = (s1 - s2).square().sum().item()
    zero = torch.zeros(d, dtype=F64)
    for axes in (torch.eye(d, dtype=F64), turn(d, 1)):
        a, b = (Moments(zero, axes * s.square() @ axes.T, 1000) for s in (s1, s2))
        assert from_moments(a, b) == pytest.approx(expected, rel=1e-9)
        assert from_moments(a, a) <= 1e-8 * a.cov.trace().item()
    full = Moments(zero, torch.eye(d, dtype=F64), 1000)  # sum (1 - s)^2, rounded noise in the null space or not
    assert from_moments(full, b) == pytest.approx((1 - s2).square().sum().item(), rel=1e-9)


def test_constant_features() -> None:
    """All images alike: two points are at their squared distance; from a Gaussian its trace comes on top."""
    a, b = torch.full((9, 4), 1.0), torch.full((9, 4), 3.0)
    assert frechet_distance(a, b) == pytest.approx(16, rel=1e-12)
    wide = normal(30, 4, 0)
    expected = (wide.mean(0) - 1).square().sum().item() + wide.var(0).sum().item()
    assert frechet_distance(a, wide) == pytest.approx(expected, rel=1e-12)


def test_against_the_square_root_of_scipy() -> None:
    from scipy.linalg import sqrtm

    a, b = correlated(120, 30, 0), correlated(90, 30, 5) * 1.3
    c1, c2 = (np.cov(x.numpy(), rowvar=False) for x in (a, b))
    difference = a.mean(0) - b.mean(0)
    expected = difference.square().sum().item() + np.trace(c1 + c2 - 2 * sqrtm(c1 @ c2).real)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_against_torch_fidelity() -> None:
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    a, b = correlated(400, 64, 0), correlated(300, 64, 5) * 1.2
    theirs = fid_statistics_to_metric(fid_features_to_statistics(a), fid_features_to_statistics(b), False)
    assert frechet_distance(a, b) == pytest.approx(theirs[KEY_METRIC_FID], rel=1e-9)


@pytest.mark.parametrize("rows", [1, 7, 64])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    a, b = correlated(60, 8, 0).float(), correlated(70, 8, 5).float()
    whole = frechet_distance(a, b)
    monkeypatch.setattr(vectors, "ROWS", rows)
    assert frechet_distance(a, b) == pytest.approx(whole, rel=1e-11)


def test_no_setting_of_torch_rounds_it() -> None:
    a, b = correlated(60, 8, 0).float(), correlated(70, 8, 5).float()
    plain = frechet_distance(a, b)
    assert plain == pytest.approx(frechet_distance(a.double(), b.double()), rel=1e-13)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert frechet_distance(a, b) == plain
    finally:
        torch.set_float32_matmul_precision(before)


def test_too_few_images_are_refused_with_the_number() -> None:
    x = normal(20, 8, 0)
    frechet_distance(x[:9], x)
    with pytest.raises(UserError, match="features of 8 images: the covariance of 8 features needs at least 9"):
        frechet_distance(x, x[:8])


def test_sets_that_do_not_fit_are_refused() -> None:
    x = normal(20, 8, 0)
    with pytest.raises(UserError, match="moments of 8 and of 7 features"):
        frechet_distance(x, x[:, :7])
    with pytest.raises(UserError, match=r"features: shape \(20,\); it must be \(N, d\)"):
        frechet_distance(x, x[:, 0])
    with pytest.raises(UserError, match="features: not all numbers are finite"):
        frechet_distance(x / 0, x)

"""The Frechet distance: Gaussians in closed form, singular covariances, and another implementation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gansmith.errors import UserError
from gansmith.metrics.frechet import frechet_distance, from_moments, moments

F64 = torch.float64


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


def gaussian(mean: Tensor, cov: Tensor, seed: int = 0) -> Tensor:
    """Features whose mean and covariance (ddof 1) are those given, not nearly but to rounding."""
    x = normal(4 * len(mean) + 3, len(mean), seed)
    x = x - x.mean(0)
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(x.T @ x / (len(x) - 1)), x.T, upper=False).T
    return white @ torch.linalg.cholesky(cov).T + mean


def correlated(n: int, d: int, seed: int) -> Tensor:
    """Skewed features with a covariance of many scales, as a network's are."""
    return (normal(n, d, seed) @ (normal(d, d, 99) / math.sqrt(d))).relu() + 0.1 * normal(n, d, seed + 1)


TURN = torch.linalg.qr(normal(8, 8, 3)).Q


def test_moments_are_the_sample_mean_and_covariance() -> None:
    x = correlated(50, 7, 0)
    mean, cov = moments(x)
    np.testing.assert_allclose(mean, x.numpy().mean(0), rtol=1e-13)
    np.testing.assert_allclose(cov, np.cov(x.numpy(), rowvar=False), rtol=1e-11, atol=1e-14)
    torch.testing.assert_close(moments(x + 1e6)[1], cov, rtol=0, atol=1e-8)


def test_covariances_that_commute() -> None:
    """|m1 - m2|^2 + sum (s1 - s2)^2, whatever the axes are."""
    m1, m2 = torch.arange(8.0, dtype=F64), torch.arange(8.0, dtype=F64).flip(0)
    s1, s2 = torch.linspace(0.1, 2, 8, dtype=F64), torch.linspace(3, 0.5, 8, dtype=F64)
    a, b = (gaussian(m, TURN * s.square() @ TURN.T, seed) for seed, (m, s) in enumerate(((m1, s1), (m2, s2))))
    expected = (m1 - m2).square().sum() + (s1 - s2).square().sum()
    assert frechet_distance(a, b) == pytest.approx(expected.item(), rel=1e-11)


def test_covariances_that_do_not_commute() -> None:
    """For 2 by 2 matrices (Tr M^(1/2))^2 = Tr M + 2 det(M)^(1/2), here with M = C1 C2."""
    c1, c2 = torch.tensor([[2.0, 1], [1, 2]], dtype=F64), torch.tensor([[3.0, 1], [1, 9]], dtype=F64)
    assert (c1 @ c2 - c2 @ c1).abs().max() > 1
    root = math.sqrt((c1 @ c2).trace().item() + 2 * math.sqrt(torch.linalg.det(c1 @ c2).item()))
    expected, zero = c1.trace().item() + c2.trace().item() - 2 * root, torch.zeros(2, dtype=F64)
    assert frechet_distance(gaussian(zero, c1), gaussian(zero, c2, 1)) == pytest.approx(expected, rel=1e-11)


def test_symmetric_the_same_from_every_side_and_growing_with_the_square_of_scale() -> None:
    a, b, shift = correlated(60, 8, 0), correlated(70, 8, 5) + 0.3, torch.linspace(-1, 2, 8, dtype=F64)
    found = frechet_distance(a, b)
    assert found > 0.1
    assert frechet_distance(b, a) == pytest.approx(found, rel=1e-11)
    assert frechet_distance(a @ TURN, b @ TURN) == pytest.approx(found, rel=1e-11)
    assert frechet_distance(1000 * a, 1000 * b) == pytest.approx(1e6 * found, rel=1e-10)
    assert frechet_distance(a, a + shift) == pytest.approx(shift.square().sum().item(), rel=1e-10)


def test_no_distance_from_itself() -> None:
    x = correlated(300, 100, 0)
    assert 0 <= frechet_distance(x, x.flip(0)) <= 1e-8 * moments(x)[1].trace().item()
    for seed in range(30):  # where rounding goes either way, never below 0
        x = correlated(12, 5, seed)
        assert 0 <= frechet_distance(x, x.flip(0)) < 1e-12


def test_singular_covariances_in_closed_form() -> None:
    """Dead features and shared ones: deviations s1 and s2 along the same axes, most of them 0."""
    d = 40
    s1, s2, zero = torch.zeros(3, d, dtype=F64)
    s1[:10], s2[5:20] = torch.linspace(1, 3, 10, dtype=F64), torch.linspace(0.5, 2, 15, dtype=F64)
    for axes in (torch.eye(d, dtype=F64), torch.linalg.qr(normal(d, d, 1)).Q):
        a, b = ((zero, axes * s.square() @ axes.T) for s in (s1, s2))
        assert from_moments(*a, *b) == pytest.approx((s1 - s2).square().sum().item(), rel=1e-9)
        assert from_moments(*a, *a) <= 1e-8 * a[1].trace().item()
    full = (zero, torch.eye(d, dtype=F64))  # sum (1 - s)^2, rounded noise in the null space or not
    assert from_moments(*full, *b) == pytest.approx((1 - s2).square().sum().item(), rel=1e-9)


def test_against_torch_fidelity() -> None:
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_features_to_statistics, fid_statistics_to_metric

    a, b = correlated(400, 64, 0), correlated(300, 64, 5) * 1.2
    theirs = fid_statistics_to_metric(fid_features_to_statistics(a), fid_features_to_statistics(b), False)
    assert frechet_distance(a, b) == pytest.approx(theirs[KEY_METRIC_FID], rel=1e-9)


def test_what_has_no_distance_is_refused() -> None:
    x = normal(20, 8, 0)
    frechet_distance(x[:9], x)
    for a, b, said in (
        (x, x[:8], "features of 8 images: the covariance of 8 features needs at least 9"),
        (x, x[:, 0], r"features: shape \(20,\); it must be \(N, d\)"),
        (x / 0, x, "features: not all numbers are finite"),
    ):
        with pytest.raises(UserError, match=said):
            frechet_distance(a, b)

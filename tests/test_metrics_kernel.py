"""The kernel distance: a double loop, unbiasedness to the last digit, and the draws of subsets."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from gansmith.errors import UserError
from gansmith.metrics.kernel import kernel_distance, mmd

F64 = torch.float64


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


def k(x: Tensor, y: Tensor) -> float:
    return ((x @ y).item() / len(x) + 1) ** 3


def naive(a: Tensor, b: Tensor) -> float:
    n, m = len(a), len(b)
    within_a = sum(k(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_b = sum(k(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_a + within_b - 2 * sum(k(x, y) for x in a for y in b) / (n * m)


def whole(a: Tensor, b: Tensor) -> float:
    """One subset that holds all of both sets."""
    return kernel_distance(a, b, subsets=1, size=len(a)).mean


def test_against_a_double_loop() -> None:
    a, b = normal(13, 5, 0), normal(13, 5, 1) + 0.2
    assert whole(a, b) == pytest.approx(naive(a, b), rel=1e-11)
    assert whole(a, a) == pytest.approx(naive(a, a), rel=1e-11)  # one object twice, and the cross pairs count
    assert whole(a.float(), b.float()) == pytest.approx(naive(a.float().double(), b.float().double()), rel=1e-11)


def test_unbiased_in_a_set() -> None:
    """Over all subsets the mean is the value of the whole set: the pairs of a row with itself are left out."""
    a, b = normal(6, 3, 0), normal(6, 3, 1) + 1
    some = [list(rows) for rows in itertools.combinations(range(6), 3)]
    values = [whole(a[rows], b[others]) for rows in some for others in some]
    assert math.fsum(values) / len(values) == pytest.approx(whole(a, b), rel=1e-11)


def test_symmetric_and_the_same_from_every_side() -> None:
    a, b = normal(13, 5, 0), normal(13, 5, 1) + 0.2
    axes = torch.linalg.qr(normal(5, 5, 2)).Q
    assert whole(b, a) == pytest.approx(whole(a, b), rel=1e-11)
    assert whole(a @ axes, b @ axes) == pytest.approx(whole(a, b), rel=1e-10)
    assert whole(a.repeat(1, 3), b.repeat(1, 3)) == pytest.approx(whole(a, b), rel=1e-11)  # <x, y> / d


# ---- subsets ----------------------------------------------------------------------------------------------------


def test_a_subset_is_drawn_without_replacement_and_by_the_seed_alone() -> None:
    """As large as the sets, it is the sets."""
    a, b = normal(40, 4, 0), normal(40, 4, 1) + 0.3
    found = kernel_distance(a, b, subsets=3, size=40)
    assert found == (pytest.approx(naive(a, b), rel=1e-11), pytest.approx(0, abs=1e-11))
    state = torch.get_rng_state()
    one = kernel_distance(a, b, subsets=3, size=10)
    assert torch.equal(torch.get_rng_state(), state)
    assert kernel_distance(a, b, subsets=3, size=10, seed=0) == one != kernel_distance(a, b, subsets=3, size=10, seed=1)


def test_mean_and_deviation_over_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    values = iter(torch.tensor([1.0, 2.0, 3.0, 6.0]))
    monkeypatch.setattr("torchmetrics.image.kid.poly_mmd", lambda a, b: next(values))
    x = normal(5, 2, 0)
    assert kernel_distance(x, x, subsets=4, size=2) == (3.0, pytest.approx(math.sqrt(3.5)))


def test_against_torch_fidelity() -> None:
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    a, b = normal(60, 16, 0).relu(), normal(60, 16, 1).relu() * 1.2
    theirs = kid_features_to_metric(a, b, kid_subsets=1, kid_subset_size=60, verbose=False)
    assert kernel_distance(a, b, subsets=1, size=60).mean == pytest.approx(theirs[KEY_METRIC_KID_MEAN], rel=1e-10)


def test_sets_smaller_than_a_subset_are_refused() -> None:
    x = normal(1200, 2, 0)
    with pytest.raises(UserError, match="features of 999 images: subsets of 1000 need at least 1000"):
        kernel_distance(x, x[:999])


def test_of_all_rows_at_once_the_value_and_the_jackknife_are_those_of_a_double_loop() -> None:
    a, b = normal(7, 5, 0), normal(5, 5, 1) + 0.2
    found = mmd(a, b)
    left_a = torch.tensor([naive(torch.cat((a[:i], a[i + 1 :])), b) for i in range(7)])
    left_b = torch.tensor([naive(a, torch.cat((b[:i], b[i + 1 :]))) for i in range(5)])
    error = 1.96 * math.sqrt(6 * left_a.var(correction=0) + 4 * left_b.var(correction=0))
    assert found.value == pytest.approx(naive(a, b), rel=1e-11)
    assert (found.low, found.high) == pytest.approx((found.value - error, found.value + error), rel=1e-6)


def test_the_interval_of_sixty_pictures_holds_what_large_sets_show() -> None:
    many = whole(normal(4000, 8, 1) * 1.3, normal(4000, 8, 2))
    found = [mmd(normal(200, 8, 3 * i + 5) * 1.3, normal(60, 8, 3 * i + 6)) for i in range(60)]
    assert sum(low <= many <= high for _, low, high in found) >= 51  # 57 of 60 expected, P(< 51) = 0.003 if it is 95 %
    with pytest.raises(UserError, match="features of 2 images: an interval needs at least 3"):
        mmd(many * normal(9, 8, 0), normal(2, 8, 1))

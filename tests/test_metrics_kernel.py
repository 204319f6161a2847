"""The kernel distance: a double loop, point masses and Gaussians in closed form, unbiasedness to the last digit."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from gansmith.errors import UserError
from gansmith.metrics import kernel, vectors
from gansmith.metrics.kernel import kernel_distance, mmd2

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


def test_against_a_double_loop() -> None:
    a, b = normal(13, 5, 0), normal(17, 5, 1) + 0.2
    assert mmd2(a, b) == pytest.approx(naive(a, b), rel=1e-12)


def test_point_masses() -> None:
    x, y = normal(1, 6, 0), normal(1, 6, 1)
    expected = k(x[0], x[0]) + k(y[0], y[0]) - 2 * k(x[0], y[0])
    assert mmd2(x.repeat(3, 1), y.repeat(4, 1)) == pytest.approx(expected, rel=1e-12)
    assert mmd2(x.repeat(3, 1), x.repeat(4, 1)) == pytest.approx(0, abs=1e-13)


def test_unbiased_in_a_set() -> None:
    """Over all subsets the mean is the value of the whole set: the pairs of a row with itself are left out."""
    a, b = normal(6, 3, 0), normal(5, 3, 1) + 1
    values = [mmd2(a[list(rows)], b) for rows in itertools.combinations(range(6), 3)]
    assert math.fsum(values) / len(values) == pytest.approx(mmd2(a, b), rel=1e-12)
    values = [mmd2(a, b[list(rows)]) for rows in itertools.combinations(range(5), 2)]
    assert math.fsum(values) / len(values) == pytest.approx(mmd2(a, b), rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_unbiased_for_gaussians(shift: float) -> None:
    """In 1-D the kernel is sum_j C(3, j) x^j y^j, so MMD^2 = sum_j C(3, j) (E a^j - E b^j)^2: 0 for equal ones."""
    raw = [(1, 0, 1, 0), (1, shift, 1 + shift**2, 3 * shift + shift**3)]
    expected = sum(math.comb(3, j) * (raw[0][j] - raw[1][j]) ** 2 for j in range(4))
    n = 4000
    a, b = normal(n * 5, 1, 0).view(n, 5, 1), normal(n * 4, 1, 1).view(n, 4, 1) + shift
    values = torch.tensor([mmd2(x, y) for x, y in zip(a, b, strict=True)])
    error = (values.std() / math.sqrt(n)).item()
    assert abs(values.mean().item() - expected) < 4 * error
    assert error < 0.5  # with the diagonals the mean would be off by 6.4 and more


def test_symmetric_and_the_same_from_every_side() -> None:
    a, b = normal(13, 5, 0), normal(17, 5, 1) + 0.2
    axes = torch.linalg.qr(normal(5, 5, 2)).Q
    assert mmd2(b, a) == pytest.approx(mmd2(a, b), rel=1e-12)
    assert mmd2(a.flip(0), b.roll(3, 0)) == pytest.approx(mmd2(a, b), rel=1e-12)
    assert mmd2(a @ axes, b @ axes) == pytest.approx(mmd2(a, b), rel=1e-10)
    assert mmd2(a.repeat(1, 3), b.repeat(1, 3)) == pytest.approx(mmd2(a, b), rel=1e-12)  # <x, y> / d


@pytest.mark.parametrize("rows", [1, 4, 16])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    a, b = normal(13, 5, 0), normal(17, 5, 1) + 0.2
    monkeypatch.setattr(vectors, "ROWS", rows)
    assert mmd2(a, b) == pytest.approx(naive(a, b), rel=1e-12)
    assert mmd2(a, a) == pytest.approx(naive(a, a), rel=1e-11)  # one object twice, and the cross pairs count


def test_no_setting_of_torch_rounds_it() -> None:
    a, b = normal(13, 50, 0).float(), normal(17, 50, 1).float()
    plain = mmd2(a, b)
    assert plain == pytest.approx(naive(a.double(), b.double()), rel=1e-11)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert mmd2(a, b) == plain
    finally:
        torch.set_float32_matmul_precision(before)


# ---- subsets ----------------------------------------------------------------------------------------------------


def test_a_subset_is_drawn_without_replacement() -> None:
    """As large as the sets, it is the sets."""
    a, b = normal(12, 4, 0), normal(12, 4, 1) + 0.3
    found = kernel_distance(a, b, subsets=5, size=12)
    assert found.mean == pytest.approx(mmd2(a, b), rel=1e-12)
    assert found.std == pytest.approx(0, abs=1e-12)


def test_subsets_agree_with_the_whole_on_average() -> None:
    a, b = normal(60, 4, 0), normal(80, 4, 1) + 0.3
    found = kernel_distance(a, b, subsets=2000, size=10)
    assert found.std > 0.05
    assert abs(found.mean - mmd2(a, b)) < 4 * found.std / math.sqrt(2000)


def test_mean_and_deviation_over_subsets(monkeypatch: pytest.MonkeyPatch) -> None:
    values: Iterator[float] = iter([1.0, 2.0, 3.0, 6.0])
    monkeypatch.setattr(kernel, "mmd2", lambda a, b: next(values))
    x = normal(5, 2, 0)
    assert kernel_distance(x, x, subsets=4, size=2) == (3.0, pytest.approx(math.sqrt(3.5)))


def test_the_seed_alone_decides() -> None:
    a, b = normal(40, 4, 0), normal(50, 4, 1)
    state = torch.get_rng_state()
    one = kernel_distance(a, b, subsets=3, size=10)
    assert torch.equal(torch.get_rng_state(), state)
    assert kernel_distance(a, b, subsets=3, size=10, seed=0) == one
    assert kernel_distance(a, b, subsets=3, size=10, seed=1) != one


def test_against_torch_fidelity() -> None:
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    a, b = normal(60, 16, 0).relu(), normal(60, 16, 1).relu() * 1.2
    theirs = kid_features_to_metric(a, b, kid_subsets=1, kid_subset_size=60, verbose=False)
    assert kernel_distance(a, b, subsets=1, size=60).mean == pytest.approx(theirs[KEY_METRIC_KID_MEAN], rel=1e-10)
    theirs = kid_features_to_metric(a, b, kid_subsets=1500, kid_subset_size=20, verbose=False)
    ours = kernel_distance(a, b, subsets=1500, size=20)  # other draws
    error = ours.std / math.sqrt(1500)
    assert abs(ours.mean - theirs[KEY_METRIC_KID_MEAN]) < 4 * math.sqrt(2) * error
    assert ours.std == pytest.approx(theirs[KEY_METRIC_KID_STD], rel=0.15)


# ---- bad input --------------------------------------------------------------------------------------------------


def test_too_few_images_are_refused_with_the_number() -> None:
    x = normal(1200, 2, 0)
    with pytest.raises(UserError, match="features of 999 images: subsets of 1000 need at least 1000"):
        kernel_distance(x, x[:999])
    with pytest.raises(UserError, match="features of 7 images: subsets of 8 need at least 8"):
        kernel_distance(x[:7], x, size=8)
    with pytest.raises(UserError, match="features of 1 and 5 images: the unbiased estimate needs at least 2"):
        mmd2(x[:1], x[:5])
    for subsets, size in ((0, 10), (3, 1)):
        with pytest.raises(UserError, match=f"subsets={subsets} of size={size}: at least"):
            kernel_distance(x, x, subsets=subsets, size=size)


def test_sets_that_do_not_fit_are_refused() -> None:
    x = normal(20, 8, 0)
    with pytest.raises(UserError, match="features: vectors of 7 numbers, but those to compare with have 8"):
        mmd2(x, x[:, :7])
    with pytest.raises(UserError, match=r"features: shape \(20, 0\); it must be \(N, d\)"):
        mmd2(x, x[:, :0])
    with pytest.raises(UserError, match="features: not all numbers are finite"):
        kernel_distance(x, x / 0, size=10)

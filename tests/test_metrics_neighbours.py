"""Neighbours: plain loops in float64, distances that are exactly 0, ties at the edge of a ball, expected values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gansmith.errors import UserError
from gansmith.metrics.neighbours import density_coverage, nearest, nearest_of_parts, precision_recall, share, threshold

F64 = torch.float64


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=F64)


def lattice(n: int, d: int, seed: int) -> Tensor:
    """Points with whole coordinates from 0 to 3: hardly a distance that does not occur twice, and equal points."""
    return torch.randint(4, (n, d), generator=torch.Generator().manual_seed(seed)).double()


def all_distances(x: Tensor, y: Tensor) -> np.ndarray:
    """All pairs, each from its differences."""
    return np.stack([np.sqrt(((x_i - y.double().numpy()) ** 2).sum(1)) for x_i in x.double().numpy()])


def naive_radii(x: Tensor, k: int) -> np.ndarray:
    return np.array([sorted(np.delete(row, i))[k - 1] for i, row in enumerate(all_distances(x, x))])


def naive(real: Tensor, fake: Tensor, k: int) -> tuple[float, ...]:
    """Precision, recall, density, coverage."""
    distances, radii = all_distances(real, fake), naive_radii(real, k)[:, None]
    precision, recall = (distances <= radii).any(0).mean(), (distances <= naive_radii(fake, k)).any(1).mean()
    inside = distances < radii
    return float(precision), float(recall), float(inside.sum() / (k * len(fake))), float(inside.any(1).mean())


def balls(real: Tensor, fake: Tensor, k: int) -> tuple[float, ...]:
    return (*precision_recall(real, fake, k=k).values(), *density_coverage(real, fake, k=k).values())


def test_against_the_authors_code() -> None:
    """By the prdc package 0.2 (Naeem et al. 2020) of points that need no generator."""

    def points(n: int, low: float, width: float) -> Tensor:
        roots = torch.tensor([2, 3, 5, 7, 11, 13, 17, 19], dtype=F64).sqrt()
        return low + width * ((torch.arange(1, n + 1, dtype=F64)[:, None] * roots) % 1)

    real, fake = points(300, 0.0, 1.0), points(230, 0.1, 0.8) ** 1.2
    theirs = {
        1: (1.0, 0.8533333333333334, 2.417391304347826, 0.8933333333333333),
        3: (1.0, 0.93, 1.6855072463768117, 0.9866666666666667),
        5: (1.0, 0.9633333333333334, 1.5191304347826087, 0.9966666666666667),
    }
    for k, expected in theirs.items():
        assert balls(real, fake, k) == pytest.approx(expected, rel=1e-12), k


# ---- nearest ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 40])
def test_nearest_against_sorting(k: int) -> None:
    x, to = normal(30, 5, 0), normal(40, 5, 1)
    distances, indices = nearest(x, to, k=k)
    plain = all_distances(x, to)
    np.testing.assert_array_equal(indices, plain.argsort(1)[:, :k])
    np.testing.assert_allclose(distances, np.sort(plain, 1)[:, :k], rtol=1e-14)


def test_a_set_against_itself_is_at_exactly_zero() -> None:
    """Also far from the origin, where a difference of squares would lose everything.

    And with eight rows within 1e-9 of each other, far from the centre, where products are wrong by more than 1e-18.
    """
    sets = [(normal(300, 50, 0) / 16 + 1000).to(dtype).unique(dim=0) for dtype in (torch.float16, torch.float32, F64)]
    for x in (*sets, torch.cat([1e-9 * normal(8, 50, 0) + 1, normal(50, 50, 1)])):
        distances, indices = nearest(x, x)
        assert torch.equal(distances, torch.zeros(len(x), 1, dtype=F64))
        assert torch.equal(indices[:, 0], torch.arange(len(x)))


def test_distances_of_near_rows_keep_their_digits() -> None:
    x = normal(20, 50, 0)
    to = x.clone()
    to[:, 7] += 1e-9
    distances, _ = nearest(x, to)
    np.testing.assert_allclose(distances[:, 0], (to[:, 7] - x[:, 7]).abs(), rtol=1e-12)


def test_skip_self_leaves_out_the_row_and_not_its_equals() -> None:
    x = torch.tensor([[0.0], [3.0], [0.0], [10.0]])
    distances, indices = nearest(x, x, k=2, skip_self=True)
    assert distances.tolist() == [[0, 3], [3, 3], [0, 3], [7, 10]]
    assert indices[[0, 2, 3], 0].tolist() == [2, 0, 1]
    distances, indices = nearest(x, x, k=3, skip_self=True)  # every other row: the own one never slips in
    assert [sorted(row) for row in indices.tolist()] == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    assert distances.isfinite().all()


# ---- precision and recall, density and coverage -----------------------------------------------------------------


@pytest.mark.parametrize("d", [1, 3, 64])
def test_balls_against_plain_loops(d: int) -> None:
    """Then whole coordinates, and units that no float holds: most pairs lie on an edge, radii of 0 among them."""
    for k in (1, 5):
        real, fake = normal(80, d, 0), 0.7 * normal(60, d, 1) + 0.3
        assert balls(real, fake, k) == pytest.approx(naive(real, fake, k), abs=1e-15)
    for unit, seed, k in itertools.product((1.0, 0.1), range(2 * (d <= 3)), (1, 3)):  # where sums are alike
        real, fake = unit * lattice(30, d, seed), unit * lattice(25, d, seed + 100)
        assert balls(real, fake, k) == pytest.approx(naive(real, fake, k), abs=1e-15)


def test_a_point_on_the_edge_is_inside_for_precision_and_outside_for_density() -> None:
    real, edge = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[-1.0], [-1.0], [-1.0]])
    assert precision_recall(real, edge, k=1)["precision"] == 1
    assert density_coverage(real, edge, k=1) == {"density": 0, "coverage": 0}
    assert precision_recall(real, edge - 1e-6, k=1)["precision"] == 0
    assert density_coverage(real, edge + 1e-6, k=1) == {"density": 1, "coverage": pytest.approx(1 / 3)}


def test_a_set_against_itself() -> None:
    """Each ball holds strictly inside its centre and k - 1 more: the k-th is the edge itself."""
    for shift in (0, 1000):
        x = normal(100, 20, 0) + shift
        assert [*precision_recall(x, x).values(), *density_coverage(x, x).values()] == pytest.approx([1] * 4, abs=1e-15)


def test_expected_density_and_coverage_of_equal_distributions() -> None:
    """E density = 1; E coverage = 1 - prod_{i=1..k} (N - i) / (M + N - i): a ball misses all M fakes."""
    n, m, k, repeats = 20, 30, 5, 300
    values = torch.tensor(
        [[*density_coverage(normal(n, 3, 2 * i), normal(m, 3, 2 * i + 1), k=k).values()] for i in range(repeats)],
        dtype=F64,
    )
    expected = torch.tensor([1, 1 - math.prod((n - i) / (m + n - i) for i in range(1, k + 1))], dtype=F64)
    error = values.std(0) / math.sqrt(repeats)
    assert ((values.mean(0) - expected).abs() < 4 * error).all()
    assert (error < torch.tensor([0.05, 0.01])).all()


# ---- memorisation -----------------------------------------------------------------------------------------------


def test_the_nearest_of_parts_are_the_nearest_of_the_whole() -> None:
    x, to = normal(40, 3, 0), normal(300, 3, 1)
    to[250] = to[20]  # of equally near ones the first
    x[0] = to[20]
    whole = nearest(x, to)
    for rows in (1, 7, 150, 300, 1000):
        distances, indices = nearest_of_parts(x, torch.split(to, rows))
        assert torch.equal(distances, whole[0][:, 0]) and torch.equal(indices, whole[1][:, 0])


def memorised(samples: Tensor, train: Tensor, heldout: Tensor, *, quantile: float = 0.01) -> float:
    """The share of samples nearer to a training image than the threshold."""
    limit = threshold([train], heldout, quantile=quantile)
    return share(nearest_of_parts(samples, [train])[0] < limit.distance)


def test_the_threshold_is_an_order_statistic() -> None:
    """Held-out images at 1, 2, ..., 199 from the only training image: 1 % of 200 is the second."""
    train, heldout = torch.zeros(1, 2), torch.zeros(199, 2)
    heldout[:, 1] = torch.arange(199, 0, -1)
    samples = torch.tensor([[1.9, 0], [0, -2.0], [2.1, 0], [0.5, 0]])
    assert threshold([train], heldout) == (2, 0.01)
    assert memorised(samples, train, heldout) == 0.5  # 1.9 and 0.5; 2 is not nearer than 2


def test_a_fair_generator_has_the_expected_share() -> None:
    """Samples from the distribution of the held-out images: r / (H + 1) on average, to the standard error."""
    repeats, quantile = 400, 0.1
    shares = torch.tensor(
        [
            memorised(normal(30, 2, 3 * i), normal(20, 2, 3 * i + 1), normal(49, 2, 3 * i + 2), quantile=quantile)
            for i in range(repeats)
        ],
        dtype=F64,
    )
    assert threshold([normal(20, 2, 1)], normal(49, 2, 2), quantile=quantile).expected == 5 / 50
    error = shares.std().item() / math.sqrt(repeats)
    assert abs(shares.mean().item() - 0.1) < 4 * error and error < 0.01


def test_copies_are_counted() -> None:
    train, heldout, fresh = normal(200, 8, 0), normal(150, 8, 1), normal(60, 8, 2)
    fair = memorised(fresh, train, heldout)
    copied = memorised(torch.cat([fresh, train[40:80] + 1e-3]), train, heldout)
    assert copied == pytest.approx((40 + 60 * fair) / 100)
    assert memorised(train, train, heldout) == 1


# ---- bad input --------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_with_the_number() -> None:
    x, wide = normal(120, 2, 0), normal(20, 8, 0)
    assert density_coverage(x, x[:1])["density"] > 0  # one fake is enough
    for call, said in (
        (lambda: precision_recall(x, x[:3]), "k=3 need at least 4 vectors; there are 3"),
        (lambda: nearest(x, wide), "vectors to search: vectors of 8 numbers, but those to compare with have 2"),
        (lambda: nearest(x[:0], x), r"vectors: shape \(0, 2\); it must be \(N, d\)"),
        (lambda: threshold([x], x[:19]), "19 held-out images: at least 20 are needed"),
        (lambda: threshold([x / 0], x), "vectors to search: not all numbers are finite"),
    ):
        with pytest.raises(UserError, match=said):
            call()

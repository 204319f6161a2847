"""Neighbours: plain loops in float64, distances that are exactly 0, ties at the edge of a ball, expected values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gansmith.errors import UserError
from gansmith.metrics import neighbours, vectors
from gansmith.metrics.neighbours import Memorisation, density_coverage, nearest, precision_recall, threshold

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


def naive_precision_recall(real: Tensor, fake: Tensor, k: int) -> tuple[float, float]:
    distances = all_distances(real, fake)
    precision = (distances <= naive_radii(real, k)[:, None]).any(0).mean()
    recall = (distances <= naive_radii(fake, k)).any(1).mean()
    return float(precision), float(recall)


def naive_density_coverage(real: Tensor, fake: Tensor, k: int) -> tuple[float, float]:
    inside = all_distances(real, fake) < naive_radii(real, k)[:, None]
    return float(inside.sum() / (k * len(fake))), float(inside.any(1).mean())


def test_against_the_authors_code() -> None:
    """By the prdc package 0.2 (Naeem et al. 2020) of points that need no generator."""

    def points(n: int, low: float, width: float) -> Tensor:
        roots = torch.tensor([2, 3, 5, 7, 11, 13, 17, 19], dtype=F64).sqrt()
        return low + width * ((torch.arange(1, n + 1, dtype=F64)[:, None] * roots) % 1)

    real, fake = points(300, 0.0, 1.0), points(230, 0.1, 0.8) ** 1.2
    theirs = {
        1: (2.417391304347826, 0.8933333333333333, 1.0, 0.8533333333333334),
        3: (1.6855072463768117, 0.9866666666666667, 1.0, 0.93),
        5: (1.5191304347826087, 0.9966666666666667, 1.0, 0.9633333333333334),
    }
    for k, expected in theirs.items():
        ours = (*density_coverage(real, fake, k=k), *precision_recall(real, fake, k=k))
        assert ours == pytest.approx(expected, rel=1e-12), k


# ---- nearest ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 40])
def test_nearest_against_sorting(k: int) -> None:
    x, to = normal(30, 5, 0), normal(40, 5, 1)
    distances, indices = nearest(x, to, k=k)
    plain = all_distances(x, to)
    np.testing.assert_array_equal(indices, plain.argsort(1)[:, :k])
    np.testing.assert_allclose(distances, np.sort(plain, 1)[:, :k], rtol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_a_set_against_itself_is_at_exactly_zero(dtype: torch.dtype) -> None:
    """Also far from the origin, where a difference of squares would lose everything."""
    x = (normal(300, 50, 0) / 16 + 1000).to(dtype)
    x = x.unique(dim=0)
    distances, indices = nearest(x, x)
    assert torch.equal(distances, torch.zeros(len(x), 1, dtype=F64))
    assert torch.equal(indices[:, 0], torch.arange(len(x)))


def test_an_equal_row_is_found_among_rows_that_differ_by_less_than_a_product_can_tell() -> None:
    """Eight rows within 1e-9 of each other, far from the centre, where products are wrong by more than 1e-18."""
    x = torch.cat([1e-9 * normal(8, 50, 0) + 1, normal(50, 50, 1)])
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


@pytest.mark.parametrize("rows", [1, 7, 33])
def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    x, y = normal(70, 6, 0), normal(50, 6, 1)
    searched, own = nearest(x, y, k=4), nearest(x, x, k=4, skip_self=True)
    whole = precision_recall(x, y), density_coverage(x, y)
    monkeypatch.setattr(vectors, "ROWS", rows)
    for a, b in zip(searched + own, nearest(x, y, k=4) + nearest(x, x, k=4, skip_self=True), strict=True):
        assert torch.equal(a, b)  # computed from the differences: to the last bit
    assert (precision_recall(x, y), density_coverage(x, y)) == whole
    real, fake = lattice(70, 3, 0), lattice(50, 3, 1)  # points on edges are looked up in their blocks
    assert precision_recall(real, fake) == pytest.approx(naive_precision_recall(real, fake, 3), abs=1e-15)
    assert density_coverage(real, fake) == pytest.approx(naive_density_coverage(real, fake, 5), abs=1e-15)


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
    """Also where all points are one, so that every pair lies at the edge of its ball."""
    one, large, others = torch.ones(1500, 40), normal(5, 500_000, 0), normal(30, 500_000, 1)
    real, fake = normal(3000, 2, 0), normal(4000, 2, 1)
    with Largest() as largest:
        density_coverage(real, fake)
        assert precision_recall(one, one) == (1, 1)
        nearest(large, others)
    assert largest.size <= 17 * 2**20


def test_no_setting_of_torch_rounds_it() -> None:
    x, y = normal(40, 60, 0).float(), normal(50, 60, 1).float()

    def everything() -> tuple[object, ...]:
        distances, indices = nearest(x, y, k=3)
        return distances.tolist(), indices.tolist(), precision_recall(x, y), density_coverage(x, y)

    plain = everything()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert everything() == plain
    finally:
        torch.set_float32_matmul_precision(before)


# ---- precision and recall, density and coverage -----------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("d", [1, 2, 64])
def test_balls_against_plain_loops(k: int, d: int) -> None:
    real, fake = normal(80, d, 0), 0.7 * normal(60, d, 1) + 0.3
    assert precision_recall(real, fake, k=k) == pytest.approx(naive_precision_recall(real, fake, k), abs=1e-15)
    assert density_coverage(real, fake, k=k) == pytest.approx(naive_density_coverage(real, fake, k), abs=1e-15)


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("d", [1, 2, 3])
def test_balls_with_points_on_their_edges_against_plain_loops(d: int, seed: int) -> None:
    """Whole coordinates, then in units that no float holds: most pairs lie on an edge, radii of 0 among them."""
    for unit in (1.0, 0.1):
        real, fake = unit * lattice(30, d, seed), unit * lattice(25, d, seed + 100)
        for k in (1, 3):
            assert precision_recall(real, fake, k=k) == pytest.approx(naive_precision_recall(real, fake, k), abs=1e-15)
            assert density_coverage(real, fake, k=k) == pytest.approx(naive_density_coverage(real, fake, k), abs=1e-15)


def test_a_point_on_the_edge_is_inside_for_precision_and_outside_for_density() -> None:
    real, edge = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[-1.0], [-1.0], [-1.0]])
    assert precision_recall(real, edge, k=1).precision == 1
    assert density_coverage(real, edge, k=1) == (0, 0)
    assert precision_recall(real, edge - 1e-6, k=1).precision == 0
    assert density_coverage(real, edge + 1e-6, k=1) == (1, pytest.approx(1 / 3))


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_a_set_against_itself(shift: float) -> None:
    """Each ball holds strictly inside its centre and k - 1 more: the k-th is the edge itself."""
    x = normal(100, 20, 0) + shift
    assert precision_recall(x, x) == (1, 1)
    assert density_coverage(x, x) == (pytest.approx(1, abs=1e-15), 1)


def test_roles_exchange() -> None:
    a, b = normal(50, 3, 0), normal(40, 3, 1) + 0.8
    assert tuple(precision_recall(a, b)) == tuple(precision_recall(b, a))[::-1]
    assert precision_recall(a, b).precision != precision_recall(a, b).recall


def test_one_mode_of_two() -> None:
    """Fakes on one of two far clusters: all of them good, half of the real ones missed."""
    near, far = normal(40, 3, 0), normal(40, 3, 1) + 100
    real, fake = torch.cat([near, far]), near.clone()
    found = precision_recall(real, fake)
    assert (found.precision, found.recall) == (1, 0.5)
    assert density_coverage(real, fake) == (pytest.approx(1), 0.5)
    assert precision_recall(real, fake - 1000) == (0, 0)
    assert density_coverage(real, fake - 1000) == (0, 0)


def test_expected_density_and_coverage_of_equal_distributions() -> None:
    """E density = 1; E coverage = 1 - prod_{i=1..k} (N - i) / (M + N - i): a ball misses all M fakes."""
    n, m, k, repeats = 20, 30, 5, 300
    values = torch.tensor(
        [density_coverage(normal(n, 3, 2 * i), normal(m, 3, 2 * i + 1), k=k) for i in range(repeats)], dtype=F64
    )
    expected = torch.tensor([1, 1 - math.prod((n - i) / (m + n - i) for i in range(1, k + 1))], dtype=F64)
    error = values.std(0) / math.sqrt(repeats)
    assert ((values.mean(0) - expected).abs() < 4 * error).all()
    assert (error < torch.tensor([0.05, 0.01])).all()


def test_only_ratios_of_distances_count() -> None:
    real, fake = normal(60, 5, 0), normal(60, 5, 1) + 0.5
    axes = torch.linalg.qr(normal(5, 5, 2)).Q
    moved = [7 * s @ axes - 3 for s in (real, fake)]
    assert precision_recall(*moved) == precision_recall(real, fake)
    assert density_coverage(*moved) == density_coverage(real, fake)


def test_against_torch_fidelity() -> None:
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    real, fake = normal(300, 10, 0), 0.8 * normal(250, 10, 1) + 0.3
    theirs = prc_features_to_metric(
        fake, real, prc_neighborhood=3, prc_batch_size=100, save_cpu_ram=True, verbose=False
    )
    found = precision_recall(real, fake)
    assert found.precision == pytest.approx(theirs[KEY_METRIC_PRECISION], abs=1e-6)
    assert found.recall == pytest.approx(theirs[KEY_METRIC_RECALL], abs=1e-6)
    assert 0.1 < found.recall < found.precision < 0.95


# ---- memorisation -----------------------------------------------------------------------------------------------


def test_the_nearest_of_parts_are_the_nearest_of_the_whole() -> None:
    x, to = normal(40, 3, 0), normal(300, 3, 1)
    to[250] = to[20]  # of equally near ones the first
    x[0] = to[20]
    whole = nearest(x, to)
    for rows in (1, 7, 150, 300, 1000):
        distances, indices = neighbours.nearest_of_parts(x, torch.split(to, rows))
        assert torch.equal(distances, whole[0][:, 0]) and torch.equal(indices, whole[1][:, 0])
    with pytest.raises(UserError, match="there are none"):
        neighbours.nearest_of_parts(x, [])


def memorisation(samples: Tensor, train: Tensor, heldout: Tensor, *, quantile: float = 0.01) -> Memorisation:
    return neighbours.memorisation(samples, train, threshold(train, heldout, quantile=quantile))


def test_the_threshold_is_an_order_statistic() -> None:
    """Held-out images at 1, 2, ..., 199 from the only training image: 1 % of 200 is the second."""
    train, heldout = torch.zeros(1, 2), torch.zeros(199, 2)
    heldout[:, 1] = torch.arange(199, 0, -1)
    samples = torch.tensor([[1.9, 0], [0, -2.0], [2.1, 0], [0.5, 0]])
    found = memorisation(samples, train, heldout)
    assert found.threshold == (2, 0.01)
    assert found.share == 0.5  # 1.9 and 0.5; 2 is not nearer than 2
    np.testing.assert_allclose(found.distances, [1.9, 2, 2.1, 0.5], rtol=1e-6)
    assert found.indices.tolist() == [0, 0, 0, 0]


def test_a_fair_generator_has_the_expected_share() -> None:
    """Samples from the distribution of the held-out images: r / (H + 1) on average, to the standard error."""
    repeats, quantile = 400, 0.1
    found = [
        memorisation(normal(30, 2, 3 * i), normal(20, 2, 3 * i + 1), normal(49, 2, 3 * i + 2), quantile=quantile)
        for i in range(repeats)
    ]
    shares = torch.tensor([f.share for f in found], dtype=F64)
    assert {f.threshold.expected for f in found} == {5 / 50}
    error = shares.std().item() / math.sqrt(repeats)
    assert abs(shares.mean().item() - 0.1) < 4 * error and error < 0.01


def test_copies_are_counted() -> None:
    train, heldout, fresh = normal(200, 8, 0), normal(150, 8, 1), normal(60, 8, 2)
    fair = memorisation(fresh, train, heldout)
    copied = memorisation(torch.cat([fresh, train[40:80] + 1e-3]), train, heldout)
    assert copied.share == pytest.approx((40 + 60 * fair.share) / 100)
    assert copied.indices[60:].tolist() == list(range(40, 80))
    assert memorisation(train, train, heldout).share == 1


def test_a_shift_by_one_pixel_fools_it() -> None:
    """What the docstring warns of: images of fine texture, copied with one pixel's shift, count as new."""
    train, heldout = torch.rand(200, 8, 8, generator=torch.Generator().manual_seed(0)).split([100, 100])
    shifted = train.roll(1, dims=2)
    assert memorisation(train.flatten(1), train.flatten(1), heldout.flatten(1)).share == 1
    assert memorisation(shifted.flatten(1), train.flatten(1), heldout.flatten(1)).share < 0.1


# ---- bad input --------------------------------------------------------------------------------------------------


def test_too_few_vectors_are_refused_with_the_number() -> None:
    x = normal(120, 2, 0)
    with pytest.raises(UserError, match="k=6 neighbours of 5 vectors: k must be from 1 to 5"):
        nearest(x, x[:5], k=6)
    with pytest.raises(UserError, match="k=5 neighbours of 5 vectors: k must be from 1 to 4"):
        nearest(x[:5], x[:5], k=5, skip_self=True)
    with pytest.raises(UserError, match="skip_self needs one set twice, but there are 4 and 5 vectors"):
        nearest(x[:4], x[:5], skip_self=True)
    with pytest.raises(UserError, match="k=3 need at least 4 vectors; there are 3"):
        precision_recall(x, x[:3])
    with pytest.raises(UserError, match="k=5 need at least 6 vectors; there are 5"):
        density_coverage(x[:5], x)
    assert density_coverage(x, x[:1])[0] > 0  # one fake is enough
    memorisation(x, x, x[:99])
    with pytest.raises(UserError, match=r"98 held-out images: quantile=0\.01 needs at least 99"):
        memorisation(x, x, x[:98])
    for quantile in (0.0, 1.0):
        with pytest.raises(UserError, match="it must lie between 0 and 1"):
            memorisation(x, x, x, quantile=quantile)


def test_sets_that_do_not_fit_are_refused() -> None:
    x = normal(20, 8, 0)
    with pytest.raises(UserError, match="vectors to search: vectors of 7 numbers, but those to compare with have 8"):
        nearest(x, x[:, :7])
    with pytest.raises(UserError, match="fake: vectors of 7 numbers, but those to compare with have 8"):
        precision_recall(x, x[:, :7])
    with pytest.raises(UserError, match=r"fake: shape \(0, 8\); it must be \(N, d\)"):
        density_coverage(x, x[:0])
    with pytest.raises(UserError, match="vectors to search: not all numbers are finite"):
        memorisation(x, x / 0, x, quantile=0.1)

"""Modes: histograms and scores in closed form, and logits at which others return nan."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gansmith.errors import UserError
from gansmith.metrics import modes
from gansmith.metrics.modes import (
    class_histogram,
    confidence,
    inception_score,
    kl_to_uniform,
    stacked_modes,
    total_variation,
)

F64 = torch.float64


def logits(n: int, classes: int, seed: int, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed), dtype=F64)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(labels, classes).double()


# ---- classes ----------------------------------------------------------------------------------------------------


def test_histogram_counts_every_class() -> None:
    assert class_histogram(torch.tensor([3, 0, 3, 3, 1]), 6).tolist() == [1, 1, 0, 3, 0, 0]
    assert class_histogram(torch.tensor([5, 5], dtype=torch.uint8), 6).tolist() == [0, 0, 0, 0, 0, 2]


@pytest.mark.parametrize("hit", [1, 2, 5, 10])
def test_some_classes_evenly(hit: int) -> None:
    """h of K classes, evenly: total variation 1 - h / K, KL log(K / h)."""
    counts = torch.tensor([7] * hit + [0] * (10 - hit))
    assert total_variation(counts) == pytest.approx(1 - hit / 10, abs=1e-15)
    assert kl_to_uniform(counts) == pytest.approx(math.log(10 / hit), abs=1e-15)


def test_uneven_classes() -> None:
    counts = torch.tensor([6, 3, 1, 0])
    assert total_variation(counts) == pytest.approx(0.35 + 0.05)  # what lies above 1/4
    entropy = -sum(p * math.log(p) for p in (0.6, 0.3, 0.1))
    assert kl_to_uniform(counts) == pytest.approx(math.log(4) - entropy)
    assert kl_to_uniform(counts * 1000) == pytest.approx(kl_to_uniform(counts))
    assert 2 * total_variation(counts) ** 2 <= kl_to_uniform(counts)  # Pinsker


def test_confidence_is_that_of_the_most_probable_class() -> None:
    for dtype in (torch.float32, F64):
        p = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.3, 0.5], [0.0, 1.0, 0.0], [0.05, 0.06, 0.89]], dtype=dtype)
        found = confidence(p)
        assert found.mean == pytest.approx((0.9 + 0.5 + 1 + 0.89) / 4)
        assert found.share == 0.5  # 0.9 itself counts
        assert confidence(p, threshold=0.5).share == 1


# ---- stacked digits ---------------------------------------------------------------------------------------------


def test_every_mode_once() -> None:
    triples = torch.cartesian_prod(*[torch.arange(10)] * 3)
    assert stacked_modes(triples) == (1000, pytest.approx(0, abs=1e-14), {2: 0, 5: 0, 10: 0})
    thrice = stacked_modes(triples.repeat(3, 1), at_least=(1, 3, 4))
    assert thrice == (1000, pytest.approx(0, abs=1e-14), {1: 1000, 3: 1000, 4: 0})


def test_some_modes_evenly() -> None:
    """m modes evenly: KL log(1000 / m); the order within a triple counts."""
    triples = torch.tensor([[1, 2, 3], [3, 2, 1], [2, 1, 3], [0, 0, 9], [9, 0, 0], [0, 9, 0], [9, 9, 9]])
    found = stacked_modes(triples.repeat(5, 1))
    assert found == (7, pytest.approx(math.log(1000 / 7)), {2: 7, 5: 7, 10: 0})


def test_uneven_modes() -> None:
    triples = torch.tensor([[0, 0, 0]] * 6 + [[0, 0, 1]] * 3 + [[1, 0, 0]])
    found = stacked_modes(triples, at_least=(1, 2, 4))
    entropy = -sum(p * math.log(p) for p in (0.6, 0.3, 0.1))
    assert found == (3, pytest.approx(math.log(1000) - entropy), {1: 3, 2: 2, 4: 1})


def test_other_numbers_of_classes_and_channels() -> None:
    assert stacked_modes(torch.tensor([[0], [2]]), 4)[:2] == (2, pytest.approx(math.log(2)))
    assert stacked_modes(torch.tensor([[4, 0, 4, 1]], dtype=torch.uint8), 5)[:2] == (1, pytest.approx(math.log(625)))


def test_what_chance_alone_costs() -> None:
    """Uniform triples: about 999 / (2 N) nats and 1000 exp(-N / 1000) modes missed, as the docstring says."""
    generator = torch.Generator().manual_seed(0)
    found = stacked_modes(torch.randint(10, (26_000, 3), generator=generator))
    assert found.modes == 1000
    assert found.kl == pytest.approx(999 / 52_000, rel=4 * math.sqrt(2 / 999))
    few = [stacked_modes(torch.randint(10, (2_000, 3), generator=generator)).modes for _ in range(20)]
    assert np.mean(few) == pytest.approx(1000 * (1 - 0.999**2000), abs=10)


# ---- inception score --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 10])
def test_the_bounds_of_the_score(classes: int) -> None:
    """K for sure and even answers, 1 for an answer that never changes."""
    labels = torch.arange(40) % classes
    assert inception_score(one_hot(labels, classes), 2) == (pytest.approx(classes), pytest.approx(0, abs=1e-12))
    same = logits(1, classes, 0).softmax(1).repeat(40, 1)
    assert inception_score(same, 4) == (pytest.approx(1), pytest.approx(0, abs=1e-12))


def test_sure_answers_of_uneven_classes() -> None:
    """exp of the entropy of the histogram."""
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    entropy = -sum(p * math.log(p) for p in (0.6, 0.3, 0.1))
    assert inception_score(one_hot(labels, 5), 1).mean == pytest.approx(math.exp(entropy))


def test_two_answers_in_closed_form() -> None:
    """(a, 1 - a) and (1 - a, a) in turn: 2 exp(-H(a))."""
    p = torch.tensor([[0.8, 0.2], [0.2, 0.8]], dtype=F64).repeat(6, 1)
    entropy = -(0.8 * math.log(0.8) + 0.2 * math.log(0.2))
    assert inception_score(p, 3).mean == pytest.approx(2 * math.exp(-entropy))


def test_against_the_mean_of_divergences() -> None:
    """The definition with KL(p(y|x) || p(y)) row by row, split by split; 53 rows do not divide by 4."""
    p = logits(53, 7, 0).softmax(1)
    scores = []
    for part in (p[:13], p[13:26], p[26:39], p[39:]):
        marginal = part.mean(0)
        scores.append(
            math.exp(np.mean([sum(r * math.log(r / q) for r, q in zip(row, marginal, strict=True)) for row in part]))
        )
    found = inception_score(p, 4)
    assert found.mean == pytest.approx(np.mean(scores), rel=1e-12)
    assert found.std == pytest.approx(np.std(scores), rel=1e-10)


@pytest.mark.parametrize("scale", [2.0, 30.0])
def test_against_torch_fidelity(scale: float) -> None:
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    x = logits(205, 12, 0, scale)
    theirs = isc_features_to_metric(x, splits=10, shuffle=False)
    found = inception_score(x.softmax(1))
    assert found == pytest.approx((theirs[KEY_METRIC_ISC_MEAN], theirs[KEY_METRIC_ISC_STD]), rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("scale", [700.0, 1e4, 1e30])
def test_large_logits_give_no_nan(scale: float, dtype: torch.dtype) -> None:
    """Probabilities of 0 and below the smallest normal number: the limit, a sure answer."""
    labels = torch.arange(60) % 6
    p = (scale * one_hot(labels, 6)).to(dtype).softmax(1)
    assert inception_score(p, 5) == (pytest.approx(6, rel=1e-12), pytest.approx(0, abs=1e-12))


def test_a_class_that_hardly_exists_costs_nothing() -> None:
    """Its probability is the smallest float64 there is in one row and 0 in the others: their mean rounds to 0."""
    p = one_hot(torch.arange(8) % 2, 3)
    p[0, 2] = 5e-324
    assert inception_score(p, 1).mean == pytest.approx(2, rel=1e-12)


def test_half_precision_is_good_to_its_digits() -> None:
    p = logits(60, 5, 0).softmax(1)
    exact = inception_score(p, 2)
    for dtype, rel in ((torch.float32, 1e-6), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)):
        assert inception_score(p.to(dtype), 2).mean == pytest.approx(exact.mean, rel=rel)
        assert inception_score(p.to(dtype), 2) == inception_score(p.to(dtype).double(), 2)  # rounded no further


def test_rows_count_by_their_shares() -> None:
    """What a softmax in half precision leaves of the sum 1 is taken out, row by row."""
    p = logits(60, 5, 0).softmax(1)
    off = 1 + 0.005 * torch.linspace(-1, 1, 60, dtype=F64)[:, None]
    assert inception_score(p * off, 2) == pytest.approx(inception_score(p, 2), rel=1e-12)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    p = logits(53, 7, 0).softmax(1)
    whole = inception_score(p, 4)
    monkeypatch.setattr(modes, "ROWS", 3)
    assert inception_score(p, 4) == pytest.approx(whole, rel=1e-12)


# ---- bad input --------------------------------------------------------------------------------------------------


def test_labels_out_of_range_are_refused() -> None:
    for bad in (torch.tensor([0, 10]), torch.tensor([-1, 3])):
        with pytest.raises(UserError, match=r"labels: from -?\d+ to \d+; for 10 classes they must lie from 0 to 9"):
            class_histogram(bad, 10)
        with pytest.raises(UserError, match="for 10 classes they must lie from 0 to 9"):
            stacked_modes(bad[None])
    for bad in (torch.tensor([0.5]), torch.tensor([[1]]), torch.tensor([], dtype=torch.int64)):
        with pytest.raises(UserError, match=r"they must be integers \(N,\)"):
            class_histogram(bad, 10)
    with pytest.raises(UserError, match=r"labels: shape \(3,\); it must be \(N, channels\)"):
        stacked_modes(torch.tensor([1, 2, 3]))
    for counts in (torch.zeros(4), torch.tensor([1, -1, 2]), torch.ones(2, 2)):
        with pytest.raises(UserError, match="counts of shape .* none below 0, not all 0"):
            kl_to_uniform(counts)


def test_logits_in_place_of_probabilities_are_refused() -> None:
    x = logits(20, 4, 0)
    for wrong in (x, x.log_softmax(1), x.exp(), torch.tensor([[1.5, -0.5]] * 20)):
        for metric in (inception_score, confidence):
            with pytest.raises(UserError, match=r"have the sum 1; if they are logits, take softmax\(1\)"):
                metric(wrong)
    with pytest.raises(UserError, match="splits=21 of 20 samples: there must be 1 to 20"):
        inception_score(x.softmax(1), 21)
    with pytest.raises(UserError, match="probabilities: not all numbers are finite"):
        inception_score(x / 0)

"""Modes: histograms and scores in closed form, and logits at which others return nan."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from gansmith.errors import UserError
from gansmith.metrics.modes import inception_score, kl_to_uniform, total_variation
from gansmith.papers.stacked import stacked_modes

F64 = torch.float64
ENTROPY = -sum(p * math.log(p) for p in (0.6, 0.3, 0.1))


def logits(n: int, classes: int, seed: int, scale: float = 2.0) -> Tensor:
    return scale * torch.randn(n, classes, generator=torch.Generator().manual_seed(seed), dtype=F64)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(labels, classes).double()


# ---- classes ----------------------------------------------------------------------------------------------------


def test_some_classes_evenly() -> None:
    """h of K classes, evenly: total variation 1 - h / K, KL log(K / h)."""
    for hit in (1, 5, 10):
        counts = torch.tensor([7] * hit + [0] * (10 - hit))
        assert total_variation(counts) == pytest.approx(1 - hit / 10, abs=1e-15)
        assert kl_to_uniform(counts) == pytest.approx(math.log(10 / hit), abs=1e-15)


def test_uneven_classes() -> None:
    counts = torch.tensor([6, 3, 1, 0])
    assert total_variation(counts) == pytest.approx(0.35 + 0.05)  # what lies above 1/4
    assert kl_to_uniform(counts) == pytest.approx(math.log(4) - ENTROPY)
    assert kl_to_uniform(counts * 1000) == pytest.approx(kl_to_uniform(counts))
    assert 2 * total_variation(counts) ** 2 <= kl_to_uniform(counts)  # Pinsker


# ---- stacked digits ---------------------------------------------------------------------------------------------


def test_modes_in_closed_form() -> None:
    """m modes evenly: KL log(1000 / m); unevenly log 1000 - entropy. The order within a triple counts."""
    every = torch.cartesian_prod(*[torch.arange(10)] * 3)
    assert stacked_modes(every) == (1000, pytest.approx(0, abs=1e-14), {2: 0, 5: 0, 10: 0})
    thrice = stacked_modes(every.repeat(3, 1), at_least=(1, 3, 4))
    assert thrice == (1000, pytest.approx(0, abs=1e-14), {1: 1000, 3: 1000, 4: 0})
    some = torch.tensor([[1, 2, 3], [3, 2, 1], [2, 1, 3], [0, 0, 9], [9, 0, 0], [0, 9, 0], [9, 9, 9]])
    assert stacked_modes(some.repeat(5, 1)) == (7, pytest.approx(math.log(1000 / 7)), {2: 7, 5: 7, 10: 0})
    uneven = torch.tensor([[0, 0, 0]] * 6 + [[0, 0, 1]] * 3 + [[1, 0, 0]])
    found = stacked_modes(uneven, at_least=(1, 2, 4))
    assert found == (3, pytest.approx(math.log(1000) - ENTROPY), {1: 3, 2: 2, 4: 1})


# ---- inception score --------------------------------------------------------------------------------------------


def test_the_bounds_of_the_score() -> None:
    """K for sure and even answers, 1 for an answer that never changes."""
    even = one_hot(torch.arange(40) % 10, 10)
    assert inception_score(even, 2) == (pytest.approx(10), pytest.approx(0, abs=1e-12))
    same = logits(1, 10, 0).softmax(1).repeat(40, 1)
    assert inception_score(same, 4) == (pytest.approx(1), pytest.approx(0, abs=1e-12))


def test_answers_in_closed_form() -> None:
    """Sure ones: exp of the entropy of the histogram. (a, 1 - a) and (1 - a, a) in turn: 2 exp(-H(a))."""
    labels = torch.tensor([0] * 6 + [1] * 3 + [2])
    assert inception_score(one_hot(labels, 5), 1).mean == pytest.approx(math.exp(ENTROPY))
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


def test_large_logits_give_no_nan() -> None:
    """Probabilities of 0 and below the smallest normal number: the limit, a sure answer."""
    for scale in (700.0, 1e30):
        p = (scale * one_hot(torch.arange(60) % 6, 6)).softmax(1)
        assert inception_score(p, 5) == (pytest.approx(6, rel=1e-12), pytest.approx(0, abs=1e-12))


def test_a_class_that_hardly_exists_costs_nothing() -> None:
    """Its probability is the smallest float64 there is in one row and 0 in the others: their mean rounds to 0."""
    p = one_hot(torch.arange(8) % 2, 3)
    p[0, 2] = 5e-324
    assert inception_score(p, 1).mean == pytest.approx(2, rel=1e-12)


def test_a_split_needs_a_sample() -> None:
    with pytest.raises(UserError, match="splits=21 of 20 samples: there must be 1 to 20"):
        inception_score(logits(20, 4, 0).softmax(1), 21)

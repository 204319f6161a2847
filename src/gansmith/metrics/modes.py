"""What a classifier says of samples: how evenly the classes are hit, how surely, and how many modes there are."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gansmith.errors import UserError
from gansmith.metrics.vectors import ROWS, vectors


class Confidence(NamedTuple):
    mean: float
    """Of the largest probability of each sample."""
    share: float
    """Of samples whose largest probability is at least the threshold."""


class InceptionScore(NamedTuple):
    mean: float
    std: float
    """Between splits (ddof 0)."""


def class_histogram(labels: Tensor, classes: int) -> Tensor:
    """How often each class occurs among integer labels (N,): int64 (classes,). UserError for a label out of range."""
    if labels.ndim != 1 or not len(labels) or labels.is_floating_point():
        raise UserError(
            f"labels: {labels.dtype} of shape {tuple(labels.shape)}; they must be integers (N,), N at least 1"
        )
    low, high = (bound.item() for bound in torch.aminmax(labels))
    if low < 0 or high >= classes:
        raise UserError(f"labels: from {low} to {high}; for {classes} classes they must lie from 0 to {classes - 1}")
    return torch.bincount(labels, minlength=classes)


def total_variation(counts: Tensor) -> float:
    """1/2 sum_k |p_k - 1/K| with p = counts (K,) / their sum: 0 if all are equal, 1 - 1/K if one class has all."""
    return (_shares(counts) - 1 / len(counts)).abs().sum().item() / 2


def kl_to_uniform(counts: Tensor) -> float:
    """sum_k p_k log(K p_k), in nats, p = counts (K,) / their sum: 0 if all are equal, log K if one class has all."""
    p = _shares(counts)
    return torch.xlogy(p, p * len(p)).sum().item()


def confidence(probabilities: Tensor, *, threshold: float = 0.9) -> Confidence:
    """Mean of the largest probability, and the share of samples where it is at least `threshold`.

    probabilities (N, K), each row with sum 1 (for logits: `logits.softmax(1)`), else UserError.
    """
    largest = _probabilities(probabilities).amax(1)
    return Confidence(largest.double().mean().item(), (largest >= threshold).double().mean().item())


def inception_score(probabilities: Tensor, splits: int = 10) -> InceptionScore:
    """exp(mean_x KL(p(y|x) || p(y))), p(y) the mean of p(y|x): mean and std over `splits` runs of rows of equal length.

    probabilities (N, K), each row with sum 1 (for logits: `logits.double().softmax(1)`), N at least splits, else
    UserError. From 1 to K. Computed as exp(H(p(y)) - mean_x H(p(y|x))), where a probability of 0 does no harm. Shuffle
    what is sorted by class. Source: Salimans et al. 2016, section 4 (arXiv 1606.03498).
    """
    p = _probabilities(probabilities)
    if not 1 <= splits <= len(p):
        raise UserError(f"splits={splits} of {len(p)} samples: there must be 1 to {len(p)}")
    scores = []
    for i in range(splits):
        part = p[i * len(p) // splits : (i + 1) * len(p) // splits]
        total = torch.zeros(p.shape[1], dtype=torch.float64, device=p.device)
        entropy = total.new_zeros(())
        for rows in torch.split(part, ROWS):
            rows = rows.double()
            rows = rows / rows.sum(1, keepdim=True)  # what float16 or float32 left of 1
            total += rows.sum(0)
            entropy += torch.special.entr(rows).sum()
        scores.append(math.exp(torch.special.entr(total / len(part)).sum() - entropy / len(part)))
    values = torch.tensor(scores, dtype=torch.float64)
    return InceptionScore(values.mean().item(), values.std(correction=0).item())


def _shares(counts: Tensor) -> Tensor:
    if counts.ndim != 1 or not counts.sum() > 0 or counts.min() < 0:
        raise UserError(f"counts of shape {tuple(counts.shape)}: they must be (K,), none below 0, not all 0")
    return counts.double() / counts.sum()


def _probabilities(p: Tensor) -> Tensor:
    p = vectors("probabilities", p)
    off = max((rows.double().sum(1) - 1).abs().max().item() for rows in torch.split(p, ROWS))
    if p.min() < 0 or off > 0.01:
        raise UserError(
            "probabilities: each row must be 0 or more and have the sum 1; if they are logits, take softmax(1)"
        )
    return p

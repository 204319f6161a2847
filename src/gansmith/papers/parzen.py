"""The Parzen-window log-likelihood of the GAN paper, in nats: for comparison with its Table 1, not for more.

The score depends on the number of samples (real MNIST as samples: 241 nats with 10,000 and 318 with 50,000), so that
number belongs beside it. It says little about how images look: Theis et al. 2016 (arXiv 1511.01844).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from gansmith.errors import UserError
from gansmith.metrics.vectors import blocks, mean_vector, squared_distances, vectors

SIGMAS = tuple(10 ** (i / 9 - 1) for i in range(10))
"""The bandwidths that the paper's evaluation chooses from: ten from 0.1 to 1, evenly spaced on the log scale."""


class SigmaChoice(NamedTuple):
    """A bandwidth chosen on validation images."""

    sigma: float
    valid: float
    """Mean log-likelihood of the validation images at `sigma`, in nats."""
    curve: tuple[float, ...]
    """The same for each bandwidth tried."""
    at_edge: bool
    """`sigma` is the smallest or the largest of those tried: the best one may lie outside."""


class ParzenFit(NamedTuple):
    """A bandwidth chosen on validation images, and the test images at that bandwidth."""

    chosen: SigmaChoice
    mean: float
    """Mean log-likelihood of the test images, in nats."""
    standard_error: float
    """Of `mean`, over test images; other samples or another training are not in it."""


def log_likelihood(x: Tensor, samples: Tensor, sigmas: Sequence[float]) -> Tensor:
    """log 1/N sum_i exp(-|x - s_i|^2 / (2 sigma^2)) - d log(sigma sqrt(2 pi)): nats, float64 (len(sigmas), M).

    x (M, d), samples s (N, d); runs on x's device. All bandwidths share the distances. UserError for sets that do not
    fit and for bandwidths that are not positive. Source: Goodfellow et al. 2014, section 5 (arXiv 1406.2661).
    """
    samples = vectors("samples", samples)
    n, d = samples.shape
    x = vectors("images", x, d)
    if not sigmas or not all(0 < sigma < math.inf for sigma in sigmas):
        raise UserError(f"sigmas: {list(sigmas)}; there must be one or more, all above 0")
    centre = mean_vector(samples, x.device)  # distances do not change, and lose less to rounding
    result = centre.new_full((len(sigmas), len(x)), -math.inf)
    for start, a, a2 in blocks(x, centre):
        total = result[:, start : start + len(a)]
        for _, b, b2 in blocks(samples, centre):
            distances = squared_distances(a, a2, b, b2)
            least = distances.amin(1)
            distances -= least[:, None]  # the largest term becomes 1: none overflows, and the sum is not 0
            for row, sigma in zip(total, sigmas, strict=True):
                scale = -0.5 / sigma**2
                part = (distances * scale).exp_().sum(1).log_() + scale * least
                row.copy_(torch.logaddexp(row, part))
    constants = [math.log(n) + d * math.log(sigma * math.sqrt(2 * math.pi)) for sigma in sigmas]
    return result - result.new_tensor(constants)[:, None]


def choose_sigma(samples: Tensor, valid: Tensor, *, sigmas: Sequence[float] = SIGMAS) -> SigmaChoice:
    """The bandwidth with the largest mean log-likelihood of the validation images.

    samples (N, d) and valid (V, d) in [0, 1]. UserError for sets that do not fit or leave [0, 1].
    """
    _unit("samples", samples)
    _unit("validation images", valid)
    curve = tuple(log_likelihood(valid, samples, sigmas).mean(1).tolist())
    sigma = sigmas[curve.index(max(curve))]
    return SigmaChoice(sigma, max(curve), curve, len(sigmas) > 1 and sigma in (min(sigmas), max(sigmas)))


def parzen(samples: Tensor, valid: Tensor, test: Tensor, *, sigmas: Sequence[float] = SIGMAS) -> ParzenFit:
    """Chooses the bandwidth on valid, then gives the mean log-likelihood of test and its standard error.

    samples (N, d), valid (V, d), test (T, d) in [0, 1], images at their own size: no padding, no cropping. The standard
    error is std (ddof 0) / sqrt(T). UserError for sets that do not fit or leave [0, 1].
    """
    _unit("test images", test)
    chosen = choose_sigma(samples, valid, sigmas=sigmas)
    ll = log_likelihood(test, samples, [chosen.sigma])[0]
    return ParzenFit(chosen, ll.mean().item(), ll.std(correction=0).item() / math.sqrt(len(ll)))


def _unit(what: str, x: Tensor) -> None:
    low, high = (bound.item() for bound in torch.aminmax(vectors(what, x)))
    if low < -1e-6 or high > 1 + 1e-6:
        shift = x.shape[1] * math.log(2)
        raise UserError(
            f"{what}: numbers from {low:.6g} to {high:.6g}; they must lie in [0, 1] (images in [-1, 1]: (x + 1) / 2; "
            f"unscaled, they would score {shift:.1f} nats lower)"
        )

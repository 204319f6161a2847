"""The sets of vectors that the metrics compare: checked, and read in float64 blocks of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from gansmith.errors import UserError

ROWS = 1024  # the most rows of a block: a matrix of distances between two blocks is 8 MB
NUMBERS = 2**21  # the most numbers of a block: 16 MB


class MeanStd(NamedTuple):
    """A score over parts of the sets, `std` with ddof 0; subsets that share images make it no error of `mean`."""

    mean: float
    std: float


def vectors(what: str, x: Tensor, width: int | None = None) -> Tensor:
    """x (N, d) without its graph; UserError if it is empty, not finite, of another shape, or if d is not `width`."""
    if x.ndim != 2 or 0 in x.shape:
        raise UserError(f"{what}: shape {tuple(x.shape)}; it must be (N, d) with N and d at least 1")
    if width is not None and x.shape[1] != width:
        raise UserError(f"{what}: vectors of {x.shape[1]} numbers, but those to compare with have {width}")
    x = x.detach()
    if not torch.stack(torch.aminmax(x)).isfinite().all():
        raise UserError(f"{what}: not all numbers are finite")
    return x.cpu() if x.device.type == "mps" else x  # no float64 there


def blocks(x: Tensor, centre: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(first row, x - centre there (n, d), its squared norms (n,)): dtype and device are those of `centre` (d,)."""
    rows = max(1, min(ROWS, NUMBERS // x.shape[1]))
    for start in range(0, len(x), rows):
        block = x[start : start + rows].to(centre) - centre
        yield start, block, block.square().sum(1)


def mean_vector(x: Tensor, device: torch.device) -> Tensor:
    """The mean of x (N, d) as float64 (d,) on `device`."""
    zero = torch.zeros(x.shape[1], dtype=torch.float64, device=device)
    return sum((block.sum(0) for _, block, _ in blocks(x, zero)), start=zero) / len(x)


def squared_distances(a: Tensor, a2: Tensor, b: Tensor, b2: Tensor) -> Tensor:
    """|a_i - b_j|^2 = |a_i|^2 + |b_j|^2 - 2 <a_i, b_j>: (n, m) from two blocks, within d eps (a2_i + b2_j)."""
    return torch.addmm(b2[None, :], a, b.T, alpha=-2).add_(a2[:, None]).clamp_min_(0)

"""Nearest neighbours, and what is read off them: precision and recall, density and coverage, memorisation.

Distances are Euclidean. A matrix product finds the candidates; distances that are returned, or decide at the edge of a
ball, come from the differences, so that equal vectors are at exactly 0 and a pair has one distance.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from gansmith.errors import UserError
from gansmith.metrics.vectors import NUMBERS, blocks, mean_vector, squared_distances, vectors

SPARE = 8  # candidates beyond k: the matrix product cannot order vectors that differ by its rounding alone
FEWEST = 20  # held-out images of which the nearest says anything


class Threshold(NamedTuple):
    """How near held-out images come to the training images."""

    distance: float  # to the nearest training image, which `expected` of the held-out images fall short of
    expected: float  # the probability that a new image from their distribution falls short of it


def nearest(x: Tensor, to: Tensor, *, k: int = 1, skip_self: bool = False) -> tuple[Tensor, Tensor]:
    """For each row of x (M, d) the k nearest rows of `to` (N, d): distances in rising order, and indices, (M, k) both.

    skip_self: x and `to` are one set, and row i is no neighbour of row i (an equal row elsewhere is). float64 and
    int64, on x's device. There must be k of them at least; UserError for sets that do not fit.
    """
    x, to = vectors("vectors", x), vectors("vectors to search", to, x.shape[-1])
    centre = mean_vector(to, x.device)
    found: list[tuple[Tensor, Tensor]] = []
    for start, a, a2 in blocks(x, centre):
        best = a.new_empty(len(a), 0)
        index = torch.empty(len(a), 0, dtype=torch.int64, device=x.device)
        for offset, b, b2 in blocks(to, centre):
            squared = squared_distances(a, a2, b, b2)
            if skip_self and start == offset:  # blocks of one set have the same borders
                squared.fill_diagonal_(torch.inf)
            near = squared.topk(min(k + SPARE, len(b)), largest=False, sorted=False)
            best, index = torch.cat([best, near.values], 1), torch.cat([index, near.indices + offset], 1)
            near = best.topk(min(k + SPARE, best.shape[1]), largest=False, sorted=False)
            best, index = near.values, index.gather(1, near.indices)
        rows = torch.arange(start, start + len(a), device=x.device)[:, None].expand_as(index)
        distances = _distances(x, rows.flatten(), to, index.flatten()).view_as(best)
        distances, order = distances.masked_fill_(best.isinf(), torch.inf).sort(dim=1, stable=True)
        found.append((distances[:, :k], index.gather(1, order[:, :k])))
    return torch.cat([d for d, _ in found]), torch.cat([i for _, i in found])


def nearest_of_parts(x: Tensor, parts: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """`nearest` with k = 1, (M,) both, in a set that comes in parts (n_i, d), as where it is too large for memory.

    Of equally near rows in different parts the first. UserError as there.
    """
    found, start = [], 0
    for part in parts:
        distances, indices = nearest(x, part)
        found.append((distances, indices + start))
        start += len(part)
    distances, indices = (torch.cat(columns, 1) for columns in zip(*found, strict=True))
    first = distances.argmin(1, keepdim=True)
    return distances.gather(1, first)[:, 0], indices.gather(1, first)[:, 0]


def precision_recall(real: Tensor, fake: Tensor, *, k: int = 3) -> dict[str, float]:
    """Precision: the share of fakes inside (<=) the ball of any real vector; recall: the roles exchanged.

    A ball reaches to the k-th nearest other vector of its own set. real (N, d), fake (M, d), N and M above k, else
    UserError. Source: Kynkaanniemi et al. 2019 (arXiv 1904.06991). Compare only at the same N, M and k.
    """
    per_fake, _ = _inside(fake, real, k, strict=False)
    per_real, _ = _inside(real, fake, k, strict=False)
    return {"precision": share(per_fake > 0), "recall": share(per_real > 0)}


def density_coverage(real: Tensor, fake: Tensor, *, k: int = 5) -> dict[str, float]:
    """Density: the mean number of real balls that a fake lies in (<), / k; coverage: the share of balls that hold one.

    The ball of a real vector reaches to its k-th nearest other. real (N, d), fake (M, d), N above k, else UserError.
    For equal distributions and N = M density is 1 and coverage 1 - 2^-k, nearly. Source: Naeem et al. 2020 (arXiv
    2002.09797).
    """
    per_fake, per_real = _inside(fake, real, k, strict=True)
    return {"density": per_fake.double().mean().item() / k, "coverage": share(per_real > 0)}


def threshold(train: Iterable[Tensor], heldout: Tensor, *, quantile: float = 0.01) -> Threshold:
    """The r-th smallest distance from held-out (H, d) to training images (N, d), r = quantile (H + 1) down, at least 1.

    The training images come in parts. A new image falls below it with probability r / (H + 1). UserError for sets that
    do not fit and for fewer than 20 held-out images.
    """
    if len(heldout) < FEWEST:
        raise UserError(f"{len(heldout)} held-out images: at least {FEWEST} are needed")
    rank = max(1, int(quantile * (len(heldout) + 1)))
    distance = nearest_of_parts(heldout, train)[0].sort().values[rank - 1].item()
    return Threshold(distance, rank / (len(heldout) + 1))


def share(flags: Tensor) -> float:
    """The share of flags (N,) that are set."""
    return flags.double().mean().item()


def _distances(x: Tensor, i: Tensor, y: Tensor, j: Tensor) -> Tensor:
    """|x_i - y_j| for the pairs (i, j), from the differences: float64 on x's device, (P,) from two indices (P,)."""
    result = torch.empty(len(i), dtype=torch.float64, device=x.device)
    pairs = max(1, NUMBERS // x.shape[1])
    for piece, p, q in zip(*(torch.split(t, pairs) for t in (result, i, j)), strict=True):
        a, b = x[p].double()[:, None], y[q.to(y.device)].to(x.device, torch.float64)[:, None]
        piece.copy_(torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist").flatten())
    return result


def _inside(points: Tensor, centres: Tensor, k: int, *, strict: bool) -> tuple[Tensor, Tensor]:
    """How many balls each point (M, d) is inside of (M,), and how many points are inside each ball (N,)."""
    if not 1 <= k < len(centres):
        raise UserError(f"balls to the neighbour number k={k} need at least {k + 1} vectors; there are {len(centres)}")
    radius = nearest(centres, centres, k=k, skip_self=True)[0][:, -1].to(points.device)
    centre = mean_vector(centres, points.device)
    slack = 4 * (points.shape[1] + 4) * torch.finfo(torch.float64).eps
    per_point, per_ball = (torch.zeros(len(s), dtype=torch.int64, device=points.device) for s in (points, centres))
    for start, a, a2 in blocks(points, centre):
        for offset, b, b2 in blocks(centres, centre):
            r = radius[offset : offset + len(b)]
            beyond = squared_distances(a, a2, b, b2).sub_(r.square())
            inside = beyond < 0
            # Nearer to the edge than rounding can tell: where a point is the very neighbour that set the radius.
            i, j = (beyond.abs_() <= slack * (a2[:, None] + b2)).nonzero(as_tuple=True)
            distances = _distances(points, i + start, centres, j + offset)
            inside[i, j] = distances < r[j] if strict else distances <= r[j]
            per_point[start : start + len(a)] += inside.sum(1)
            per_ball[offset : offset + len(b)] += inside.sum(0)
    return per_point, per_ball

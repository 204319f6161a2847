"""The kernel distance between two sets of features: KID where the features are Inception's pool3."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from gansmith.errors import UserError


class KernelDistance(NamedTuple):
    """MMD^2 over random subsets."""

    mean: float
    std: float
    """Between subsets (ddof 0), which share images: not an error of `mean`."""


def kernel_distance(a: Tensor, b: Tensor, *, subsets: int = 100, size: int = 1000, seed: int = 0) -> KernelDistance:
    """Mean and standard deviation of MMD^2 over `subsets` draws of `size` rows of each set, without replacement.

    MMD^2 = mean_{i != j} k(a_i, a_j) + mean_{i != j} k(b_i, b_j) - 2 mean k(a_i, b_j), k(x, y) = (<x, y> / d + 1)^3. It
    is unbiased, so it may be below 0 for equal distributions. a (N, d), b (M, d), N and M at least `size`, else
    UserError. Source: Binkowski et al. 2018 (arXiv 1801.01401); Gretton et al. 2012, eq. 3.
    """
    from torchmetrics.image.kid import poly_mmd  # a second to import

    if (fewest := min(len(a), len(b))) < size:
        raise UserError(f"features of {fewest} images: subsets of {size} need at least {size}")
    draws = torch.Generator().manual_seed(seed)

    def subset(x: Tensor) -> Tensor:
        return x[torch.randperm(len(x), generator=draws)[:size].to(x.device)].double()

    values = torch.stack([poly_mmd(subset(a), subset(b)) for _ in range(subsets)])
    return KernelDistance(values.mean().item(), values.std(correction=0).item())

"""The Frechet distance between two sets of features: FID where the features are Inception's pool3."""

from __future__ import annotations

import torch
from torch import Tensor

from gansmith.errors import UserError
from gansmith.metrics.vectors import blocks, mean_vector, vectors


def moments(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (d,) and sample covariance (d, d), ddof 1, of features (N, d), in float64. UserError unless N > d.

    With fewer the covariance is singular and the distance far too large; just above d it is still biased.
    """
    features = vectors("features", features)
    n, d = features.shape
    if n <= d:
        raise UserError(f"features of {n} images: the covariance of {d} features needs at least {d + 1}")
    mean = mean_vector(features, features.device)
    cov = mean.new_zeros(d, d)
    for _, block, _ in blocks(features, mean):
        cov.addmm_(block.T, block)
    return mean, cov / (n - 1)


def from_moments(mean_a: Tensor, cov_a: Tensor, mean_b: Tensor, cov_b: Tensor) -> float:
    """|m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)): between two Gaussians, by their `moments`.

    Tr (C1 C2)^(1/2) is taken as the sum of the singular values of C1^(1/2) C2^(1/2): real, and accurate for singular
    covariances too. Source: Dowson and Landau 1982; Heusel et al. 2017 (arXiv 1706.08500).
    """
    (root_a, axes_a), (root_b, axes_b) = _root(cov_a), _root(cov_b)
    # C = axes root^2 axes^T; the outer axes turn the product only and leave its singular values.
    product = root_a[:, None] * (axes_a.T @ axes_b) * root_b
    traces = cov_a.trace() + cov_b.trace()
    distance = (mean_a - mean_b).square().sum() + traces - 2 * torch.linalg.svdvals(product).sum()
    return max(0.0, distance.item())  # rounding alone can take it below 0


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """`from_moments` of features a (N, d) and b (M, d). UserError unless N > d and M > d.

    Grows as the sets shrink, so compare only distances at the same N and M.
    """
    return from_moments(*moments(a), *moments(b))


def _root(cov: Tensor) -> tuple[Tensor, Tensor]:
    """Square roots of the eigenvalues (d,) and the eigenvectors (d, d) of a covariance."""
    values, axes = torch.linalg.eigh(cov)
    # What is below the rounding of the largest is noise, and its root would be 10^8 times as large, relatively.
    noise = len(values) * torch.finfo(values.dtype).eps * values[-1].clamp_min(0)
    return torch.where(values > noise, values, 0).sqrt(), axes

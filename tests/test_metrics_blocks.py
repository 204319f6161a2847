"""What all metrics share: float64 in blocks, whatever torch is set to, and memory that does not grow with a set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from gansmith.metrics import vectors
from gansmith.metrics.frechet import frechet_distance
from gansmith.metrics.kernel import kernel_distance
from gansmith.metrics.modes import inception_score
from gansmith.metrics.neighbours import density_coverage, nearest, precision_recall
from gansmith.papers.parzen import SIGMAS, log_likelihood


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def lattice(n: int, seed: int) -> Tensor:
    """Most of these lie at the edge of a ball."""
    return torch.randint(4, (n, 3), generator=torch.Generator().manual_seed(seed)).float()


A, B = normal(40, 8, 0), 1.2 * normal(50, 8, 1) + 0.3
BALLS = (lattice(35, 0), lattice(25, 1))
METRICS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "frechet": frechet_distance,
    "kernel": lambda a, b: kernel_distance(a, b, subsets=2, size=40),
    "score": lambda a, b: inception_score(A.double().softmax(1), 4),
    "parzen": lambda a, b: log_likelihood(a, b, SIGMAS).tolist(),
    "nearest": lambda a, b: nearest(a, b, k=3)[0].tolist(),
    "indices": lambda a, b: nearest(a, b, k=3)[1].tolist(),
    "others": lambda a, b: nearest(a, a, k=4, skip_self=True)[0].tolist(),
    "balls": lambda a, b: [*precision_recall(a, b).values(), *density_coverage(a, b).values()],
    "edges": lambda a, b: [*precision_recall(*BALLS).values(), *density_coverage(*BALLS).values()],
}
EXACT = ("nearest", "indices", "others", "balls", "edges")
"""Computed from differences: blocks do not change a bit."""


@pytest.mark.parametrize("name", METRICS)
def test_neither_settings_of_torch_nor_blocks_change_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 by autocast and by the precision of products, which TF32 goes by as well: the same bits."""

    def close(found: Any, to: float = 1e-11) -> None:
        torch.testing.assert_close(torch.tensor(found), torch.tensor(plain), rtol=to, atol=10 * to)

    measure = METRICS[name]
    plain = measure(A, B)
    close(measure(A.double(), B.double()))
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert measure(A, B) == plain
    finally:
        torch.set_float32_matmul_precision(before)
    for rows in (1, 33):
        monkeypatch.setattr(vectors, "ROWS", rows)
        close(measure(A, B), 0 if name in EXACT else 1e-11)


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
    one, large, others = torch.ones(1100, 20), normal(5, 500_000, 0), normal(9, 500_000, 1)
    real, fake = normal(2100, 2, 0), normal(2200, 2, 1)  # all pairs: 37 MB
    with Largest() as largest:
        log_likelihood(real, fake, (0.2,))
    assert largest.size <= 8 * 2**20
    with Largest() as largest:
        density_coverage(real, fake)
        assert {*precision_recall(one, one).values()} == {1}
        nearest(large, others)
    assert largest.size <= 17 * 2**20

"""Is a resumed run the same run, bit for bit, on this machine? `gansmith verify` finds out."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gansmith import checkpoint
from gansmith.errors import UserError
from gansmith.training import train


@dataclass(frozen=True)
class Comparison:
    """What was compared, and the names of what differs."""

    rounds: int
    tensors: int
    values: int
    different: tuple[str, ...]

    @property
    def exact(self) -> bool:
        return not self.different


def verify(
    what: str | Path = "gan",
    *,
    steps: int = 20,
    data: str | Path | None = None,
    seed: int | None = None,
    device: str = "auto",
    overrides: Mapping[str, Any] | None = None,
) -> Comparison:
    """Train 2 `steps` rounds without a break, and `steps` + resume + `steps`; compare all that the state holds."""
    if steps < 1:
        raise UserError(f"steps is {steps}; it must be at least 1")
    overrides = {key: value for key, value in (overrides or {}).items() if key not in ("steps", "n_epochs")}
    options: dict[str, Any] = {"data": data, "seed": seed, "device": device, "quiet": True, "overrides": overrides}
    with tempfile.TemporaryDirectory(prefix="gansmith-verify-") as folder:
        once, twice = Path(folder, "once"), Path(folder, "twice")
        train(what, out=once, steps=2 * steps, **options)
        train(what, out=twice, steps=2 * steps, enough=lambda r: r.experiment.state.round >= steps, **options)
        torch.manual_seed(987654321)  # a resumed run must not lean on what the process left behind
        train(twice, device=device, quiet=True)
        return compare(once / "checkpoints" / f"{2 * steps:08d}", twice / "checkpoints" / f"{2 * steps:08d}")


def compare(one: Path, other: Path) -> Comparison:
    """Two checkpoints, tensor by tensor and value by value; clocks apart."""
    (tree_a, info), (tree_b, _) = checkpoint.read(one), checkpoint.read(other)
    for tree in (tree_a, tree_b):
        tree.pop("seconds", None)  # the clock may differ, and nothing else
    a, b = _leaves(tree_a), _leaves(tree_b)
    different = sorted(".".join(map(str, path)) for path in {*a, *b} if not _same(a.get(path), b.get(path)))
    tensors = sum(isinstance(leaf, Tensor) for leaf in a.values())
    return Comparison(info["round"], tensors, len(a) - tensors, tuple(different))


def _leaves(tree: Any, at: tuple[Any, ...] = ()) -> dict[tuple[Any, ...], Any]:
    """Every tensor and every value of a tree by its path."""
    if not isinstance(tree, (Mapping, list)):
        return {at: tree}
    parts = tree.items() if isinstance(tree, Mapping) else enumerate(tree)
    return {path: leaf for key, part in parts for path, leaf in _leaves(part, (*at, key)).items()}


def _same(a: Any, b: Any) -> bool:
    """Equal, tensors to the bit: nan equals nan, 0.0 differs from -0.0."""
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        return type(a) is type(b) and a == b
    bits, others = (x.contiguous().view(-1).view(torch.uint8) for x in (a, b))
    return a.dtype == b.dtype and a.shape == b.shape and bits.equal(others)

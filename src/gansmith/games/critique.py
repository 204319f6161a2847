"""What D says, brought to one form: the only place that knows the shapes of discriminators' outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gansmith.errors import UserError


class Critique(NamedTuple):
    """D's scores of real and of generated images: one tensor per scale, (N,) or a patch map (N, h, w)."""

    real: tuple[Tensor, ...]
    fake: tuple[Tensor, ...]


def scores(output: Any, n: int) -> tuple[Tensor, ...]:
    """The scores in D's output for n images, one tensor per scale.

    D may return scores (N,), a patch map (N, h, w), a list of these (one per scale), or a record with a field `score`.
    """
    if isinstance(output, tuple) and "score" in getattr(output, "_fields", ()):
        output = output.score  # type: ignore[attr-defined]
    scales = (output,) if isinstance(output, Tensor) else tuple(output)
    for scale in scales:
        if scale.shape[:1] != (n,) or scale.dim() not in (1, 3):
            raise UserError(
                f"D returned scores of shape {tuple(scale.shape)} for {n} images; they must be ({n},), as after"
                f" .squeeze(1), or ({n}, h, w)"
            )
    return scales


def per_sample(loss: Callable[[Tensor, Tensor], Tensor], c: Critique) -> Tensor:
    """The loss of each sample (N,): the mean over a patch map, the sum over scales."""
    parts = [loss(r, f).flatten(1).mean(1) if r.dim() > 1 else loss(r, f) for r, f in zip(*c, strict=True)]
    return torch.stack(parts).sum(0)


def score(net: nn.Module) -> Callable[[Tensor], Tensor]:
    """D as one number per sample (N,), for penalties: the mean over a patch map, the sum over scales."""

    def one(x: Tensor) -> Tensor:
        maps = scores(net(x), len(x))
        return per_sample(lambda s, _: s, Critique(maps, maps))

    return one


def mean(scales: tuple[Tensor, ...], output: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean of D's output over everything, for the log: a detached 0-dim tensor."""
    return torch.stack([output(s.detach()).mean() for s in scales]).mean()

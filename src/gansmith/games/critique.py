"""What D says, brought to one form: the only place that knows the shapes of discriminators' outputs."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import log
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from gansmith.errors import UserError
from gansmith.objectives import Objective

Critic = Callable[[Tensor], Any]
"""Pictures (N, C, H, W) -> D's output, such as `D.net`, or a critic's that looks at more than the picture."""


class Critique(NamedTuple):
    """D's scores of real and of generated images: one tensor per scale, (N,) or a patch map (N, h, w)."""

    real: tuple[Tensor, ...]
    fake: tuple[Tensor, ...]


def scores(output: Any, n: int) -> tuple[Tensor, ...]:
    """The scores in D's output for n images, one tensor per scale.

    D may return scores (N,), a patch map (N, h, w), a list of these (one per scale), or a record with a field `score`.
    Scores in bfloat16 become float32: losses are never computed in less.
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
    return tuple(full(scale) for scale in scales)


def criticised(critic: Critic, x_real: Tensor, x_fake: Tensor) -> Critique:
    """What a critic says of real and of generated pictures."""
    return Critique(scores(critic(x_real), len(x_real)), scores(critic(x_fake), len(x_fake)))


def full(x: Tensor) -> Tensor:
    """x in the precision of losses: float32 where autocast has made it bfloat16."""
    return x.float() if x.dtype == torch.bfloat16 else x


def fill(G: Any, holed: Tensor, mask: Tensor) -> Tensor:
    """G(holed) in the hole; what can be seen stays as it is."""
    return torch.where(mask > 0, full(G(holed)), holed)


def per_sample(loss: Callable[[Tensor, Tensor], Tensor], c: Critique) -> Tensor:
    """The loss of each sample (N,): the mean over a patch map, the sum over scales."""
    parts = [loss(r, f).flatten(1).mean(1) if r.dim() > 1 else loss(r, f) for r, f in zip(*c, strict=True)]
    return torch.stack(parts).sum(0)


def score(net: Critic) -> Callable[[Tensor], Tensor]:
    """D as one number per sample (N,), for penalties: the mean over a patch map, the sum over scales."""

    def one(x: Tensor) -> Tensor:
        maps = scores(net(x), len(x))
        return per_sample(lambda s, _: s, Critique(maps, maps))

    return one


@contextmanager
def evaluating(*nets: nn.Module) -> Iterator[None]:
    """Networks in eval mode; afterwards each of their modules is in its own mode again: a part may never train."""
    before = [(module, module.training) for net in nets for module in net.modules()]
    for net in nets:
        net.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


@torch.no_grad()
def judge(D: nn.Module, x: Tensor) -> Tensor:
    """D's score of each of x (N, C, H, W), in eval mode: (N,). D stays in the mode that it was in."""
    with evaluating(D):
        return score(D)(x)


def theory(c: Critique) -> dict[str, Tensor]:
    """What the theory of Goodfellow et al. 2014 (arXiv 1406.2661) says of this batch, from scores that are logits.

    value/V: mean log D(x) + mean log(1 - D(G(z))); -log 4 where D cannot tell, 0 where it is sure. value/jsd:
    (V + log 4) / 2 in nats, kept in [0, log 2]: in expectation a lower bound of the Jensen-Shannon divergence, tight
    for the optimal D (Theorem 1). On training batches, and with D's dropout on, it is a trend and no bound for p_data.
    """
    real = torch.cat([s.detach().flatten() for s in c.real])
    fake = torch.cat([s.detach().flatten() for s in c.fake])
    v = -(softplus(-real).mean() + softplus(fake).mean())
    return {"value/V": v, "value/jsd": jsd(v)}


def jsd(v: Tensor) -> Tensor:
    """What V says of the Jensen-Shannon divergence, in nats."""
    return ((v + log(4)) / 2).clamp(0, log(2))


def shown(c: Critique, objective: Objective, of: str = "") -> dict[str, Tensor]:
    """D's mean output on real and on generated pictures, for the log; `of` tells critics apart.

    D/right_real, D/right_fake: the shares of pictures that D judges rightly, where a score of 0 separates them.
    """
    means = {f"D/real{of}": mean(c.real, objective.output), f"D/fake{of}": mean(c.fake, objective.output)}
    if not (objective.probability or objective.zero):
        return means
    right = {f"D/right_real{of}": mean(c.real, _above), f"D/right_fake{of}": mean(c.fake, lambda s: _above(-s))}
    return means | right


def _above(s: Tensor) -> Tensor:
    return (s > 0).to(s.dtype)


def judged(c: Critique, objective: Objective) -> dict[str, Tensor]:
    """For the log of a game whose only critic is D: its mean outputs and, where scores are logits, the theory."""
    return {**shown(c, objective), **(theory(c) if objective.probability else {})}


def with_jsd(metrics: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The divergence that the whole batch's V says."""
    return {**metrics, **({"value/jsd": jsd(metrics["value/V"])} if "value/V" in metrics else {})}


def mean(scales: tuple[Tensor, ...], output: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean of D's output over everything, for the log: a detached 0-dim tensor."""
    return torch.stack([output(s.detach()).mean() for s in scales]).mean()

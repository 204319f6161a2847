"""Players: the only place where gradients are taken and weights change."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from gansmith.batch import Batch
from gansmith.errors import NonFinite
from gansmith.schema import Decay, NonNegativeFloat, PositiveFloat

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]


def adam(
    params: Iterable[nn.Parameter],
    *,
    lr: PositiveFloat = 2e-4,
    b1: Decay = 0.5,
    b2: Decay = 0.999,
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.0,
) -> torch.optim.Optimizer:
    """Adam (arXiv 1412.6980) in one fused kernel; lr and betas of the post by default."""
    return torch.optim.Adam(params, lr=lr, betas=(b1, b2), eps=eps, weight_decay=weight_decay, fused=True)


def sgd(
    params: Iterable[nn.Parameter],
    *,
    lr: PositiveFloat = 0.1,
    momentum: Decay = 0.0,
    weight_decay: NonNegativeFloat = 0.0,
) -> torch.optim.Optimizer:
    """SGD with classical momentum in one fused kernel: v <- momentum v + gradient, theta <- theta - lr v."""
    return torch.optim.SGD(params, lr=lr, momentum=momentum, weight_decay=weight_decay, fused=True)


def rmsprop(
    params: Iterable[nn.Parameter],
    *,
    lr: PositiveFloat = 5e-5,
    alpha: Decay = 0.99,
    eps: PositiveFloat = 1e-8,
    weight_decay: NonNegativeFloat = 0.0,
) -> torch.optim.Optimizer:
    """RMSprop (Hinton 2012, lecture 6e)."""
    return torch.optim.RMSprop(params, lr=lr, alpha=alpha, eps=eps, weight_decay=weight_decay)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {"adam": adam, "sgd": sgd, "rmsprop": rmsprop}


Tensors = tuple[Tensor | None, ...]
"""d loss / d theta in the order of the parameters; None where the loss does not depend on one."""
Metrics = dict[str, Tensor]
"""Detached 0-dim tensors on the device: "loss/D", "D/real", "grad/G", "game/k", ..."""
Moved = Mapping[str, "tuple[Player | tuple[Player, ...], Tensor]"]
"""By its name, who moves along a loss, and the loss: the mean over a part of the batch, 0-dim."""


def move(batch: Batch, accumulate: int, losses: Callable[[Batch], tuple[Moved, Mapping[str, Tensor]]]) -> Metrics:
    """Take the gradients of all losses at one point, then step every player named once.

    Over the parts of the batch, `accumulate` at most here and those of other processes: theta's gradient is
    sum_parts share * d loss(part) / d theta, of all losses that name its player. Nothing moves unless every loss and
    every gradient is finite; NonFinite otherwise. Nobody's `.grad` is touched before the step. `losses(part)` gives the
    losses and what else to log, 0-dim tensors whose means are taken alike. Returns "loss/NAME", those means and
    "grad/PLAYER", the norm of its gradient.
    """
    movers: dict[str, tuple[Player, ...]] = {}
    sums: dict[str, Tensors] = {}
    means: Metrics = {}
    for part in batch.parts(accumulate):
        found, said = losses(part)
        for left, (name, (whose, loss)) in zip(range(len(found) - 1, -1, -1), found.items(), strict=True):
            movers[name] = whose if isinstance(whose, tuple) else (whose,)
            parameters = [p for player in movers[name] for p in player.parameters]
            # The loss is weighted, not its gradient: where a graph spans processes (SyncBatchNorm) that matters.
            weighted = loss if part.share == 1 else part.share * loss
            grads = torch.autograd.grad(weighted, parameters, retain_graph=left > 0, allow_unused=True)
            sums[name] = _plus(sums[name], grads) if name in sums else grads
            _add(means, f"loss/{name}", weighted)
        for name, value in said.items():
            _add(means, name, value if part.share == 1 else part.share * value)
    sums, means = _over_processes(movers, sums, means)
    gradients: dict[Player, Tensors] = {}
    for name, players in movers.items():
        rest = iter(sums[name])
        for player in players:
            own = tuple(islice(rest, len(player.parameters)))
            gradients[player] = _plus(gradients[player], own) if player in gradients else own
    norms = {player: _norm(own, like=means[f"loss/{next(iter(movers))}"]) for player, own in gradients.items()}
    _check_finite(movers, means, norms)
    for player, own in gradients.items():
        player.step(own)
    return {**means, **{f"grad/{player.name}": norm for player, norm in norms.items()}}


def _add(means: Metrics, name: str, value: Tensor) -> None:
    value = value.detach()
    means[name] = means[name] + value if name in means else value


def _plus(one: Tensors, other: Tensors) -> Tensors:
    return tuple(b if a is None else a if b is None else a + b for a, b in zip(one, other, strict=True))


def _over_processes(
    movers: Mapping[str, tuple[Player, ...]], sums: dict[str, Tensors], means: Metrics
) -> tuple[dict[str, Tensors], Metrics]:
    """Everything summed over all processes at once, after which they hold the same; one more wait for the device.

    A parameter may be left out by the loss of one process and not by another's, as where a network drops layers.
    """
    reduce = next(iter(movers.values()))[0].reduce
    if reduce is None:
        return sums, means
    parameters = [p for players in movers.values() for player in players for p in player.parameters]
    given = [g for tensors in sums.values() for g in tensors]
    filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, given, strict=True)]
    present = next(iter(means.values())).new_tensor([float(g is not None) for g in given])
    summed = reduce([*filled, present, *means.values()])
    n = len(filled)
    whole = iter([g if count > 0 else None for g, count in zip(summed[:n], summed[n].tolist(), strict=True)])
    sums = {name: tuple(islice(whole, len(own))) for name, own in sums.items()}
    return sums, dict(zip(means, summed[n + 1 :], strict=True))


def _norm(tensors: Tensors, like: Tensor) -> Tensor:
    """The norm of all of them together, 0-dim; 0 where there is none."""
    given = [g for g in tensors if g is not None]
    return torch.nn.utils.get_total_norm(given) if given else like.new_zeros(())


def _check_finite(movers: Mapping[str, tuple[Player, ...]], means: Metrics, norms: Mapping[Player, Tensor]) -> None:
    """All at once, because the host waits for the device each time."""
    losses = [means[f"loss/{name}"] for name in movers]
    finite = iter(torch.isfinite(torch.stack([*losses, *norms.values()])).tolist())
    for players in movers.values():
        if not next(finite):
            raise NonFinite(f"the loss of {' and '.join(p.name for p in players)} is not finite")
    for player in norms:
        if not next(finite):
            raise NonFinite(f"the gradient of {player.name} is not finite")


def _laid_out_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """The tensor in the memory format of the parameter: fused optimizers pair numbers by their place in memory."""
    if tensor.stride() == parameter.stride():
        return tensor
    return torch.empty_like(parameter).copy_(tensor)


class Player:
    """A network that moves as one, with its optimizer and, if asked for, the moving average of its weights."""

    def __init__(
        self, name: str, net: nn.Module, make_optimizer: MakeOptimizer, *, ema_halflife_kimg: float | None = None
    ) -> None:
        self.name = name
        self.net = net
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self.parameters)
        self.constrain: Callable[[], None] | None = getattr(net, "constrain", None)
        self.reduce: Callable[[Sequence[Tensor]], list[Tensor]] | None = None  # as World.reduce
        self.moves = 0  # steps taken, or begun
        self.ema_halflife_kimg = ema_halflife_kimg
        self.ema = copy.deepcopy(net).requires_grad_(False) if ema_halflife_kimg else None

    @property
    def dtype(self) -> torch.dtype:
        return self.parameters[0].dtype

    def lend(self, *inputs: Any) -> Any:
        """A forward pass for somebody else's move, in training mode: the weights are constants, no buffer changes."""
        weights = {name: weight.detach() for name, weight in self.net.named_parameters()}
        return torch.func.functional_call(self.net, weights | self._buffers(), inputs)

    def probe(self, *inputs: Any) -> Any:
        """A forward pass for a penalty: the weights are its own, but no buffer (running mean, ...) changes."""
        return torch.func.functional_call(self.net, self._buffers(), inputs)

    def _buffers(self) -> dict[str, Tensor]:
        return {name: buffer.clone() for name, buffer in self.net.named_buffers()}

    def step(self, gradients: Tensors) -> None:
        """One step of the optimizer along the gradients; parameters without one stay.

        A network that has a method `constrain` then takes its weights back to where they may be.
        """
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.grad = None if gradient is None else _laid_out_like(parameter, gradient)
        self.moves += 1  # before the step, for one that fails may have moved some of the weights
        self.optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None
        if self.constrain is not None:
            self.constrain()

    @torch.no_grad()
    def average(self, images: int, total: int) -> None:
        """ema <- ema + (1 - d^images) / (1 - d^total) (theta - ema), d = 2^(-1 / half-life).

        Called after `images` more were shown to D, `total` in all. The divisor makes it a weighted mean of the weights
        after each move: without it the first weights, which are noise, would keep a share of d^total.
        """
        if self.ema is None or self.ema_halflife_kimg is None:
            return
        kept, first = (0.5 ** (n / (1000 * self.ema_halflife_kimg)) for n in (images, total))
        # All at once: on a GPU small networks wait for launches, one for each tensor.
        torch._foreach_lerp_([*self.ema.parameters()], [*self.net.parameters()], (1 - kept) / (1 - first))
        if buffers := [*self.net.buffers()]:
            torch._foreach_copy_([*self.ema.buffers()], buffers)

    def state_dict(self) -> dict[str, Any]:
        state = {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict(), "moves": self.moves}
        return state if self.ema is None else {**state, "ema": self.ema.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.net.load_state_dict(state["net"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.moves = state.get("moves", 0)  # older checkpoints have none, and no penalty that counts them
        for parameter, own in self.optimizer.state.items():
            for key, value in own.items():
                if torch.is_tensor(value) and value.shape == parameter.shape:
                    own[key] = _laid_out_like(parameter, value)
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])

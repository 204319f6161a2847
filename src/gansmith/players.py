"""Players: the only place where gradients are taken and weights change."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gansmith.errors import NonFinite, UserError
from gansmith.schema import Decay, NonNegativeFloat, PositiveFloat

MakeOptimizer = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
Reduce = Callable[[Sequence[Tensor]], list[Tensor]]
"""The sum of each tensor over all processes."""


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


class Gradients(NamedTuple):
    """d loss / d theta of one player, in the order of its parameters; None where the loss does not depend on one."""

    tensors: Sequence[Tensor | None]
    norm: Tensor
    """The norm of all of them together, 0-dim."""


class MeanGradients:
    """The gradients of players over a whole batch, from its parts: the sum of share * d loss / d theta over them.

    A part's loss is its mean over the part, `share` the part's share of the batch, and shares add up to 1: over the
    parts of one process and, where a batch is shared by several, over all of those. Nobody's `.grad` is touched.
    """

    def __init__(self, *players: Player) -> None:
        self.players = players
        self.parameters = [p for player in players for p in player.parameters]
        self.tensors: tuple[Tensor | None, ...] = ()
        self.share = 0.0
        self.loss: Tensor
        """The mean of the loss, 0-dim, detached; that of the whole batch after `take`."""
        self.means: dict[str, Tensor] = {}
        """The same of what came along with it."""

    def add(
        self, loss: Tensor, share: float = 1.0, also: Mapping[str, Tensor] | None = None, *, retain_graph: bool = False
    ) -> None:
        """Backward of one part; the means of `also`, 0-dim tensors by name, are taken in the same way."""
        # The loss is weighted, not its gradient: where a graph spans processes (SyncBatchNorm) that matters.
        weighted = loss if share == 1 else share * loss
        tensors = torch.autograd.grad(weighted, self.parameters, retain_graph=retain_graph, allow_unused=True)
        means = {key: value.detach() if share == 1 else share * value.detach() for key, value in (also or {}).items()}
        if self.share:
            pairs = zip(self.tensors, tensors, strict=True)
            tensors = tuple(b if a is None else a if b is None else a + b for a, b in pairs)
            means = {key: self.means[key] + value for key, value in means.items()}
            weighted = self.loss + weighted
        self.tensors, self.means, self.loss = tensors, means, weighted.detach()
        self.share += share

    def take(self) -> tuple[Gradients, ...]:
        """Each player's own gradients, of the whole batch.

        Raises NonFinite where the loss or a gradient is not finite: nothing has moved by then.
        """
        if (reduce := self.players[0].reduce) is not None:
            self._reduce(reduce)
        elif abs(self.share - 1) > 1e-6:
            raise UserError(WRONG_SHARES.format(total=self.share))
        owned, start = [], 0
        for player in self.players:
            owned.append(self.tensors[start : start + len(player.parameters)])
            start += len(player.parameters)
        norms = [_norm(own, like=self.loss) for own in owned]
        # All checked at once, for the host waits for the device each time.
        loss_finite, *norms_finite = torch.isfinite(torch.stack([self.loss, *norms])).tolist()
        if not loss_finite:
            raise NonFinite(" and ".join(p.name for p in self.players), "the loss")
        for player, finite in zip(self.players, norms_finite, strict=True):
            if not finite:
                raise NonFinite(player.name, "the gradient")
        return tuple(Gradients(own, norm) for own, norm in zip(owned, norms, strict=True))

    def _reduce(self, reduce: Reduce) -> None:
        """Everything in one sum over all processes, after which they hold the same.

        A parameter may be left out by the loss of one process and not by another's, as where a network drops layers.
        """
        given = [g is not None for g in self.tensors]
        filled = [torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, self.tensors, strict=True)]
        counts = self.loss.new_tensor([self.share, *given])
        summed = iter(reduce([*filled, self.loss, counts, *self.means.values()]))
        sums = [next(summed) for _ in filled]
        self.loss, (total, *givers) = next(summed), next(summed).tolist()
        self.tensors = tuple(g if n > 0 else None for g, n in zip(sums, givers, strict=True))
        self.means = dict(zip(self.means, summed, strict=True))
        if abs(total - 1) > 1e-3:
            raise UserError(WRONG_SHARES.format(total=total))


def _norm(tensors: Iterable[Tensor | None], like: Tensor) -> Tensor:
    """The norm of all of them together, 0-dim; 0 where there is none."""
    given = [g for g in tensors if g is not None]
    return torch.nn.utils.get_total_norm(given) if given else like.new_zeros(())


WRONG_SHARES = (
    "the shares of a batch add up to {total:.4g}, and it must be 1: a game says of which share each loss is, as in"
    " gradients(loss, share) with the shares that gansmith.games.game.parts gives"
)


def gradients(loss: Tensor, *players: Player, share: float = 1.0, retain_graph: bool = False) -> tuple[Gradients, ...]:
    """One backward pass that gives each named player its own gradients, and leaves every `.grad` alone.

    `share` is that of the batch which the loss is of; below 1 where a batch is shared by several processes. Raises
    NonFinite where the loss or a gradient is not finite: nothing has moved by then.
    """
    mean = MeanGradients(*players)
    mean.add(loss, share, retain_graph=retain_graph)
    return mean.take()


def _laid_out_like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """The tensor in the memory format of the parameter: fused optimizers pair numbers by their place in memory."""
    if tensor.stride() == parameter.stride():
        return tensor
    return torch.empty_like(parameter).copy_(tensor)


class Player:
    """A network that moves as one, with its optimizer and, if asked for, the moving average of its weights."""

    def __init__(
        self,
        name: str,
        net: nn.Module,
        make_optimizer: MakeOptimizer,
        *,
        ema_halflife_kimg: float | None = None,
    ) -> None:
        self.name = name
        self.net = net
        self.parameters = [p for p in net.parameters() if p.requires_grad]
        self.optimizer = make_optimizer(self.parameters)
        self.constrain: Callable[[], None] | None = getattr(net, "constrain", None)
        self.reduce: Reduce | None = None
        """Sums over the processes that train together; None where there is one."""
        self.moves = 0
        """Steps taken, or begun."""
        self.ema_halflife_kimg = ema_halflife_kimg
        self.ema = copy.deepcopy(net).requires_grad_(False) if ema_halflife_kimg else None

    @property
    def dtype(self) -> torch.dtype:
        return self.parameters[0].dtype

    def lend(self, *inputs: Tensor) -> Any:
        """A forward pass for the opponent's move: in training mode, but no buffer (running mean, ...) changes."""
        buffers = {name: buffer.clone() for name, buffer in self.net.named_buffers()}
        return torch.func.functional_call(self.net, buffers, inputs)

    def gradients(self, loss: Tensor, share: float = 1.0, *, retain_graph: bool = False) -> Gradients:
        """d loss / d theta of this player alone."""
        return gradients(loss, self, share=share, retain_graph=retain_graph)[0]

    def step(self, grads: Gradients) -> None:
        """One step of the optimizer along the gradients; parameters without one stay.

        A network that has a method `constrain` then takes its weights back to where they may be.
        """
        for parameter, gradient in zip(self.parameters, grads.tensors, strict=True):
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
        for mean, weight in zip(self.ema.parameters(), self.net.parameters(), strict=True):
            mean.lerp_(weight, (1 - kept) / (1 - first))
        for average, buffer in zip(self.ema.buffers(), self.net.buffers(), strict=True):
            average.copy_(buffer)

    def state_dict(self) -> dict[str, Any]:
        state: dict[str, Any] = {"net": self.net.state_dict(), "optimizer": self.optimizer.state_dict()}
        state["moves"] = self.moves
        if self.ema is not None:
            state["ema"] = self.ema.state_dict()
        return state

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

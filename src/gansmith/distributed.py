"""Several processes that train one model: sums over all of them, one writer, and agreement. torchrun starts them.

Needed where there are at least two; a single process never imports this.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.modules.batchnorm import _BatchNorm

from gansmith.errors import RankLost, UserError
from gansmith.launch import Launch, launch
from gansmith.world import T, World

# The others wait while rank 0 prepares a data set or evaluates; a rank that dies is noticed by its connection.
PATIENCE = timedelta(hours=2)

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Processes(World):
    """Two processes or more, of which this is number `rank`."""

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        super().__init__(device)
        self.rank, self.size = rank, size
        self.reduce = self.sum
        self.wishes: Tensor | None = None
        """How many processes were asked to stop, by signal, at the latest sum."""

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sum of each tensor over all ranks, by one all-reduce of all of them in one flat buffer.

        The wish to stop travels along, so that all ranks know of it after the same round.
        """
        first = tensors[0]
        wishes = first.new_zeros(len(SIGNALS))
        if self.asked is not None:
            wishes[SIGNALS.index(signal.Signals(self.asked))] = 1
        flat = torch.cat([*(t.reshape(-1).to(first.device) for t in tensors), wishes])
        all_reduce(flat)
        *parts, self.wishes = torch.split(flat, [*(t.numel() for t in tensors), len(SIGNALS)])
        return [part.view_as(t).to(t.dtype) for part, t in zip(parts, tensors, strict=True)]

    def stop(self) -> int | None:
        counts = [] if self.wishes is None else self.wishes.tolist()
        return next((int(s) for s, n in zip(SIGNALS, counts, strict=False) if n > 0), None)

    def on_first(self, make: Callable[[], T]) -> T:
        with self.together():
            box: list[Any] = [make() if self.rank == 0 else None]
        with _connection():
            dist.broadcast_object_list(box, src=0)
        return cast(T, box[0])

    def in_turn(self, make: Callable[[], T]) -> T:
        for first in (True, False):
            with self.together():
                if first == (self.rank == 0):
                    made = make()
        return made

    def gather(self, thing: Any) -> list[Any]:
        found: list[Any] = [None] * self.size
        with _connection():
            dist.all_gather_object(found, thing)
        return found

    @torch.no_grad()
    def equalise(self, network: nn.Module) -> None:
        """The same seed may round otherwise on another machine."""
        for tensor in [*network.parameters(), *network.buffers()]:
            with _connection():
                dist.broadcast(tensor.data, src=0)

    @contextmanager
    def together(self) -> Iterator[None]:
        """The error names its rank unless that is 0."""
        error = None
        try:
            yield
        except UserError as found:
            error = str(found)
        for rank, text in enumerate(self.gather(error)):
            if text is not None:
                raise UserError(text if rank == 0 else f"rank {rank}: {text}")


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """Join the other processes of torchrun: nccl between CUDA devices, each process its own, else gloo."""
    if not dist.is_available():
        raise UserError(
            "this PyTorch is built without torch.distributed, so it trains in one process: leave torchrun away"
        )
    here = launch()
    own = _own_device(device, here)
    if own.type == "cuda":
        torch.cuda.set_device(own)
    with _connection():
        # gloo beside nccl carries what is not on the device: streams, errors, the run's name.
        backend = "cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo"
        try:
            store, rank, size = next(rendezvous("env://", here.rank, here.size, timeout=PATIENCE))
        except ValueError:
            address, port = (os.environ.get(name) for name in ("MASTER_ADDR", "MASTER_PORT"))
            raise UserError(
                f"MASTER_ADDR is {address!r} and MASTER_PORT {port!r}; they must be where rank 0 is to be found, as"
                " torchrun sets them"
            ) from None
        # torchrun's store outlives a restart, and with it the addresses of processes that are gone.
        store = PrefixStore(f"gansmith restart {here.restarts}", store)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield Processes(here.rank, here.size, own)
    finally:
        dist.destroy_process_group()


def _own_device(name: str, here: Launch) -> torch.device:
    """The device of this rank: "auto" is CUDA where there is one, else the CPU."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if name not in ("auto", "cuda"):
        raise UserError(
            f"--device {name}: with several processes it must be auto, cpu or cuda, where each takes its own"
        )
    if (there := torch.cuda.device_count()) < here.local_size:
        raise UserError(
            f"{here.local_size} processes on a machine with {there} CUDA devices: --nproc-per-node {there or 1}"
        )
    return torch.device("cuda", here.local_rank)


def all_reduce(tensor: Tensor) -> None:
    """Sum over all ranks in place; RankLost if one of them is gone."""
    with _connection():
        dist.all_reduce(tensor)


@contextmanager
def _connection() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # gloo raises plain RuntimeErrors, and what is no fault of a connection (memory, a bug) must not read like one.
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise RankLost(f"the connection to the other processes broke ({str(error).splitlines()[0]})") from None


# ---- BatchNorm over the batch of all ranks ----------------------------------------------------------------------


class _Sum(torch.autograd.Function):
    """The sum over all ranks; its gradient is the sum of the gradients of all ranks, of any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return _Sum.apply(gradient)


class SyncBatchNorm(_BatchNorm):
    """BatchNorm (arXiv 1502.03167) with mean and variance of the batch of all ranks: x (N, C) or (N, C, ...).

    Equal to one process on the whole batch, backward included, for shares of any size: mean = sum_r sum_i x / n with
    n = sum_r n_r, then var = sum_r sum_i (x - mean)^2 / n. On any device; torch's own refuses the CPU.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        pass  # of any number of dimensions

    def forward(self, input: Tensor) -> Tensor:
        if not self.training:
            return super().forward(input)
        if input.dtype == torch.bfloat16:  # sums over a batch need more digits; torch's BatchNorm takes float32 too
            return self(input.float()).to(input.dtype)
        rest = [0, *range(2, input.dim())]
        shape = [1, -1] + [1] * (input.dim() - 2)
        n = input.new_full((1,), input.numel() // input.shape[1])
        sums: Tensor = _Sum.apply(torch.cat([input.sum(rest), n]))
        mean, n = sums[:-1] / sums[-1], sums[-1].detach()
        centred = input - mean.view(shape)
        var: Tensor = _Sum.apply(centred.square().sum(rest)) / n
        self._remember(mean.detach(), var.detach() * n / (n - 1))
        scaled = centred * torch.rsqrt(var + self.eps).view(shape)
        return scaled * self.weight.view(shape) + self.bias.view(shape) if self.affine else scaled

    @torch.no_grad()
    def _remember(self, mean: Tensor, var: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        weight = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.mul_(1 - weight).add_(mean, alpha=weight)
        self.running_var.mul_(1 - weight).add_(var, alpha=weight)


def synchronise(network: nn.Module) -> None:
    """Let every BatchNorm of the network take the batch of all ranks; names, weights and buffers stay."""
    for module in network.modules():
        if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            module.__class__ = SyncBatchNorm

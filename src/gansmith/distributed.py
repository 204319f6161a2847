"""Several processes that train one model: sums over all of them, one writer, and agreement. torchrun starts them.

Needed where there are at least two; a single process never imports this.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count
from typing import Any, cast

import torch
import torch.distributed as dist

# Its functions take the group that exists when they are defined as a default. Imported later, by torch.compile or
# torchvision, they would keep it and its threads alive; a thread that frees a tensor while Python ends is an abort.
import torch.distributed.nn.functional
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous
from torch.nn.modules.batchnorm import _BatchNorm

from gansmith.errors import RankLost, UserError
from gansmith.launch import Launch, launch
from gansmith.world import T, World

# The others wait while rank 0 prepares a data set or evaluates. A rank that dies is noticed by its connection, one that
# is cut off by its silence: seconds between two signs of life, and seconds without one.
PATIENCE = timedelta(hours=2)
BEAT = 5.0
SILENCE = 50.0

_joins = count()

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Processes(World):
    """Two processes or more, of which this is number `rank`."""

    def __init__(self, rank: int, size: int, device: torch.device) -> None:
        super().__init__(device)
        self.rank, self.size = rank, size
        self.reduce = self.sum
        self.wishes: Tensor | None = None  # how many processes were asked to stop, by signal, at the latest sum

    def sum(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sum of each tensor over all ranks, by one all-reduce of all of them in one flat buffer.

        The wish to stop travels along, so that all ranks know of it after the same round.
        """
        first = tensors[0]
        wishes = first.new_zeros(len(SIGNALS))
        if self.asked is not None:
            wishes[SIGNALS.index(signal.Signals(self.asked))] = 1
        flat = torch.cat([*(t.reshape(-1).to(first.device) for t in tensors), wishes])
        _all_reduce(flat)
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

    def everywhere(self, x: Tensor) -> Tensor:
        """Differentiable to any order, for shares of unequal size; all ranks call it and its backward in one order."""
        size = int(self.sum([x.new_full((), len(x), dtype=torch.float32)])[0])
        begin, end = (size * r // self.size for r in (self.rank, self.rank + 1))
        if len(x) != end - begin:
            raise ValueError(f"rank {self.rank} has {len(x)} rows; of {size} it must have {end - begin}")
        before, after = (x.new_zeros(n, *x.shape[1:]) for n in (begin, size - end))
        whole: Tensor = _Sum.apply(torch.cat([before, x, after]))
        return whole

    @torch.no_grad()
    def equalise(self, network: nn.Module) -> None:
        """The same seed may round otherwise on another machine."""
        with _connection():
            for tensor in [*network.parameters(), *network.buffers()]:
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
    here = launch()
    # torchrun's store outlives a restart and a training, and with it the addresses of processes that are gone.
    prefix = f"gansmith {here.restarts} {next(_joins)}"
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
        store = PrefixStore(prefix, store)
        _check_addresses(store, rank, size)
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        with _watched(Processes(here.rank, here.size, own), prefix) as world:
            yield world
    finally:
        dist.destroy_process_group()


def _check_addresses(store: PrefixStore, rank: int, size: int) -> None:
    """UserError on all ranks where one of several machines knows itself by an address that the others cannot reach."""
    name = socket.gethostname()
    try:
        address = str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        address = "127.0.0.1"  # as gloo does
    local = address.startswith("127.") or address == "::1"
    store.set(f"host {rank}", f"{name} {address if local and 'GLOO_SOCKET_IFNAME' not in os.environ else ''}")
    hosts = [host.decode().split(" ") for host in store.multi_get([f"host {r}" for r in range(size)])]
    bad = next(((host, where) for host, where in hosts if where), None)
    if bad and len({host for host, _ in hosts}) > 1:
        store.set(f"read {rank}", "")
        if rank == 0:  # which may keep the store
            store.wait([f"read {r}" for r in range(size)])
        raise UserError(
            f"the machine {bad[0]} finds itself at {bad[1]}, where the others cannot reach it: set GLOO_SOCKET_IFNAME"
            " there to the name of its network interface, such as eth0"
        )


@contextmanager
def _watched(world: Processes, prefix: str) -> Iterator[Processes]:
    """Each rank counts in the store while the block runs; where another's count stands still, this process ends.

    Two threads, since a call to the store never returns when the machine that keeps it is cut off. They count turns and
    not seconds, since all ranks may be stopped and go on together.
    """
    keys = [f"pulse {rank}" for rank in range(world.size)]
    seen = [b""] * world.size
    over = threading.Event()

    def beat() -> None:
        # Torch prints a stack trace where the store is gone with its process, so a plain connection is asked first.
        with suppress(OSError, RuntimeError), socket.create_connection(_master()) as line:
            line.setblocking(False)
            tcp = dist.TCPStore(*_master(), is_master=False, timeout=PATIENCE)  # type: ignore[attr-defined]
            store = PrefixStore(prefix, tcp)
            for turn in count():
                with suppress(BlockingIOError):
                    if not line.recv(1):
                        break
                store.set(keys[world.rank], "left" if over.is_set() else str(turn))
                if over.is_set():
                    break
                seen[:] = store.multi_get(keys)
                over.wait(BEAT)
        over.set()

    def watch() -> None:
        before, silent = list(seen), [0] * world.size
        while not over.wait(BEAT):
            now = list(seen)
            silent = [0 if n != b or n == b"left" else s + 1 for n, b, s in zip(now, before, silent, strict=True)]
            before = now
            if max(silent) * BEAT >= SILENCE:
                _give_up(world, [rank for rank, turns in enumerate(silent) if turns * BEAT >= SILENCE])

    threads = [threading.Thread(target=work, daemon=True) for work in (beat, watch)]
    for thread in threads:
        thread.start()
    try:
        yield world
    finally:
        over.set()
        for thread in threads:
            thread.join(BEAT)


def _give_up(world: Processes, lost: list[int]) -> None:
    # A rank that no longer sees its own count has lost the store.
    who = f"the store at {_master()[0]}" if world.rank in lost else f"rank {', '.join(map(str, lost))}"
    text = f"rank {world.rank}: {who} has given no sign of life for {SILENCE:.0f} seconds"
    try:
        print(f"gansmith: error: {text}{world.goes_on()}", file=sys.stderr, flush=True)
    finally:
        os._exit(1)  # nothing else ends a thread that waits for a connection


def _master() -> tuple[str, int]:
    return os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])


def _own_device(name: str, here: Launch) -> torch.device:
    """The device of this rank: "auto" is CUDA where there is one, else the CPU."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if name not in ("auto", "cuda"):
        raise UserError(f"--device {name}: of several processes each takes its own, so it must be auto, cpu or cuda")
    there, wanted = torch.cuda.device_count(), here.local_size
    if there < wanted:
        raise UserError(f"{wanted} processes on a machine with {there} CUDA devices: --nproc-per-node {there or 1}")
    return torch.device("cuda", here.local_rank)


def _all_reduce(tensor: Tensor) -> None:
    with _connection():
        dist.all_reduce(tensor)


@contextmanager
def _connection() -> Iterator[None]:
    """RankLost if another process is gone."""
    try:
        yield
    except RuntimeError as error:
        # gloo raises plain RuntimeErrors, and what is no fault of a connection (memory, a bug) must not read like one.
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        what = str(error).splitlines()[0].split(". ")[0]  # gloo says more, which helps nobody
        raise RankLost(f"the connection to the other processes broke ({what})") from None


# ---- BatchNorm over the batch of all ranks ----------------------------------------------------------------------


class _Sum(torch.autograd.Function):
    """The sum over all ranks; its gradient is the sum of the gradients of all ranks, of any order."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone(memory_format=torch.contiguous_format)
        _all_reduce(total)
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

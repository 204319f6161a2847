"""Batches without end, in an order that follows from the seed and the position alone."""

import hashlib
import os
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gansmith.data.imageset import ImageSet, Labels
from gansmith.data.values import VALUES
from gansmith.errors import UserError

FREE_SHARE = 0.25  # "auto" keeps a set on the device that takes at most this share of its free memory
MEMORY = ("auto", "device", "map")


class Batch(NamedTuple):
    """images (N, C, H, W) as networks see them (`data.values`), labels (N,) int64 or None; on the stream's device."""

    images: Tensor
    labels: Tensor | None

    @property
    def size(self) -> int:
        return len(self.images)

    @property
    def share(self) -> float:
        return 1.0


class Share(NamedTuple):
    """The part of a batch of `size` images that one of several processes gets, as in `Batch`."""

    images: Tensor
    labels: Tensor | None
    size: int

    @property
    def share(self) -> float:
        return len(self.images) / self.size


class Stream(Iterator[Batch | Share]):
    """Endless batches of a set: each epoch is a fresh permutation, and its short last batch is kept.

    memory="device" keeps all images on the device as they are; "map" reads them from the memory map with `n_cpu`
    threads ahead of use; "auto" is "device" when the set takes at most a quarter of the free memory there.
    Both give the same batches bit for bit. `values` names what the networks see of the bytes, computed in `dtype` on
    the device. Of `ranks` processes that train together the one of number `rank` gets the images from n rank / ranks to
    n (rank + 1) / ranks of each batch of n. `copies`: the processes that would each keep the set in the same memory.
    """

    def __init__(
        self,
        data: ImageSet,
        *,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        memory: str = "auto",
        n_cpu: int = 8,
        values: str = "signed",
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        ranks: int = 1,
        copies: int = 1,
    ) -> None:
        if memory not in MEMORY:
            raise UserError(f"memory is {memory!r}; it must be one of {', '.join(MEMORY)}")
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; it must be at least 1")
        if n_cpu < 1:
            raise UserError(f"n_cpu is {n_cpu}; it must be at least 1")
        if len(data) == 0:
            raise UserError(f"the data set {data.name} is empty")
        if (values == "raw") != (data.density is not None):
            pictures, numbers = "signed, unit or gcn, for it holds pictures", "raw, for it holds numbers"
            raise UserError(
                f"data.values is {values}; for {data.name} it must be {numbers if data.density else pictures}"
            )
        self.data = data
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.ranks = rank, ranks
        self.device = torch.device(device)
        self.position = 0
        self.waited = 0.0
        """Seconds that batches were waited for, while threads read them from the memory map."""
        self.batches_per_epoch = -(-len(data) // batch_size)
        self.in_memory = memory == "device" or (memory == "auto" and _fits(copies * data.images.nbytes, self.device))
        self.dtype = dtype
        self._to_network = VALUES[values].to_network
        self._orders: dict[int, Labels] = {}
        self._order_lock = Lock()
        self._closed = False
        self._images = _on_device(data.images, self.device) if self.in_memory else None
        self._labels = None if data.labels is None else torch.tensor(data.labels, device=self.device)
        self._there: tuple[int, Tensor] | None = None
        self._pool = None if self.in_memory else ThreadPoolExecutor(n_cpu, thread_name_prefix="gansmith-data")
        self._ahead: deque[Future[Tensor]] = deque()
        self._depth = min(2 * n_cpu, 16)

    @property
    def epoch(self) -> float:
        """Epochs given out since the start of training."""
        return self.position / self.batches_per_epoch

    def __next__(self) -> Batch | Share:
        if self._closed:
            raise RuntimeError("the stream is closed")
        epoch, here, n = self._span(self.position)
        index = self._order_on_device(epoch)[here]
        raw = self._prefetched() if self._images is None else self._images.index_select(0, index)
        images = self._to_network(raw.to(self.dtype))
        labels = None if self._labels is None else self._labels.index_select(0, index)
        self.position += 1
        return Batch(images, labels) if self.ranks == 1 else Share(images, labels, n)

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the batches to come, as plain JSON scalars."""
        return {
            "position": self.position,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "images": len(self.data),
            "digest": self.data.digest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to the position of `state` at once; UserError if it is of another set, seed or batch size."""
        here = self.state_dict()
        for key in ("seed", "batch_size", "images", "digest"):
            if state.get(key) != here[key]:
                what = {"digest": "digest of the images", "images": "number of images"}.get(key, key)
                raise UserError(
                    f"{self.data.name} is not what the run was trained on: the {what} was {state.get(key)} and is now"
                    f" {here[key]}; bring the old state back, or start a new run"
                )
        self._forget()
        self.position = int(state["position"])

    def close(self) -> None:
        """Ends the reading threads; the stream gives no batch after this."""
        self._closed = True
        self._forget()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._images = self._labels = self._there = None

    def _order(self, epoch: int) -> Labels:
        """The permutation (N,) of an epoch, from seed and epoch alone."""
        with self._order_lock:
            if epoch not in self._orders:
                current = self.position // self.batches_per_epoch
                for old in [key for key in self._orders if key < current]:
                    del self._orders[old]
                mixed = hashlib.sha256(f"gansmith order {self.seed} {epoch}".encode()).digest()
                generator = torch.Generator().manual_seed(int.from_bytes(mixed[:8], "little") >> 1)
                self._orders[epoch] = torch.randperm(len(self.data), generator=generator).numpy()
            return self._orders[epoch]

    def _order_on_device(self, epoch: int) -> Tensor:
        """There once an epoch: a copy from the host for each batch would have the host wait for the device."""
        if self._there is None or self._there[0] != epoch:
            self._there = epoch, self._to_device(torch.from_numpy(self._order(epoch)))
        return self._there[1]

    def _span(self, position: int) -> tuple[int, slice, int]:
        """Epoch of the batch at `position`, which places of its order come here, and how many images it has."""
        epoch, batch = divmod(position, self.batches_per_epoch)
        start = batch * self.batch_size
        n = min(self.batch_size, len(self.data) - start)
        return epoch, slice(start + n * self.rank // self.ranks, start + n * (self.rank + 1) // self.ranks), n

    def _prefetched(self) -> Tensor:
        """The raw batch at `position`; the next ones, of the next epoch too, are on their way by then."""
        assert self._pool is not None
        while len(self._ahead) < self._depth:
            self._ahead.append(self._pool.submit(self._read, self.position + len(self._ahead)))
        began = perf_counter()
        try:
            raw = self._ahead[0].result()
        except BaseException:
            self._forget()  # so that a second try starts again at this position
            raise
        self.waited += perf_counter() - began
        self._ahead.popleft()
        return self._to_device(raw)

    def _read(self, position: int) -> Tensor:
        epoch, here, _ = self._span(position)
        raw = torch.from_numpy(np.take(np.asarray(self.data.images), self._order(epoch)[here], axis=0))
        return raw.pin_memory() if self.device.type == "cuda" else raw

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=tensor.is_pinned()) if self.device.type != "cpu" else tensor

    def _forget(self) -> None:
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()


def _on_device(images: NDArray[Any], device: torch.device) -> Tensor:
    """A copy of the images on the device, made piece by piece so that no second copy lies in host memory."""
    dtype = torch.uint8 if images.dtype == np.uint8 else torch.float32
    out = torch.empty(images.shape, dtype=dtype, device=device)
    step = max(1, (64 << 20) // images[0].nbytes)
    for start in range(0, len(images), step):
        out[start : start + step] = torch.from_numpy(np.array(images[start : start + step]))
    return out


def _fits(n_bytes: int, device: torch.device) -> bool:
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _free_host_memory()
    return n_bytes <= FREE_SHARE * free


def _free_host_memory() -> int:
    """Bytes that can be taken without swapping; a cautious 2 GiB where the platform does not tell."""
    found = 2 << 30
    if sys.platform != "win32":
        try:
            found = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
            # Linux: sysconf counts the page cache, which is full of our own pictures, as taken.
            lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
            found = next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))
            found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")))
        except (OSError, ValueError, StopIteration):
            pass  # each line is better than the one before, and none is needed
    return found

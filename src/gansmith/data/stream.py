"""Batches without end, in orders that follow from the seed and the position alone."""

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Lock
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gansmith.batch import Batch
from gansmith.data.imageset import ImageSet, Labels
from gansmith.data.prepare import Needs
from gansmith.data.streamed import Order, Streamed
from gansmith.data.values import VALUES
from gansmith.data.views import Draws
from gansmith.errors import UserError

FREE_SHARE = 0.25  # "auto" keeps a set on the device that takes at most this share of its free memory
AHEAD = 256 << 20  # bytes of batches that are read ahead of use
UNTOLD = 2 << 30  # bytes that are taken to be free where the system does not tell
MEMORY = ("auto", "device", "map")
BoundView = Callable[[dict[str, Tensor], Draws], dict[str, Tensor]]  # a view with its keys


class Stream(Iterator[Batch]):
    """Endless batches of one set, or of several that go their own ways: the fields that `needs` names, set by set.

    One set: each epoch is a fresh permutation, and its short last batch is kept. Several: each has permutations of its
    own, and its batches run on from one into the next, so that all have batch_size rows; an epoch is one pass over the
    largest set.

    memory="device" keeps all on the device as it is; "map" reads it from the memory map with `n_cpu` threads ahead of
    use; "auto" is "device" when the pictures take at most a quarter of the bytes `free` there. Both give the same
    batches bit for bit. `values` names what the networks see of the bytes, computed in `dtype` on the device; `views`
    change the fields after that, in this order. Of `ranks` processes that train together the one of number `rank` gets
    the rows from n rank / ranks to n (rank + 1) / ranks of each batch of n. `copies`: the processes that would each
    keep the sets in the same memory.
    """

    def __init__(
        self,
        sets: Sequence[ImageSet],
        *,
        needs: Needs,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
        memory: str = "auto",
        n_cpu: int = 8,
        values: str = "signed",
        views: Sequence[BoundView] = (),
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        ranks: int = 1,
        copies: int = 1,
        free: float = UNTOLD,
    ) -> None:
        if memory not in MEMORY:
            raise UserError(f"memory is {memory!r}; it must be one of {', '.join(MEMORY)}")
        for data in sets:
            if (values == "raw") != (data.density is not None):
                right = "raw, since it holds numbers" if data.density else "signed, unit or gcn: it holds pictures"
                raise UserError(f"data.values is {values}; with {data.name} it must be {right}")
        self.sets = tuple(sets)
        self.needs = needs
        self.batch_size = batch_size
        self.seed = seed
        self.rank, self.ranks = rank, ranks
        self.device = torch.device(device)
        self.position = 0
        self.waited = 0.0  # seconds that batches were waited for, while threads read them from the memory map
        largest = max(map(len, sets))
        # A whole number where there is one set.
        self.batches_per_epoch: float = -(-largest // batch_size) if len(sets) == 1 else largest / batch_size
        columns = [
            {name: column for name, column in data.columns.items() if name in fields}
            for data, fields in zip(sets, needs, strict=True)
        ]
        n_bytes = sum(column.nbytes for own in columns for column in own.values() if column.ndim == 4)
        shards = any(data.layout for data in sets)  # read ahead of use, so that the first batch is soon there
        self.in_memory = memory == "device"
        if memory == "auto" and not shards:
            self.in_memory = copies * n_bytes <= FREE_SHARE * (free if math.isfinite(free) else UNTOLD)
        self.dtype = dtype
        self._to_network = VALUES[values].to_network
        self._views = views
        self._orders: dict[tuple[int, int], Labels | Order] = {}
        self._order_lock = Lock()
        self._closed = False
        self._columns: list[dict[str, Any]] = columns  # arrays, or tensors on the device
        if self.in_memory:
            self._columns = [{name: _on_device(c, self.device) for name, c in own.items()} for own in columns]
        self._there: dict[tuple[int, int], Tensor] = {}
        self._pool = None if self.in_memory else ThreadPoolExecutor(n_cpu, thread_name_prefix="gansmith-data")
        self._ahead: deque[Future[dict[str, Tensor]]] = deque()
        each = n_bytes * batch_size // largest // ranks
        self._depth = min(2 * n_cpu, 16, 1 + AHEAD // each)

    @property
    def epoch(self) -> float:
        """Epochs given out since the start of training."""
        if len(self.sets) > 1:  # of whole numbers, so that the end of an epoch is one
            return self.position * self.batch_size / max(map(len, self.sets))
        return self.position / self.batches_per_epoch

    @property
    def digest(self) -> str:
        """Of the content of all sets."""
        digests = [data.digest for data in self.sets]
        return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()

    def __next__(self) -> Batch:
        if self._closed:
            raise RuntimeError("the stream is closed")
        n, here = self._rows(self.position)
        fields = {} if self.in_memory else self._prefetched()
        for number, held in enumerate(self._columns if self.in_memory else ()):
            pieces = [self._order_on_device(number, epoch)[part] for epoch, part in self._parts(number, here)]
            index = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
            fields |= {name: column.index_select(0, index) for name, column in held.items()}
        for name, field in fields.items():
            if field.ndim == 4:
                fields[name] = self._to_network(field.to(self.dtype))
            elif field.is_floating_point():
                fields[name] = field.to(self.dtype)
        if self._views:
            start = here.start - self._first(self.position)
            draws = Draws(self.seed, self.position, n, slice(start, start + here.stop - here.start), self.device)
            for view in self._views:
                fields = view(fields, draws)
        self.position += 1
        return Batch({name: fields[name] for own in self.needs for name in own}, n)

    def state_dict(self) -> dict[str, Any]:
        """Everything that decides the batches to come, as plain JSON scalars."""
        return {
            "position": self.position,
            "seed": self.seed,
            "batch_size": self.batch_size,
            "images": sum(map(len, self.sets)),
            "digest": self.digest,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes to the position of `state` at once; UserError if it is of another set, seed or batch size."""
        here = self.state_dict()
        for key in ("seed", "batch_size", "images", "digest"):
            if state.get(key) != here[key]:
                what = {"digest": "digest of the images", "images": "number of images"}.get(key, key)
                raise UserError(
                    f"{self.sets[0].name} is not what the run was trained on: the {what} was {state.get(key)} and is"
                    f" now {here[key]}; bring the old state back, or start a new run"
                )
        self._forget()
        self.position = int(state["position"])

    def close(self) -> None:
        """Ends the reading threads; the stream gives no batch after this."""
        self._closed = True
        self._forget()
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        for data in self.sets:
            if isinstance(data.images, Streamed):
                data.images.reader.close()
        self._columns, self._there = [], {}

    def _order(self, number: int, epoch: int) -> Labels | Order:
        """The permutation (N,) of an epoch of a set, from seed, epoch and the number of the set; to be sliced."""
        with self._order_lock:
            if (number, epoch) not in self._orders:
                self._drop_old(self._orders)
                text = f"gansmith order {self.seed} {epoch}" + f" {number}" * (number > 0)
                if layout := self.sets[number].layout:
                    self._orders[number, epoch] = Order(layout, text, self.batch_size)
                else:
                    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1
                    drawn = torch.randperm(len(self.sets[number]), generator=torch.Generator().manual_seed(seed))
                    self._orders[number, epoch] = drawn.numpy()
            return self._orders[number, epoch]

    def _order_on_device(self, number: int, epoch: int) -> Tensor:
        """There once an epoch: a copy from the host for each batch would have the host wait for the device."""
        if (number, epoch) not in self._there:
            self._drop_old(self._there)
            self._there[number, epoch] = self._to_device(torch.from_numpy(self._order(number, epoch)[:]))
        return self._there[number, epoch]

    def _drop_old(self, orders: dict[tuple[int, int], Any]) -> None:
        """Forget the orders of epochs that the batch at `position` is past."""
        first = self._first(self.position)
        for number, epoch in [*orders]:
            if epoch < first // len(self.sets[number]):
                del orders[number, epoch]

    def _first(self, position: int) -> int:
        """How many rows come before the batch at `position`: of one set, whose last batch of an epoch is short."""
        if len(self.sets) > 1:
            return position * self.batch_size
        epoch, batch = divmod(position, int(self.batches_per_epoch))
        return epoch * len(self.sets[0]) + batch * self.batch_size

    def _rows(self, position: int) -> tuple[int, slice]:
        """How many rows the batch at `position` has, and which of all rows ever given out come here."""
        start = self._first(position)
        n = self._first(position + 1) - start
        return n, slice(start + n * self.rank // self.ranks, start + n * (self.rank + 1) // self.ranks)

    def _parts(self, number: int, rows: slice) -> list[tuple[int, slice]]:
        """These rows of a set as epochs and places of their orders."""
        size = len(self.sets[number])
        epochs = range(rows.start // size, max(rows.start, rows.stop - 1) // size + 1)
        return [(e, slice(max(rows.start - e * size, 0), min(rows.stop - e * size, size))) for e in epochs]

    def _prefetched(self) -> dict[str, Tensor]:
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
        return {name: self._to_device(field) for name, field in raw.items()}

    def _read(self, position: int) -> dict[str, Tensor]:
        _, here = self._rows(position)
        raw: dict[str, Tensor] = {}
        for number, columns in enumerate(self._columns):
            parts = [(epoch, self._order(number, epoch), part) for epoch, part in self._parts(number, here)]
            index = np.concatenate([order[part] for _, order, part in parts])
            if self.sets[number].layout:
                images = self.sets[number].images
                for epoch, order, part in parts if len(self.sets) == 1 else ():  # two would take each other's place
                    if isinstance(order, Order) and isinstance(images, Streamed):
                        images.reader.fetch(order.ahead(part, partial(self._order, number, epoch + 1)))
                # Read together: what stands for a broken picture does so in all columns.
                column = next(iter(columns.values()))
                found = column.reader.read([own.name for own in columns.values()], column.where(index))
                raw |= {name: torch.from_numpy(found[own.name]) for name, own in columns.items()}
                continue
            # Not np.take: it would first copy a column of pairs, whose pictures lie apart, as a whole.
            raw |= {name: torch.from_numpy(np.asarray(column)[index]) for name, column in columns.items()}
        return {name: field.pin_memory() for name, field in raw.items()} if self.device.type == "cuda" else raw

    def _to_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=tensor.is_pinned()) if self.device.type != "cpu" else tensor

    def _forget(self) -> None:
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()


def _on_device(column: NDArray[Any], device: torch.device) -> Tensor:
    """A copy of a column on the device, made piece by piece so that no second copy lies in host memory."""
    out = torch.empty(column.shape, dtype=torch.from_numpy(np.empty(0, column.dtype)).dtype, device=device)
    step = max(1, (64 << 20) // column[0].nbytes)
    for start in range(0, len(column), step):
        out[start : start + step] = torch.from_numpy(np.array(column[start : start + step]))
    return out

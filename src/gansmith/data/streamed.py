"""Sets that lie in shards and are read where they are asked for: columns, the order of a pass, and who reads."""

from __future__ import annotations

import hashlib
import math
import os
import zlib
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from io import RawIOBase
from itertools import chain
from threading import Lock
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from gansmith.data.addresses import opened, remote, tried
from gansmith.data.decoder import Decoders, Form
from gansmith.data.imageset import Bytes, Labels
from gansmith.data.prepare import TOLERATED, Wanted
from gansmith.errors import UserError

T = TypeVar("T")
AT_ONCE = 32 << 20  # compressed bytes that go to a decoder at once
MOST_BYTES = 1 << 28  # of one picture


def permutation(n: int, text: str) -> Labels:
    """An order of 0..n-1 from a text, by SHAKE-256: the same on every machine and with every version of NumPy."""
    return np.argsort(np.frombuffer(hashlib.shake_256(text.encode()).digest(8 * n), "<u8"), kind="stable")


# ---- the order --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """Which rows lie in which shard: in shard i those from edges[i] to edges[i + 1]; `window` shards are mixed."""

    edges: Labels
    keys: NDArray[np.uint64] | None  # digests of the names of the rows; None where nobody has counted these
    window: int


class Order:
    """The order of one pass: a pure function of a text (seed and epoch) and the batch size; order[slice] are rows.

    The shards, in an order by the text, and the rows of each in one of its own, make one line of N rows. It is cut into
    windows of `window` shards' worth, T whole batches of B each. Row i of batch t of a window is row i T + turn(t) of
    it, turn an order of 0..T-1: so each place in a batch has a stretch of the line to itself, and a rank that has some
    places of every batch reads the shards under those alone. Rows beyond the last whole batch come last.
    """

    def __init__(self, layout: Layout, text: str, batch_size: int) -> None:
        self._layout, self._text, self._batch = layout, text, batch_size
        counts = np.diff(layout.edges)
        self.n = int(counts.sum())
        self._shards = permutation(len(counts), f"{text} shards")
        self._starts = np.concatenate([[0], np.cumsum(counts[self._shards])])
        self._turns = max(1, round(layout.window * self.n / int(np.count_nonzero(counts)) / batch_size))
        self._permutation = lru_cache(2 * layout.window + 4)(permutation)

    def __getitem__(self, part: slice) -> Labels:
        start, stop, _ = part.indices(self.n)
        size = self._turns * self._batch
        windows = range(start // size, -(-stop // size))
        parts = [self._line(w, max(start, w * size), min(stop, (w + 1) * size)) for w in windows]
        line = np.concatenate([np.empty(0, np.int64), *parts])
        places = np.searchsorted(self._starts, line, "right") - 1
        rows = np.empty_like(line)
        for place in np.unique(places):
            shard, here = int(self._shards[place]), places == place
            first, end = self._layout.edges[shard : shard + 2].tolist()
            order = self._permutation(end - first, f"{self._text} shard {shard}")
            rows[here] = first + order[line[here] - self._starts[place]]
        return rows

    def ahead(self, part: slice, following: Callable[[], Any]) -> list[int]:
        """The shards that these places of a batch come to in the next window, which may be that of the next pass."""
        w = part.start // (self._turns * self._batch) + 1
        return self._under(part, w) if w * self._turns * self._batch < self.n else following()._under(part, 0)

    def _under(self, part: slice, w: int) -> list[int]:
        """The shards that these places of a batch come to in window w, which may have no whole batch."""
        first, lo = w * self._turns * self._batch, part.start % self._batch
        whole = min(self._turns, (self.n - first) // self._batch)
        if whole <= 0 or part.stop <= part.start:
            return []
        ends = first + whole * np.array([lo, lo + part.stop - part.start]) - [0, 1]
        here, end = np.searchsorted(self._starts, ends, "right")
        return self._shards[here - 1 : end].tolist()

    def _line(self, w: int, start: int, stop: int) -> Labels:
        """Positions in the line of the places start..stop of the pass, all in window w."""
        first, places = w * self._turns * self._batch, np.arange(start, stop)
        whole = min(self._turns, (self.n - first) // self._batch)
        if whole == 0:
            return places
        t, i = np.divmod(places - first, self._batch)
        turn = self._permutation(whole, f"{self._text} window {w}")
        return np.where(t < whole, first + i * whole + turn[np.minimum(t, whole - 1)], places)


# ---- reading ----------------------------------------------------------------------------------------------------


class Shard(NamedTuple):
    """A file of the set, and the bytes that it must have, where that is known."""

    address: str
    n_bytes: int | None


class File:
    """A file that closes when the last who reads it lets it go."""

    def __init__(self, file: RawIOBase) -> None:
        self.raw, self.lock = file, Lock()
        self.n_bytes = file.seek(0, os.SEEK_END)

    def read(self, offset: int, n: int) -> bytes:
        with self.lock:
            self.raw.seek(offset)
            return self.raw.read(min(n, MOST_BYTES)) or b""

    def __del__(self) -> None:
        self.raw.close()


class Kept(Generic[T]):
    """What was made for the last `most` numbers: the first who asks makes it, and others wait for it, or its error."""

    def __init__(self, most: int) -> None:
        self._most, self.lock = most, Lock()
        self.there: OrderedDict[int, Future[T]] = OrderedDict()

    def get(self, number: int, make: Callable[[int], T]) -> T:
        own = Future[T]()
        with self.lock:
            made = self.there.setdefault(number, own)
            self.there.move_to_end(number)
            oldest = next((n for n, one in self.there.items() if one.done()), number)
            if len(self.there) > self._most and oldest != number:
                del self.there[oldest]
        if made is own:  # nobody else has asked for it
            try:
                made.set_result(make(number))
            except BaseException as error:
                with self.lock:
                    if self.there.get(number) is made:  # so that it is tried anew
                        del self.there[number]
                made.set_exception(error)
        try:
            return made.result()
        finally:
            del made, own  # an error and this would hold each other, and files open


class Files:
    """The shards of a set: those of two windows that were asked for last stay open, those from elsewhere as copies."""

    def __init__(self, shards: Sequence[Shard], window: int) -> None:
        self.shards = shards
        self.open = Kept[File](2 * window + 2)
        self._asked: set[int] = set()
        self._fetching: ThreadPoolExecutor | None = None

    def __getitem__(self, shard: int) -> File:
        """UserError where it cannot be opened, Missing where it is not there."""
        return self.open.get(shard, self._opened)

    def _opened(self, shard: int) -> File:
        address, n_bytes = self.shards[shard]
        file = File(opened(address))
        if n_bytes is not None and file.n_bytes != n_bytes:
            raise UserError(f"{address} has {file.n_bytes:,} bytes; when it was indexed it had {n_bytes:,}")
        return file

    def fetch(self, shards: Sequence[int], bring: Callable[[int], object]) -> None:
        """Have a thread bring those from elsewhere, one by one; what fails will fail again when it is read."""
        with self.open.lock:
            new = [s for s in shards if s not in self._asked and remote(self.shards[s].address)]
            self._asked = {s for s in self._asked if s in self.open.there} | {*shards}
            if new:
                self._fetching = self._fetching or ThreadPoolExecutor(1, thread_name_prefix="gansmith-fetch")
                for shard in new:
                    self._fetching.submit(bring, shard)

    def close(self) -> None:
        if self._fetching is not None:
            self._fetching.shutdown(cancel_futures=True)
            self._fetching = None
        with self.open.lock:
            self.open.there.clear()


class Column(NamedTuple):
    """The shape and type of a row, and what makes it of rows of the index; None: pictures, from the shards."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    of: Callable[[NDArray[Any]], NDArray[Any]] | None


class Reader:
    """Reads rows of a set: pictures from its shards, decoded by processes, and marks from the index.

    index: a row for each sample, with the places of its pictures in their shard: an array, or an `Uncounted`, whose
    rows say where they lie, too. Up to `keep_mb` of decoded pictures stay in memory.
    """

    def __init__(
        self, name: str, files: Files, edges: Labels, index: Any, columns: Mapping[str, Column], wanted: Wanted
    ) -> None:
        self.name, self.files, self.columns, self.n = name, files, columns, len(index)
        self.fields = [field for field, column in columns.items() if column.of is None]
        self._edges, self._index = edges, index
        self.decoders = Decoders(Form(wanted.size, wanted.channels, wanted.fit, wanted.max_megapixels), wanted.n_cpu)
        self._max_broken, self._say = wanted.max_broken, wanted.say
        self._lock = Lock()
        self._instead: dict[int, int] = {}
        shape = (len(self.fields), wanted.channels, *wanted.size)
        kept = min(len(index), (wanted.keep_mb << 20) // math.prod(shape))
        self._kept = np.empty((kept, *shape), np.uint8)  # takes memory as it is filled
        self._own, self._there = np.zeros(kept, index.dtype), np.zeros(kept, bool)

    def read(self, names: Sequence[str], rows: Labels) -> dict[str, NDArray[Any]]:
        """Columns of these rows; for a picture that is broken all of them are those of the next one that is not."""
        if not {*names}.isdisjoint(self.fields):
            found, own = self._pictures(rows)
        else:
            own = self._index[np.array([self._good(int(row)) for row in rows]) if self._instead else rows]
        out: dict[str, NDArray[Any]] = {}
        for name in names:
            _, dtype, of = self.columns[name]
            out[name] = found[:, self.fields.index(name)] if of is None else of(own).astype(dtype)
        return out

    def fetch(self, shards: Sequence[int]) -> None:
        """Have a thread bring what is not in memory of shards from elsewhere."""
        edges = [(shard, *self._edges[shard : shard + 2].tolist()) for shard in shards]
        n = len(self._there)
        needed = [shard for shard, first, last in edges if last > n or not self._there[first:last].all()]
        usable = getattr(self._index, "usable", None)  # of shards without an index: which one stands for it
        self.files.fetch(needed, lambda shard: self.files[int(usable(shard)["shard"][0]) if usable else shard])

    def close(self) -> None:
        """Ends processes and threads; a later read starts them anew."""
        self.files.close()
        self.decoders.close()

    def _pictures(self, rows: Labels) -> tuple[Bytes, NDArray[Any]]:
        """(n, F, C, H, W), from memory where they were kept, the others decoded; and the rows of the index behind."""
        may = rows < len(self._there)
        here = may.copy()
        here[may] = self._there[rows[may]]
        if here.all():
            return self._kept[rows], self._own[rows]
        out, own = np.empty((len(rows), *self._kept.shape[1:]), np.uint8), np.empty(len(rows), self._index.dtype)
        out[here], own[here] = self._kept[rows[here]], self._own[rows[here]]
        self._decode(rows, out, own, deque(np.flatnonzero(~here).tolist()))
        keep = np.flatnonzero(may & ~here)
        self._kept[rows[keep]], self._own[rows[keep]] = out[keep], own[keep]
        self._there[rows[keep]] = True
        return out, own

    def _decode(self, rows: Labels, out: Bytes, own: NDArray[Any], waiting: deque[int]) -> None:
        """Fills these places of `out` and `own`, some megabytes of files at a time."""
        each = len(self.fields)
        while waiting:
            group, data, n_bytes = list[tuple[int, int]](), list[bytes](), 0
            while waiting and n_bytes < AT_ONCE:
                place = waiting.popleft()
                row = self._good(int(rows[place]))
                own[place] = self._index[row]
                group.append((place, row))
                data += self._members(own[place], self._shard(own[place], row))
                n_bytes += int(own[place]["size"].sum())
            pixels, told = self.decoders.decode(data)
            for j, (place, row) in enumerate(group):
                if why := [one for one in told[j * each : (j + 1) * each] if isinstance(one, str)]:
                    self._leave_out(row, self._shard(own[place], row), why[0])
                    waiting.append(place)
                else:
                    out[place] = pixels[j * each : (j + 1) * each]

    def _good(self, row: int) -> int:
        while row in self._instead:
            row = self._instead[row]
        return row

    def _leave_out(self, row: int, shard: int, why: str) -> None:
        """From now on the next sound row of the shard stands for this one, wherever and whenever it is read."""
        stretch, address = self._stretch(row), self.files.shards[shard].address
        first, last = self._edges[stretch : stretch + 2].tolist()
        where = f"picture {row - first} of {address}"
        with self._lock:
            if row in self._instead:
                return
            after = chain(range(row + 1, last), range(first, row))
            if (other := next((r for r in after if r not in self._instead), None)) is None:
                raise UserError(f"no picture of {address} can be read; the last: {why}")
            self._instead[row] = other
            n = len(self._instead)
        if n > max(TOLERATED, self._max_broken * len(self._index)):
            text = f"{n} pictures of {self.name} are broken, more than max_broken = {self._max_broken:g} allows"
            raise UserError(f"{text}; the last: {where}: {why}")
        if n <= TOLERATED:
            self._say(f"left out {where}: {why}; the next one stands for it")

    def _stretch(self, row: int) -> int:
        return int(np.searchsorted(self._edges, row, "right")) - 1

    def _shard(self, own: NDArray[Any], row: int) -> int:
        return int(own["shard"]) if "shard" in (self._index.dtype.names or ()) else self._stretch(row)

    def _members(self, own: NDArray[Any], shard: int) -> list[bytes]:
        """The compressed pictures of a row; UserError where the shard is not what it was when it was looked at."""
        address = self.files.shards[shard].address

        def read() -> list[bytes]:
            file = self.files[shard]
            try:
                return [file.read(int(o), int(n)) for o, n in zip(own["offset"], own["size"], strict=True)]
            except OSError:
                with self.files.open.lock:
                    self.files.open.there.pop(shard, None)  # so that it is opened anew
                raise

        found = tried(read, address)
        for data, offset, size, crc in zip(found, own["offset"], own["size"], own["crc"], strict=True):
            if len(data) != size or zlib.crc32(data) != crc:
                was = "it ends before" if len(data) < size else "it has other content in"
                counted = self.files.shards[shard].n_bytes is not None
                what, advice = ("indexed", ", or index it anew") if counted else ("looked at", "")
                text = f"{address} is not what was {what}: {was} bytes {offset} to {offset + size}"
                raise UserError(f"{text}; bring the old file back{advice}")
        return found


class Streamed:
    """A column of a set in shards: it has a shape and is read where it is indexed, as an array on disk would be."""

    def __init__(self, reader: Reader, name: str, rows: Labels | None = None) -> None:
        self.reader, self.name, self.rows = reader, name, rows
        column = reader.columns[name]
        self.shape = (reader.n if rows is None else len(rows), *column.shape)
        self.dtype, self.ndim = column.dtype, len(self.shape)
        self.nbytes = math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, at: Any) -> NDArray[Any]:
        if isinstance(at, (int, np.integer)):
            return self[np.array([at])][0]
        return self.reader.read([self.name], self.where(at))[self.name]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        return self[:] if dtype is None else self[:].astype(dtype)

    def where(self, at: Any) -> Labels:
        """The rows of the whole set behind some of this column's."""
        rows = np.arange(*at.indices(len(self))) if isinstance(at, slice) else np.asarray(at)
        rows = (np.flatnonzero(rows) if rows.dtype == bool else rows).astype(np.int64)
        if len(rows) and not -len(self) <= rows.min() <= rows.max() < len(self):
            raise IndexError(f"row {rows.max()} of {len(self)}")
        rows = np.where(rows < 0, rows + len(self), rows)
        return rows if self.rows is None else self.rows[rows]

    def take(self, rows: Labels) -> Streamed:
        """The column of some of its rows."""
        return Streamed(self.reader, self.name, self.where(rows))

    def derived(self, name: str, table: NDArray[Any]) -> Streamed:
        """A column of the rows of a table that these labels name."""
        assert (label := self.reader.columns[self.name].of) is not None
        made = Column(table.shape[1:], table.dtype, lambda own: table[label(own)])
        self.reader.columns = {**self.reader.columns, name: made}
        return Streamed(self.reader, name, self.rows)

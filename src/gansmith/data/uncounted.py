"""Shards without an index, which nobody has counted: each counts for a given number of samples."""

from collections.abc import Mapping
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gansmith.data import pictures
from gansmith.data.addresses import Missing, addresses, split_of
from gansmith.data.attributes import NO, YES
from gansmith.data.imageset import ImageSet
from gansmith.data.pictures import printable
from gansmith.data.prepare import TOLERATED, Wanted
from gansmith.data.shards import Gathered, Sample, class_names, look_at, made_of, row_type
from gansmith.data.streamed import Files, Kept, Layout, Shard
from gansmith.errors import UserError

MOST_EACH = 10**8
TABLES = 64 << 20  # bytes of what was found in shards


class Unusable(UserError):
    """A shard that is missing or damaged, or in which no sample has what is needed."""


class Uncounted:
    """The rows of such shards: one is looked at when one of its rows is wanted, and its last table is kept for a while.

    A shard that holds fewer samples gives some again; of one that holds more only so many are seen, which is said. For
    one that cannot be used the next that can stands, so what a row is follows from the shards alone.
    """

    def __init__(self, files: Files, about: Mapping[str, Any], wanted: Wanted) -> None:
        assert wanted.per_shard
        self._files, self._each, self._say, self._max_broken = files, wanted.per_shard, wanted.say, wanted.max_broken
        self._fields, self._names, self._classes = about["fields"], about["attributes"], about["classes"]
        self._numbers = {name: i for i, name in enumerate(self._classes)}
        self.dtype = np.dtype([*row_type(len(self._fields), len(self._names)).descr, ("shard", "<u4")])
        most = max(2 * wanted.window + 2, TABLES // (self.dtype.itemsize * self._each))
        self._tables, self._lock = Kept[NDArray[Any]](most), Lock()
        self._unusable = set[int]()
        self._over: str | None = None  # what was beyond max_broken: whoever met it, all who ask later meet it too
        self._seen, self._broken, self._warned = set[int](), [0, 0], False

    def __len__(self) -> int:
        return len(self._files.shards) * self._each

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        """UserError for more shards or samples that cannot be used than max_broken allows."""
        if isinstance(rows, int):
            table = self.usable(rows // self._each)
            return table[rows % self._each % len(table)]
        return np.array([self[int(row)] for row in np.asarray(rows)], self.dtype)

    def usable(self, shard: int) -> NDArray[Any]:
        """The table of a shard, or of the next one that can be used."""
        n = len(self._files.shards)
        while self._over is None:
            try:
                if shard not in self._unusable:
                    return self._tables.get(shard, self._looked_at)
            except Unusable as error:
                with self._lock:
                    new = shard not in self._unusable
                    self._unusable.add(shard)
                    if (count := len(self._unusable)) > self._max_broken * n or count == n:
                        share = f"{count} of {n} shards, more than max_broken = {self._max_broken:g} allows"
                        self._over = f"{error} ({share})"
                        continue
                if new:
                    self._say(f"left out a shard, {count} so far; the next stands for it: {error}")
            shard = (shard + 1) % n
        raise UserError(self._over)

    def _looked_at(self, shard: int) -> NDArray[Any]:
        address = self._files.shards[shard].address
        told = Gathered(self._fields)
        found = samples_of(self._files, shard)
        for sample in found.values():
            sample.wrong = sample.wrong or self._lacking(sample)
        rows = told.rows_of(address, found)
        self._count(shard, address, len(rows), told)
        if not len(rows):
            why = told.broken[0].why if told.broken else "it is empty"
            raise Unusable(f"the shard {address} cannot be used: {why}")
        labels = [self._numbers.get(self._label(label), -1) for label in told.labels]
        table = told.table(rows, self._names, labels, self.dtype)[: self._each].copy()
        table["shard"] = shard
        return table

    def _count(self, shard: int, address: str, sound: int, told: Gathered) -> None:
        """Say what is left out of a shard, once; UserError where it is too much."""
        with self._lock:
            if shard in self._seen:
                return
            self._seen.add(shard)
            self._broken[0] += len(told.broken)
            self._broken[1] += len(told.broken) + sound
            broken, n = self._broken
            warn = sound > self._each and not self._warned
            self._warned = self._warned or warn
        if told.broken:
            first = told.broken[0]
            self._say(f"left out {len(told.broken)} samples of {address}; the first: {first.why}")
            if broken > max(TOLERATED, self._max_broken * n):
                more = f"more than max_broken = {self._max_broken:g} allows; the last: {first.file}: {first.why}"
                self._over = f"{broken} of {n} samples so far are broken, {more}"
                raise UserError(self._over)
        if warn:
            used = f"data.per_shard = {self._each:,} of them are used, here and in other shards"
            self._say(f"warning: {address} has {sound:,} samples, and {used}")

    def _lacking(self, sample: Sample) -> str | None:
        """What a sample lacks that all others have."""
        if self._classes and sample.label is None:
            return "it has no label"
        if self._classes and self._label(sample.label) not in self._numbers:
            return f"its label is {printable(str(sample.label))}, and data.classes has no such class"
        told = {name: sample.told.get(name, "none").lower() for name in self._names}
        lacking = next((name for name, value in told.items() if value not in (*YES, *NO)), None)
        return None if lacking is None else f"it lacks the attribute {printable(lacking)}"

    def _label(self, label: str | None) -> str:
        """The class of a label: 007 is 7, where there is no class of that name."""
        text = label or ""
        return str(int(text)) if text not in self._numbers and text.isdecimal() and len(text) < 19 else text


def samples_of(files: Files, shard: int) -> dict[str, Sample]:
    """The samples of a shard by their keys; Unusable where there are none to be had."""
    try:
        file = files[shard]
        with file.lock:
            return look_at(file.raw)[0]
    except Missing as error:
        raise Unusable(str(error)) from None
    except UserError:
        raise
    except OSError as error:  # of the disk, and not of what it holds
        raise UserError(f"{files.shards[shard].address} cannot be read: {error.strerror}") from None
    except Exception as error:  # on a damaged file tarfile raises almost anything
        why = pictures.why_broken(error)
        raise Unusable(f"the shard {files.shards[shard].address} cannot be used: {why}") from None


def load_uncounted(what: str, wanted: Wanted) -> ImageSet:
    """The set in shards without an index: what its samples hold is what those of the first shard do."""
    found = addresses(split_of(what, "train") or what)
    each, classes = wanted.per_shard, class_names(wanted.classes)
    assert each
    if each > MOST_EACH:
        raise UserError(f"data.per_shard is {each:,}; it must be at most {MOST_EACH:,}")
    if "y" in wanted.fields and not classes:
        right = "--data.classes says how many there are, or names them"
        raise UserError(f"{what} has no index, so nobody knows the classes of its labels: {right}")
    files = Files([Shard(address, None) for address in found], wanted.window)
    n, told = _model(files, wanted)
    attributes = []
    if "bits" in wanted.fields:
        attributes = sorted(name for name, column in told.bits.items() if column is not None and len(column) == n)
        if not attributes:
            raise UserError(f"the samples of the first shard of {what} have no attributes in a KEY.json")
    wanted.say(f"{what}: {len(found):,} shards without an index, each counted as {each:,} samples; the first has {n:,}")
    about = {"fields": told.fields, "classes": classes, "attributes": attributes}
    layout = Layout(each * np.arange(len(found) + 1), None, wanted.window)
    content = "uncounted", each, [address.rpartition("/")[2] for address in found]
    return made_of(what, files, layout, Uncounted(files, about, wanted), about, content, wanted)


def _model(files: Files, wanted: Wanted) -> tuple[int, Gathered]:
    """How many samples the first shard holds that can be used, and what they tell."""
    for shard in range(n := len(files.shards)):
        try:
            told = Gathered()
            if sound := len(told.rows_of(files.shards[shard].address, samples_of(files, shard))):
                return sound, told
            why = told.broken[0].why if told.broken else "it is empty"
            raise Unusable(f"no sample of the shard {files.shards[shard].address} can be used: {why}")
        except Unusable as error:
            if shard + 1 > wanted.max_broken * n or shard + 1 == n:
                share = f"{shard + 1} of {n} shards, more than max_broken = {wanted.max_broken:g} allows"
                raise Unusable(f"{error} ({share})") from None
    raise AssertionError

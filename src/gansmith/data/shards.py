"""Shards of WebDataset: tar files of KEY.jpg, KEY.cls, KEY.json, or KEY.a.jpg and KEY.b.jpg, and the index of a set.

The index says where in which shard each picture lies, so that a picture is read by itself and nothing is unpacked. It
is two files: facts as JSON, and a row for each sample as .npy.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tarfile
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO, RawIOBase
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gansmith.data import pictures
from gansmith.data.addresses import Missing, addresses, opened, remote, split_of, stamp
from gansmith.data.attributes import NO, YES
from gansmith.data.cache import CHECKED_BYTES, Broken, entry_path
from gansmith.data.folder import ignored
from gansmith.data.imageset import ImageSet, Labels, sha256
from gansmith.data.pictures import printable
from gansmith.data.prepare import Wanted, progress, tell
from gansmith.data.streamed import MOST_BYTES, Column, Files, Layout, Reader, Shard, Streamed
from gansmith.errors import UserError
from gansmith.run.atomic import replacing

INDEX = "gansmith-index.json"
VERSION = 2
LABELS = ("cls", "label", "class")  # keys of a KEY.json that may hold the label, where there is no KEY.cls
MOST_TEXT = 1 << 20  # bytes of a KEY.json
MOST_CLASSES, MOST_ATTRIBUTES = 1_000_000, 256


def counted(n: int) -> str:
    return f"{n:,} shard" if n == 1 else f"{n:,} shards"


class Index(NamedTuple):
    """Facts, and a row for each sample: places and CRC of its pictures, a digest of its key, label, attributes."""

    about: dict[str, Any]
    rows: NDArray[Any]


def row_type(fields: int, attributes: int) -> np.dtype[Any]:
    place = [("offset", "<u8", (fields,)), ("size", "<u4", (fields,)), ("crc", "<u4", (fields,))]
    return np.dtype([*place, ("key", "<u8"), ("y", "<i4"), ("bits", "u1", (max(1, attributes),))])


# ---- from shards to an index --------------------------------------------------------------------------------------


@dataclass
class Sample:
    """The members of one key: the places of pictures, and what else is told."""

    places: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    label: str | None = None
    told: dict[str, str] = field(default_factory=dict)
    wrong: str | None = None

    def add(self, part: str, member: tarfile.TarInfo, file: RawIOBase) -> None:
        """Take a member in. ValueError, or whatever Pillow raises, where it is not what its name says."""
        if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
            raise ValueError("its name leads out of the shard")
        if not member.isreg() or member.issparse():
            raise ValueError("it is a link or a device, not a file")
        if member.size > (most := MOST_TEXT if part in ("cls", "json") else MOST_BYTES):
            raise ValueError(f"it has {member.size:,} bytes; at most {most:,} are read")
        if part in self.places:
            raise ValueError("its key stands twice")
        file.seek(member.offset_data)
        data = file.read(member.size) or b""
        self.places[part] = member.offset_data, member.size, zlib.crc32(data)
        if part == "cls":
            self.label = data.decode().strip()
        elif part == "json":
            told = {key: str(value) for key, value in json.loads(data).items() if isinstance(value, (str, int, float))}
            labels = [told.pop(key) for key in LABELS if key in told]
            self.told, self.label = told, self.label if "cls" in self.places else next(iter(labels), None)
        else:
            with pictures.opened(BytesIO(data)) as image:
                self.sizes.add(image.size)


def look_at(file: RawIOBase) -> tuple[dict[str, Sample], Counter[str], int]:
    """The samples of a shard by their keys, the endings of what is passed over, and its bytes; any error if damaged.

    Every member is looked at, and none is unpacked. What is of no known ending, as pickle's formats, is never read.
    """
    file.seek(max(0, (n_bytes := file.seek(0, os.SEEK_END)) - 512))
    if n_bytes % 512 or n_bytes < 1024 or any(file.read(512) or b""):
        raise ValueError(f"it has {n_bytes:,} bytes and no end of a tar file: it is cut off, or none")
    file.seek(0)
    samples: dict[str, Sample] = {}
    others: Counter[str] = Counter()
    last = -1
    with tarfile.open(fileobj=file, mode="r:") as tar:
        for member in tar:
            if member.offset_data <= last:
                raise ValueError("its members overlap")
            last = member.offset_data
            base = member.name.rpartition("/")[2]
            ending = base.partition(".")[2]
            side, _, rest = ending.lower().partition(".")
            if member.isdir() or ignored(base):
                continue
            if side in ("a", "b") and f".{rest}" in pictures.EXTENSIONS:
                part = side
            elif f".{ending.lower()}" in pictures.EXTENSIONS:
                part = "x"
            elif ending.lower() in ("cls", "json"):
                part = ending.lower()
            else:
                others[f".{ending}"] += 1
                continue
            sample = samples.setdefault(member.name[: -len(ending) - 1], Sample())
            try:
                sample.add(part, member, file)
            except Exception as error:  # on what is no picture Pillow raises almost anything
                sample.wrong = pictures.why_broken(error)
    return samples, others, n_bytes


def _scan(address: str) -> tuple[dict[str, Sample], Counter[str], int, str] | str:
    """What is in a shard, and its sha256; or why it cannot be used."""
    try:
        with contextlib.closing(opened(address)) as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            return *look_at(file), sha256
    except Exception as error:  # on a damaged file tarfile raises almost anything
        return pictures.why_broken(error)


@dataclass
class Gathered:
    """What the shards so far have told: the pictures that each sample holds, labels, attributes, what is broken."""

    fields: tuple[str, ...] = ()
    labels: list[str | None] = field(default_factory=list)
    bits: dict[str, bytearray | None] = field(default_factory=dict)  # None: it has values that are not yes or no
    broken: list[Broken] = field(default_factory=list)

    def rows_of(self, name: str, samples: Mapping[str, Sample]) -> NDArray[Any]:
        """The rows of a shard, still without labels and attributes; what is told and what is broken is noted."""
        rows: list[tuple[Any, ...]] = []
        for key, sample in samples.items():
            own = tuple(part for part in ("x", "a", "b") if part in sample.places)
            if not self.fields and own in (("x",), ("a", "b")) and not sample.wrong:
                self.fields = own
            if sample.wrong or own != self.fields or len(sample.sizes) != 1:
                holds, others = (" and ".join(of) or "no picture" for of in (own, self.fields))
                why = f"it holds {holds}, and others {others}" if own != self.fields else "a and b are not of one size"
                self.broken.append(Broken(printable(f"{name}: {key}"), sample.wrong or why))
                continue
            places = zip(*(sample.places[part] for part in own), strict=True)
            digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
            rows.append((*places, int.from_bytes(digest[:8], "little"), -1, 0))
            for bit, value in sample.told.items():
                if len(self.bits) < MOST_ATTRIBUTES or bit in self.bits:
                    column = self.bits.setdefault(bit, bytearray())
                    if value.lower() not in (*YES, *NO):
                        self.bits[bit] = None
                    elif column is not None and len(column) == len(self.labels):  # no earlier row lacks it
                        column.append(value.lower() in YES)
            self.labels.append(sample.label)
        return np.array(rows, row_type(len(self.fields) or 1, 0))

    def table(
        self, rows: NDArray[Any], names: Sequence[str], labels: Sequence[int] | Labels, row: np.dtype[Any]
    ) -> NDArray[Any]:
        """These rows with labels and attributes."""
        whole = np.zeros(len(rows), row)
        for name in ("offset", "size", "crc", "key"):
            whole[name] = rows[name]
        whole["y"] = labels
        for k, name in enumerate(names):
            whole["bits"][:, k] = np.frombuffer(self.bits[name] or b"", np.uint8)
        return whole


def make_index(found: Sequence[str], names: Sequence[str], wanted: Wanted) -> Index:
    """Reads all shards once. UserError where there is no sample."""
    shards, bad, parts = list[list[Any]](), list[tuple[str, str]](), list[NDArray[Any]]()
    others, told = Counter[str](), Gathered()
    pool = ThreadPoolExecutor(wanted.n_cpu, thread_name_prefix="gansmith-index")
    with pool, progress(f"indexing {counted(len(found))}", len(found), wanted) as step:
        for name, scan in zip(names, pool.map(_scan, found), strict=True):
            step(1)
            if isinstance(scan, str):
                bad.append((name, scan))
                continue
            samples, passed_over, n_bytes, digest = scan
            others += passed_over
            parts.append(told.rows_of(name, samples))
            shards.append([name, n_bytes, len(parts[-1]), digest])
    if not (n := len(told.labels)):
        first = next((f"{name}: {why}" for name, why in [*bad, *told.broken]), "they are empty")
        raise UserError(f"no pictures in {counted(len(found))}; the first: {first}")
    if others:
        shown = ", ".join(f"{count} {printable(ending)}" for ending, count in others.most_common(5))
        wanted.say(f"passed over in the shards: {others.total()} members with other endings ({shown})")
    some = {name: column for name, column in told.bits.items() if column is not None}
    bits = {name: some[name] for name in sorted(some) if len(some[name]) == n}
    if partial := [printable(name) for name in some if name not in bits]:
        wanted.say(f"{len(partial)} attributes are left out, because some samples lack them: {', '.join(partial[:5])}")
    classes, labels = _classes(told.labels)
    whole = np.concatenate([part for part in parts if len(part)])
    rows = told.table(whole, [*bits], labels, row_type(len(told.fields), len(bits)))
    about = {"version": VERSION, "fields": told.fields, "shards": shards, "classes": classes, "attributes": [*bits]}
    about |= {"bad": bad, "broken": told.broken[:10], "n_broken": len(told.broken), "sha256": sha256(rows)}
    return Index(about, rows)


def _classes(labels: Sequence[str | None]) -> tuple[list[str], Labels]:
    """The names of the classes, and each label's number; no classes where a sample has none."""
    known = sorted({label for label in labels if label is not None})
    if None in labels or not known:
        return [], np.full(len(labels), -1)
    if all(label.isdecimal() and len(label) < 19 for label in known) and max(map(int, known)) < MOST_CLASSES:
        known = [str(i) for i in range(max(map(int, known)) + 1)]
        return known, np.array([int(str(label)) for label in labels])
    places = {name: i for i, name in enumerate(known)}
    return known, np.array([places[str(label)] for label in labels])


def write_index(folder: Path, index: Index) -> None:
    """Both files, the facts last, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{INDEX[:-5]}.npy") as part, part.open("wb") as file:
        np.save(file, index.rows, allow_pickle=False)
    with replacing(folder / INDEX) as part:
        part.write_text(json.dumps(index.about, indent=1), encoding="utf-8")


def read_index(folder: str) -> Index | None:
    """The index in a folder, here or elsewhere; None where there is none, UserError where it is damaged."""
    there = f"{folder}/{INDEX}"
    try:
        stamp(there)
    except Missing:
        return None
    try:
        with contextlib.closing(opened(there)) as file:
            about = json.loads(file.read() or b"")
        data = f"{there[:-5]}.npy"
        if remote(data):
            with contextlib.closing(opened(data)) as file:
                rows = np.load(BytesIO(file.read() or b""), allow_pickle=False)
        else:
            rows = np.load(data, mmap_mode="r", allow_pickle=False)
        _check(about, rows)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{there} is damaged ({error}): remove it, and index the shards anew") from None
    return Index(about, rows)


def _check(about: Mapping[str, Any], rows: NDArray[Any]) -> None:
    """ValueError where the two files do not belong together: a stranger may have made them."""
    fields, classes = about["fields"], about["classes"]
    if about["version"] != VERSION or fields not in (["x"], ["a", "b"]):
        raise ValueError(f"version {about['version']}, {fields}")
    counts = [int(n) for _, _, n, _ in about["shards"]]
    if rows.shape != (sum(counts),) or min(counts) < 0 or rows.dtype != row_type(len(fields), len(about["attributes"])):
        raise ValueError(f"its rows are {rows.dtype} {rows.shape}")
    if rows.nbytes <= CHECKED_BYTES and sha256(rows) != about["sha256"]:
        raise ValueError("its rows have another digest")
    if (classes and not 0 <= rows["y"].min() <= rows["y"].max() < len(classes)) or rows["bits"].max() > 1:
        raise ValueError("a label without a class")


# ---- from an index to a set ---------------------------------------------------------------------------------------


def load_shards(what: str, wanted: Wanted) -> ImageSet:
    """The set in the shards of an address, pattern, folder or list; its columns are read where they are indexed."""
    there = split_of(what, "test" if wanted.split == "test" else "train")
    if there is None:
        raise UserError(f"{what} has no test split: shards have one as a folder test beside a folder train")
    found = addresses(there)
    (about, rows), names, bad = _index(what, found, wanted)
    if len(bad) > wanted.max_broken * len(found):
        (name, why), *_ = bad.items()
        more = f"more than max_broken = {wanted.max_broken:g} allows"
        raise UserError(f"{len(bad)} of {len(found)} shards of {what} cannot be used, {more}; the first: {name}: {why}")
    for name, why in [*bad.items()][:10]:
        wanted.say(f"left out the shard {name}: {why}")
    tell(what, len(rows) + about["n_broken"], [Broken(*b) for b in about["broken"]], about["n_broken"], 0, wanted)
    where = {name: address for name, address in zip(names, found, strict=True) if name not in bad}
    used = [facts for facts in about["shards"] if facts[0] in where]
    if not used:
        raise UserError(f"no shard of {what} can be used")
    if len(used) < len(about["shards"]):
        rows = rows[np.repeat([name in where for name, *_ in about["shards"]], [n for _, _, n, _ in about["shards"]])]
    files = Files([Shard(where[name], n_bytes) for name, n_bytes, _, _ in used], wanted.window)
    layout = Layout(np.cumsum([0, *(n for _, _, n, _ in used)]), rows["key"], wanted.window)
    wanted.say(f"{what}: {len(rows):,} {'pairs' if len(about['fields']) > 1 else 'pictures'} in {counted(len(used))}")
    return made_of(what, files, layout, rows, about, [facts[2:] for facts in used], wanted)


def made_of(
    what: str, files: Files, layout: Layout, rows: Any, about: Mapping[str, Any], content: object, wanted: Wanted
) -> ImageSet:
    """about: fields, classes and attributes; content: what the digest is of, beside them and how they are read."""
    classes = tuple(about["classes"])
    columns = {name: Column((wanted.channels, *wanted.size), np.dtype(np.uint8), None) for name in about["fields"]}
    if about["attributes"] and any("bits" in own for own in wanted.needs):
        known, classes = about["attributes"], tuple(wanted.columns or about["attributes"])
        if wrong := [name for name in classes if name not in known]:
            raise UserError(f"data.columns names {wrong[0]}; the shards have {', '.join(known)}")
        places = [known.index(name) for name in classes]
        columns["bits"] = Column((len(classes),), np.dtype(np.float32), lambda some: some["bits"][:, places])
    elif classes:
        known = class_names(wanted.classes) or classes
        if lost := [name for name in classes if name not in known]:
            raise UserError(f"{what} has a class {lost[0]}, which data.classes lacks")
        numbers = np.array([known.index(name) for name in classes])
        columns["y"], classes = Column((), np.dtype(np.int64), lambda some: numbers[some["y"]]), known
    reader = Reader(what, files, layout.edges, rows, columns, wanted)
    how = wanted.side, wanted.channels, wanted.fit, pictures.VERSION
    told = f"gansmith shards {VERSION} {(content, [*columns], classes)} {how}"
    streamed = {name: Streamed(reader, name) for name in columns}
    return ImageSet(Path(what).name, streamed, classes, hashlib.sha256(told.encode()).hexdigest(), layout=layout)


def class_names(classes: int | Sequence[str] | None) -> tuple[str, ...]:
    """The names that data.classes gives; UserError where they cannot be."""
    if isinstance(classes, int):
        if classes > MOST_CLASSES:
            raise UserError(f"data.classes is {classes:,}; it must be at most {MOST_CLASSES:,}")
        return tuple(map(str, range(classes)))
    names = tuple(classes or ())
    if twice := [name for name, n in Counter(names).items() if n > 1]:
        raise UserError(f"data.classes names {twice[0]} twice")
    return names


def _index(what: str, found: Sequence[str], wanted: Wanted) -> tuple[Index, list[str], dict[str, str]]:
    """The index beside the shards or in the cache, made if there is none; what it calls them; those of no use, and why.

    Of shards elsewhere that have an index a change shows only when they are read.
    """
    folders = {address.rpartition("/")[0] or "." for address in found}
    names = [address.rpartition("/")[2] for address in found]
    index = read_index(*folders) if len(folders) == 1 else None
    beside = index is not None and {*names} <= {name for name, *_ in (*index.about["shards"], *index.about["bad"])}
    if index is not None and beside and remote(found[0]):
        return index, names, {name: why for name, why in index.about["bad"] if name in names}
    with ThreadPoolExecutor(wanted.n_cpu) as pool:
        stamps = list(pool.map(_stamp, found))
    if index is None or not beside:
        path = entry_path(f"{Path(what).name}-index", VERSION, *zip(found, stamps, strict=True))
        names = [*found]
        if (index := read_index(str(path))) is None:
            wanted.say(f"{what} has no index: each shard is read once, to find its pictures")
            index = make_index(found, found, wanted)
            try:
                write_index(path, index)
            except OSError as error:
                wanted.say(f"the index cannot be kept in {path}: {error.strerror}")
    bad = {name: why for name, why in index.about["bad"] if name in names}
    if beside and Path(what).expanduser().is_dir():  # all of it was meant
        bad |= {name: "it is missing" for name, *_ in index.about["shards"] if name not in names}
    sizes = {name: n_bytes for name, n_bytes, _, _ in index.about["shards"]}
    for name, now in zip(names, stamps, strict=True):
        if isinstance(now, str):
            bad[name] = now
        elif now[0] and now[0] != sizes.get(name, now[0]):  # some servers do not tell
            bad[name] = f"it has {now[0]:,} bytes, and when it was indexed it had {sizes[name]:,}"
    return index, names, bad


def _stamp(address: str) -> tuple[int, str] | str:
    try:
        return stamp(address)
    except UserError as error:
        return str(error)

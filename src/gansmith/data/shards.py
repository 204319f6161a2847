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
from gansmith.data.addresses import addresses, opened, remote, stamp
from gansmith.data.attributes import NO, YES
from gansmith.data.cache import CHECKED_BYTES, Broken, entry_path
from gansmith.data.folder import ignored, printable
from gansmith.data.imageset import ImageSet, Labels
from gansmith.data.prepare import Wanted, progress, tell
from gansmith.data.streamed import MOST_BYTES, Layout, Reader, Shard, Streamed
from gansmith.errors import UserError

INDEX = "gansmith-index.json"
VERSION = 1
LABELS = ("cls", "label", "class")
"""Keys of a KEY.json that may hold the label, where there is no KEY.cls."""
MOST_TEXT = 1 << 20
"""Bytes of a KEY.json."""
MOST_CLASSES = 1_000_000


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
        """ValueError, or whatever Pillow raises, for a member that is not what its name says."""
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


class Scan(NamedTuple):
    """What is in one shard: its samples by their keys, and the endings of what is passed over."""

    samples: dict[str, Sample]
    others: Counter[str]
    n_bytes: int
    sha256: str


def _part(ending: str) -> str | None:
    """x, a, b, cls or json; None for what is never read, as pickle's formats."""
    side, _, rest = ending.partition(".")
    if side in ("a", "b") and f".{rest}" in pictures.EXTENSIONS:
        return side
    return "x" if f".{ending}" in pictures.EXTENSIONS else ending if ending in ("cls", "json") else None


def _scan(address: str) -> Scan | str:
    """What is in a shard, or why it cannot be used: every member is looked at, and none is unpacked."""
    try:
        with contextlib.closing(opened(address)) as file:
            sha256, n_bytes = hashlib.file_digest(file, "sha256").hexdigest(), file.tell()
            file.seek(max(0, n_bytes - 512))
            if n_bytes % 512 or n_bytes < 1024 or any(file.read(512) or b""):
                return f"it has {n_bytes:,} bytes and no end of a tar file: it is cut off, or none"
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:") as tar:
                return Scan(*_samples(tar, file), n_bytes, sha256)
    except Exception as error:  # on a damaged file tarfile raises almost anything
        return pictures.why_broken(error)


def _samples(tar: tarfile.TarFile, file: RawIOBase) -> tuple[dict[str, Sample], Counter[str]]:
    samples: dict[str, Sample] = {}
    others: Counter[str] = Counter()
    last = -1
    for member in tar:
        if member.offset_data <= last:
            raise ValueError("its members overlap")
        last = member.offset_data
        base = member.name.rpartition("/")[2]
        ending = base.partition(".")[2]
        if member.isdir() or ignored(base):
            continue
        if (part := _part(ending.lower())) is None:
            others[f".{ending}"] += 1
            continue
        sample = samples.setdefault(member.name[: -len(ending) - 1], Sample())
        try:
            sample.add(part, member, file)
        except Exception as error:  # on what is no picture Pillow raises almost anything
            sample.wrong = pictures.why_broken(error)
    return samples, others


def make_index(found: Sequence[str], names: Sequence[str], wanted: Wanted) -> Index:
    """Reads all shards once. UserError where there is no sample."""
    shards, bad, broken = list[list[Any]](), list[tuple[str, str]](), list[Broken]()
    rows: list[tuple[Any, ...]] = []
    labels: list[str | None] = []
    bits: dict[str, bytearray | None] = {}
    fields: tuple[str, ...] = ()
    others: Counter[str] = Counter()
    pool = ThreadPoolExecutor(wanted.n_cpu, thread_name_prefix="gansmith-index")
    with pool, progress(f"indexing {len(found)} shards", len(found), wanted) as step:
        for name, scan in zip(names, pool.map(_scan, found), strict=True):
            step(1)
            if isinstance(scan, str):
                bad.append((name, scan))
                continue
            others += scan.others
            before = len(rows)
            for key, sample in scan.samples.items():
                own = tuple(part for part in ("x", "a", "b") if part in sample.places)
                if not fields and own in (("x",), ("a", "b")) and not sample.wrong:
                    fields = own
                if sample.wrong or own != fields or len(sample.sizes) != 1:
                    holds, most = (" and ".join(of) or "no picture" for of in (own, fields))
                    why = f"it holds {holds}, and others {most}" if own != fields else "a and b are not of one size"
                    broken.append(Broken(printable(f"{name}: {key}"), sample.wrong or why))
                    continue
                digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
                places = zip(*(sample.places[part] for part in fields), strict=True)
                _note(bits, len(rows), sample.told)
                labels.append(sample.label)
                rows.append((*places, int.from_bytes(digest[:8], "little"), -1, 0))
            shards.append([name, scan.n_bytes, len(rows) - before, scan.sha256])
    if not rows:
        first = next((f"{name}: {why}" for name, why in [*bad, *broken]), "they are empty")
        raise UserError(f"no pictures in {len(found)} shards; the first: {first}")
    if others:
        shown = ", ".join(f"{count} {printable(ending)}" for ending, count in others.most_common(5))
        wanted.say(f"passed over in the shards: {others.total()} members with other endings ({shown})")
    known = {name: column.ljust(len(rows), b"\0") for name, column in bits.items() if column is not None}
    whole = np.array(rows, row_type(len(fields), len(known)))
    classes, whole["y"] = _classes(labels)
    for k, column in enumerate(known.values()):
        whole["bits"][:, k] = np.frombuffer(column, np.uint8)
    about = {"version": VERSION, "fields": fields, "shards": shards, "classes": classes, "attributes": [*known]}
    about |= {"bad": bad, "broken": broken[:10], "n_broken": len(broken), "sha256": index_of(whole)}
    return Index(about, whole)


def _note(bits: dict[str, bytearray | None], row: int, told: Mapping[str, str]) -> None:
    """Adds what is told of a row as yes or no; what is neither is no attribute."""
    for name, value in told.items():
        column = bits.setdefault(name, bytearray())
        if value.lower() not in (*YES, *NO):
            bits[name] = None
        elif column is not None:
            column.extend(bytes(row - len(column)))
            column.append(value.lower() in YES)


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


def index_of(rows: NDArray[Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(rows).view(np.uint8).data).hexdigest()


def write_index(folder: Path, index: Index) -> None:
    """Both files, the facts last, each whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / f".{INDEX}.{os.getpid()}.part"
    for name in (f"{INDEX[:-5]}.npy", INDEX):
        with part.open("wb") as file:
            if name == INDEX:
                file.write(json.dumps(index.about, indent=1).encode())
            else:
                np.save(file, index.rows, allow_pickle=False)
        os.replace(part, folder / name)


def read_index(folder: str) -> Index | None:
    """The index in a folder, here or elsewhere; None where there is none, UserError where it is damaged."""
    there = f"{folder}/{INDEX}"
    try:
        stamp(there)
    except UserError:
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
    if rows.nbytes <= CHECKED_BYTES and index_of(rows) != about["sha256"]:
        raise ValueError("its rows have another digest")
    if (classes and not 0 <= rows["y"].min() <= rows["y"].max() < len(classes)) or rows["bits"].max() > 1:
        raise ValueError("a label without a class")


# ---- from an index to a set ---------------------------------------------------------------------------------------


def load_shards(what: str, wanted: Wanted) -> ImageSet:
    """The set in the shards of an address, pattern, folder or list; its columns are read where they are indexed."""
    if wanted.split == "test":
        raise UserError(f"{what} has no test split")
    found = addresses(what)
    (about, rows), bad = _index(what, found, wanted)
    if len(bad) > wanted.max_broken * len(found):
        (name, why), *_ = bad.items()
        raise UserError(
            f"{len(bad)} of {len(found)} shards of {what} cannot be used, more than max_broken ="
            f" {wanted.max_broken:g} allows; the first: {name}: {why}"
        )
    for name, why in [*bad.items()][:10]:
        wanted.say(f"left out the shard {name}: {why}")
    tell(what, len(rows) + about["n_broken"], [Broken(*b) for b in about["broken"]], about["n_broken"], 0, wanted)
    folder = "" if about["shards"][0][0] in found else f"{found[0].rpartition('/')[0] or '.'}/"
    good = [name not in bad for name, *_ in about["shards"]]
    if not all(good):
        rows = rows[np.repeat(good, [n for _, _, n, _ in about["shards"]])]
    used = [facts for facts, is_good in zip(about["shards"], good, strict=True) if is_good]
    n, fields, classes = len(rows), tuple(about["fields"]), tuple(about["classes"])
    wanted.say(f"{what}: {n:,} {'pairs' if len(fields) > 1 else 'pictures'} in {len(used):,} shards")
    marks = {}
    if about["attributes"] and any("bits" in own for own in wanted.needs):
        classes = tuple(wanted.columns or about["attributes"])
        if wrong := [name for name in classes if name not in about["attributes"]]:
            raise UserError(f"data.columns names {wrong[0]}; the shards have {', '.join(about['attributes'])}")
        places = [about["attributes"].index(name) for name in classes]
        marks["bits"] = lambda some: some["bits"][:, places].astype(np.float32)
    elif classes:
        marks["y"] = lambda some: some["y"].astype(np.int64)
    edges = np.cumsum([0, *(n for _, _, n, _ in used)])
    shards = [Shard(folder + name, n_bytes) for name, n_bytes, _, _ in used]
    reader = Reader(what, shards, edges, rows, fields, marks, wanted)
    columns = {name: Streamed(reader, name, (n, wanted.channels, *wanted.size), np.uint8) for name in fields}
    for name in marks:
        columns[name] = (
            Streamed(reader, name, (n,), np.int64)
            if name == "y"
            else Streamed(reader, name, (n, len(classes)), np.float32)
        )
    content = [facts[2:] for facts in used], fields, [*marks], classes
    how = wanted.side, wanted.channels, wanted.fit, pictures.VERSION
    digest = hashlib.sha256(f"gansmith shards {VERSION} {content} {how}".encode()).hexdigest()
    layout = Layout(edges, rows["key"], wanted.window)
    return ImageSet(Path(what).name, columns, classes, digest, layout=layout)


def _index(what: str, found: Sequence[str], wanted: Wanted) -> tuple[Index, dict[str, str]]:
    """The index beside the shards or in the cache, made if there is none; and the shards that cannot be used, and why.

    Of shards elsewhere that have an index a change shows only when they are read.
    """
    folders = {address.rpartition("/")[0] or "." for address in found}
    names = [address.rpartition("/")[2] for address in found]
    index = read_index(*folders) if len(folders) == 1 else None
    beside = index is not None and [name for name, *_ in index.about["shards"]] == names
    if index is not None and beside and remote(found[0]):
        return index, {}
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
    bad: dict[str, str] = dict(index.about["bad"])
    sizes = {name: n_bytes for name, n_bytes, _, _ in index.about["shards"]}
    for name, now in zip(names, stamps, strict=True):
        if isinstance(now, str):
            bad[name] = now
        elif now[0] != sizes.get(name, now[0]):
            bad[name] = f"it has {now[0]:,} bytes, and when it was indexed it had {sizes[name]:,}"
    return index, bad


def _stamp(address: str) -> tuple[int, str] | str:
    try:
        return stamp(address)
    except UserError as error:
        return str(error)

"""Where shards lie: patterns, folders and lists of addresses, on this machine or in a store of objects."""

from __future__ import annotations

import glob
import os
import re
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from io import FileIO, RawIOBase
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from gansmith.data.cache import cache_folder
from gansmith.data.pictures import EXTENSIONS
from gansmith.errors import UserError

T = TypeVar("T")
# Of fsspec; a literal list, since others of its protocols run commands or open archives within archives.
PROTOCOLS = ("https", "http", "s3", "gs", "az", "hf", "memory")
MOST = 1_000_000  # shards of one set
PAUSES = (1.0, 5.0, 25.0)  # seconds before each further try of a read that failed


class Untrusted(str):
    """An address in a recipe that may be somebody else's: a name like any other until it is to be opened."""


class Missing(UserError):
    """There is no such file, and no other reason why it cannot be read."""


def is_shards(what: str) -> bool:
    """Whether a name of data means shards: a pattern or a list of addresses, or a folder with .tar files alone.

    Or a folder with such a one that is called train; its test split is one beside that, called test.
    """
    if remote(what) or what.endswith((".tar", ".txt")):
        return True
    folder = Path(what).expanduser()
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
        names = [entry.name.lower() for entry in entries]
        if any(entry.is_dir() for entry in entries):
            return is_shards(str(folder / "train"))
    except OSError:
        return False
    return any(name.endswith(".tar") for name in names) and not any(name.endswith(EXTENSIONS) for name in names)


def split_of(what: str, split: str) -> str | None:
    """Where the shards of a split lie, "train" or "test"; None where there are none."""
    if remote(what) or what.endswith((".tar", ".txt")) or not (Path(what).expanduser() / "train").is_dir():
        return what if split == "train" else None
    there = str(Path(what).expanduser() / split)
    return there if is_shards(there) else None


def remote(what: str) -> bool:
    return "://" in what


def first_remote(what: str) -> str | None:
    """The first address that leads off this machine, in a name of data or in the list that it names."""
    lines = [what] if remote(what) or not what.endswith(".txt") else _lines(Path(what).expanduser())
    return next(filter(remote, lines), None)


def addresses(what: str) -> list[str]:
    """The addresses of the shards, in order; UserError where there are none or one may not be opened."""
    path = Path(what).expanduser()
    if not remote(what) and path.is_dir():
        found = sorted(str(file) for file in path.iterdir() if file.name.lower().endswith(".tar"))
    elif not remote(what) and what.endswith(".txt"):
        patterns = [line if remote(line) else str(path.parent / line) for line in _lines(path)]
        found = [*islice((address for pattern in patterns for address in _expanded(pattern)), MOST + 1)]
    else:
        found = [*islice(_expanded(what if remote(what) else str(path)), MOST + 1)]
    if not found:
        raise UserError(f"no shards at {what}: there is no file of that name that ends in .tar")
    if len(found) > MOST:
        raise UserError(f"{what} names more than {MOST:,} shards")
    if twice := [address for address, n in Counter(found).items() if n > 1]:
        raise UserError(f"{what} names {twice[0]} twice")
    return found


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list of shards {path}: {getattr(error, 'strerror', 'no text')}") from None
    return [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]


def _expanded(pattern: str) -> Iterator[str]:
    if remote(pattern):
        protocol = pattern.partition("://")[0]
        if "::" in pattern or protocol not in PROTOCOLS:
            raise UserError(f"{pattern}: an address must begin with one of {', '.join(f'{p}://' for p in PROTOCOLS)}")
    if not pattern.endswith((".tar", ".tar}")):
        raise UserError(f"{pattern}: a shard must end in .tar; what is compressed as a whole cannot be read in places")
    for one in _braces(pattern):
        if remote(one) != remote(pattern) or "::" in one:
            raise UserError(f"{pattern}: braces may not make up an address; it must be written out up to its path")
        if not any(c in one for c in "*?["):
            yield one
        elif remote(one):
            files, path = _open_system(one)
            scheme = one.partition("://")[0]
            names = map(str, sorted(files.glob(path)))
            yield from (name if remote(name) else f"{scheme}://{name.lstrip('/')}" for name in names)
        else:
            yield from sorted(glob.glob(one))


def _braces(text: str) -> Iterator[str]:
    """The texts that {0000..0099} and {a,b} stand for."""
    if not (found := re.search(r"\{([^{}]*)\}", text)):
        yield text
        return
    inner = found[1]
    if span := re.fullmatch(r"(\d+)\.\.(\d+)", inner):
        wide, first, last = len(span[1]), int(span[1]), int(span[2])
        if not 0 <= last - first < MOST:
            raise UserError(f"{text}: {{{inner}}} must go up, to fewer than {MOST:,} shards")
        parts: list[str] = [str(i).zfill(wide) for i in range(first, last + 1)]
    else:
        parts = inner.split(",")
    for part in parts:
        yield from _braces(text[: found.start()] + part + text[found.end() :])


def _open_system(address: str) -> tuple[Any, str]:
    """The file system of fsspec for an address, and the path there."""
    try:
        from fsspec.core import url_to_fs

        files, path = url_to_fs(address)
    except ImportError as error:
        raise UserError(f"{address} needs a library ({error}): pip install 'gansmith[remote]'") from None
    except ValueError as error:
        raise UserError(f"{address}: {error}") from None
    return files, path


def tried(read: Callable[[], T], address: str) -> T:
    """What `read` gives; tried again after pauses where the network or a disk fails, then a UserError."""
    for pause in (*PAUSES, None):
        try:
            return read()
        except FileNotFoundError:
            raise Missing(f"the shard {address} is missing") from None
        except UserError:
            raise
        except Exception as error:  # each store raises its own
            if pause is None:
                why = " ".join(str(error).split())[:200] or type(error).__name__
                raise UserError(f"{address} cannot be read, tried {len(PAUSES) + 1} times: {why}") from None
            time.sleep(pause)
    raise AssertionError


def stamp(address: str) -> tuple[int, str]:
    """The bytes of a file, and what changes when it does: of a local one when it was written."""
    if remote(address):
        files, path = _open_system(address)
        info = tried(lambda: files.info(path), address)
        return int(info["size"] or 0), str(info.get("ETag") or info.get("etag") or info.get("mtime") or "")
    status = tried(lambda: os.stat(address), address)
    return status.st_size, str(status.st_mtime_ns)


def opened(address: str) -> RawIOBase:
    """The file, to be read anywhere; one from elsewhere is copied to a nameless file in the cache folder."""
    if not remote(address):
        return tried(lambda: FileIO(address), address)
    files, path = _open_system(address)
    (folder := cache_folder()).mkdir(parents=True, exist_ok=True)

    def copied() -> RawIOBase:
        copy: Any = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        try:
            with files.open(path, "rb") as there:
                shutil.copyfileobj(there, copy, 1 << 20)
        except BaseException:
            copy.close()
            raise
        copy.seek(0)
        return copy

    return tried(copied, address)

"""Prepared pictures on disk: one folder per set, made elsewhere and renamed into place in one step.

An entry holds set.json, images.npy (the two of a pair stand together) and labels.npy, of labels or attributes.
Two processes that make the same entry at once both work; the first rename wins, the other takes the winner's files.
"""

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gansmith.data.imageset import Bytes, ImageSet, sha256
from gansmith.errors import UserError

Say = Callable[[str], None]

HEADER = 128  # bytes that NumPy takes for the header of any images.npy, whose number of pictures is known at the end
CHECKED_BYTES = 1 << 28  # up to this size the digest is checked at every load, beyond it only the size
STALE_SECONDS = 3 * 86_400


class Broken(NamedTuple):
    """A picture that was left out, and why."""

    file: str
    why: str


class Entry(NamedTuple):
    """A prepared set."""

    data: ImageSet
    broken: list[Broken]  # the first few of the pictures that were left out
    n_broken: int
    n_coloured: int


def cache_folder() -> Path:
    """$GANSMITH_CACHE, else the user's cache folder of the platform."""
    if own := os.environ.get("GANSMITH_CACHE"):
        return Path(own).expanduser()
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "gansmith" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gansmith"


def entry_path(name: str, *parts: object) -> Path:
    """Where the set `name` lies when it was made from `parts` (content and preprocessing, as text)."""
    made_from = "\n".join(str(part) for part in (name, *parts))
    key = hashlib.sha256(made_from.encode("utf-8", "backslashreplace")).hexdigest()  # a folder's name may be no text
    slug = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:40] or "set"
    return cache_folder() / f"{slug}-{key[:20]}"


def load_entry(path: Path, say: Say) -> Entry | None:
    """The entry at `path`; None if there is none, or if it is damaged, which is said."""
    try:
        if not (path / "set.json").exists():
            return None
        about = json.loads((path / "set.json").read_text(encoding="utf-8"))
        images = np.load(path / "images.npy", mmap_mode="r", allow_pickle=False)
        shape, labels = tuple(about["shape"]), None
        if images.shape != shape or images.dtype != np.uint8:
            raise ValueError(f"images.npy is {images.dtype} {images.shape}, not uint8 {shape}")
        if images.nbytes <= CHECKED_BYTES and sha256(images) != about["images_sha256"]:
            raise ValueError("images.npy has another digest")
        if about["labels_sha256"] is not None:
            labels = np.load(path / "labels.npy", allow_pickle=False)
            right = labels.dtype == (np.int64 if labels.ndim == 1 else np.float32) and labels.shape[:1] == shape[:1]
            if not right or sha256(labels) != about["labels_sha256"]:
                raise ValueError("labels.npy has another digest")
        columns = _columns(images, labels, about.get("fields", ["x"]))
        data = ImageSet(about["name"], columns, tuple(about["classes"]), about["digest"])
        return Entry(data, [Broken(*pair) for pair in about["broken"]], about["n_broken"], about.get("n_coloured", 0))
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        say(f"the cache {path} is damaged ({error}); making it anew")
        return None


def _columns(images: Bytes, marks: NDArray[Any] | None, fields: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The columns of images (N, C, H, W), or (N, F, C, H, W) of F fields, and of labels (N,) or attributes (N, K)."""
    split = {fields[0]: images} if len(fields) == 1 else {name: images[:, i] for i, name in enumerate(fields)}
    if marks is None:
        return split
    marks.flags.writeable = False
    return {**split, "y" if marks.ndim == 1 else "bits": marks}


class Draft:
    """A set while it is made: `write` pictures in order, then `finish`; or leave the `with` block to drop it.

    Lies in a temporary folder beside `path`, or in memory when the cache folder cannot be written.
    """

    def __init__(self, path: Path, say: Say) -> None:
        self.path = path
        self.folder: Path | None = None
        self.count = 0
        self._shape: tuple[int, ...] = ()
        self._sha = hashlib.sha256()
        self._file: BinaryIO = io.BytesIO()
        folder = path.parent / f".tmp-{uuid.uuid4().hex}"
        try:
            folder.mkdir(parents=True)
            self._file = (folder / "images.npy").open("w+b")
            self.folder = folder
        except OSError as error:
            say(f"the cache folder {path.parent} cannot be written ({error.strerror}); going on in memory")
        with contextlib.suppress(OSError):
            for old in path.parent.glob(".tmp-*"):  # what a killed process left unfinished days ago
                if time.time() - old.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(old, ignore_errors=True)
        self._file.write(bytes(HEADER))

    def __enter__(self) -> "Draft":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, images: Bytes) -> None:
        """Adds images (N, C, H, W), or (N, F, C, H, W) of F fields; UserError when the disk is full."""
        flat = np.ascontiguousarray(images)
        self._shape = flat.shape[1:]
        self.count += len(flat)
        self._sha.update(flat.data)
        with self._disk():
            self._file.write(flat.data)

    def finish(
        self,
        name: str,
        labels: NDArray[Any] | None,
        classes: tuple[str, ...],
        broken: Sequence[Broken] = (),
        digest: str | None = None,
        n_coloured: int = 0,
        fields: tuple[str, ...] = ("x",),
    ) -> ImageSet:
        """Puts the set in its place and opens it; `digest` replaces the digest of the content."""
        shape = (self.count, *self._shape)
        images_sha = self._sha.hexdigest()
        labels_sha = None if labels is None else sha256(labels)
        content = f"gansmith data 1: {shape} {images_sha} {labels_sha}"
        digest = digest or hashlib.sha256(content.encode()).hexdigest()
        if self.folder is None:
            assert isinstance(self._file, io.BytesIO)
            raw = self._file.getvalue()  # shares the buffer until the file is written again
            images = np.frombuffer(raw, np.uint8, offset=HEADER).reshape(shape)
            return ImageSet(name, _columns(images, labels, fields), classes, digest)
        about: dict[str, Any] = {"name": name, "shape": shape, "fields": fields, "classes": classes, "digest": digest}
        about |= {"images_sha256": images_sha, "labels_sha256": labels_sha}
        about |= {"broken": broken[:10], "n_broken": len(broken), "n_coloured": n_coloured}
        with self._disk():
            self._file.seek(0)
            np.lib.format.write_array_header_1_0(self._file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            assert self._file.tell() == HEADER
            _flush(self._file)
            self._file.close()
            if labels is not None:
                with (self.folder / "labels.npy").open("wb") as file:
                    np.save(file, labels, allow_pickle=False)
                    _flush(file)
            with (self.folder / "set.json").open("wb") as file:
                file.write(json.dumps(about, indent=1).encode())
                _flush(file)
            return self._move(self.folder)

    def _move(self, folder: Path) -> ImageSet:
        for _ in range(3):
            with contextlib.suppress(OSError):  # there is something: another process's entry, or a damaged one
                folder.rename(self.path)
            if (entry := load_entry(self.path, lambda _: None)) is not None:
                return entry.data
            old = self.path.with_name(f".tmp-{uuid.uuid4().hex}")
            with contextlib.suppress(OSError):
                self.path.rename(old)
                shutil.rmtree(old, ignore_errors=True)
        raise UserError(f"the cache {self.path} cannot be put in place; remove it, or set GANSMITH_CACHE")

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            right = "make room, or set GANSMITH_CACHE to a folder with more room"
            what = f"{self.path.parent}: {error.strerror} while writing prepared pictures"
            raise UserError(f"{what}; {right}") from error


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())

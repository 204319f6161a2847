"""Any source of pictures, decoded once by a pool of threads into a cache entry."""

import contextlib
import hashlib
import math
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gansmith.data import pictures
from gansmith.data.cache import Broken, Draft, Say, entry_path, load_entry
from gansmith.data.imageset import Bytes, ImageSet
from gansmith.errors import UserError

SPLITS = ("train", "validation", "test")
Read = Callable[[int], tuple[Image.Image, int | None]]


@dataclass(frozen=True)
class Wanted:
    """How the pictures are to be prepared and what may be said meanwhile; UserError for impossible values."""

    img_size: int
    channels: int
    split: str
    fit: str
    max_broken: float
    n_cpu: int
    say: Say
    progress: bool

    def __post_init__(self) -> None:
        if self.img_size < 1:
            raise UserError(f"img_size is {self.img_size}; it must be at least 1")
        if self.channels not in pictures.MODES:
            nearest = min(pictures.MODES, key=lambda known: abs(known - self.channels))
            raise UserError(f"channels is {self.channels}; it must be 1, 3 or 4, the nearest is {nearest}")
        if self.split not in SPLITS:
            raise UserError(f"split is {self.split!r}; it must be one of {', '.join(map(repr, SPLITS))}")
        if self.fit not in pictures.FITS:
            raise UserError(f"fit is {self.fit!r}; it must be one of {', '.join(map(repr, pictures.FITS))}")
        if not 0 <= self.max_broken <= 1:
            raise UserError(f"max_broken is {self.max_broken}; it is a share and must lie in 0..1")
        if self.n_cpu < 1:
            raise UserError(f"n_cpu is {self.n_cpu}; it must be at least 1")

    def path(self, name: str, *content: object) -> Path:
        """Where the cache entry of `name` lies when its content is told apart by `content`."""
        how = (self.split, self.img_size, self.channels, self.fit, pictures.VERSION)
        return entry_path(name, *content, *how)


@dataclass(frozen=True)
class Source:
    """`count` pictures to be read by index, each with its label or None; titles name them in messages.

    broken are those that could not even be listed. digest identifies the content where it is known beforehand.
    """

    name: str
    count: int
    read: Read
    title: Callable[[int], str]
    classes: tuple[str, ...] = ()
    broken: tuple[Broken, ...] = ()
    digest: str | None = None


def array_source(
    name: str, images: Bytes, labels: NDArray[Any], classes: tuple[str, ...], digest: str | None = None
) -> Source:
    """A source of grey pictures (N, H, W) that are in memory."""

    def read(index: int) -> tuple[Image.Image, int | None]:
        return Image.fromarray(images[index]), int(labels[index])

    return Source(name, len(images), read, lambda index: f"picture {index}", classes, digest=digest)


def cached(path: Path, wanted: Wanted) -> ImageSet | None:
    """The set if it was prepared before, with a reminder of the pictures that were left out then."""
    entry = load_entry(path, wanted.say)
    if entry is None:
        return None
    if entry.n_broken:
        total = len(entry.data) + entry.n_broken
        first = entry.broken[0]
        _check_share(entry.data.name, entry.n_broken, total, first, wanted)
        wanted.say(
            f"{entry.n_broken} of {total} pictures of {entry.data.name} are left out as broken "
            f"(the first: {first.file}: {first.why})"
        )
    _tell_grey(entry.data.name, entry.n_coloured, len(entry.data), wanted)
    return entry.data


def prepare(source: Source, path: Path, wanted: Wanted) -> ImageSet:
    """Decodes all pictures of `source` into the entry at `path`; UserError if too many of them are broken."""
    started = time.monotonic()
    size = f"{wanted.img_size}x{wanted.img_size}, {wanted.channels} channel{'s' * (wanted.channels > 1)}"
    broken = list(source.broken)
    labels: list[int | None] = []
    coloured = 0
    with Draft(path, wanted.say) as draft:
        text = f"preparing {source.count} pictures of {source.name} at {size}"
        with _progress(text, source.count, wanted) as step, contextlib.closing(_in_order(source, wanted)) as groups:
            for images, found, failed, colours in groups:
                if images:
                    draft.write(np.stack(images))
                labels += found
                broken += failed
                coloured += sum(colours)
                step(len(images) + len(failed))
        _tell(source.name, broken, len(labels), wanted)
        _tell_grey(source.name, coloured, len(labels), wanted)
        known = [label for label in labels if label is not None]
        all_labels = np.array(known, np.int64) if len(known) == len(labels) else None
        classes: tuple[str, ...] = ()
        if all_labels is not None:
            all_labels.flags.writeable = False
            classes = source.classes or tuple(str(label) for label in range(int(all_labels.max()) + 1))
        digest = None
        if source.digest is not None:
            how = (wanted.img_size, wanted.channels, wanted.fit, pictures.VERSION)
            digest = hashlib.sha256(f"{source.digest} {how}".encode()).hexdigest()
        data = draft.finish(source.name, all_labels, classes, broken, digest, coloured)
    wanted.say(f"prepared {len(data)} pictures of {source.name} at {size} in {time.monotonic() - started:.1f} s")
    return data


# Pictures, their labels, those that are broken, and which of the others were stored in colour.
Converted = tuple[list[Bytes], list[int | None], list[Broken], list[bool]]


def _in_order(source: Source, wanted: Wanted) -> Generator[Converted, None, None]:
    """Groups of converted pictures in the order of the source, read a bounded way ahead by `n_cpu` threads."""
    group = max(1, min(16, (1 << 20) // (wanted.img_size**2 * wanted.channels)))
    pool = ThreadPoolExecutor(wanted.n_cpu, thread_name_prefix="gansmith-prepare")
    ahead: deque[Future[Converted]] = deque()

    def convert(start: int) -> Converted:
        out: Converted = ([], [], [], [])
        for index in range(start, min(start + group, source.count)):
            try:
                image, label = source.read(index)
                out[0].append(pictures.to_array(image, wanted.img_size, wanted.channels, wanted.fit))
                out[1].append(label)
                out[3].append(image.mode in pictures.COLOURED)
            except Exception as error:  # on a damaged file the readers of Pillow raise almost anything
                title = source.title(index)
                out[2].append(Broken(title, pictures.why_broken(error)))
        return out

    try:
        for start in range(0, source.count, group):
            ahead.append(pool.submit(convert, start))
            if len(ahead) >= 4 * wanted.n_cpu:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _progress(text: str, count: int, wanted: Wanted) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where that is a terminal, else one plain line; gives the function that takes steps."""
    if not (wanted.progress and sys.stderr.isatty()):
        wanted.say(text)
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(text, total=count)
        yield lambda n: bar.advance(task, n)


def _tell(name: str, broken: list[Broken], readable: int, wanted: Wanted) -> None:
    """Lists the broken pictures; UserError when they are too many or none is left."""
    for item in broken[:10]:
        wanted.say(f"left out {item.file}: {item.why}")
    if len(broken) > 10:
        wanted.say(f"and {len(broken) - 10} more")
    if not readable:
        first = f"{broken[0].file}: {broken[0].why}"
        raise UserError(f"none of the {len(broken)} pictures of {name} can be read; the first: {first}")
    if broken:
        _check_share(name, len(broken), len(broken) + readable, broken[0], wanted)


def _tell_grey(name: str, coloured: int, total: int, wanted: Wanted) -> None:
    if coloured and wanted.channels == 1:
        wanted.say(
            f"{coloured} of {total} pictures of {name} are stored in colour and become grey; to keep the colours:"
            " --channels 3"
        )


def _check_share(name: str, n_broken: int, total: int, first: Broken, wanted: Wanted) -> None:
    if n_broken > wanted.max_broken * total:
        enough = math.ceil(100 * n_broken / total) / 100
        raise UserError(
            f"{n_broken} of {total} pictures of {name} are broken, more than max_broken = {wanted.max_broken:g} "
            f"allows; mend or remove them, or leave them out: --data.max_broken {enough:g}; the first: {first.file}:"
            f" {first.why}"
        )

"""Any source of pictures, decoded once by a pool of threads into a cache entry."""

import contextlib
import hashlib
import math
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gansmith.batch import NOT_PICTURES
from gansmith.data import pictures
from gansmith.data.cache import Broken, Draft, Say, entry_path, load_entry
from gansmith.data.decoder import Decoders, Form, Told, decode
from gansmith.data.imageset import Bytes, ImageSet
from gansmith.data.pictures import printable
from gansmith.errors import UserError
from gansmith.schema import convert
from gansmith.sections import Data

CHECKED = {"split": Literal["train", "validation", "test"], **Data.__annotations__}
KINDS = {(1,): "plain", (2,): "pairs", (1, 1): "domains"}  # by how many pictures each stream has
TOLERATED = 10  # broken pictures, even where max_broken allows fewer: one bad link must not refuse a small folder
MANY = 5000  # files: fewer are decoded before processes that do it would have started
UNLABELLED = ("u",)  # a stream of all pictures of the first one, without labels
# The fields that are needed, one tuple per stream of batches; those in one tuple share an index.
Needs = tuple[tuple[str, ...], ...]


def kind(needs: Needs) -> str:
    """What sort of pictures is needed: one picture a sample, pairs of one index, or two domains, each of its own."""
    counts = tuple(sum(name not in NOT_PICTURES for name in fields) for fields in needs if fields != UNLABELLED)
    if counts not in KINDS:
        raise UserError(f"needs is {needs}; it must name one picture, such as x, or two, such as a and b")
    return KINDS[counts]


def described(needs: Needs) -> str:
    """The same in words."""
    text = {"plain": "single pictures", "pairs": "pairs of pictures", "domains": "two unpaired kinds of pictures"}
    more = sorted({NOT_PICTURES[name] for fields in needs for name in fields if name in NOT_PICTURES})
    return text[kind(needs)] + f" with {' and '.join(more)}" * bool(more)


def advice(needs: Needs) -> str:
    """Which data would be right."""
    if kind(needs) == "pairs":
        text = "a folder with subfolders a and b of equal file names, or of files with both side by side"
        return f"{text}, or mnist_edges"
    if kind(needs) == "domains":
        told = [f"{fields[0]} with one subfolder per class" for fields in needs if "y" in fields]
        return f"a folder with subfolders a and b{', ' * bool(told)}{' and '.join(told)}, or mnist_colours"
    if any("bits" in fields for fields in needs):
        return "a folder with a table attributes.csv, or with one subfolder per class, or mnist_looks"
    labelled = any("y" in fields for fields in needs)
    return f"a folder {'with one subfolder per class' if labelled else 'of pictures'}, or a named set such as mnist"


@dataclass(frozen=True)
class Wanted(Data):
    """Which images and how they are to be prepared, and what may be said meanwhile: messages, a bar on a terminal."""

    needs: Needs = (("x",),)
    split: str = "train"
    fold: int = 1  # of the five of tfd
    say: Say = print
    progress: bool = True

    def __post_init__(self) -> None:
        for name in ("channels", "split", "fit", "pairs", "direction"):
            convert(getattr(self, name), CHECKED[name], name)

    @property
    def fields(self) -> set[str]:
        """All fields that are needed."""
        return {name for fields in self.needs for name in fields}

    @property
    def side(self) -> int | tuple[int, int]:
        """The size as it stands in keys and digests: of squares the side, as when there were only squares."""
        return self.size[0] if self.size[0] == self.size[1] else self.size

    @property
    def described(self) -> str:
        h, w = self.size
        rectangle = " (height x width)" * (h != w)
        return f"{h}x{w}{rectangle}, {self.channels} channel{'s' * (self.channels > 1)}"

    def path(self, name: str, *content: object) -> Path:
        """Where the cache entry of `name` lies whose content `content` identifies."""
        limit = [self.max_megapixels] if self.max_megapixels != pictures.MEGAPIXELS else []
        return entry_path(name, *content, self.split, self.side, self.channels, self.fit, pictures.VERSION, *limit)

    def folder_of(self, name: str) -> Path:
        """The root of a named set, or $GANSMITH_DATA, or ./data; a root elsewhere, as a recipe may name it, is said."""
        if self.root and not (root := Path(self.root).resolve()).is_relative_to(Path.cwd()):
            self.say(f"using {name} from {root}")
        return Path(self.root or os.environ.get("GANSMITH_DATA") or "data")


Mark = int | tuple[float, ...] | None  # of a sample: its label, its attributes, or nothing
Sample = tuple[Sequence[Path | Image.Image], Mark]  # for each field the picture or the file that holds it


@dataclass(frozen=True)
class Source:
    """`count` samples to be read by index."""

    name: str
    count: int
    read: Callable[[int], Sample]
    title: Callable[[int], str] = "picture {}".format
    classes: tuple[str, ...] = ()
    broken: tuple[Broken, ...] = ()  # what could not even be listed
    digest: str | None = None  # of the content, where it is known beforehand
    fields: tuple[str, ...] = ("x",)


def array_source(
    name: str,
    columns: Mapping[str, Bytes],
    marks: NDArray[Any] | None,
    classes: tuple[str, ...],
    digest: str | None = None,
) -> Source:
    """A source of grey (N, H, W) or coloured (N, H, W, 3) pictures in memory, with labels (N,) or attributes (N, K)."""

    def read(index: int) -> Sample:
        mark = None if marks is None else int(marks[index]) if marks.ndim == 1 else tuple(map(float, marks[index]))
        return [Image.fromarray(images[index]) for images in columns.values()], mark

    count = len(next(iter(columns.values())))
    return Source(name, count, read, classes=classes, digest=digest, fields=tuple(columns))


def check_sizes(images: Sequence[Path | Image.Image], sizes: Sequence[tuple[int, int]]) -> None:
    """UserError where the files of a pair hold pictures of several sizes (W, H)."""
    if len({*sizes}) > 1:
        text = " and ".join(f"{printable(str(file))} is {w}x{h}" for file, (w, h) in zip(images, sizes, strict=True))
        raise UserError(f"{text} (width x height); the two pictures of a pair must have one size")


def prepare(path: Path, wanted: Wanted, find: Callable[[], Source]) -> ImageSet:
    """The set at `path`; if it is not there, all pictures of the source, decoded. UserError if too many are broken."""
    if (entry := load_entry(path, wanted.say)) is not None:
        total = len(entry.data) + entry.n_broken
        tell(entry.data.name, total, entry.broken, entry.n_broken, entry.n_coloured, wanted)
        return entry.data
    source, started = find(), time.monotonic()
    several = len(source.fields) > 1
    what = f"{'pairs' if several else 'pictures'} of {source.name} at {wanted.described}"
    broken, marks, losses = list(source.broken), list[Mark](), np.zeros(3)
    with Draft(path, wanted.say) as draft:
        text = f"preparing {source.count} {what}"
        with progress(text, source.count, wanted) as step, contextlib.closing(_in_order(source, wanted)) as groups:
            for group in groups:
                if group.marks:
                    draft.write(group.images if several else group.images[:, 0])
                marks += group.marks
                losses += group.losses
                broken += group.broken
                step(len(group.marks) + len(group.broken))
        for item in broken[:10]:
            wanted.say(f"left out {item.file}: {item.why}")
        if not marks:
            file, why = broken[0]
            count = f"none of the {len(broken)} pictures of {source.name} can be read"
            raise UserError(f"{count}; the first: {file}: {why}")
        coloured, smaller, cropped = int(losses[0]), int(losses[1]), losses[2] / len(marks)
        tell(source.name, len(marks) + len(broken), broken, len(broken), coloured, wanted)
        labels, digest, classes = None, None, tuple[str, ...]()
        if marks[0] is not None:  # and so are the others
            labels = np.array(marks, np.int64 if isinstance(marks[0], int) else np.float32)
            classes = source.classes or tuple(map(str, range(int(labels.max()) + 1)))
        if source.digest is not None:
            how = (wanted.side, wanted.channels, wanted.fit, 1)  # 1: all versions give these pixels
            digest = hashlib.sha256(f"{source.digest} {how}".encode()).hexdigest()
        data = draft.finish(source.name, labels, classes, broken, digest, coloured, source.fields)
    wanted.say(f"prepared {len(data)} {what} in {time.monotonic() - started:.1f} s")
    if source.digest is None:  # the user's own pictures, and not a set that everybody knows
        if cropped > 0.05:
            share = f"{cropped:.0%} of a picture on average"
            wanted.say(f"cropping takes away {share}; --data.fit pad keeps all of it, with black borders")
        if smaller:
            size = wanted.described.partition(",")[0]
            wanted.say(f"{smaller} of {len(data)} are smaller than {size}, and were enlarged")
    return data


class Group(NamedTuple):
    """Some samples: those that can be read, and the others."""

    images: Bytes  # (n, F, C, H, W)
    marks: list[Mark]
    broken: list[Broken]
    losses: NDArray[np.float64]  # how many lose their colours, how many are enlarged; the sum of the shares cropped


def _in_order(source: Source, wanted: Wanted) -> Generator[Group, None, None]:
    """Groups of samples in the order of the source, read a bounded way ahead by `n_cpu` threads.

    Of many files processes decode the pictures, since threads wait for each other.
    """
    h, w = wanted.size
    size = max(1, min(16, (1 << 20) // (h * w * wanted.channels)))
    pool = ThreadPoolExecutor(wanted.n_cpu, thread_name_prefix="gansmith-prepare")
    form = Form(wanted.size, wanted.channels, wanted.fit, wanted.max_megapixels)
    decoders = Decoders(form, wanted.n_cpu if source.count >= MANY else 1)
    ahead: deque[Future[Group]] = deque()

    def convert(start: int) -> Group:
        files, found, decoded = dict[int, list[Path]](), dict[int, Mark](), list[tuple[Bytes, list[Told]]]()
        marks, broken, losses = list[Mark](), dict[int, str](), np.zeros(3)
        for index in range(start, min(start + size, source.count)):
            try:
                images, mark = source.read(index)
            except UserError:
                raise
            except Exception as error:  # on a damaged file the readers of Pillow raise almost anything
                broken[index] = pictures.why_broken(error)
                continue
            found[index], files[index] = mark, [one for one in images if isinstance(one, Path)]
            if not files[index]:  # at once: a group of whole pictures could fill the memory
                decoded.append(decode(images, form))
        decoded.append(decoders.decode([file for own in files.values() for file in own]))
        pixels = np.concatenate([part for part, _ in decoded]).reshape(-1, len(source.fields), wanted.channels, h, w)
        told = [one for _, part in decoded for one in part]
        sound = np.ones(len(found), bool)
        for k, (index, mark) in enumerate(found.items()):
            own = told[k * len(source.fields) : (k + 1) * len(source.fields)]
            if why := [one for one in own if isinstance(one, str)]:
                broken[index], sound[k] = why[0], False
                continue
            sizes = [(one[0], one[1]) for one in own if not isinstance(one, str)]
            if files[index]:
                check_sizes(files[index], sizes)
            width, height = sizes[0]
            cut = 1 - min(width * h, height * w) / max(width * h, height * w) if wanted.fit == "crop" else 0.0
            losses += any(one[2] for one in own), width < w or height < h, cut
            marks.append(mark)
        named = [Broken(source.title(index), broken[index]) for index in sorted(broken)]
        return Group(pixels[sound], marks, named, losses)

    try:
        for start in range(0, source.count, size):
            ahead.append(pool.submit(convert, start))
            if len(ahead) >= 4 * wanted.n_cpu:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        decoders.close()


@contextlib.contextmanager
def progress(text: str, count: int, wanted: Wanted) -> Iterator[Callable[[int], None]]:
    """A bar on stderr where that is a terminal, else one plain line; gives the function that takes steps."""
    if not (wanted.progress and sys.stderr.isatty()):
        wanted.say(text)
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(text, total=count)
        yield lambda n: bar.advance(task, n)


def tell(name: str, total: int, broken: Sequence[Broken], n_broken: int, coloured: int, wanted: Wanted) -> None:
    """Says at each load how many pictures are left out or lose their colours; UserError when too many are broken."""
    if n_broken:
        count, first = f"{n_broken} of {total} pictures of {name} are", f"the first: {broken[0].file}: {broken[0].why}"
        if n_broken > max(TOLERATED, wanted.max_broken * total):
            enough = f"--data.max_broken {math.ceil(100 * n_broken / total) / 100:g}"
            more = f"{count} broken, more than max_broken = {wanted.max_broken:g} allows"
            raise UserError(f"{more}; mend or remove them, or leave them out: {enough}; {first}")
        wanted.say(f"{count} left out as broken ({first})")
    if coloured:
        count = f"{coloured} of {total - n_broken} pictures of {name} are"
        wanted.say(f"{count} stored in colour and become grey; to keep the colours: --channels 3")

"""A folder of pictures, flat or with one subfolder per class."""

import hashlib
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from gansmith.data import pictures
from gansmith.data.cache import Broken
from gansmith.data.imageset import ImageSet
from gansmith.data.prepare import Source, Wanted, cached, prepare
from gansmith.errors import UserError


@dataclass
class Listing:
    """What lies below a folder: relative names of the pictures, and what could not be looked at."""

    names: list[str] = field(default_factory=list)
    stats: list[tuple[int, int]] = field(default_factory=list)  # bytes and mtime in ns, as many as names
    broken: list[Broken] = field(default_factory=list)

    def without(self, subfolders: Collection[str]) -> "Listing":
        """The same but for what lies in these subfolders."""
        rest = [i for i, name in enumerate(self.names) if name.partition("/")[0] not in subfolders or "/" not in name]
        broken = [item for item in self.broken if item.file.partition("/")[0] not in subfolders]
        return Listing([self.names[i] for i in rest], [self.stats[i] for i in rest], broken)


def load_folder(folder: Path, wanted: Wanted) -> ImageSet:
    """The pictures below a folder, in the order of their relative names.

    With folder/train or folder/test the split chooses between these; without folder/train the rest is trained on.
    Pictures in at least two first-level folders and none beside them are labelled by that folder; otherwise they are
    unlabelled, wherever they lie.
    """
    folder, apart = _split_folder(folder, wanted)
    listing = list_folder(folder).without(apart)
    if not listing.names:
        endings = " ".join(sorted(pictures.EXTENSIONS))
        reason = f" ({listing.broken[0].why}: {listing.broken[0].file})" if listing.broken else ""
        raise UserError(f"no pictures in {folder}{reason}; looked for {endings} there and in its subfolders")
    classes, labels = _classes(folder, listing.names, wanted)

    def read(index: int) -> tuple[Image.Image, int | None]:
        return pictures.open_picture(folder / listing.names[index]), labels[index]

    path = wanted.path(folder.name, folder, fingerprint(listing))
    if (found := cached(path, wanted)) is not None:
        return found

    def title(index: int) -> str:
        return printable(listing.names[index])

    source = Source(folder.name, len(labels), read, title, classes, tuple(listing.broken))
    return prepare(source, path, wanted)


def printable(name: str) -> str:
    """A file name as text that any terminal takes: bytes that are not UTF-8 are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def list_folder(folder: Path, extensions: Iterable[str] | None = pictures.EXTENSIONS) -> Listing:
    """All files below a folder with one of the extensions (None: all files), sorted by relative name.

    Hidden files and folders are passed over. Links are followed, but never into a folder that contains them.
    """
    endings = None if extensions is None else tuple(extensions)
    out = Listing()
    found: list[tuple[str, tuple[int, int]]] = []

    def visit(where: Path, prefix: str, above: frozenset[tuple[int, int]]) -> None:
        try:
            status = where.stat()
            entries = list(os.scandir(where))
        except OSError as error:
            out.broken.append(Broken(printable(prefix or str(where)), pictures.why_broken(error)))
            return
        this = (status.st_dev, status.st_ino)
        if this in above:
            return
        for entry in entries:
            name = prefix + entry.name
            if entry.name.startswith(".") or entry.name == "__MACOSX":
                continue
            if entry.is_dir():
                visit(where / entry.name, f"{name}/", above | {this})
            elif endings is None or entry.name.lower().endswith(endings):
                try:
                    stat = entry.stat()
                except OSError as error:  # a link to nothing, or a file that vanished
                    out.broken.append(Broken(printable(name), pictures.why_broken(error)))
                    continue
                if entry.is_file():  # no pipes and the like, which would wait for a writer
                    found.append((name, (stat.st_size, stat.st_mtime_ns)))

    visit(folder, "", frozenset())
    for name, stat in sorted(found):
        out.names.append(name)
        out.stats.append(stat)
    return out


def fingerprint(listing: Listing) -> str:
    """A hash of names, sizes and modification times: it changes when the files do, and needs none of them read."""
    text = "\n".join(f"{name}\0{stat}" for name, stat in zip(listing.names, listing.stats, strict=True))
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


_SPLITS = {"train", "test", "val", "valid", "validation"}


def has_split(folder: Path, split: str) -> bool:
    """Whether the folder has a subfolder for this split, and none but such: else a class may be called train."""
    return split in _splits(folder)


def _splits(folder: Path) -> set[str]:
    subfolders = {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}
    return subfolders if subfolders <= _SPLITS else set()


def _split_folder(folder: Path, wanted: Wanted) -> tuple[Path, set[str]]:
    """Where the pictures of the split lie, and subfolders that are none of it."""
    folder = folder.resolve()
    apart = _splits(folder)
    if wanted.split in apart:
        wanted.say(f"using {folder / wanted.split} for the {wanted.split} split")
        return folder / wanted.split, set()
    if wanted.split == "test":
        raise UserError(
            f"{folder} has no test split; it would be the pictures in {folder / 'test'}, with no subfolder beside it"
            " but train"
        )
    if apart:
        wanted.say(f"left out of training: {', '.join(str(folder / name) for name in sorted(apart))}")
    return folder, apart


def _classes(folder: Path, names: list[str], wanted: Wanted) -> tuple[tuple[str, ...], list[int | None]]:
    """Class names and a label for each picture, or none at all."""
    tops = [name.split("/", 1)[0] if "/" in name else None for name in names]
    classes = tuple(sorted({top for top in tops if top is not None}))
    if None in tops or len(classes) < 2:
        if None in tops and classes:
            wanted.say(f"{folder} has pictures beside its subfolders, so all of them are taken without labels")
        return (), [None] * len(names)
    number = {name: index for index, name in enumerate(classes)}
    return classes, [number[top] for top in tops if top is not None]

"""A folder of pictures, read as what is needed: single pictures, perhaps by class, pairs, or two domains."""

import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from gansmith.data import pictures
from gansmith.data.attributes import TABLE, read_table
from gansmith.data.cache import Broken
from gansmith.data.imageset import ImageSet
from gansmith.data.pictures import printable
from gansmith.data.prepare import Mark, Needs, Sample, Source, Wanted, advice, kind, prepare
from gansmith.errors import UserError

# Folders that systems and programs leave behind, in lower case, beside those whose name begins with a dot.
SYSTEM = {"@eadir", "#recycle", "$recycle.bin", "__macosx", "lost+found", "system volume information"}
Samples = Sequence[tuple[str, ...]]  # the relative names of the files of each
TESTS = ("test", "val", "valid", "validation")  # never trained on; the first that is there is the test split


@dataclass
class Listing:
    """What lies below a folder, and what could not be looked at."""

    files: dict[str, tuple[int, int]] = field(default_factory=dict)  # relative name -> bytes and mtime in ns, sorted
    broken: list[Broken] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)  # endings of files that are passed over
    apart: list[str] = field(default_factory=list)  # folders of test pictures, and runs, that are passed over


class Part(NamedTuple):
    """A folder that pictures are taken from; `spare`: but for folders named like test splits, however deep."""

    folder: Path
    spare: bool = False


def load_folder(what: str, wanted: Wanted) -> tuple[ImageSet, ...]:
    """The pictures below a folder: one set, or of two domains two."""

    def load(path: Path, source: Source) -> ImageSet:
        return prepare(path, wanted, lambda: source)

    return tuple(load(*found) for found in find_folder(what, wanted))


def find_folder(what: str, wanted: Wanted) -> list[tuple[Path, Source]]:
    """The pictures below a folder, in the order of their relative names, and where what is prepared of them lies.

    With folder/train or folder/test the split chooses between these. Single pictures in at least two first-level
    folders and none beside them are labelled by that folder; otherwise they are unlabelled, wherever they lie. Pairs
    are the halves of each picture, or pictures of equal names in folders a and b. Two domains are folders a and b, or
    any two. What was decided is said.
    """
    folder = Path(what).expanduser().resolve()
    sort, split = kind(wanted.needs), wanted.split
    parts = _parts(folder, split, wanted.needs, wanted.pairs)
    if not parts and _in_one(sort, wanted.pairs):
        raise UserError(f"{folder} has no test split; it would be the pictures in {folder / 'test'}")
    if not parts:
        two = ", nor two subfolders alone" * (sort == "domains")
        text = f"{folder} has no folders a and b for the {split} split{two}"
        raise UserError(f"{text}; give {advice(wanted.needs)}; for files with both side by side: --data.pairs halves")
    if len(parts) == 2:
        a, b = parts if wanted.direction == "a2b" else parts[::-1]
        wanted.say(f"a is {a.folder}, b is {b.folder}")
        if sort == "domains":
            needs = wanted.needs if wanted.direction == "a2b" else wanted.needs[::-1]  # each its own: b may lack labels
            own = [replace(wanted, needs=(fields,)) for fields in needs]
            named = [f"{folder.name}/{p.folder.relative_to(folder)}" for p in parts]
            return [_find(name, [p], w) for name, p, w in zip(named, parts, own, strict=True)]
    elif (used := parts[0].folder) != folder:
        wanted.say(f"using {used} for the {split} split")
        out = [str(path) for path in _subfolders(folder).values() if path != used and not _apart(path.name)]
        if split == "train" and out:
            wanted.say(f"left out of training: {', '.join(out)}")
    return [_find(folder.name, parts, wanted, halves=len(parts) == 1 and sort != "plain")]


def _find(name: str, parts: Sequence[Part], wanted: Wanted, *, halves: bool = False) -> tuple[Path, Source]:
    """Of one part each file is a sample, a picture or its two halves; of two parts each pair of files of one name."""
    folders = [part.folder for part in parts]
    listings = [list_part(part, wanted.say) for part in parts]
    alone = len(parts) == 1
    samples = [(file,) for file in listings[0].files] if alone else _partners(folders, listings, wanted)
    table = Path(wanted.attributes) if wanted.attributes else None
    for beside in (folders[0] / TABLE, folders[0].parent / TABLE):
        table = table or (beside if beside.is_file() else None)
    told = []
    if table and "bits" in wanted.fields:
        classes, samples, marks = _attributes(table, samples, wanted)
        told = [hashlib.sha256(table.read_bytes() + repr(wanted.columns).encode()).hexdigest()]
    else:
        classes, marks = _classes(" and ".join(map(str, folders)), samples, wanted)
    if halves:
        left, right = "ab" if wanted.direction == "a2b" else "ba"
        wanted.say(f"{folders[0]}: the left half of each picture is {left}, the right half {right}")
        if wanted.pairs == "auto":
            _doubt(folders[0], samples[0][0], wanted.say)

    def read(index: int) -> Sample:
        files = [folder / file for folder, file in zip(folders, samples[index], strict=True)]
        if not halves:
            return files, marks[index]
        image = pictures.open_picture(files[0], wanted.max_megapixels)
        width, height = image.size
        if width % 2:
            text = f"{printable(files[0])} is {width} pixels wide"
            raise UserError(f"{text}, and its halves should be a pair: the width must be even")
        image = pictures.shallow(image)  # before the cut, so that both halves keep one range
        cut = width // 2
        return [image.crop((0, 0, cut, height)), image.crop((cut, 0, width, height))], marks[index]

    def title(index: int) -> str:
        return printable(" with its partner ".join(samples[index]))

    broken = tuple(item for listing in listings for item in listing.broken)
    fields = ("a", "b") if halves or not alone else ("x",)
    prints = [fingerprint(listing.files) for listing in listings]
    path = wanted.path(name, *folders, *prints, *["halves"] * halves, *told)
    return path, Source(name, len(samples), read, title, classes, broken, fields=fields)


def _doubt(folder: Path, file: str, say: Callable[[str], None]) -> None:
    """A warning where the first picture does not look like two side by side."""
    with suppress(Exception), pictures.opened(folder / file) as image:  # what cannot be read preparing will name
        w, h = image.size
        if w < 1.5 * h:
            text = f"warning: {printable(file)} is {w}x{h}, and half of it {w // 2}x{h}: is it a pair?"
            say(f"{text} If all are, --data.pairs halves says so")


def _partners(folders: Sequence[Path], listings: Sequence[Listing], wanted: Wanted) -> Samples:
    """The files of two folders whose relative names without endings are equal; those alone are said."""
    stems: list[dict[str, str]] = [{}, {}]
    for folder, listing, own in zip(folders, listings, stems, strict=True):
        for name in listing.files:
            if (first := own.setdefault(name.rpartition(".")[0], name)) != name:
                two = f"{printable(folder / first)} and {printable(folder / name)}"
                raise UserError(f"{two} have one name, apart from the ending; only one can be the partner in a pair")
    a, b = stems
    both = [(a[stem], b[stem]) for stem in a if stem in b]
    if not both:
        text = f"no picture in {folders[0]} has a partner in {folders[1]}"
        raise UserError(f"{text}: those of a pair have one name, apart from the ending")
    ways = (folders[0], a, b), (folders[1], b, a)
    if alone := [printable(folder / own[stem]) for folder, own, other in ways for stem in own if stem not in other]:
        more = f" and {len(alone) - 10} more" * (len(alone) > 10)
        wanted.say(f"left out: {len(alone)} without a partner of the same name: {', '.join(alone[:10])}{more}")
    return both


def _attributes(table: Path, samples: Samples, wanted: Wanted) -> tuple[tuple[str, ...], Samples, Sequence[Mark]]:
    """The names of the attributes, and those of the samples that the table has, each with its bits."""
    names, rows = read_table(table, wanted.columns)
    found = [(sample, rows.get(sample[0], rows.get(Path(sample[0]).name))) for sample in samples]
    there = [(sample, row) for sample, row in found if row is not None]
    if not there:
        first = printable(samples[0][0])
        raise UserError(f"data.attributes: {table} names none of the pictures, such as {first}")
    wanted.say(f"{len(names)} attributes from {table}: {', '.join(names)}")
    if len(there) < len(found):
        left = [printable(sample[0]) for sample, row in found if row is None]
        wanted.say(f"left out: {len(left)} pictures that {table} does not name: {', '.join(left[:5])}")
    return names, [sample for sample, _ in there], [row for _, row in there]


def _classes(where: str, samples: Samples, wanted: Wanted) -> tuple[tuple[str, ...], list[int | None]]:
    """Class names, the first folders in the names, and a label for each sample, or none at all; pairs have none."""
    tops = [name.partition("/")[0] if "/" in name and not partner else "" for name, *partner in samples]
    classes = sorted({*tops} - {""})
    if "" not in tops and len(classes) > 1:
        number = {name: index for index, name in enumerate(classes)}
        names = ", ".join(map(printable, classes[:10])) + ", ..." * (len(classes) > 10)
        unused = ", for recipes with labels" * wanted.fields.isdisjoint(("y", "bits"))
        wanted.say(f"{len(classes)} subfolders are classes{unused}: {names}")
        return tuple(classes), [number[top] for top in tops]
    if wanted.fields & {"y", "bits"}:
        alone = f": {classes[0]} is the only class" if classes else ""
        one = f": {printable(samples[tops.index('')][0])} lies in no subfolder" if classes and "" in tops else alone
        what = "labels" if "y" in wanted.fields else "attributes"
        raise UserError(f"there are no {what} in {where}{one}; give {advice(wanted.needs)}")
    if "" in tops and classes:
        wanted.say(f"{where} has pictures beside its subfolders, so all of them are taken without labels")
    return (), [None] * len(samples)


# ---- files ------------------------------------------------------------------------------------------------------


def ignored(name: str) -> bool:
    """Whether a file or folder is hidden, or a system's own."""
    return name.startswith(".") or name.lower() in SYSTEM


def list_folder(folder: Path, endings: tuple[str, ...] = pictures.EXTENSIONS, *, spare: bool = False) -> Listing:
    """All files below a folder with one of the endings, sorted by relative name.

    Passed over: what is hidden or a system's own, runs, whose samples are no data, and with `spare` folders named like
    test splits. Links are followed, but never into a folder that contains them.
    """
    out = Listing()

    def visit(where: Path, prefix: str, above: frozenset[tuple[int, int]]) -> None:
        try:
            status = where.stat()
            entries = list(os.scandir(where))
        except OSError as error:
            out.broken.append(Broken(printable(prefix or where), pictures.why_broken(error)))
            return
        this = (status.st_dev, status.st_ino)
        if this in above:
            return
        for entry in entries:
            name = prefix + entry.name
            if ignored(entry.name) or entry.name == TABLE:
                continue
            try:
                if entry.is_dir():
                    inner = where / entry.name
                    a_run = (inner / "recipe.yaml").is_file() and (inner / "checkpoints").is_dir()
                    if a_run or (spare and _apart(entry.name)):
                        out.apart.append(printable(inner))
                    else:
                        visit(inner, f"{name}/", above | {this})
                elif not entry.name.lower().endswith(endings):
                    out.others[Path(entry.name).suffix.lower() or "without"] += 1
                else:
                    stat = entry.stat()
                    if entry.is_file():  # no pipes and the like, which would wait for a writer
                        out.files[name] = (stat.st_size, stat.st_mtime_ns)
            except OSError as error:  # a link to nothing or to itself, or a file that vanished
                out.broken.append(Broken(printable(name), pictures.why_broken(error)))

    visit(folder, "", frozenset())
    out.files = dict(sorted(out.files.items()))
    return out


def list_part(part: Part, say: Callable[[str], None] = lambda _: None) -> Listing:
    """The pictures of a part; what is passed over is said, and UserError if there is no picture."""
    listing = list_folder(part.folder, spare=part.spare)
    if listing.apart:
        say(f"left out of training: {', '.join(sorted(listing.apart))}")
    if listing.others:
        counts = ", ".join(f"{count} {printable(ending)}" for ending, count in listing.others.most_common(5))
        heic = "; pip install pillow-heif, to read .heic" * any(e in (".heic", ".heif") for e in listing.others)
        say(f"passed over in {part.folder}: {listing.others.total()} files with other endings ({counts}){heic}")
    if not listing.files:
        endings = " ".join(pictures.EXTENSIONS)
        reason = f" ({listing.broken[0].why}: {listing.broken[0].file})" if listing.broken else ""
        raise UserError(f"no pictures in {part.folder}{reason}; looked for {endings} there and in its subfolders")
    return listing


def training_files(folder: Path) -> list[Path]:
    """The files of single pictures that a training on this folder takes; UserError where there are none."""
    part = _split(folder, "train") or Part(folder)
    return [part.folder / name for name in list_part(part).files]


def fingerprint(files: Mapping[str, tuple[int, int]]) -> str:
    """A hash of names, sizes and modification times: it changes when the files do, and needs none of them read."""
    text = "\n".join(f"{name}\0{stat}" for name, stat in files.items())
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


# ---- splits and sides -------------------------------------------------------------------------------------------


def has_split(folder: Path, split: str, needs: Needs = (("x",),), pairs: str = "auto") -> bool:
    """Whether the folder has pictures for this split, "train" or "test", of the kind that is needed."""
    parts = _parts(folder, split, needs, pairs)
    return bool(parts) and all(list_folder(part.folder, spare=part.spare).files for part in parts)


def _parts(folder: Path, split: str, needs: Needs, pairs: str = "auto") -> list[Part]:
    """Where the pictures of a split lie: a and b in two folders, else all in one; [] where there are none such."""
    sort = kind(needs)
    sides = [] if sort == "plain" or pairs == "halves" else _sides(folder, split, sort == "domains")
    one = _split(folder, split) if _in_one(sort, pairs) else None
    return sides or ([one] if one else [])


def _in_one(sort: str, pairs: str) -> bool:
    """Whether one folder may hold all, both sides of a pair in one file."""
    return sort == "plain" or pairs == "halves" or (sort, pairs) == ("pairs", "auto")


def _apart(name: str) -> bool:
    """Whether a folder is named like a test split."""
    return re.fullmatch(rf"({'|'.join(TESTS)})([_-]?[ab])?", name.lower()) is not None


def _subfolders(folder: Path) -> dict[str, Path]:
    """The folders in a folder by their names in lower case, sorted, without those of systems."""
    try:
        found = {path.name.lower(): path for path in folder.iterdir() if path.is_dir() and not ignored(path.name)}
    except OSError:  # list_folder says so
        found = {}
    return dict(sorted(found.items()))


def _split(folder: Path, split: str) -> Part | None:
    """The folder of a split; one named train is that only beside a test folder, or alone."""
    below = _subfolders(folder)
    if split == "test":
        return next((Part(below[name]) for name in TESTS if name in below), None)
    if "train" in below and (len(below) == 1 or any(map(_apart, below))):
        return Part(below["train"])
    return Part(folder, spare=True)


def _sides(folder: Path, split: str, any_two: bool) -> list[Part]:
    """The folders of a and b of a split: trainA and trainB, or a and b, or just two; [] where there are none."""
    below = _subfolders(folder)
    for name in TESTS if split == "test" else ("train",):
        for joint in ("", "_", "-"):
            if (a := below.get(f"{name}{joint}a")) and (b := below.get(f"{name}{joint}b")):
                return [Part(a), Part(b)]
    part = _split(folder, split)
    where, spare = part or _split(folder, "train") or Part(folder)
    rest = {name: path for name, path in _subfolders(where).items() if not (spare and _apart(name))}
    names = ["a", "b"] if {"a", "b"} <= rest.keys() else sorted(rest) if any_two and len(rest) == 2 else []
    if split == "test" and part:
        return [Part(rest[name]) for name in names]
    sides = [_split(rest[name], split) for name in names]  # each side may have its own train and test
    return [side for side in sides if side] if all(sides) else []

"""From a name or a folder to the sets that a game needs."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gansmith.batch import NOT_PICTURES
from gansmith.data.addresses import Untrusted, first_remote, is_shards
from gansmith.data.attributes import one_hot
from gansmith.data.cache import Draft, Say, entry_path, load_entry
from gansmith.data.imageset import ImageSet, Labels
from gansmith.data.named import NAMED
from gansmith.data.pictures import MEGAPIXELS
from gansmith.data.prepare import UNLABELLED, Needs, Wanted, advice, described, kind
from gansmith.data.streamed import Streamed
from gansmith.data.toy import TOYS
from gansmith.errors import UserError
from gansmith.schema import did_you_mean

CHUNK = 1024


@dataclass(frozen=True)
class Known:
    """A row of the table: `load`, "module:function", takes the name and a Wanted and gives a set or a tuple of them.

    gives: the fields of the training sets, one tuple per set. mixed: the published order is not by class, so the last
    images are held back for validation; other sets may be sorted. validation: it has validation images of its own.
    """

    load: str
    gives: Needs = (("x", "y"),)
    mixed: bool = False
    validation: bool = False


KNOWN: dict[str, Known] = {
    "mnist": Known("gansmith.data.shipped:load_mnist", mixed=True),
    "mnist_edges": Known("gansmith.data.derived:load_mnist_edges", (("a", "b", "y"),), mixed=True),
    "mnist_colours": Known("gansmith.data.derived:load_mnist_colours", (("a", "y"), ("b", "y")), mixed=True),
    "mnist_looks": Known("gansmith.data.derived:load_mnist_looks", (("x", "bits"),), mixed=True),
    "stacked_mnist": Known("gansmith.papers.stacked:load_stacked_mnist", mixed=True),
    **{name: Known("gansmith.data.named:load_named", row.gives, row.mixed) for name, row in NAMED.items()},
    "tfd": Known("gansmith.papers.tfd:load_tfd", (("x",),), validation=True),
    **{name: Known("gansmith.data.toy:load_toy", (("x",),), mixed=True) for name in TOYS},
}
SHUFFLED = frozenset(name for name, row in KNOWN.items() if row.mixed)
_FOLDER = Known("gansmith.data.folder:load_folder", ())
_SHARDS = Known("gansmith.data.shards:load_shards", ())
_UNCOUNTED = Known("gansmith.data.uncounted:load_uncounted", ())


def data_names() -> tuple[str, ...]:
    """The names that `load_sets` knows, the one that ships first."""
    return tuple(KNOWN)


def load_sets(
    what: str,
    *,
    size: tuple[int, int],
    channels: int,
    needs: Needs = (("x",),),
    split: str = "train",
    validation: int = 0,
    labelled: int | None = None,
    fit: str = "crop",
    pairs: str = "auto",
    direction: str = "a2b",
    attributes: Path | None = None,
    columns: Sequence[str] | None = None,
    max_broken: float = 0.01,
    max_megapixels: int = MEGAPIXELS,
    n_cpu: int = 8,
    root: Path | None = None,
    fold: int = 1,
    window: int = 16,
    keep_mb: int = 1024,
    per_shard: int | None = None,
    classes: int | Sequence[str] | None = None,
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> tuple[ImageSet, ...]:
    """The pictures of a known name or of a folder: one set per tuple of `needs`, with these fields and maybe more.

    Pictures are uint8 (N, channels, *size), size (H, W); those of a toy set float32. They are decoded once and then
    mapped from the cache folder. `validation` images of each training set are held back for the split "validation", the
    last ones of the SHUFFLED sets, of all others a fixed choice at random, spread over the whole set. A game that also
    trains without labels sees those of `labelled` training images alone, of all if it is None. How a folder is read
    follows from `needs`; `pairs` says where its pairs stand, and "b2a" has a and b change places. `attributes` is
    a table of its pictures, and `columns` chooses among what it says. Ten pictures, or a share of max_broken if that
    is more, may be unreadable; those of more than max_megapixels count as such. root is where known sets lie or are
    downloaded to; fold is one of the five of tfd. Messages go to `say`, a progress bar to stderr if it is a terminal.
    """
    wanted = Wanted(
        *(size, channels, split, fit, max_broken, n_cpu, say, progress, needs, pairs, direction),
        *(attributes, columns, max_megapixels, root, fold, window, keep_mb, per_shard, classes),
    )
    if isinstance(what, Untrusted) and (there := first_remote(what)):
        raise UserError(f"data.name is {what}, which would read {there}; if you trust that address, add --trust")
    shards = what not in KNOWN and is_shards(what)
    _check_counted(what, shards, per_shard, classes, labelled)
    row = row_of(what) if not shards else _UNCOUNTED if per_shard and split != "test" else _SHARDS
    if row.validation and validation:
        raise UserError(f"data.validation is {validation}; {what} has validation images of its own: it must be 0")
    if row.gives:
        _check_fields(what, row.gives, needs)
    if labelled is not None and UNLABELLED not in needs:
        raise UserError(f"data.labelled is {labelled}, and the game sees no pictures without labels: it must be null")
    whole = replace(wanted, split="train") if split == "validation" and not row.validation else wanted
    module, _, function = row.load.partition(":")
    found = getattr(import_module(module), function)(what, whole)
    sets: tuple[ImageSet, ...] = found if isinstance(found, tuple) else (found,)
    if shards:
        _check_fields(what, tuple(tuple(data.columns) for data in sets), needs)
    if split != "test" and not row.validation:
        sets = tuple(_held_back(data, split, validation, row.mixed, say) for data in sets)
    if UNLABELLED in needs:
        return _labelled(sets[0], labelled if split == "train" else None), _unlabelled(sets[0])
    return _as_needed(tuple(_with_bits(data, needs) for data in sets), needs, direction)


def _with_bits(data: ImageSet, needs: Needs) -> ImageSet:
    """The set with attributes where they are needed: its classes, where it has nothing else."""
    if data.labels is None or not any("bits" in fields for fields in needs):
        return data
    names, bits = one_hot(data.labels, data.classes)
    return replace(data, columns={**data.pictures, "bits": bits}, classes=names, digest=_digest(data, "bits"))


def _check_fields(what: str, gives: Needs, needs: Needs) -> None:
    """UserError where a named set cannot give what is needed; pairs serve as two domains, too."""
    given = {name for fields in gives for name in fields}
    lacking = {name for fields in needs for name in fields if name in NOT_PICTURES} - given
    if "y" in given:  # classes are attributes, too
        lacking -= {"bits"}
    if lacking or kind(needs) not in {"pairs": ("pairs", "domains")}.get(kind(gives), (kind(gives),)):
        raise UserError(f"{what} holds {described(gives)}, not {described(needs)}; give {advice(needs)}")


def _as_needed(sets: tuple[ImageSet, ...], needs: Needs, direction: str) -> tuple[ImageSet, ...]:
    """The sets with their pictures under the names of `needs`, in its order; b2a has a and b change places."""
    if len(sets) < len(needs):  # pairs, whose columns go their own ways
        (pair,) = sets
        sets = tuple(
            replace(pair, name=f"{pair.name} {name}", columns={name: x, **_others(pair)}, digest=_digest(pair, name))
            for name, x in pair.pictures.items()
        )
    turned = direction == "b2a"
    ordered = sets[::-1] if turned else sets
    return tuple(_called(data, own, turned) for data, own in zip(ordered, needs, strict=True))


def _called(data: ImageSet, fields: tuple[str, ...], turned: bool) -> ImageSet:
    names, pictures = [name for name in fields if name not in NOT_PICTURES], [*data.pictures.values()]
    if turned and len(pictures) > 1:
        data, pictures = replace(data, digest=_digest(data, "b2a")), pictures[::-1]
    return replace(data, columns={**dict(zip(names, pictures, strict=True)), **_others(data)})


def _others(data: ImageSet) -> dict[str, NDArray[Any]]:
    """The columns that are no pictures."""
    return {name: column for name, column in data.columns.items() if name not in data.pictures}


def _digest(data: ImageSet, *more: object) -> str:
    return hashlib.sha256(" ".join([data.digest, *map(str, more)]).encode()).hexdigest()


def _held_back(found: ImageSet, split: str, validation: int, mixed: bool, say: Say) -> ImageSet:
    """The training set without the `validation` images that are held back, or these."""
    n = len(found)
    if not validation:
        if split == "validation":
            raise UserError(f"{found.name} has no validation images: --data.validation N holds N back, in a new run")
        return found
    if not 0 < validation < n:
        raise UserError(
            f"data.validation is {validation}, and {found.name} has {n} images in all; it must leave images to"
            f" train on: a tenth of them is {max(1, n // 10)}"
        )
    if not mixed:
        return _spread(found, split, validation, say)
    here = slice(n - validation, None) if split == "validation" else slice(n - validation)
    columns = {name: column[here] for name, column in found.columns.items()}
    return replace(found, columns=columns, digest=_digest(found, split, validation))


def _spread(found: ImageSet, split: str, validation: int, say: Say) -> ImageSet:
    """The same for a set that may be sorted by class: a copy in the cache, for what is left is no slice of the whole.

    A copy on disk, and a memory map of it, so that the images of a large folder need not fit into memory.
    """
    digest = _digest(found, split, validation, "spread")
    path = entry_path(f"{found.name}-{split}", digest)
    if (not found.layout or split != "train") and (entry := load_entry(path, say)) is not None:
        return entry.data
    held = found.layout.by_key(validation) if found.layout else spread(len(found), validation)
    here = held if split == "validation" else np.setdiff1d(np.arange(len(found)), held)
    if found.layout and split == "train":  # read where it lies; what is held back is a set like any other
        return taken(found, here, digest)
    pictures = found.pictures
    with Draft(path, say) as draft:
        for start in range(0, len(here), CHUNK):
            rows = here[start : start + CHUNK]
            stack = np.stack([column[rows] for column in pictures.values()], axis=1)
            draft.write(stack if len(pictures) > 1 else stack[:, 0])
        marks = None if found.marks is None else found.marks[here]
        return draft.finish(found.name, marks, found.classes, digest=digest, fields=tuple(pictures))


def spread(n: int, k: int) -> Labels:
    """k of n places (k,), ascending: one of each of k equal stretches of 0..n-1, drawn once and for all.

    A class that covers two stretches has an image in every choice, and no period of the order can fall in step with it.
    Drawn from SHAKE-256: the same places on every machine and with every version of NumPy.
    """
    edges = np.arange(k + 1, dtype=np.int64) * n // k
    drawn = np.frombuffer(hashlib.shake_256(b"gansmith validation 0").digest(8 * k), "<u8")
    return edges[:-1] + (drawn % np.diff(edges).astype(np.uint64)).astype(np.int64)


def mixed(n: int) -> Labels:
    """All of 0..n-1 (n,) in an order drawn once and for all: its first k are k of n places without replacement.

    Drawn from SHAKE-256, as in `spread`.
    """
    keys = np.frombuffer(hashlib.shake_256(b"gansmith order 0").digest(8 * n), "<u8")
    return np.argsort(keys, kind="stable").astype(np.int64)


def _labelled(found: ImageSet, k: int | None) -> ImageSet:
    """The set, or the k pictures of it whose labels are seen."""
    if k is None:
        return found
    assert found.labels is not None
    n, classes = len(found), len(np.unique(found.labels))
    if not classes <= k <= n:
        right = f"from {classes}, one for each class, to {n}; --data.labelled null takes all"
        raise UserError(
            f"data.labelled is {k}, and {found.name} has {n} labelled images to train on: it must be {right}"
        )
    return taken(found, budget(np.asarray(found.labels), k), _digest(found, "labelled", k))


def taken(found: ImageSet, rows: Labels, digest: str) -> ImageSet:
    """Some rows of a set, ascending; of one in shards they stay there."""
    columns = {name: c.take(rows) if isinstance(c, Streamed) else c[rows] for name, c in found.columns.items()}
    layout = found.layout.take(rows) if found.layout else None
    return replace(found, columns=columns, digest=digest, layout=layout)


def _unlabelled(found: ImageSet) -> ImageSet:
    """All pictures of a set as the field u."""
    return replace(found, columns={UNLABELLED[0]: found.images}, classes=())


def budget(labels: Labels, k: int) -> Labels:
    """k places of labels (n,), ascending, as many of each class as can be: in the order `mixed`, class after class."""
    order = mixed(len(labels))
    turn = np.empty_like(order)
    for y in np.unique(labels):
        own = labels[order] == y
        turn[own] = np.arange(own.sum())
    return np.sort(order[np.argsort(turn, kind="stable")[:k]])


def _check_counted(what: str, shards: bool, per_shard: int | None, classes: object, labelled: int | None) -> None:
    """UserError for keys of shards that nobody has counted, with other data, and for those that need a count."""
    if per_shard and not shards:
        raise UserError(f"data.per_shard is {per_shard}, which is for shards, and {what} is none: it must be null")
    if per_shard and labelled is not None:
        raise UserError("data.labelled counts labels, and with data.per_shard nobody has counted them: it must be null")
    if classes is not None and not per_shard:
        raise UserError("data.classes is for shards that nobody has counted: with it, data.per_shard must be given")


def row_of(what: str) -> Known:
    """The row of a named set or of a folder; UserError where there is no such data."""
    folder = Path(what).expanduser()
    if (row := KNOWN.get(what) or (_FOLDER if what and folder.is_dir() else None)) is None:
        raise UserError(_unknown(what, folder))
    return row


def _unknown(what: str, folder: Path) -> str:
    if what and folder.exists():
        return f"{what} is a file; unpack it and give the folder with the pictures"
    if "/" in what or "\\" in what or what.startswith((".", "~")):
        beside = (str(folder.with_name(one.name)) for one in folder.absolute().parent.glob("*/"))
        return f"no such folder: {folder.resolve()}{did_you_mean(str(folder), beside)}"
    nearest = did_you_mean(what.lower().replace("-", "_"), data_names())
    return f"no folder {what!r} here, and no data of that name{nearest} (names: {', '.join(data_names())})"

"""From a name or a folder to the sets that a game needs."""

import hashlib
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gansmith.batch import NOT_PICTURES
from gansmith.data.addresses import Untrusted, first_remote, is_shards
from gansmith.data.cache import Draft, entry_path, load_entry
from gansmith.data.imageset import ImageSet, Labels
from gansmith.data.named import NAMED
from gansmith.data.pictures import EXTENSIONS
from gansmith.data.prepare import UNLABELLED, Needs, Wanted, advice, described, kind
from gansmith.data.streamed import Streamed, permutation
from gansmith.errors import UserError
from gansmith.schema import did_you_mean

CHUNK = 1024


@dataclass(frozen=True)
class Known:
    """A row of the table."""

    load: str  # "module:function", which takes the name and a Wanted and gives a set or a tuple of them
    gives: Needs = (("x", "y"),)  # the fields of the training sets, one tuple per set
    mixed: bool = False  # not by class, so the last images are held back for validation; other sets may be sorted
    validation: bool = False  # it has validation images of its own


KNOWN: dict[str, Known] = {
    "mnist": Known("gansmith.data.shipped:load_mnist", mixed=True),
    "mnist_edges": Known("gansmith.data.shipped:load_mnist_edges", (("a", "b", "y"),), mixed=True),
    "mnist_colours": Known("gansmith.data.shipped:load_mnist_colours", (("a", "y"), ("b", "y")), mixed=True),
    "mnist_looks": Known("gansmith.data.shipped:load_mnist_looks", (("x", "bits"),), mixed=True),
    "stacked_mnist": Known("gansmith.papers.stacked:load_stacked_mnist", mixed=True),
    **{name: Known("gansmith.data.named:load_named", row.gives, row.mixed) for name, row in NAMED.items()},
    "tfd": Known("gansmith.papers.tfd:load_tfd", (("x",),), validation=True),
    **{
        name: Known("gansmith.papers.toy:load_toy", (("x",),), mixed=True)
        for name in ("normal_1d", "two_normals_1d", "ring", "grid")
    },
}
SHUFFLED = frozenset(name for name, row in KNOWN.items() if row.mixed)
_FOLDER = Known("gansmith.data.folder:load_folder", ())
_SHARDS = Known("gansmith.data.shards:load_shards", ())
_UNCOUNTED = Known("gansmith.data.uncounted:load_uncounted", ())


def data_names() -> tuple[str, ...]:
    """The names that `load_sets` knows, the one that ships first."""
    return tuple(KNOWN)


def load_sets(wanted: Wanted) -> tuple[ImageSet, ...]:
    """The pictures of a known name, a folder or shards: one set per tuple of `needs`, with these fields and maybe more.

    Pictures are uint8 (N, channels, *size); those of a toy set float32. They are decoded once and then mapped from the
    cache folder. `validation` images of each training set are held back for the split "validation", the last ones of
    the SHUFFLED sets, of all others a fixed choice at random, spread over the whole set. A game that also trains
    without labels sees those of `labelled` training images alone, of all if it is None.
    """
    what, needs, split, row = wanted.name, wanted.needs, wanted.split, _row(wanted)
    if row.validation and wanted.validation:
        own = f"{what} has validation images of its own"
        raise UserError(f"data.validation is {wanted.validation}; {own}: it must be 0")
    if row.gives:
        _check_fields(what, row.gives, needs)
    if (k := wanted.labelled) is not None and UNLABELLED not in needs:
        raise UserError(f"data.labelled is {k}, and the game sees no pictures without labels: it must be null")
    whole = replace(wanted, split="train") if split == "validation" and not row.validation else wanted
    module, _, function = row.load.partition(":")
    found = getattr(import_module(module), function)(what, whole)
    sets: tuple[ImageSet, ...] = found if isinstance(found, tuple) else (found,)
    if any(data.layout for data in sets):
        _check_fields(what, tuple(tuple(data.columns) for data in sets), needs)
    if split != "test" and not row.validation:
        sets = tuple(_held_back(data, row.mixed, wanted) for data in sets)
    if UNLABELLED in needs:
        seen = sets[0] if k is None or split != "train" else _labelled(sets[0], k)
        return seen, replace(sets[0], columns={"u": sets[0].images}, classes=())
    if "bits" in wanted.fields:
        sets = tuple(_with_bits(data) for data in sets)
    return _as_needed(sets, needs, wanted.direction == "b2a")


def _row(wanted: Wanted) -> Known:
    """The row of what is wanted; UserError for an address that needs trust, and for keys that shards alone have."""
    what, each = wanted.name, wanted.per_shard
    if isinstance(what, Untrusted) and (there := first_remote(what)):
        raise UserError(f"data.name is {what}, which would read {there}; if you trust that address, add --trust")
    shards = what not in KNOWN and is_shards(what)
    if each and not shards:
        raise UserError(f"data.per_shard is {each}, which is for shards, and {what} is none: it must be null")
    if each and wanted.labelled is not None:
        raise UserError("data.labelled counts labels, and with data.per_shard nobody has counted them: it must be null")
    if wanted.classes is not None and not each:
        raise UserError("data.classes is for shards that nobody has counted: with it, data.per_shard must be given")
    if not shards:
        return row_of(what)
    return _UNCOUNTED if each and wanted.split != "test" else _SHARDS


def row_of(what: str) -> Known:
    """The row of a named set or of a folder; UserError where there is no such data."""
    folder = Path(what).expanduser()
    if what in KNOWN:
        return KNOWN[what]
    if what and folder.is_dir():
        return _FOLDER
    if what and folder.exists():
        own = (
            "give its folder"
            if what.lower().endswith(EXTENSIONS)
            else "unpack it and give the folder with the pictures"
        )
        raise UserError(f"{what} is a file; {own}")
    if "/" in what or "\\" in what or what.startswith((".", "~")):
        beside = (str(folder.with_name(one.name)) for one in folder.absolute().parent.glob("*/"))
        raise UserError(f"no such folder: {folder.resolve()}{did_you_mean(str(folder), beside)}")
    nearest = did_you_mean(what.lower().replace("-", "_"), data_names())
    raise UserError(f"no folder {what!r} here, and no data of that name{nearest} (names: {', '.join(data_names())})")


def _with_bits(data: ImageSet) -> ImageSet:
    """The set with its classes as attributes that exclude one another, where it has nothing else."""
    labels, one_hot = data.labels, np.eye(len(data.classes), dtype=np.float32)
    if labels is None:
        return data
    bits = labels.derived("bits", one_hot) if isinstance(labels, Streamed) else one_hot[labels]
    names = tuple(f"class={name}" for name in data.classes)
    return replace(data, columns={**data.pictures, "bits": bits}, classes=names, digest=_digest(data, "bits"))


def _check_fields(what: str, gives: Needs, needs: Needs) -> None:
    """UserError where a named set cannot give what is needed; pairs serve as two domains, too."""
    given = {name for fields in gives for name in fields}
    lacking = {name for fields in needs for name in fields if name in NOT_PICTURES} - given
    if "y" in given:  # classes are attributes, too
        lacking -= {"bits"}
    if lacking or kind(needs) not in {"pairs": ("pairs", "domains")}.get(kind(gives), (kind(gives),)):
        raise UserError(f"{what} holds {described(gives)}, not {described(needs)}; give {advice(needs)}")


def _as_needed(sets: tuple[ImageSet, ...], needs: Needs, turned: bool) -> tuple[ImageSet, ...]:
    """The sets with their pictures under the names of `needs`, in its order; turned: a and b change places."""
    if len(sets) < len(needs):  # pairs, whose columns go their own ways
        (pair,) = sets
        sets = tuple(
            replace(pair, name=f"{pair.name} {name}", columns={name: x, **_others(pair)}, digest=_digest(pair, name))
            for name, x in pair.pictures.items()
        )
    out = []
    for data, fields in zip(sets[::-1] if turned else sets, needs, strict=True):
        names, pictures = [name for name in fields if name not in NOT_PICTURES], [*data.pictures.values()]
        digest = data.digest
        if turned and len(pictures) > 1:
            digest, pictures = _digest(data, "b2a"), pictures[::-1]
        columns = {**dict(zip(names, pictures, strict=True)), **_others(data)}
        out.append(replace(data, columns=columns, digest=digest))
    return tuple(out)


def _others(data: ImageSet) -> dict[str, NDArray[Any]]:
    """The columns that are no pictures."""
    return {name: column for name, column in data.columns.items() if name not in data.pictures}


def _digest(data: ImageSet, *more: object) -> str:
    return hashlib.sha256(" ".join([data.digest, *map(str, more)]).encode()).hexdigest()


def _held_back(found: ImageSet, mixed: bool, wanted: Wanted) -> ImageSet:
    """The training set without the `validation` images that are held back, or these.

    A set that may be sorted by class is spread: what is left is no slice of the whole, so it becomes a copy in the
    cache, because the images of a large folder need not fit into memory.
    """
    n, split, validation = len(found), wanted.split, wanted.validation
    if not validation:
        if split == "validation":
            raise UserError(f"{found.name} has no validation images: --data.validation N holds N back, in a new run")
        return found
    if not 0 < validation < n:
        right = f"it must leave images to train on: a tenth of them is --data.validation {max(1, n // 10)}"
        raise UserError(f"data.validation is {validation}, and {found.name} has {n} images in all; {right}")
    if mixed:
        here = slice(n - validation, None) if split == "validation" else slice(n - validation)
        columns = {name: column[here] for name, column in found.columns.items()}
        return replace(found, columns=columns, digest=_digest(found, split, validation))
    digest = _digest(found, split, validation, "spread")
    path = entry_path(f"{found.name}-{split}", digest)
    in_shards = found.layout is not None and split == "train"  # read where it lies; what is held back is copied
    if not in_shards and (entry := load_entry(path, wanted.say)) is not None:
        return entry.data
    if found.layout is None:
        held = spread(n, validation)
    elif found.layout.keys is None:
        right = "data.validation must be 0; put shards into a folder test beside a folder train"
        raise UserError(f"with data.per_shard no pictures are held back: {right}")
    else:  # chosen by their names alone, in whatever shards they lie
        held = np.sort(np.argsort(found.layout.keys, kind="stable")[:validation])
    rows = held if split == "validation" else np.setdiff1d(np.arange(n), held)
    if in_shards:
        return taken(found, rows, digest)
    pictures = found.pictures
    with Draft(path, wanted.say) as draft:
        for start in range(0, len(rows), CHUNK):
            part = rows[start : start + CHUNK]
            stack = np.stack([column[part] for column in pictures.values()], axis=1)
            draft.write(stack if len(pictures) > 1 else stack[:, 0])
        marks = None if found.marks is None else found.marks[rows]
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
    """All of 0..n-1 (n,) in an order drawn once and for all: its first k are k of n places without replacement."""
    return permutation(n, "gansmith order 0")


def _labelled(found: ImageSet, k: int) -> ImageSet:
    """The k pictures of a set whose labels are seen."""
    labels = np.asarray(found.labels)
    n, classes = len(labels), len(np.unique(labels))
    if not classes <= k <= n:
        has = f"{found.name} has {n} labelled images to train on"
        right = f"from {classes}, one for each class, to {n}; --data.labelled null takes all"
        raise UserError(f"data.labelled is {k}, and {has}: it must be {right}")
    return taken(found, budget(labels, k), _digest(found, "labelled", k))


def taken(found: ImageSet, rows: Labels, digest: str) -> ImageSet:
    """Some rows of a set, ascending; of one in shards they stay there."""
    columns = {name: c.take(rows) if isinstance(c, Streamed) else c[rows] for name, c in found.columns.items()}
    layout = found.layout
    if layout and layout.keys is not None:
        layout = replace(layout, edges=np.searchsorted(rows, layout.edges), keys=layout.keys[rows])
    return replace(found, columns=columns, digest=digest, layout=layout)


def budget(labels: Labels, k: int) -> Labels:
    """k places of labels (n,), ascending, as many of each class as can be: in the order `mixed`, class after class."""
    order = mixed(len(labels))
    _, which, counts = np.unique(labels[order], return_inverse=True, return_counts=True)
    turn = np.empty_like(order)  # of each picture within its class
    turn[np.argsort(which, kind="stable")] = np.concatenate([np.arange(n) for n in counts])
    return np.sort(order[np.argsort(turn, kind="stable")[:k]])

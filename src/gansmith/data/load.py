"""From a name or a folder to an ImageSet."""

import difflib
import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from gansmith.data.cache import Draft, Say, entry_path, load_entry
from gansmith.data.folder import load_folder
from gansmith.data.imageset import ImageSet, Labels
from gansmith.data.named import NAMED, load_named
from gansmith.data.prepare import Wanted
from gansmith.data.shipped import load_mnist
from gansmith.data.stacked import load_stacked_mnist
from gansmith.data.tfd import load_tfd
from gansmith.data.toy import TOYS, load_toy
from gansmith.errors import UserError

SHUFFLED = {
    *("mnist", "fashion_mnist", "kmnist", "qmnist", "emnist", "cifar10", "cifar100", "celeba", "stacked_mnist"),
    *TOYS,
}
"""Data whose published order is not by class: by custom the last images are held back. Other sets may be sorted."""
CHUNK = 1024


def data_names() -> tuple[str, ...]:
    """The names that `load_images` knows, the one that ships first."""
    return ("mnist", "stacked_mnist", *NAMED, "tfd", *TOYS)


def load_images(
    what: str,
    *,
    img_size: int,
    channels: int,
    split: str = "train",
    validation: int = 0,
    fit: str = "crop",
    max_broken: float = 0.01,
    n_cpu: int = 8,
    root: Path | None = None,
    fold: int = 1,
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> ImageSet:
    """The pictures of a known name or of a folder, as uint8 (N, channels, img_size, img_size); a toy set is float32.

    Decoded once and then mapped from the cache folder. split is "train", "validation" or "test": `validation` images
    of the training set are held back for the second, the last ones of the SHUFFLED sets, of all others a fixed choice
    at random, spread over the whole set. fit is "crop", "pad" or "stretch"; a share of max_broken of the pictures may
    be unreadable. root is where known sets lie or are downloaded to; fold is one of the five of tfd. Messages go to
    `say`, a progress bar to stderr if it is a terminal. UserError for all that the user can mend.
    """
    if validation < 0:
        raise UserError(f"data.validation is {validation}; it must be at least 0")
    wanted = Wanted(img_size, channels, split, fit, max_broken, n_cpu, say, progress)
    folder = Path(what).expanduser()
    if what == "tfd":
        if validation:
            raise UserError(f"data.validation is {validation}; tfd has validation images of its own: it must be 0")
        return load_tfd(root, wanted, fold=fold)
    whole = replace(wanted, split="train") if split == "validation" else wanted
    if what == "mnist":
        found = load_mnist(whole)
    elif what == "stacked_mnist":
        found = load_stacked_mnist(whole)
    elif what in TOYS:
        found = load_toy(what, whole)
    elif what in NAMED:
        found = load_named(what, root, whole)
    elif what and folder.is_dir():
        found = load_folder(folder, whole)
    else:
        raise UserError(_unknown(what, folder))
    return found if split == "test" else _held_back(found, split, validation, what in SHUFFLED, say)


def _held_back(found: ImageSet, split: str, validation: int, shuffled: bool, say: Say) -> ImageSet:
    """The training set without the `validation` images that are held back, or these."""
    if split == "validation" and not validation:
        raise UserError(f"{found.name} has no validation images: --data.validation N holds N back, in a new run")
    if not validation:
        return found
    if validation >= len(found):
        raise UserError(
            f"data.validation is {validation}, and {found.name} has {len(found)} images in all; it must leave images to"
            f" train on: a tenth of them is {max(1, len(found) // 10)}"
        )
    if not shuffled:
        return _spread(found, split, validation, say)
    here = slice(len(found) - validation, None) if split == "validation" else slice(len(found) - validation)
    labels = None if found.labels is None else found.labels[here]
    digest = hashlib.sha256(f"{found.digest} {split} {validation}".encode()).hexdigest()
    return replace(found, images=found.images[here], labels=labels, digest=digest)


def _spread(found: ImageSet, split: str, validation: int, say: Say) -> ImageSet:
    """The same for a set that may be sorted by class: a copy in the cache, for what is left is no slice of the whole.

    A copy on disk, and a memory map of it, so that the images of a large folder need not fit into memory.
    """
    digest = hashlib.sha256(f"{found.digest} {split} {validation} spread".encode()).hexdigest()
    path = entry_path(f"{found.name}-{split}", digest)
    if (entry := load_entry(path, say)) is not None:
        return entry.data
    held = spread(len(found), validation)
    here = held if split == "validation" else np.setdiff1d(np.arange(len(found)), held)
    labels = None
    if found.labels is not None:
        labels = found.labels[here]
        labels.flags.writeable = False
    with Draft(path, say) as draft:
        for start in range(0, len(here), CHUNK):
            draft.write(found.images[here[start : start + CHUNK]])
        return draft.finish(found.name, labels, found.classes, [], digest)


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


def _unknown(what: str, folder: Path) -> str:
    if what and folder.exists():
        return f"{what} is a file; unpack it and give the folder with the pictures"
    if "/" in what or "\\" in what or what.startswith((".", "~")):
        return f"no such folder: {folder.resolve()}"
    plain = what.lower().replace("-", "_")
    near = difflib.get_close_matches(plain, data_names(), n=1)
    nearest = f"; did you mean {near[0]}?" if near else ""
    return f"no data named {what!r}{nearest} (names: {', '.join(data_names())}; or give a folder of pictures)"

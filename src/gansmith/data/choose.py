"""What a recipe leaves to its data: the size of the pictures, their channels, how many are held back."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

from PIL import ExifTags

from gansmith.data import pictures
from gansmith.data.folder import has_split, training_files

LOOKED_AT = 200
"""Pictures whose size is read, spread over the folder."""
MULTIPLE = 16
HELD_BACK = 1000
FEWEST = 20
"""Held-back pictures, where there are at least five times as many: memorisation is told by no fewer."""
SIDES = {**dict.fromkeys(("cifar10", "cifar100", "svhn"), 32), "usps": 16}
SIDES |= dict.fromkeys(("mnist", "fashion_mnist", "kmnist", "qmnist", "emnist", "mnist_edges"), 28)
GREY = {name for name, side in SIDES.items() if side < 32}
"""Sets by name whose pictures are small, and those without colour."""


class Seen(NamedTuple):
    """Some pictures of a folder: their sizes (W, H) as they hang, whether all are grey, how many there are in all."""

    sizes: Sequence[tuple[int, int]]
    grey: bool
    total: int


class Choice(NamedTuple):
    size: tuple[int, int]
    channels: Literal[1, 3]
    validation: int


def choose(what: str, most: int) -> Choice:
    """What fits the pictures of a name or a folder.

    Sides are multiples of 16 up to `most`, and near those of smaller pictures, which keep a shape that they share.
    A tenth of the pictures is held back, 20 of 100 or more at least, 1,000 at most, unless a folder has test pictures.
    """
    folder = Path(what).expanduser()
    seen = _look(folder) if folder.is_dir() else Seen([(SIDES.get(what, most),) * 2], what in GREY, 10 * HELD_BACK)
    if not seen.sizes:  # preparing will say why
        seen = Seen([(most, most)], False, seen.total)
    held = 0 if folder.is_dir() and has_split(folder, "test") else min(HELD_BACK, _tenth(seen.total))
    return Choice(fitting(seen.sizes, most), 1 if seen.grey else 3, held)


def _tenth(n: int) -> int:
    return max(n // 10, FEWEST) if n >= 5 * FEWEST else n // 10


def fitting(sizes: Sequence[tuple[int, int]], most: int) -> tuple[int, int]:
    """(H, W) for pictures of these sizes (W, H): a square, or their shape where nine tenths have nearly the same.

    No more than `most`, and no more than the pictures have; a side that would be under 16 is 16.
    """
    shapes = [w / h for w, h in sizes]
    shape = median(shapes)
    if sum(abs(own / shape - 1) < 0.05 for own in shapes) < 0.9 * len(shapes):
        shape = 1.0
    short = median(min(size) for size in sizes)
    long = min(most, short * max(shape, 1 / shape))
    high, wide = long * min(1, 1 / shape), long * min(1, shape)
    return round_to(high), round_to(wide)


def round_to(side: float) -> int:
    """The multiple of 16 that is nearest, at least 16."""
    return max(MULTIPLE, round(side / MULTIPLE) * MULTIPLE)


def _look(folder: Path) -> Seen:
    """A picture that cannot be read is passed over here: preparing says so."""
    files = training_files(folder)
    sizes, grey = [], True
    for path in files[:: max(1, len(files) // LOOKED_AT)]:
        with suppress(Exception), pictures.opened(path) as image:  # Pillow raises whatever it likes
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            sizes.append((image.height, image.width) if turned else (image.width, image.height))
            grey = grey and image.mode in ("1", "L", "LA", "I", "I;16", "F")
    return Seen(sizes, grey, len(files))

"""What a recipe leaves to its data: the size of the pictures, their channels, how many are held back."""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Literal, NamedTuple

from PIL import ExifTags

from gansmith.data import pictures
from gansmith.data.folder import has_split, training_files

LOOKED_AT = 200  # pictures whose size is read, spread over the folder
MULTIPLE = 16
HELD_BACK = 1000
FEWEST = 20  # held back, where there are at least five times as many: memorisation is told by no fewer
# Sets by name whose pictures are small; those of 28 and 16 have no colours.
SIDES = {**dict.fromkeys(("cifar10", "cifar100", "svhn"), 32), "usps": 16}
SIDES |= dict.fromkeys(("mnist", "fashion_mnist", "kmnist", "qmnist", "emnist", "mnist_edges"), 28)


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
    if not folder.is_dir():
        side = SIDES.get(what, most)
        return Choice(fitting([(side, side)], most), 1 if SIDES.get(what, 32) < 32 else 3, HELD_BACK)
    files = training_files(folder)
    sizes, grey = [], True
    for path in files[:: max(1, len(files) // LOOKED_AT)]:
        with suppress(Exception), pictures.opened(path) as image:  # what cannot be read preparing will name
            turned = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            sizes.append((image.height, image.width) if turned else (image.width, image.height))
            grey = grey and image.mode in ("1", "L", "LA", "I", "I;16", "F")
    tenth = len(files) // 10
    held = min(HELD_BACK, max(tenth, FEWEST) if len(files) >= 5 * FEWEST else tenth)
    size = fitting(sizes or [(most, most)], most)
    return Choice(size, 1 if grey and sizes else 3, 0 if has_split(folder, "test") else held)


def fitting(sizes: Sequence[tuple[int, int]], most: int) -> tuple[int, int]:
    """(H, W) for pictures of these sizes (W, H): a square, or their shape where nine tenths have nearly the same.

    No more than `most`, and no more than the pictures have: multiples of 16, at least 16.
    """
    shapes = [w / h for w, h in sizes]
    shape = median(shapes)
    if sum(abs(own / shape - 1) < 0.05 for own in shapes) < 0.9 * len(shapes):
        shape = 1.0
    short = median(min(size) for size in sizes)
    long = min(most, short * max(shape, 1 / shape))
    high, wide = (max(MULTIPLE, round(long * min(1, side) / MULTIPLE) * MULTIPLE) for side in (1 / shape, shape))
    return high, wide

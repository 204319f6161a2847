"""MNIST, all 70,000 digits of it, from the bytes in this package (see mnist/NOTICE.md).

Three sets are made from its digits, to try translations on without a download. They are the same on every machine.

`mnist_edges` (pairs): b is a digit, a its outline in white on black: of the 3x3 neighbourhood of a pixel some are ink,
the pixel itself is not. Ink is what is brighter than 127. Made at 28x28, before any resizing.

`mnist_colours` (two unpaired domains): a are the first half of MNIST's digits as they are, b are those of the other
half with another look: bolder (each pixel becomes the brightest of its 3x3 neighbourhood), in one strong colour, on a
light ground. Hue and ground are drawn for each digit from SHAKE-256.

`mnist_looks` (attributes): each digit `bold` or not, `framed` by a grey line or not, in one `colour` of three on black,
all drawn for each digit from SHAKE-256.
"""

import hashlib
import lzma
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gansmith.data.cache import Draft, Say, entry_path, load_entry
from gansmith.data.imageset import Bytes, ImageSet, Labels
from gansmith.data.prepare import Source, Wanted, array_source, prepare
from gansmith.errors import UserError

CLASSES = tuple("0123456789")
INK = 127
Make = Callable[[Bytes, Labels], tuple[dict[str, Bytes], NDArray[Any]]]
LOOKS = ("bold", "framed", "colour=red", "colour=green", "colour=blue")


@dataclass(frozen=True)
class Packed:
    """One .xz of `count` images (28, 28) and then `count` labels, and the sha256 of each, decoded."""

    count: int
    images: str
    labels: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(f"mnist {self.images} {self.labels}".encode()).hexdigest()


SPLITS = {
    "train": Packed(
        60_000,
        "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
    ),
    "test": Packed(
        10_000,
        "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    ),
}


def decode(split: str) -> tuple[Bytes, Labels]:
    """Images (N, 1, 28, 28) and labels (N,) of a split; UserError when the shipped bytes are damaged."""
    packed = SPLITS[split]
    size = packed.count * 784
    try:
        raw = lzma.decompress((files("gansmith.data") / "mnist" / f"{split}.xz").read_bytes())
        images, labels = raw[:size], raw[size:]
        found = hashlib.sha256(images).hexdigest(), hashlib.sha256(labels).hexdigest()
    except (OSError, lzma.LZMAError) as error:
        raise UserError(f"mnist/{split}.xz of gansmith cannot be read ({error}); reinstall it") from error
    if found != (packed.images, packed.labels):
        raise UserError(f"mnist/{split}.xz of gansmith is damaged; reinstall it")
    pixels = np.frombuffer(images, np.uint8).reshape(packed.count, 1, 28, 28)
    return pixels, np.frombuffer(labels, np.uint8).astype(np.int64)


def load_mnist(name: str, wanted: Wanted) -> ImageSet:
    """MNIST, as it is at 28 by 28 with one channel, otherwise resized like any other set."""
    raw = load_raw(wanted.split, wanted.say)
    if (wanted.size, wanted.channels) == ((28, 28), 1):
        return raw
    path = wanted.path(f"{name}-{wanted.split}", raw.digest)
    columns = {"x": raw.images[:, 0]}
    return prepare(path, wanted, lambda: array_source(name, columns, raw.labels, CLASSES, raw.digest))


def load_raw(split: str, say: Say) -> ImageSet:
    """The 28 by 28 pixels, decoded into the cache on first use (about a second)."""
    digest = SPLITS[split].digest
    path = entry_path(f"mnist-{split}", "raw", digest)
    if (entry := load_entry(path, say)) is not None:
        return entry.data
    images, labels = decode(split)
    with Draft(path, say) as draft:
        draft.write(images)
        return draft.finish("mnist", labels, CLASSES, digest=digest)


# ---- what is made of it -------------------------------------------------------------------------------------------


def load_mnist_edges(name: str, wanted: Wanted) -> ImageSet:
    """Pairs: outlines a and digits b, (N, C, H, W), with the digits' labels y; N as MNIST has them."""
    return _made(name, "edges 1", wanted, lambda digits, y: ({"a": outlines(digits), "b": digits}, y))


def load_mnist_colours(name: str, wanted: Wanted) -> tuple[ImageSet, ImageSet]:
    """Two domains of N/2 digits each (N, 3, H, W), with labels: white on black, and bold colours on a light ground."""
    half, seed = SPLITS[wanted.split].count // 2, f"gansmith mnist_colours {wanted.split} 0"
    _check_coloured(name, wanted)
    return (
        _made(f"{name} a", "colours a 1", wanted, lambda digits, y: ({"x": digits[:half]}, y[:half])),
        _made(f"{name} b", "colours b 1", wanted, lambda digits, y: ({"x": coloured(digits[half:], seed)}, y[half:])),
    )


def load_mnist_looks(name: str, wanted: Wanted) -> ImageSet:
    """Digits (N, 3, H, W) with the attributes (N, 5) of LOOKS; N as MNIST has them."""
    _check_coloured(name, wanted)

    def make(digits: Bytes, labels: Labels) -> tuple[dict[str, Bytes], NDArray[Any]]:
        looks, bits = looking(digits, f"gansmith mnist_looks {wanted.split} 0")
        return {"x": looks}, bits

    return _made(name, "looks 2 1", wanted, make, LOOKS)


def _made(name: str, what: str, wanted: Wanted, make: Make, classes: tuple[str, ...] = CLASSES) -> ImageSet:
    """A set of the columns and marks that `make` gives of MNIST's digits (N, 28, 28) and labels (N,)."""
    digest = hashlib.sha256(f"mnist {what} {SPLITS[wanted.split].digest}".encode()).hexdigest()

    def find() -> Source:
        raw = load_raw(wanted.split, wanted.say)
        return array_source(name, *make(np.asarray(raw.images[:, 0]), raw.columns["y"]), classes, digest)

    return prepare(wanted.path(f"{name.replace(' ', '-')}-{wanted.split}", digest), wanted, find)


def _check_coloured(name: str, wanted: Wanted) -> None:
    if wanted.channels != 3:
        raise UserError(f"{name} is in colour, and channels is {wanted.channels}; it must be 3")


def looking(digits: Bytes, seed: str) -> tuple[Bytes, NDArray[np.float32]]:
    """Digits (N, 28, 28, 3) of many looks, and the attributes (N, 5) that say which."""
    drawn = np.frombuffer(hashlib.shake_256(seed.encode()).digest(3 * len(digits)), np.uint8).reshape(-1, 3)
    bold, framed, colour = drawn[:, 0] % 2 == 1, drawn[:, 1] % 2 == 1, drawn[:, 2] % 3
    ink = np.where(bold[:, None, None], brightest(digits), digits)
    strong = np.array([[220, 40, 30], [30, 170, 50], [50, 80, 230]], np.uint8)[colour]
    looks = mixed_with(ink, strong, np.zeros_like(strong))
    edge = np.pad(np.zeros((24, 24), bool), 2, constant_values=True)
    looks[framed[:, None, None] & edge] = 160
    bits = np.column_stack([bold, framed, colour[:, None] == np.arange(3)]).astype(np.float32)
    return looks, bits


def outlines(digits: Bytes) -> Bytes:
    """The outlines (N, 28, 28), 255 or 0, of white digits on black: the grown ink without the ink."""
    ink = digits > INK
    return (brightest(ink) & ~ink).astype(np.uint8) * np.uint8(255)


def coloured(digits: Bytes, seed: str) -> Bytes:
    """Bold digits (N, 28, 28, 3) in one hue each, mixed in whole numbers: (m ink + (255 - m) ground) / 255, rounded."""
    drawn = np.frombuffer(hashlib.shake_256(seed.encode()).digest(4 * len(digits)), np.uint8).reshape(-1, 4)
    return mixed_with(brightest(digits), hues(drawn[:, 0]), 192 + drawn[:, 1:] // 4)


def mixed_with(masks: Bytes, ink: Bytes, ground: Bytes) -> Bytes:
    """Pictures (N, H, W, 3) of one ink (N, 3) where masks (N, H, W) are 255, of one ground (N, 3) where they are 0."""
    m = masks.astype(np.uint16)[..., None]
    out = np.empty((*masks.shape, 3), np.uint8)
    for start in range(0, len(masks), 4096):  # since whole numbers of 16 bits take as much again as the result
        at = slice(start, start + 4096)
        fore, back = ink[at, None, None].astype(np.uint16), ground[at, None, None].astype(np.uint16)
        out[at] = (m[at] * fore + (255 - m[at]) * back + 127) // 255
    return out


def hues(angles: Bytes) -> Bytes:
    """Strong dark colours (N, 3) from a colour wheel of 258 steps: the brightest channel is 190, the darkest 0."""
    distance = np.abs((angles[:, None].astype(np.int64) - np.array([0, 86, 172]) + 129) % 258 - 129)
    return (np.clip(172 - 2 * distance, 0, 86) * 190 // 86).astype(np.uint8)


def brightest(pictures: NDArray[Any]) -> NDArray[Any]:
    """The largest value of the 3x3 neighbourhood of each pixel of (N, H, W)."""
    out = pictures.copy()
    for axis in (1, 2):
        rows = np.moveaxis(out, axis, 0)
        before = rows.copy()
        np.maximum(rows[1:], before[:-1], out=rows[1:])
        np.maximum(rows[:-1], before[1:], out=rows[:-1])
    return out

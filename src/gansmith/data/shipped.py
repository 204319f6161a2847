"""MNIST, all 70,000 digits of it, from the bytes in this package (see mnist/NOTICE.md)."""

import hashlib
import lzma
from dataclasses import dataclass
from importlib.resources import files

import numpy as np

from gansmith.data.cache import Draft, Say, entry_path, load_entry
from gansmith.data.imageset import Bytes, ImageSet, Labels
from gansmith.data.prepare import Wanted, array_source, prepare
from gansmith.errors import UserError

CLASSES = tuple("0123456789")


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

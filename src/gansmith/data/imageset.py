"""What every source of pictures becomes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gansmith.data.toy import Mixture

Bytes = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class ImageSet:
    """Pictures of one size: images (N, C, H, W) uint8, a read-only memory map when they lie on disk.

    labels is int64 (N,) or None; classes are the class names, () when there are no labels.
    digest is a hex sha256 of content and preprocessing, independent of where the files lie.
    A toy set holds numbers: images (N, 1, 1, 1) float32, and density is the p_data that they come from.
    """

    name: str
    images: NDArray[Any]
    labels: Labels | None
    classes: tuple[str, ...]
    digest: str
    density: Mixture | None = None

    def __len__(self) -> int:
        return len(self.images)


def sha256(array: NDArray[Any]) -> str:
    """The hex sha256 of the bytes of a C-contiguous array."""
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()


def content_digest(shape: tuple[int, ...], images: str, labels: str | None) -> str:
    """The digest of a set from its shape and the sha256 of its images and of its int64 labels."""
    return hashlib.sha256(f"gansmith data 1: {shape} {images} {labels}".encode()).hexdigest()

"""What every source of pictures becomes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gansmith.data.streamed import Layout
    from gansmith.papers.toy import Mixture

Bytes = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class ImageSet:
    """Columns that share an index: pictures (N, C, H, W) uint8, read-only memory maps when they lie on disk.

    Pictures are `x`, or `a` and `b` of a pair; `y` are labels (N,) int64, `bits` attributes (N, K) float32. classes
    are the names of the classes or of the attributes, () where there are neither. digest is a hex sha256 of content and
    preprocessing, independent of where the files lie. A toy set holds numbers: x (N, 1, 1, D) float32, and density is
    the p_data behind them. Columns of a set in shards are `Streamed`, and layout says where they lie.
    """

    name: str
    columns: Mapping[str, Any]
    classes: tuple[str, ...]
    digest: str
    density: Mixture | None = None
    layout: Layout | None = None

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def counted(self) -> bool:
        """Whether anybody has counted its rows, so that all marks may be read."""
        return self.layout is None or self.layout.keys is not None

    @property
    def pictures(self) -> dict[str, NDArray[Any]]:
        """The columns with pictures, which have four dimensions."""
        return {name: column for name, column in self.columns.items() if column.ndim == 4}

    @property
    def images(self) -> NDArray[Any]:
        """The first column with pictures."""
        return next(iter(self.pictures.values()))

    @property
    def labels(self) -> Labels | None:
        return self.columns.get("y")

    @property
    def marks(self) -> NDArray[Any] | None:
        """The column that is no picture: labels, or attributes."""
        return self.columns.get("y", self.columns.get("bits"))


def sha256(array: NDArray[Any]) -> str:
    """The hex sha256 of the bytes of an array in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()

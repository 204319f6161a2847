"""A batch of the data: tensors by name, of one index."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # names of data answer without torch
    from torch import Tensor


# The fields that hold no pictures, in words; all others do.
NOT_PICTURES = {"y": "labels", "bits": "attributes", "mask": "masks"}


@dataclass(frozen=True)
class Batch:
    """Fields of one first dimension: pictures x (N, C, H, W), labels y (N,), a pair a and b, ...

    One process of several holds its own rows; `size` counts those of all processes.
    """

    fields: Mapping[str, Tensor]
    size: int

    def __getitem__(self, name: str) -> Tensor:
        return self.fields[name]

    def __len__(self) -> int:
        return len(next(iter(self.fields.values())))

    @property
    def share(self) -> float:
        """The share of the whole batch that is here."""
        return len(self) / self.size

    def parts(self, most: int) -> Iterator[Batch]:
        """At most `most` parts, as equal as can be; every field is cut alike."""
        n = min(most, len(self))
        if n == 1:
            yield self
            return
        cut = {name: field.tensor_split(n) for name, field in self.fields.items()}
        for i in range(n):
            yield replace(self, fields={name: pieces[i] for name, pieces in cut.items()})

    def plus(self, **fields: Tensor) -> Batch:
        """The same with more fields, such as fakes out of a pool, which are cut with the rest."""
        return replace(self, fields={**self.fields, **fields})

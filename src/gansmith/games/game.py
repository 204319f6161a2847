"""What every game is: the algorithm box of a paper, played one round at a time."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from gansmith.players import Player

Metrics = dict[str, Tensor]
"""Detached 0-dim tensors on the device: "loss/D", "D/real", "grad/G", "game/k", ..."""


class RealBatch(Protocol):
    """A batch of the data: images (N, C, H, W) in [-1, 1], labels (N,) or None."""

    @property
    def images(self) -> Tensor: ...
    @property
    def labels(self) -> Tensor | None: ...
    @property
    def share(self) -> float:
        """Of the whole batch; below 1 where several processes share it."""
        ...


def parts(real: RealBatch, accumulate: int) -> Iterator[tuple[Tensor, float]]:
    """(images, share of the whole batch) of at most `accumulate` parts of a batch, as equal as can be."""
    n = len(real.images)
    for images in torch.tensor_split(real.images, min(accumulate, n)) if accumulate > 1 else (real.images,):
        yield images, real.share * len(images) / n


class Game(ABC):
    """Who moves when, on which samples. The names of the positional parameters say what a game is handed:

    players by their names (G, D, ...), `prior`, `objective`, `penalty`, `noise`, the generator of every random number
    that a round draws, and `accumulate`, into how many parts it cuts a batch. Keyword-only parameters are keys of the
    recipe.
    """

    players: tuple[Player, ...]
    batches_per_round: int = 1
    eager: Mapping[str, str] = {}
    """Players whose networks torch.compile must leave alone, each with the reason."""

    @abstractmethod
    def round(self, *batches: RealBatch) -> Metrics:
        """Move every player once (or as often as the paper says), given `batches_per_round` batches."""

    def state_dict(self) -> dict[str, Any]:
        """The game's own memory; players and random streams are kept by `state.State`."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take the memory back; KeyError for one that this game does not have."""
        if state:
            raise KeyError(f"{type(self).__name__} has no memory {', '.join(state)}")

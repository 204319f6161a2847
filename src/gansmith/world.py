"""The processes that train one model, as one of them sees them: here the world of one, in distributed.py of more."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


class World:
    """One process by itself: whatever all must do together is done when it has done it."""

    rank = 0
    size = 1
    # The sum of each tensor over all processes; None where there is one.
    reduce: Callable[[Sequence[Tensor]], list[Tensor]] | None = None

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.asked: int | None = None  # the signal by which this process was asked to stop
        self.goes_on: Callable[[], str] = lambda: ""  # what the line about a lost rank ends with: how to go on

    def stop(self) -> int | None:
        """The signal by which all stop after the round that was played: the same answer in all processes."""
        return self.asked

    def on_first(self, make: Callable[[], T]) -> T:
        """What `make` gives on rank 0, on all ranks."""
        return make()

    def in_turn(self, make: Callable[[], T]) -> T:
        """What `make` gives here, on rank 0 before the others begin, so that they find what it prepares."""
        return make()

    def together(self) -> AbstractContextManager[None]:
        """A block that all ranks finish, or none: a UserError of one is one of all."""
        return nullcontext()

    def gather(self, thing: Any) -> list[Any]:
        """What each rank brings, by rank, on all ranks."""
        return [thing]

    def everywhere(self, x: Tensor) -> Tensor:
        """The rows of all ranks, (n, ...) -> (sum of n, ...), for a loss that looks at the whole batch.

        All ranks compute it, and each weights it by its share of the batch, as `players.move` does with every loss.
        There is no other factor: the shares of the ranks add up to 1.
        """
        return x

    def equalise(self, network: nn.Module) -> None:
        """Give all ranks the weights and buffers of rank 0."""

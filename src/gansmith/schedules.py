"""Schedules: an optimizer's setting as a pure function of how far the training is; nothing to save or to resume.

The clock counts minibatches of real images, as in the 2014 code; a round of Algorithm 1 takes n_critic of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gansmith.errors import UserError
from gansmith.players import Player
from gansmith.schema import NonNegativeFloat, PositiveFloat, PositiveInt


def exponential(
    start: float, batches: int, epochs: int, *, factor: PositiveFloat = 1.0, floor: NonNegativeFloat = 0.0
) -> float:
    """max(floor, start / factor^batches): the 2014 code divides its learning rate after every minibatch."""
    return max(floor, start * factor**-batches)  # which becomes 0 where factor**batches would overflow


def linear(start: float, batches: int, epochs: int, *, to: NonNegativeFloat = 0.0, over: PositiveInt = 1) -> float:
    """start + (to - start) min(1, epochs / over): constant within an epoch, `to` after `over` whole epochs."""
    return start + (to - start) * min(1.0, epochs / over)


SCHEDULES: dict[str, Callable[..., float]] = {"exponential": exponential, "linear": linear}

Schedule = Callable[[float, int, int], float]


class Schedules:
    """Sets (setting, schedule) pairs such as ("lr", ...) in the optimizers of all players."""

    def __init__(self, players: Sequence[Player], terms: Sequence[tuple[str, Schedule]]) -> None:
        self.players = players
        self.terms = terms
        self.start: dict[tuple[str, str], float] = {}
        for i, (key, _) in enumerate(terms):
            if key in [earlier for earlier, _ in terms[:i]]:
                raise UserError(f"schedules: {key!r} is set by two of them; one is right")
            for player in players:
                settings = player.optimizer.param_groups[0]
                if not isinstance(settings.get(key), float):
                    known = ", ".join(k for k, v in settings.items() if isinstance(v, float))
                    raise UserError(
                        f"schedules: the optimizer of {player.name} has no {key!r} to set (it has: {known})"
                    )
                self.start[player.name, key] = settings[key]

    def apply(self, batches: int, epochs: int) -> None:
        """Set everything for the round to come, after `batches` minibatches and `epochs` whole epochs."""
        for key, schedule in self.terms:
            for player in self.players:
                for settings in player.optimizer.param_groups:
                    settings[key] = schedule(self.start[player.name, key], batches, epochs)

    def values(self) -> dict[str, float]:
        """What is set now, for the log: {"lr/G": 0.1, ...}."""
        return {f"{key}/{p.name}": p.optimizer.param_groups[0][key] for key, _ in self.terms for p in self.players}

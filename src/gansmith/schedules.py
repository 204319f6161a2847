"""Schedules: a setting as a pure function of how far the training is; nothing to save or to resume.

Any number that a recipe names may be set: of the optimizers (lr, momentum), a penalty's weight (penalties.0.weight),
the moving average's half-life (ema.halflife_kimg).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from gansmith.errors import UserError
from gansmith.schema import NonNegativeFloat, PositiveFloat


class Clock(NamedTuple):
    """How far a training is, before the round to come."""

    batches: int
    """Of real images: a round of Algorithm 1 takes n_critic."""
    epochs: int
    """Whole ones."""
    rounds: int
    share: float = 0.0
    """Of the whole training, in [0, 1): a run that goes on for longer than it was to has a smaller one again."""


Unit = Literal["epochs", "rounds", "training"]
"""Of `after` and `over`: whole epochs, rounds, or shares of the training, however long it is."""


def exponential(start: float, clock: Clock, *, factor: PositiveFloat = 1.0, floor: NonNegativeFloat = 0.0) -> float:
    """max(floor, start / factor^batches): the 2014 code divides its learning rate after every minibatch."""
    return max(floor, start * factor**-clock.batches)  # which becomes 0 where factor**batches would overflow


def linear(
    start: float,
    clock: Clock,
    *,
    to: NonNegativeFloat = 0.0,
    over: PositiveFloat = 1,
    after: NonNegativeFloat = 0,
    unit: Unit = "epochs",
) -> float:
    """start + (to - start) t, t = min(1, (now - after) / over): `start` until `after`."""
    return start + (to - start) * min(1.0, max(0, _now(clock, unit) - after) / over)


def cosine(
    start: float,
    clock: Clock,
    *,
    to: NonNegativeFloat = 0.0,
    over: PositiveFloat = 1,
    after: NonNegativeFloat = 0,
    unit: Unit = "epochs",
) -> float:
    """to + (start - to) (1 + cos(pi t)) / 2, with the t of `linear`: Loshchilov & Hutter 2017, eq. 5 (1608.03983)."""
    t = linear(0.0, clock, to=1.0, over=over, after=after, unit=unit)
    return to + (start - to) * (1 + math.cos(math.pi * t)) / 2


def step(
    start: float,
    clock: Clock,
    *,
    factor: PositiveFloat = 0.5,
    at: Sequence[NonNegativeFloat] = (),
    unit: Unit = "epochs",
) -> float:
    """start factor^k, k of `at` being over."""
    return start * factor ** sum(_now(clock, unit) >= moment for moment in at)


def _now(clock: Clock, unit: Unit) -> float:
    return {"epochs": clock.epochs, "rounds": clock.rounds, "training": clock.share}[unit]


def check_times(name: str, args: Mapping[str, Any]) -> None:
    """UserError for times that the unit does not have: shares are at most 1, epochs and rounds are whole."""
    times = [args[key] for key in ("after", "over") if key in args] + [*args.get("at", ())]
    if args.get("unit") == "training":
        end = max(args["at"], default=0.0) if "at" in args else sum(times)
        if end > 1 + 1e-9:
            raise UserError(f"schedules: {name} ends at {end:g}; with unit: training that is a share, at most 1")
    elif odd := [time for time in times if time != int(time)]:
        raise UserError(f"schedules: {name} has {odd[0]:g} {args['unit']}; they must be whole, or the unit training")


SCHEDULES: dict[str, Callable[..., float]] = {
    "exponential": exponential,
    "linear": linear,
    "cosine": cosine,
    "step": step,
}

Schedule = Callable[[float, Clock], float]


class Dial(NamedTuple):
    """A setting by its name in the log, such as lr/G: where it starts, and what sets it."""

    name: str
    start: float
    set: Callable[[float], None]


class Schedules:
    """Sets dials by schedules; `dials` holds those of each key, such as "lr": one for every player."""

    def __init__(self, dials: Mapping[str, Sequence[Dial]], terms: Sequence[tuple[str, Schedule]]) -> None:
        self.terms: list[tuple[Dial, Schedule]] = []
        self._now: dict[str, float] = {}
        for i, (key, schedule) in enumerate(terms):
            if key in [earlier for earlier, _ in terms[:i]]:
                raise UserError(f"schedules: two of them set {key!r}; one is right")
            if key not in dials:
                raise UserError(f"schedules: there is no {key!r} to set (there is: {', '.join(dials)})")
            self.terms += [(dial, schedule) for dial in dials[key]]

    def apply(self, clock: Clock) -> None:
        """Set everything for the round to come."""
        for dial, schedule in self.terms:
            self._now[dial.name] = schedule(dial.start, clock)
            dial.set(self._now[dial.name])

    def at(self, clock: Clock, prefix: str) -> list[float]:
        """What the dials of names that begin so would be."""
        return [schedule(dial.start, clock) for dial, schedule in self.terms if dial.name.startswith(prefix)]

    def values(self) -> dict[str, float]:
        """What is set now, for the log: {"lr/G": 0.1, ...}."""
        return dict(self._now)

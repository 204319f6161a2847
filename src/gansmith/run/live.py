"""What is shown while a run trains: one live line on a terminal or in a notebook, a plain one now and then in a log."""

import math
import sys
from collections import deque
from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field
from time import monotonic
from typing import Self, TextIO

from rich.console import Console
from rich.live import Live as Screen
from rich.text import Text

_REFRESH_SECONDS = 0.25  # on a terminal; at each refresh the host waits once for the device
_PLAIN_SECONDS = 10.0  # elsewhere
_WINDOW_SECONDS = 30.0  # the speed shown is that of so long a time
_WAIT_SHOWN = 0.2  # the least share of waiting for data that is worth a word
_BAR_LEAST, _BAR_MOST = 6, 40  # columns
# What goes, in this order, from a line that is wider than the terminal.
_DROP = ("bar", "elapsed", "percent", "epoch", "waits", "speed", "left")


@dataclass(eq=False, kw_only=True)
class Live:
    """A context manager that shows progress on stderr, or on `file`.

    On a terminal, or in a notebook, there is one live line; elsewhere a plain line every 10 seconds; if `quiet`,
    nothing.
    """

    start: InitVar[int]  # rounds done before this session
    total: int  # rounds at its end
    rounds_per_epoch: float
    images_per_round: float
    file: TextIO = field(default_factory=lambda: sys.stderr)
    quiet: bool = False

    def __post_init__(self, start: int) -> None:
        self._round = start
        self._losses: dict[str, float] = {}
        self._waited = self._wait_share = 0.0
        self._console = None if self.quiet else _terminal(self.file)
        self._notebook = type(self.file).__module__.partition(".")[0] == "ipykernel"
        self._open = ""  # in a notebook the line that the next one overwrites
        self._interval = _PLAIN_SECONDS if self._console is None and not self._notebook else _REFRESH_SECONDS
        self._screen: Screen | None = None
        self._began = monotonic()
        self._ended: float | None = None
        # When, and at how many images, the latest shows were, and the first; set-up is in no estimate of speed.
        self._recent: deque[tuple[float, int]] = deque()
        self._first: tuple[float, int] | None = None

    def __enter__(self) -> Self:
        self._began = monotonic()
        if self._console is not None:
            self._screen = Screen(
                console=self._console,
                get_renderable=self._live_line,
                refresh_per_second=1 / _REFRESH_SECONDS,
                # What the program prints goes above the line; but a stream that is piped stays in its pipe.
                redirect_stdout=sys.stdout.isatty(),
                redirect_stderr=sys.stderr.isatty(),
            )
            self._screen.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._screen is not None:
            self._screen.stop()  # which draws the line once more; a second stop does nothing

    def due(self) -> bool:
        """Whether to call `show` now; only then need the losses be fetched from the device."""
        return not self.quiet and (not self._recent or monotonic() - self._recent[-1][0] >= self._interval)

    def show(self, round: int, images: int, losses: Mapping[str, float], *, waited: float = 0.0) -> None:
        """Show where training is: rounds done, images seen, and losses as {"D": ..., "G": ...}.

        waited: seconds of this session that data was waited for; a large share of those since the last line is told.
        """
        since = self._recent[-1][0] if self._recent else self._began
        self._wait_share = (waited - self._waited) / max(monotonic() - since, 1e-9)
        self._waited = waited
        self._update(round, images, losses)
        if self._console is None:
            self._print(self._plain_line(), passing=self._notebook)

    def say(self, text: str) -> None:
        """Print a line of its own; on a terminal above the live line."""
        if self._console is None:
            self._print(text)
        else:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def done(self, round: int, images: int, losses: Mapping[str, float]) -> None:
        """Leave a last line, with the session's mean speed; empty `losses` keep those shown before."""
        self._update(round, images, losses or self._losses)
        self._ended = monotonic()
        if self._console is None:
            self._print(self._plain_line())
        self.__exit__()

    def _update(self, round: int, images: int, losses: Mapping[str, float]) -> None:
        self._round, self._losses = round, dict(losses)
        now = (monotonic(), images)
        self._first = self._first or now
        self._recent.append(now)
        while len(self._recent) > 2 and now[0] - self._recent[1][0] >= _WINDOW_SECONDS:
            self._recent.popleft()

    def _print(self, line: str, *, passing: bool = False) -> None:
        if not self.quiet:
            over = f"\r{' ' * len(self._open)}\r" if self._open else ""
            print(f"{over}{line}", end="" if passing else "\n", file=self.file, flush=True)
            self._open = line if passing else ""

    def _plain_line(self) -> str:
        parts = self._parts(digits=4)
        shown = ("epoch", "round", "losses", "speed", "waits", "elapsed" if self._ended else "left")
        parts["round"] = f"round {parts['round']}"
        return "  ".join(parts[name] for name in shown if name in parts)

    def _live_line(self) -> Text:
        """The fullest line that fits into the terminal as wide as it is now."""
        assert self._console is not None
        width, parts = self._console.width, self._parts(digits=3)
        for dropped in range(len(_DROP) + 1):
            names = [name for name in parts if name not in _DROP[:dropped]]
            fixed = sum(len(parts[name]) for name in names)  # the bar has no text yet
            least = _BAR_LEAST if "bar" in names else 0
            for gap in (2, 1):
                free = width - fixed - gap * (len(names) - 1)
                if free >= least:
                    return self._styled(parts, names, gap, min(free, _BAR_MOST))
        return self._styled(parts, ["round", "losses"], 1, 0)  # and rich cuts off what is too long

    def _styled(self, parts: Mapping[str, str], names: list[str], gap: int, bar: int) -> Text:
        assert self._console is not None
        line = Text(no_wrap=True, overflow="ellipsis")
        for name in names:
            if line:
                line.append(" " * gap)
            if name == "bar":
                full, rest = ("#", ".") if self._console.options.ascii_only else ("━", "─")
                filled = int(bar * self._fraction())
                line.append(full * filled, "green").append(rest * (bar - filled), "dim")
            else:
                line.append(parts[name], "bold" if name == "losses" else "")
        return line

    def _parts(self, digits: int) -> dict[str, str]:
        """The texts of a line, in its order; what is not known yet is missing."""
        epochs = _epoch(self.total, self.rounds_per_epoch)
        parts = {
            "epoch": f"epoch {_epoch(self._round, self.rounds_per_epoch)}/{epochs}",
            "round": f"{self._round}/{self.total}",
            "bar": "",
            "percent": f"{int(100 * self._fraction())}%",
        }
        if self._losses:
            parts["losses"] = "  ".join(f"{key} {value:.{digits}f}" for key, value in self._losses.items())
        mean = _speed(self._first, self._recent)
        speed = mean if self._ended else _speed(next(iter(self._recent), None), self._recent)
        if speed is not None:
            parts["speed"] = f"{speed:,.0f} img/s" if speed >= 10 else f"{speed:.2f} img/s"
        if self._wait_share > _WAIT_SHOWN and not self._ended:
            parts["waits"] = f"waits for data {100 * min(1.0, self._wait_share):.0f} %"
        took = _clock((self._ended or monotonic()) - self._began)
        parts["elapsed"] = f"took {took}" if self._ended else took
        if mean and not self._ended:
            # The mean is steadier than the speed of now, and counts pauses for evaluation at their share.
            parts["left"] = f"left {_clock((self.total - self._round) * self.images_per_round / mean)}"
        return parts

    def _fraction(self) -> float:
        return min(1.0, self._round / self.total) if self.total else 1.0


def _terminal(file: TextIO) -> Console | None:
    """A console if `file` is a terminal that can redraw a line."""
    if not file.isatty():
        return None
    console = Console(file=file, force_terminal=True, force_jupyter=False)
    return None if console.is_dumb_terminal else console


def _speed(since: tuple[float, int] | None, until: deque[tuple[float, int]]) -> float | None:
    """Images per second from `since` to the latest of `until`, None if there were none or no time has passed."""
    if since is None or until[-1][0] <= since[0] or until[-1][1] <= since[1]:
        return None
    return (until[-1][1] - since[1]) / (until[-1][0] - since[0])


def _epoch(round: int, rounds_per_epoch: float) -> int:
    """The epoch, from 1, that the last of `round` rounds belongs to."""
    # Rounds per epoch may be a fraction: 3 epochs must not become 4 through its rounding error.
    return max(1, math.ceil(round / rounds_per_epoch - 1e-6))


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"

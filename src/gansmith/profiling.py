"""Where the time of a round goes, measured from outside: `gansmith bench step`.

The loop is the real one (`training.play`) with the real record, in a folder that is thrown away; what it calls is
wrapped, so that games and players hold no timers.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from gansmith import players
from gansmith.build import Experiment, build, choose_device
from gansmith.cuda_math import cuda_math
from gansmith.errors import UserError
from gansmith.recipe import Recipe, is_run, plan, to_dict
from gansmith.record import Record
from gansmith.report.live import Live
from gansmith.report.log import RunLog
from gansmith.run import environment
from gansmith.training import alone, play

Say = Callable[[str], None]
OTHER = "other"
BLOCK_SECONDS = 0.25
"""Rounds are timed in blocks of about this length, or of a period of lazy penalties where that is longer."""
LONGEST_PERIOD = 128
"""Rounds of a period of lazy penalties: what can still be timed several times over."""
LAZY = 16
"""Moves of D to one with penalties, as a switch: the paper's (Karras et al. 2020, arXiv 1912.04958, section 3.1)."""


# ---- spans -----------------------------------------------------------------------------------------------------


class Clock:
    """Seconds by the name of the innermost open span; what no span covers is OTHER.

    Before it is read, the device has done all that was queued (`wait`), so that the time of a kernel goes to the span
    that launched it.
    """

    def __init__(self, wait: Callable[[], None]) -> None:
        self.wait = wait
        self.seconds: dict[str, float] = {}
        self._open = [OTHER]
        self._closed = False
        self._since = 0.0

    def start(self) -> None:
        self.wait()
        self.seconds, self._since = {}, time.perf_counter()

    def switch(self) -> None:
        """Give the time since the last switch to the span that is open."""
        self.wait()
        now = time.perf_counter()
        name = self._open[-1]
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._since
        self._since = now

    @contextmanager
    def span(self, name: str, *, closed: bool = False) -> Iterator[None]:
        """Time of the block belongs to `name`; of a closed span also that of the spans within."""
        if self._closed:
            yield
            return
        self.switch()
        self._open.append(name)
        self._closed = closed
        try:
            yield
        finally:
            self._closed = False
            self.switch()
            self._open.pop()

    def timed(self, name: str, function: Callable[..., Any], *, closed: bool = False) -> Callable[..., Any]:
        def wrapped(*args: Any, **options: Any) -> Any:
            with self.span(name, closed=closed):
                return function(*args, **options)

        return wrapped


class TimedNet(nn.Module):
    """A player's network whose forward passes are a span."""

    def __init__(self, net: nn.Module, clock: Clock, name: str) -> None:
        super().__init__()
        self.net = net
        self.clock, self.name = clock, name

    def forward(self, *inputs: Any) -> Any:
        with self.clock.span(self.name):
            return self.net(*inputs)


class TimedStream:
    """A stream whose batches are a span."""

    def __init__(self, stream: Any, clock: Clock) -> None:
        self._stream, self._clock = stream, clock

    def __iter__(self) -> TimedStream:
        return self

    def __next__(self) -> Any:
        with self._clock.span("data"):
            return next(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def instrumented(experiment: Experiment, record: Record, clock: Clock) -> Iterator[None]:
    """Wrap what the loop and the game call; afterwards all is as before."""
    game, state = experiment.game, experiment.state
    before: list[tuple[Any, str, Any]] = []

    def put(owner: Any, name: str, value: Any) -> None:
        before.append((owner, name, owner.__dict__.get(name, before)))  # `before` stands for: only its class has it
        setattr(owner, name, value)

    def wrap(owner: Any, name: str, span: str, *, closed: bool = False) -> None:
        put(owner, name, clock.timed(span, getattr(owner, name), closed=closed))

    def backward(name: str) -> None:
        method = getattr(players.MeanGradients, name)

        def timed(mean: players.MeanGradients, *args: Any, **options: Any) -> Any:
            with clock.span(f"backward for {' and '.join(player.name for player in mean.players)}"):
                return method(mean, *args, **options)

        put(players.MeanGradients, name, timed)

    try:
        put(experiment, "stream", TimedStream(experiment.stream, clock))
        backward("add")
        backward("take")
        for player in game.players:
            wrap(player, "step", "optimizers")
            wrap(player, "average", "moving average")
            net = player.net
            before.append((player, "net", net))
            player.net = TimedNet(net, clock, f"forward of {player.name}")
        parts = vars(game)
        if "prior" in parts:
            wrap(parts["prior"], "sample", "noise")
        if "penalty" in parts:
            put(game, "penalty", clock.timed("penalty", parts["penalty"], closed=True))
        for name in ("metrics", "judged"):
            if hasattr(game, name):
                wrap(game, name, "log")
        wrap(record, "after_round", "log")
        wrap(state, "begin_round", "copy to take back")
        wrap(experiment.schedules, "apply", "schedules")
        yield
    finally:
        for owner, name, value in reversed(before):
            if value is before:
                delattr(owner, name)
            else:
                setattr(owner, name, value)


# ---- the bench -------------------------------------------------------------------------------------------------


class Bench:
    """A recipe that is played on and on in a folder of its own, without pictures, checkpoints and scores."""

    def __init__(self, what: str | Path, flags: Mapping[str, Any], device: torch.device, folder: Path) -> None:
        rare = {"sample_interval": 10**9, "checkpoint.interval": 10**9, "evaluation.every": 0}
        recipe = plan(what, flags={**flags, **rare}).recipe
        # Some seconds of rounds are few: auto does not compile here.
        engine = replace(recipe.engine, compile=recipe.engine.compile is True)
        self.recipe = replace(recipe, engine=engine)
        self.device = device
        # So many rounds in a row hold equally many of each penalty wherever they start, however often D moves in one.
        every = [penalty.args["every"] for penalty in self.recipe.penalties]
        self.period = math.lcm(*every)
        if self.period > LONGEST_PERIOD:
            raise UserError(
                f"penalties with every: {', '.join(map(str, every))} repeat after {self.period} rounds, and bench step"
                f" times whole periods of at most {LONGEST_PERIOD}; give them the same every, at most"
                f" {min(max(every), LONGEST_PERIOD)}"
            )
        self.notes: list[str] = []
        """What building said of the engine: who is not compiled, and why."""
        self.experiment = build(self.recipe, device, say=self._note, progress=False)
        self.log = RunLog(folder, tensorboard=False)
        self.record = Record(folder, self.recipe, self.experiment, self.log, device)
        self.live = Live(start=0, total=1, rounds_per_epoch=1, images_per_round=1, images=0, quiet=True)

    def _note(self, text: str) -> None:
        if text.startswith("engine."):
            self.notes.append(text)

    def wait(self) -> None:
        synchronize(self.device)

    def play(self, rounds: int) -> float:
        """The seconds that so many rounds take, all that the device was given done."""
        with cuda_math(tf32=self.recipe.engine.precision == "tf32"):
            self.wait()
            began = time.perf_counter()
            play(self.experiment, self.record, self.live, self.experiment.state.round + rounds)
            self.wait()
            return time.perf_counter() - began

    def warm_up(self, least: int = 10, seconds: float = 1.0) -> tuple[float, int]:
        """Seconds of the first round, and how many rounds make a block: whole periods."""
        first = self.play(1)
        began, rounds = time.perf_counter(), 0
        while rounds < least or time.perf_counter() - began < seconds:
            self.play(1)
            rounds += 1
            if time.perf_counter() - began > 5 * seconds:  # rounds of seconds are warm after a few
                break
        return first, whole(BLOCK_SECONDS * rounds / (time.perf_counter() - began), self.period)

    def close(self) -> None:
        self.log.close()
        self.experiment.stream.close()


def whole(rounds: float, period: int) -> int:
    """About so many rounds that they are whole periods, at least one."""
    return max(1, round(rounds / period)) * period


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


# ---- floating-point operations, bytes, ceilings ----------------------------------------------------------------


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Keeps every matrix product and convolution with its operands, and counts operations and bytes.

    Formulas are those of torch's FlopCounterMode; that itself follows modules by hooks, which autograd refuses in a
    gradient of a gradient (wgan_gp).
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.rounds = 1
        """How many rounds of a period this stands for."""
        self.products: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = []
        self.flops = 0
        """Of the products: 2 m n k for an (m, k) by (k, n)."""
        self.bytes = 0
        """Of operands and results of all operations but views: what would be moved if nothing stayed in a cache."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        alias = [r.alias_info for r in func._schema.returns if r.alias_info is not None]
        if not any(not info.is_write for info in alias):  # a view moves nothing
            self.bytes += sum(_bytes(x) for x in (*args, *(kwargs or {}).values(), result))
        if func._overloadpacket in flop_registry:
            self.products.append((func, args, kwargs or {}))
            self.flops += int(flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result))
        return result


def _bytes(x: Any) -> int:
    if isinstance(x, Tensor):
        return x.numel() * x.element_size()
    return sum(map(_bytes, x)) if isinstance(x, (list, tuple)) else 0


@torch.no_grad()
def own_products(recorder: Recorder) -> None:
    """All products of the recorded round once more, one after the other, with nothing in between."""
    for function, args, options in recorder.products:
        function(*args, **options)


def large_product(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], Any], int]:
    """A product n x n x n that keeps the device busy, and its operations."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = torch.randn(n, n, device=device, dtype=dtype), torch.randn(n, n, device=device, dtype=dtype)
    out = torch.empty_like(a)
    return (lambda: torch.mm(a, b, out=out)), 2 * n**3


def large_copy(device: torch.device) -> tuple[Callable[[], Any], int]:
    """A copy that no cache holds, and the bytes that it reads and writes."""
    source = torch.zeros((1 << 30 if device.type == "cuda" else 1 << 28) // 4, device=device)
    target = torch.empty_like(source)
    return (lambda: target.copy_(source)), 2 * 4 * source.numel()


def seconds_of(function: Callable[[], Any], device: torch.device, times: int = 1) -> float:
    """Seconds of one call, the mean of several in a row, the device's work included."""
    synchronize(device)
    began = time.perf_counter()
    for _ in range(times):
        function()
    synchronize(device)
    return (time.perf_counter() - began) / times


# ---- the result ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spread:
    """A median with the smallest and the largest of what was measured."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))


@dataclass(frozen=True)
class Switch:
    """What one setting changes, measured in turns with the recipe as it is."""

    key: str
    value: Any
    speedup: Spread | None
    """Times as many rounds per second; None where it could not be measured."""
    first_round: float
    """Seconds of the first round more than that of the recipe as it is: what a compiler takes."""
    note: str = ""
    """Why it could not be measured, or what of it was left out."""


@dataclass(frozen=True)
class Profile:
    """Where the time of a round goes, and what the device could do at most."""

    recipe: str
    batch_size: int
    images_per_round: int
    rounds: int
    """That were timed by parts."""
    parts: Mapping[str, Spread]
    """ms by part; the medians are of one block of rounds, the median one, so that they add up to `round_by_parts`."""
    round_by_parts: Spread
    """ms of a round while its parts are timed."""
    round: Spread
    """ms of an undisturbed round."""
    flops: int
    """Of the products of one round; as all that follows the mean over a period, where penalties are lazy."""
    product_count: int
    own_products: Spread
    """ms of the round's own products, one after the other."""
    product_speed: Mapping[str, Spread]
    """FLOP/s of a large product by data type."""
    bytes: int
    """Touched by the operations of one round."""
    copy_speed: Spread
    """Bytes/s."""
    switches: Sequence[Switch]
    hardware: Mapping[str, Any]

    @property
    def flops_per_second(self) -> float:
        return self.flops / (self.round.median / 1e3)

    @property
    def images_per_second(self) -> float:
        return self.images_per_round / (self.round.median / 1e3)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            **asdict(self),
            "flops_per_second": self.flops_per_second,
            "images_per_second": self.images_per_second,
        }


def profile(
    what: str | Path = "gan",
    *,
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    seconds: float = 25.0,
    switches: bool = True,
    say: Say = print,
) -> Profile:
    """Measure the rounds of a recipe on this device, for about `seconds`, compilers apart.

    switches: measure what other settings of its section `engine` and lazy penalties would change, too. UserError for a
    run, and for what cannot be built.
    """
    if is_run(what):
        raise UserError(f"{what} is a run; this measures a recipe: gansmith bench step {Path(what) / 'recipe.yaml'}")
    flags = dict(overrides or {})
    resolved = plan(what, flags=flags)
    where = choose_device(device)
    share = seconds / 10
    precision = resolved.recipe.engine.precision
    with alone(where, tf32=precision == "tf32"), tempfile.TemporaryDirectory(prefix="gansmith-bench-") as folder:
        say("building, and the first rounds")
        bench = Bench(what, flags, where, Path(folder, "bench"))
        try:
            first, block = bench.warm_up()
            kinds = record_rounds(what, flags, bench, Path(folder, "recorded"))
            say(f"rounds, {block} at a time, their parts and products, and what the device can do at most, in turns")
            turns = _in_turns(bench, block, kinds, 6 * share)
            flops = _mean(kinds, [kind.flops for kind in kinds])
            touched = _mean(kinds, [kind.bytes for kind in kinds])
            count = _mean(kinds, [len(kind.products) for kind in kinds])
            del kinds  # the operands take memory
            tried = _switches(what, flags, bench, first, block, share, Path(folder), say) if switches else []
            images = bench.experiment.state.images / bench.experiment.state.round
        finally:
            bench.close()
        hardware = environment(where)
    parts = turns.parts
    totals = [sum(one.values()) for one in parts]
    middle = parts[sorted(range(len(totals)), key=totals.__getitem__)[(len(totals) - 1) // 2]]
    names = sorted({name for one in parts for name in one}, key=lambda name: (name == OTHER, -middle.get(name, 0.0)))
    ms = {
        name: Spread(
            middle.get(name, 0.0),
            min(one.get(name, 0.0) for one in parts),
            max(one.get(name, 0.0) for one in parts),
        )
        for name in names
    }
    return Profile(
        recipe=resolved.label,
        batch_size=resolved.recipe.batch_size,
        images_per_round=round(images),
        rounds=block * len(parts),
        parts=ms,
        round_by_parts=Spread(sum(middle.values()), min(totals), max(totals)),
        round=Spread.of(turns.round),
        flops=round(flops),
        product_count=round(count),
        own_products=Spread.of(turns.own),
        product_speed={name: Spread.of(speeds) for name, speeds in turns.products.items()},
        bytes=round(touched),
        copy_speed=Spread.of(turns.copies),
        switches=tried,
        hardware={key: value for key, value in hardware.items() if key != "command"},
    )


def _floating(x: Any) -> bool:
    return isinstance(x, Tensor) and x.is_floating_point()


@dataclass
class _Turns:
    """What was measured in turns, so that other work on the machine slows all alike."""

    round: list[float]
    parts: list[dict[str, float]]
    own: list[float]
    """ms"""
    products: dict[str, list[float]]
    copies: list[float]
    """per second"""


def _in_turns(bench: Bench, block: int, kinds: Sequence[Recorder], seconds: float) -> _Turns:
    device = bench.device
    dtypes = {x.dtype for kind in kinds for _, args, _ in kind.products for x in args if _floating(x)}
    large = {str(dtype).removeprefix("torch."): large_product(device, dtype) for dtype in {torch.float32, *dtypes}}
    copy, moved = large_copy(device)
    own = [partial(own_products, kind) for kind in kinds]
    warming: list[Callable[[], Any]] = [copy, *(product for product, _ in large.values()), *own]
    for warm in warming:
        seconds_of(warm, device, 2)
    turns, clock = _Turns([], [], [], {name: [] for name in large}, []), Clock(bench.wait)
    began = time.perf_counter()
    while len(turns.parts) < 5 or time.perf_counter() - began < seconds:
        turns.round.append(1e3 * bench.play(block) / block)
        with instrumented(bench.experiment, bench.record, clock):
            clock.start()
            bench.play(block)
            clock.switch()
        turns.parts.append({name: 1e3 * s / block for name, s in clock.seconds.items()})
        repeats = [kind.rounds * block // bench.period for kind in kinds]
        turns.own.append(1e3 * _mean(kinds, [seconds_of(o, device, n) for o, n in zip(own, repeats, strict=True)]))
        for name, (product, operations) in large.items():
            turns.products[name].append(operations / seconds_of(product, device))
        turns.copies.append(moved / seconds_of(copy, device))
    return turns


def record_rounds(what: str | Path, flags: Mapping[str, Any], bench: Bench, folder: Path) -> list[Recorder]:
    """The operations of the rounds of a period, one recorder for those with equally many: usually a single round.

    Of a compiled recipe those of the same without the compiler, which hides them.
    """
    compiled = bench.recipe.engine.compile
    plain = Bench(what, {**flags, "engine.compile": False}, bench.device, folder) if compiled else bench
    kinds: dict[int, Recorder] = {}
    try:
        for _ in range(bench.period):
            with Recorder() as recorder:
                plain.play(1)
            if (known := kinds.setdefault(recorder.flops, recorder)) is not recorder:
                known.rounds += 1
    finally:
        if compiled:
            plain.close()
    return list(kinds.values())


def _mean(kinds: Sequence[Recorder], values: Sequence[float]) -> float:
    """The mean over the rounds of a period of a value for each kind."""
    total = sum(kind.rounds for kind in kinds)
    return sum(kind.rounds * value for kind, value in zip(kinds, values, strict=True)) / total


# ---- switches --------------------------------------------------------------------------------------------------


def alternatives(section: Any) -> list[tuple[str, Any]]:
    """(field, value) for every other value of each yes-or-no field and each choice of a section of the recipe.

    "auto" is not one: it chooses among the others by the length of a run.
    """
    hints = typing.get_type_hints(type(section))
    found: list[tuple[str, Any]] = []
    for f in fields(section):
        here, kind = getattr(section, f.name), hints[f.name]
        choices: Sequence[Any] = (False, True) if kind is bool else typing.get_args(kind)
        if isinstance(kind, types.UnionType):  # a choice or null
            choices = ()
        found += [(f.name, value) for value in choices if value not in (here, "auto")]
    return found


def _switches(
    what: str | Path,
    flags: Mapping[str, Any],
    bench: Bench,
    first: float,
    block: int,
    seconds: float,
    folder: Path,
    say: Say,
) -> list[Switch]:
    engine, found = bench.recipe.engine, []
    for name, value in alternatives(engine):
        key = f"engine.{name}"
        if name == "channels_last" and not any(
            p.dim() == 4 for one in bench.experiment.game.players for p in one.parameters
        ):
            found.append(Switch(key, value, None, 0.0, "the networks have no convolutions"))
            continue
        say(f"{key} {value}, in turns with {getattr(engine, name)}")
        found.append(measure_switch(what, flags, key, value, bench, first, block, seconds, folder / f"{name}-{value}"))
    if (lazy := with_lazy_penalties(bench.recipe)) is not None:
        say(f"penalties on every {LAZY}th move of D, in turns with every one")
        rest = {key: flag for key, flag in flags.items() if not key.startswith("penalties")}  # all are in `lazy`
        one = measure_switch(what, rest, "penalties", lazy, bench, first, block, seconds, folder / "lazy")
        note = "; ".join(filter(None, [one.note, "fewer and larger penalties: another training"]))
        found.append(replace(one, key="penalties every", value=LAZY, note=one.note if one.speedup is None else note))
    return found


def with_lazy_penalties(recipe: Recipe) -> list[dict[str, Any]] | None:
    """The recipe's penalties, those that are taken on every move on every LAZY-th instead; None where none is."""
    penalties = to_dict(recipe)["penalties"]
    if all(penalty["every"] > 1 for penalty in penalties):
        return None
    return [{**penalty, "every": LAZY if penalty["every"] == 1 else penalty["every"]} for penalty in penalties]


def measure_switch(
    what: str | Path,
    flags: Mapping[str, Any],
    key: str,
    value: Any,
    bench: Bench,
    first: float,
    block: int,
    seconds: float,
    folder: Path,
) -> Switch:
    """The speed with another value of one key, in turns with that of `bench`: ratios of neighbouring blocks."""
    try:
        other = Bench(what, {**flags, key: value}, bench.device, folder)
    except UserError as error:
        return Switch(key, value, None, 0.0, str(error))
    try:
        first_other, _ = other.warm_up()
        block = whole(block, math.lcm(bench.period, other.period))
        ratios: list[float] = []
        began = time.perf_counter()
        while len(ratios) < 5 or time.perf_counter() - began < seconds:
            ratios.append(bench.play(block) / other.play(block))
        return Switch(key, value, Spread.of(ratios), first_other - first, "; ".join(other.notes))
    except Exception as error:  # a device or a compiler that cannot do it is a result
        return Switch(key, value, None, 0.0, shorten(f"{type(error).__name__}: {error}", 160))
    finally:
        other.close()


# ---- words -----------------------------------------------------------------------------------------------------


def report(p: Profile) -> str:
    """The profile as a page of text: parts, ceilings, switches, hardware."""
    wide = max(map(len, [*p.parts, "a round by its parts"]))
    lines = [
        f"{p.recipe}, batches of {p.batch_size}: {p.images_per_second:,.0f} images/s,"
        f" a round of {p.images_per_round} images takes {_ms(p.round)}",
        "",
        f"{'':{wide}}  {'ms':>9}  {'share':>6}  lowest to highest",
    ]
    total = p.round_by_parts.median
    for name, spread in [*p.parts.items(), ("a round by its parts", p.round_by_parts)]:
        lines.append(
            f"{name:{wide}}  {spread.median:9.3f}  {100 * spread.median / total:5.1f} %"
            f"  {spread.low:.3f} to {spread.high:.3f}"
        )
    lines += [
        "",
        "Backward passes include norm and check of the gradients; the penalty includes D's passes in it.",
        f"Timing the parts changes the length of a round by {100 * (total / p.round.median - 1):+.0f} %.",
        "",
        f"products of a round   {p.flops / 1e9:.4g} GFLOP in {p.product_count} matrix products and convolutions",
        f"achieved              {p.flops_per_second / 1e9:,.1f} GFLOP/s",
        f"the same products     {_ms(p.own_products)}, one after the other and nothing else:"
        f" {p.flops / p.own_products.median / 1e6:,.1f} GFLOP/s, {100 * p.own_products.median / p.round.median:.0f} %"
        " of a round",
    ]
    for kind, speed in p.product_speed.items():
        lines.append(
            f"a large product       {_range(speed, 1e9)} GFLOP/s in {kind}: a round achieves"
            f" {100 * p.flops_per_second / speed.median:.0f} %"
        )
    moved = p.bytes / (p.round.median / 1e3)
    lines += [
        f"memory                operations touch {p.bytes / 1e6:,.1f} MB a round, {moved / 1e9:,.1f} GB/s",
        f"a large copy          {_range(p.copy_speed, 1e9)} GB/s read and written",
    ]
    if p.switches:
        lines += [
            "",
            "switches, each against the recipe as it is (times as fast, lowest to highest of neighbouring blocks)",
        ]
        for switch in p.switches:
            name = f"{switch.key} {str(switch.value).lower() if isinstance(switch.value, bool) else switch.value}"
            if switch.speedup is None:
                lines.append(f"  {name:28}  not here: {switch.note}")
            else:
                compiled = f", first round {switch.first_round:+.1f} s" if abs(switch.first_round) > 0.5 else ""
                s = switch.speedup
                lines.append(f"  {name:28}  {s.median:.2f} ({s.low:.2f} to {s.high:.2f}){compiled}")
                lines += [f"  {'':28}  {switch.note}"] * bool(switch.note)
    shown = ("device", "device_name", "cuda", "cores", "threads", "torch", "python", "gansmith", "commit")
    lines += ["", "on " + ", ".join(f"{key} {p.hardware[key]}" for key in shown if p.hardware.get(key) is not None)]
    return "\n".join(lines) + "\n"


def _ms(s: Spread) -> str:
    return f"{s.median:.3f} ms ({s.low:.3f} to {s.high:.3f})"


def _range(s: Spread, unit: float) -> str:
    return f"{s.median / unit:,.1f} ({s.low / unit:,.1f} to {s.high / unit:,.1f})"

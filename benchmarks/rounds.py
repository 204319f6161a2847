"""Where the time of a round goes, whatever the game, and how near it comes to the device's ceilings.

    python benchmarks/rounds.py gan
    python benchmarks/rounds.py wgan_gp --batch_size 256 --device cuda --json

Any key of a recipe is a flag, and nothing is kept. The loop is the real one, with its record in a folder that is
thrown away. What the rounds of every game pass through is timed for the length of a measurement, so that no game,
player or network holds a timer.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from gansmith import players, strict_json
from gansmith.batch import Batch
from gansmith.build import Experiment, build, settled
from gansmith.cli import recipe_words
from gansmith.data.stream import Stream
from gansmith.engine import choose_device
from gansmith.errors import UserError
from gansmith.penalties import PenaltySum
from gansmith.players import Player
from gansmith.recipe import Recipe, Resolved, plan
from gansmith.run.folder import environment
from gansmith.run.live import Live
from gansmith.run.log import RunLog
from gansmith.run.record import Record
from gansmith.state import State
from gansmith.tables import Table
from gansmith.training import alone, play

Say = Callable[[str], None]
PARTS: Sequence[tuple[Any, str, str]] = (
    (Stream, "__next__", "data"),
    (State, "begin_round", "copy to take back"),
    (PenaltySum, "__call__", "penalties"),
    (players, "_norm", "norms and check"),
    (players, "_check_finite", "norms and check"),
    (Player, "step", "optimizers"),
    (Player, "average", "moving average"),
    (Record, "after_round", "log"),
)
"""What rounds call, and the part that its time belongs to; `timed` adds losses, networks, their gradients and noise."""
OTHER = "other"


@contextmanager
def timed(experiment: Experiment, device: torch.device) -> Iterator[dict[str, float]]:
    """Time the parts of the rounds that are played in this block: seconds by part, complete at its end.

    A moment belongs to the innermost part that is at work, else to OTHER. At every border the device first finishes
    what was queued, so that the time of a kernel goes to the part that launched it.
    """
    grad, parts = torch.autograd.grad, Batch.parts
    owners = {id(p): player.name for player in experiment.game.players for p in player.parameters}
    at_work, seconds, since = [OTHER], dict[str, float](), finish(device)

    def switch() -> None:
        nonlocal since
        now, name = finish(device), at_work[-1]
        seconds[name], since = seconds.get(name, 0.0) + now - since, now

    @contextmanager
    def at(part: str) -> Iterator[None]:
        switch()
        at_work.append(part)
        try:
            yield
        finally:
            switch()
            at_work.pop()

    def timed_grad(outputs: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        given = [inputs] if isinstance(inputs, Tensor) else inputs
        names = dict.fromkeys(owners[id(p)] for p in given if id(p) in owners)
        # Any other gradient is a part of a loss, such as a penalty's.
        with at(f"backward for {' and '.join(names)}" if names else at_work[-1]):
            return grad(outputs, inputs, *args, **options)

    def timed_parts(batch: Batch, most: int) -> Iterator[Batch]:
        for part in parts(batch, most):
            with at("losses"):  # until the next part is asked for
                yield part

    rows = [*PARTS, (type(experiment.prior), "sample", "noise")]
    for player in experiment.game.players:  # around what torch.compile has made of it
        call = "_call_impl" if player.net._compiled_call_impl is None else "_compiled_call_impl"
        rows.append((player.net, call, f"forward of {player.name}"))
    with ExitStack() as held:
        held.enter_context(patch.object(torch.autograd, "grad", timed_grad))
        held.enter_context(patch.object(Batch, "parts", timed_parts))
        for owner, name, part in rows:
            held.enter_context(patch.object(owner, name, at(part)(getattr(owner, name))))
        yield seconds
        switch()


class Bench:
    """A recipe that is played on and on in a folder of its own, without pictures, checkpoints and scores."""

    def __init__(self, recipe: Recipe, device: torch.device, folder: Path, say: Say) -> None:
        never = 10**9
        kept, scores = replace(recipe.checkpoint, interval=never, keep_every=0), replace(recipe.evaluation, every=0)
        recipe = replace(settled(recipe, device, say), sample_interval=never, checkpoint=kept, evaluation=scores)
        self.device = device
        # So many rounds in a row hold equally many of each penalty wherever they start, however often D moves in one.
        self.period = math.lcm(*(penalty.args["every"] for penalty in recipe.penalties))
        self.experiment = build(recipe, device, say=say, progress=False)
        self.log = RunLog(folder, tensorboard=False)
        self.record = Record(folder, recipe, self.experiment, self.log, device, lambda text: None)
        self.live = Live(start=0, total=1, rounds_per_epoch=1, images_per_round=1, quiet=True)

    def play(self, rounds: int) -> float:
        """The seconds that so many rounds take."""
        total = self.experiment.state.round + rounds
        return seconds_of(lambda: play(self.experiment, self.record, self.live, total), self.device)

    def warm_up(self) -> int:
        """How many rounds make a block: whole periods, of about a quarter of a second or longer."""
        self.play(3)
        return max(1, round(0.25 / (self.play(5) / 5) / self.period)) * self.period

    def close(self) -> None:
        self.log.close()
        self.experiment.stream.close()


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations of matrix products and convolutions, 2 m n k for an (m, k) by (k, n), and bytes.

    Formulas are those of torch's FlopCounterMode; that itself follows modules by hooks, which autograd refuses in a
    gradient of a gradient. Bytes: operands and results of all operations but views, as if nothing stayed in a cache.
    """

    flops = bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if all(r.alias_info is None or r.alias_info.is_write for r in func._schema.returns):
            read = args[1:] if func is torch.ops.aten.index_select.default else args  # of a data set only some rows
            there = tree_leaves((read, kwargs, result))
            self.bytes += sum(x.numel() * x.element_size() for x in there if isinstance(x, Tensor))
        if func._overloadpacket in flop_registry:
            self.flops += int(flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=result))
        return result


def recorded(bench: Bench) -> tuple[float, float]:
    """Operations and bytes of a round, the mean over a period; without torch.compile, which would hide them."""
    with torch.compiler.set_stance("force_eager"), Recorder() as recorder:  # type: ignore[no-untyped-call]
        bench.play(bench.period)
    return recorder.flops / bench.period, recorder.bytes / bench.period


def finish(device: torch.device) -> float:
    """The time when the device has done all that was queued."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter()


def seconds_of(call: Callable[[], Any], device: torch.device) -> float:
    """Seconds of a call, the device's work included."""
    began = finish(device)
    call()
    return finish(device) - began


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def profile(resolved: Resolved, device: str = "auto", seconds: float = 20.0, say: Say = print) -> dict[str, Any]:
    """Measure the rounds of a recipe on a device, for about `seconds`: plain data for JSON and `table`.

    ms of an undisturbed round and by part: those under "median" are of the median block, and add up to its round.
    Ceilings: what a large product and a large copy achieve a second, beside what a round has of both, which is the mean
    over a period where penalties are lazy. UserError for a run.
    """
    recipe, where = resolved.recipe, choose_device(device)
    if resolved.run is not None:
        raise UserError(f"{resolved.run} is a run; what can be measured is its recipe: {resolved.run / 'recipe.yaml'}")
    with ExitStack() as held:
        held.enter_context(alone(where, tf32=recipe.engine.precision == "tf32"))
        folder = held.enter_context(tempfile.TemporaryDirectory(prefix="gansmith-bench-"))
        bench = held.enter_context(closing(Bench(recipe, where, Path(folder), say)))
        block = bench.warm_up()
        flops, touched = recorded(bench)
        n, size = (8192, 1 << 28) if where.type == "cuda" else (1024, 1 << 26)  # busy all over; more than caches hold
        dtype = torch.bfloat16 if recipe.engine.precision == "bfloat16" else torch.float32
        a, product = (torch.randn(n, n, device=where, dtype=dtype) for _ in range(2))
        source, target = (torch.randn(size, device=where) for _ in range(2))
        torch.mm(a, a, out=product)
        say(f"{block} rounds at a time, undisturbed and by parts, a large product and a large copy, in turns")
        rounds, by_part, products, copies = list[float](), list[dict[str, float]](), list[float](), list[float]()
        until = time.perf_counter() + seconds
        while len(rounds) < 5 or time.perf_counter() < until:
            rounds.append(1e3 * bench.play(block) / block)
            with timed(bench.experiment, where) as found:
                bench.play(block)
            by_part.append({part: 1e3 * s / block for part, s in found.items()})
            products.append(2 * n**3 / seconds_of(lambda: torch.mm(a, a, out=product), where))
            copies.append(2 * 4 * size / seconds_of(lambda: target.copy_(source), where))
    ms, middle = statistics.median(rounds), sorted(by_part, key=lambda one: sum(one.values()))[len(by_part) // 2]
    names = sorted({part for one in by_part for part in one}, key=lambda part: (part == OTHER, -middle.get(part, 0.0)))

    def ceiling(unit: str, here: float, there: Sequence[float]) -> dict[str, Any]:
        second = spread(there)
        return {"unit": unit, "round": here, "second": second, "share": 1e3 * here / ms / second["median"]}

    return {
        "recipe": resolved.label,
        "batch_size": recipe.batch_size,
        "images_per_second": 1e3 * bench.experiment.state.images / bench.experiment.state.round / ms,
        "round": spread(rounds),
        "parts": {p: spread([one.get(p, 0.0) for one in by_part]) | {"median": middle.get(p, 0.0)} for p in names},
        "ceilings": {"product": ceiling("FLOP", flops, products), "copy": ceiling("B", touched, copies)},
        "hardware": {key: value for key, value in environment(where).items() if key != "command"},
    }


def table(found: Mapping[str, Any]) -> Table:
    """A profile as a page: the parts, below them the ceilings and the machine."""
    total = sum(ms["median"] for ms in found["parts"].values())
    rows, below = [], []
    for part, ms in {**found["parts"], "a round, parts not timed": found["round"]}.items():
        middle, *ends = (f"{x:.3f}" for x in ms.values())
        rows.append([part, middle, f"{ms['median'] / total:.1%}", *ends])
    for name, c in found["ceilings"].items():
        unit, (median, low, high) = f"G{c['unit']}", [x / 1e9 for x in c["second"].values()]
        below.append(
            f"{c['round'] / 1e9:.4g} {unit} a round, {c['share']:.0%} of a large {name}:"
            f" {median:,.1f} {unit}/s ({low:,.1f} to {high:,.1f})"
        )
    on = "on " + ", ".join(f"{key} {value}" for key, value in found["hardware"].items() if value is not None)
    above = f"{found['recipe']}, batches of {found['batch_size']}: {found['images_per_second']:,.0f} images/s"
    return Table(["", "ms", "share", "lowest", "highest"], rows, above=[above], below=[*below, on])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    options, words = parser.parse_known_args()
    try:
        with redirect_stdout(sys.stderr):
            what, flags = recipe_words("gan", tuple(words), {})
            found = profile(plan(what, flags=flags), options.device)
    except UserError as error:
        parser.error(str(error))
    if options.json:
        print(strict_json.dumps(found, indent=1))
    else:
        table(found).show()


if __name__ == "__main__":
    main()

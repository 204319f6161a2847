"""How long a recipe trains until a score on held-back images is reached: seconds, images, rounds, hardware.

    python benchmarks/time_to_quality.py gan --until 'fd<=60' --data.validation 10000

A goal names a value of gansmith evaluate (fd, kd, precision, coverage, class_kl, ...), in quotes. Scores are taken
every --evaluation.every rounds [an epoch] on --data.validation images with --evaluation.n samples, and their time does
not count. Any key of the recipe is a flag.

Interrupted, it goes on where it was: each seed is a run of its own, and what has reached the goal is not trained again.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if "OMP_WAIT_POLICY" not in os.environ:  # as `gansmith train` does, before torch is loaded
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

from gansmith import strict_json
from gansmith.allocator import keep_freed_memory
from gansmith.build import load_split
from gansmith.cli import recipe_words
from gansmith.errors import Diverged, UserError
from gansmith.evaluation.evaluator import Evaluator
from gansmith.evaluation.measures import METRICS, VALUE_OF
from gansmith.evaluation.receipts import number
from gansmith.papers.reproduction import plot_scores
from gansmith.recipe import Recipe, Resolved, is_run, plan, with_full_paths
from gansmith.run.folder import write_text
from gansmith.run.log import read_metrics
from gansmith.run.record import Record
from gansmith.schema import did_you_mean
from gansmith.series import check_same
from gansmith.tables import Table
from gansmith.training import Stopped, train

Say = Callable[[str], None]
SESSIONS = "sessions.jsonl"  # beside the runs: how every session ended and its wall time, which no run keeps


@dataclass(frozen=True)
class Goal:
    """A value and its bound, both as the receipts name and measure them: fd <= 60."""

    value: str
    sign: str
    bound: float

    def met(self, scores: Mapping[str, float]) -> bool:
        """Whether the value is among the scores and within the bound; nan never is."""
        score = scores.get(self.value, math.nan)
        return score <= self.bound if self.sign == "<=" else score >= self.bound

    def __str__(self) -> str:
        return f"{self.value}{self.sign}{self.bound:g}"


def parse_goal(text: str) -> Goal:
    """The goal in "fd<=60" or "coverage>=0.5"; UserError for another form, an unknown value, or the wrong direction."""
    match = re.fullmatch(r"\s*(\w+)\s*(<=|>=)\s*([-+]?\d*\.?\d+(?:e[-+]?\d+)?)\s*", text)
    if match is None:
        raise UserError(f"--until is {text!r}; it must be a value, <= or >=, and a number, in quotes: 'fd<=60'")
    name, sign, bound = match.groups()
    if name not in VALUE_OF:
        near = did_you_mean(name, VALUE_OF)
        raise UserError(f"--until {text}: there is no value {name!r}{near} ({', '.join(VALUE_OF)})")
    better = METRICS[VALUE_OF[name]].values[name][1]
    right = {"lower": "<=", "higher": ">="}.get(better, sign)
    if sign != right:
        raise UserError(f"--until {text}: {name} is better {better}; say {name}{right}{bound}")
    return Goal(name, sign, float(bound))


def time_to_quality(
    what: str | Path,
    until: Sequence[str],
    *,
    seeds: Sequence[int] = (0, 1, 2),
    max_minutes: float = 10.0,
    overrides: Mapping[str, Any] | None = None,
    out: Path | None = None,
    device: str = "auto",
    quiet: bool = False,
    say: Say = print,
) -> dict[str, Any]:
    """Train each seed until all goals hold on the validation images; write result.json, table.md and curves.png.

    until: goals such as "fd<=60". max_minutes: of training, for each seed; the recipe's own length ends it, too. The
    scores are measured every `evaluation.every` rounds: that of `overrides` or of the recipe, else once an epoch. A
    goal that is not reached is a result as well. What result.json holds is returned. UserError for what cannot be
    measured, and for runs in `out` that are of another recipe or were scored otherwise.
    """
    goals, changes = [parse_goal(text) for text in until], dict(overrides or {})
    _check(what, goals, max_minutes, changes)
    metrics = [VALUE_OF[goal.value] for goal in goals]
    flags = {**changes, "evaluation.metrics": [*dict.fromkeys(metrics)], "evaluation.best": None, "minutes": None}
    resolved = plan(what, flags=flags)
    recipe, silent = resolved.recipe, lambda text: None
    options: dict[str, Any] = {"n": recipe.evaluation.n, "reference": "validation", "ceiling": False, "say": silent}
    evaluator = Evaluator(recipe, metrics=metrics, device=device, **options)
    names = {goal.value: evaluator.called(metric, goal.value) for metric, goal in zip(metrics, goals, strict=True)}
    protocol = {name: evaluator.protocol(VALUE_OF[value]) for value, name in names.items()}
    every = flags["evaluation.every"] = recipe.evaluation.every or _epoch(recipe, say)
    folder = out or Path("runs") / f"time-to-quality-{resolved.label}"
    runs = {folder / f"seed-{n}": with_full_paths(plan(what, flags={**flags, "seed": n})) for n in seeds}
    for run in filter(is_run, runs):
        check_same(run, runs[run].recipe, "benchmark")
    rows: list[dict[str, Any]] = []
    for run, wanted in runs.items():
        row = _row(run, wanted.recipe, goals, names, max_minutes) if is_run(run) else None
        if row is None or not (row["reached"] or row["why_not"]):
            say(f"{len(rows) + 1} of {len(runs)}: until {' and '.join(map(str, goals))}, in {run}")
            _train(run, wanted, goals, max_minutes, device, quiet, say)
            row = _row(run, wanted.recipe, goals, names, max_minutes)
        scores = ", ".join(f"{name} {number(value)}" for name, value in row["values"].items())
        ended = f"reached after {row['seconds']:.1f} s" if row["reached"] else f"not reached, {row['why_not']}"
        say(f"seed {row['seed']}: {ended}; round {row['rounds']}: {scores}")
        rows.append(row)
    result = {
        "recipe": resolved.label,
        "changes": changes,
        "goals": [str(goal) for goal in goals],
        "every": every,
        "max_minutes": max_minutes,
        "weights": "average" if recipe.ema.halflife_kimg else "raw",
        "protocol": protocol,
        "hardware": _hardware(runs),
        "rows": rows,
        "summary": summarise(rows),
    }
    write_text(folder / "result.json", strict_json.dumps(result, indent=1) + "\n")
    write_text(folder / "table.md", table(result).markdown())
    logs = {f"seed {wanted.recipe.seed}": run / "metrics.jsonl" for run, wanted in runs.items()}
    targets = {name: [goal.bound for goal in goals if goal.value == value] for value, name in names.items()}
    plot_scores(logs, folder / "curves.png", over="seconds", targets=targets)
    say(f"written: {folder / 'result.json'}, {folder / 'table.md'}, {folder / 'curves.png'}")
    return result


def _check(what: str | Path, goals: Sequence[Goal], max_minutes: float, changes: Mapping[str, Any]) -> None:
    """UserError for what this cannot measure."""
    if not goals:
        raise UserError("there is no goal; give one: --until 'fd<=60'")
    if not max_minutes > 0:
        raise UserError(f"--max-minutes is {max_minutes:g}; it must be more than 0")
    if is_run(what):
        raise UserError(f"{what} is a run; this trains runs of its own from a recipe: {Path(what) / 'recipe.yaml'}")
    if taken := [key for key in ("seed", "minutes", "evaluation.metrics", "evaluation.best") if key in changes]:
        raise UserError(f"{taken[0]} cannot be set here; it follows from --seeds K, --max-minutes M and --until GOAL")


def _epoch(recipe: Recipe, say: Say) -> int:
    """The rounds of an epoch, at least 1."""
    batches = math.ceil(max(map(len, load_split(recipe, "train", say=say))) / recipe.batch_size)
    rounds = max(1, batches // recipe.game.args.get("n_critic", 1))
    say(f"evaluated every {rounds} rounds, which is an epoch; more finely with --evaluation.every N")
    return rounds


def _train(
    run: Path, wanted: Resolved, goals: Sequence[Goal], max_minutes: float, device: str, quiet: bool, say: Say
) -> None:
    """Train the run, or go on with it, and note how that ended."""
    began, ended = time.perf_counter(), "interrupted"

    def enough(record: Record) -> bool:
        nonlocal ended
        scores = {receipt.measure: receipt.value for receipt in record.scores}
        late = record.experiment.state.seconds >= 60 * max_minutes
        ended = "goal" if all(goal.met(scores) for goal in goals) else "time" if late else "interrupted"
        return ended != "interrupted"

    again, length = is_run(run), {"n_epochs": wanted.recipe.n_epochs, "steps": wanted.recipe.steps}
    where: dict[str, Any] = {"what": run, "overrides": length} if again else {"what": wanted, "out": run}
    try:
        train(**where, device=device, quiet=quiet, enough=enough)
        ended = "length" if ended == "interrupted" else ended
    except Diverged as error:
        ended = "diverged"
        say(str(error))
    finally:
        if is_run(run):  # else the training was refused, and there is nothing to be timed
            wall = round(time.perf_counter() - began, 3)
            session = {"seed": wanted.recipe.seed, "ended": ended, "max_minutes": max_minutes, "wall_seconds": wall}
            with (run.parent / SESSIONS).open("a", encoding="utf-8") as file:
                file.write(strict_json.dumps(session) + "\n")


def _row(
    run: Path, recipe: Recipe, goals: Sequence[Goal], names: Mapping[str, str], max_minutes: float
) -> dict[str, Any]:
    """What the log says at the first evaluation that met every goal or, where none did, at the latest.

    Neither reached nor a reason where the run is to go on.
    """
    start = {"round": 0, "seconds": 0.0, "images": 0, "epoch": 0.0}
    log = read_metrics(run / "metrics.jsonl") or [start]
    keys = {value: f"eval/{name}" for value, name in names.items()}
    scored = [(row, {v: float(row[key]) for v, key in keys.items()}) for row in log if {*keys.values()} <= {*row}]
    met = [i for i, (_, scores) in enumerate(scored) if all(goal.met(scores) for goal in goals)]
    at = met[0] if met else len(scored) - 1
    row, scores = scored[at] if scored else (start, {})
    before = scored[at - 1][0] if at > 0 else row  # the goals were reached in between
    file = run.parent / SESSIONS
    lines = map(json.loads, file.read_text(encoding="utf-8").splitlines() if file.exists() else [])
    sessions = [session for session in lines if session["seed"] == recipe.seed]
    return {
        "seed": recipe.seed,
        "run": str(run),
        "reached": bool(met),
        "why_not": "" if met else _why_not(log[-1], sessions, recipe, max_minutes),
        "seconds": row["seconds"],  # of training: without evaluation, and without what precedes the first round
        "images": row["images"],
        "rounds": row["round"],
        "epochs": row["epoch"],
        "values": {names[value]: score for value, score in scores.items()},
        "after_round": before["round"],
        "after_seconds": before["seconds"],
        "trained_seconds": log[-1]["seconds"],
        "wall_seconds": math.fsum(session["wall_seconds"] for session in sessions),  # but of sessions that were killed
    }


def _why_not(last: Mapping[str, Any], sessions: Sequence[Mapping[str, Any]], recipe: Recipe, max_minutes: float) -> str:
    if any(session["ended"] == "diverged" for session in sessions):
        return "diverged"
    if recipe.steps is not None and last["round"] >= recipe.steps:
        return f"{recipe.steps:,} rounds were over (--steps)"
    if recipe.steps is None and last["epoch"] >= recipe.n_epochs - 1e-3:
        return f"{recipe.n_epochs:,} epochs were over (--n_epochs)"
    if any(session["ended"] == "time" and float(session["max_minutes"]) >= max_minutes for session in sessions):
        return f"{max_minutes:g} minutes of training were over (--max-minutes)"
    return ""


def _hardware(runs: Iterable[Path]) -> list[dict[str, Any]]:
    """On what the runs were trained, as each session noted it; one entry for all that are alike."""
    keys = ("device", "device_name", "cuda", "cores", "threads", "torch", "python", "platform", "gansmith", "commit")
    sessions = [one for run in runs for one in json.loads((run / "environment.json").read_text(encoding="utf-8"))]
    found = [{key: one[key] for key in keys if one.get(key) is not None} for one in sessions]
    return [one for i, one in enumerate(found) if one not in found[:i]]


def summarise(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Mean and deviation (n - 1) over the seeds that reached it; the median of all, for which the others are inf."""
    reached = [row["seconds"] for row in rows if row["reached"]]
    median = statistics.median(row["seconds"] if row["reached"] else math.inf for row in rows)
    return {
        "reached": len(reached),
        "of": len(rows),
        "seconds_mean_of_reached": statistics.fmean(reached) if reached else None,
        "seconds_deviation_of_reached": statistics.stdev(reached) if len(reached) > 1 else None,
        "seconds_median_of_all": median if math.isfinite(median) else None,
    }


def table(result: Mapping[str, Any]) -> Table:
    """A row for each seed, then what all say together, and on what."""
    names, rows = list(result["protocol"]), []
    for row in result["rows"]:
        took, before = f"{row['seconds']:.1f}", f"{row['after_round']:,} ({row['after_seconds']:.1f} s)"
        line = [str(row["seed"]), took if row["reached"] else "not reached", f"{row['images']:,}"]
        line += [f"{row['epochs']:.2f}", f"{row['rounds']:,}", before if row["reached"] else ""]
        line += [number(row["values"][name]) if row["values"] else "" for name in names]
        rows.append([*line, f"{row['trained_seconds']:.1f}", f"{row['wall_seconds']:.1f}"])
    changes = "".join(f" --{key} {value}" for key, value in result["changes"].items())
    goals = f"{' and '.join(result['goals'])} on the validation images, {result['weights']} weights"
    below = [
        _summary(result),
        "",
        f"Seconds are of training alone. Scores were taken every {result['every']:,} rounds: the goals were reached",
        'after the round "not yet at". A row that did not reach them shows its last evaluation.',
        "",
        *(f"{name}: {'; '.join(f'{k}: {v}' for k, v in p.items())}" for name, p in result["protocol"].items()),
        *(f"On: {', '.join(f'{k} {v}' for k, v in one.items())}" for one in result["hardware"]),
        *["These are unlike hardware or software: the times do not belong together."] * (len(result["hardware"]) > 1),
    ]
    head = ["seed", "seconds", "images", "epochs", "round", "not yet at", *names, "trained (s)", "wall (s)"]
    return Table(head, rows, left=(), above=[f"{result['recipe']}{changes}: until {goals}"], below=below)


def _summary(result: Mapping[str, Any]) -> str:
    reached, of, mean, deviation, median = result["summary"].values()
    said = f"Reached with {reached} of {of} seeds"
    if mean is not None:
        spread = "" if deviation is None else f" +- {deviation:.1f} (standard deviation)"
        middle = f"median of all {median:.1f} s" if median is not None else "half of them or more did not: no median"
        said += f"; mean of those that did {mean:.1f}{spread} s; {middle}"
    missed = [f"seed {row['seed']}: {row['why_not'] or 'not finished'}" for row in result["rows"] if not row["reached"]]
    return f"{said}. Not reached: {'; '.join(missed)}." if missed else f"{said}."


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=raw, usage=argparse.SUPPRESS, allow_abbrev=False
    )
    parser.add_argument("--until", action="append", default=[], metavar="GOAL", help="'fd<=60'; several must all hold")
    parser.add_argument("--data", metavar="NAME|FOLDER", help="a data set, or a folder of pictures  [the recipe's]")
    parser.add_argument("--seeds", type=int, default=3, metavar="K", help="seeds 0 to K-1: a training of each  [3]")
    parser.add_argument("--max-minutes", type=float, default=10.0, metavar="M", help="of training, for each seed  [10]")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="[runs/time-to-quality-RECIPE]")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps  [auto]")
    parser.add_argument("--trust", action="store_true", help="import the modules that a recipe's file names")
    parser.add_argument("--quiet", action="store_true", help="print nothing but the table and errors")
    options, words = parser.parse_known_args()
    if options.seeds < 1:
        parser.error(f"--seeds is {options.seeds}; it must be at least 1")
    if options.trust:
        os.environ["GANSMITH_TRUST"] = "1"
    keep_freed_memory()
    try:
        what, flags = recipe_words("gan", tuple(words), {"data": options.data})
        with redirect_stdout(sys.stderr):  # so that stdout holds the result and nothing else
            result = time_to_quality(
                what,
                options.until,
                seeds=range(options.seeds),
                max_minutes=options.max_minutes,
                overrides=flags,
                out=options.out,
                device=options.device,
                quiet=options.quiet,
                say=(lambda text: None) if options.quiet else print,
            )
    except UserError as error:
        parser.error(str(error))
    except Stopped as stop:
        print("stopped; what was begun is saved, and the same command goes on where it was", file=sys.stderr)
        sys.exit(128 + stop.signum)
    if options.json:
        print(strict_json.dumps(result, indent=1))
    else:
        table(result).show()


if __name__ == "__main__":
    main()

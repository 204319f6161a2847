"""How long a recipe trains until a score on held-back images is reached: `gansmith bench time-to-quality`.

Interrupted, it goes on where it was: each seed is a run of its own, and what has reached the goal is not trained again.
"""

from __future__ import annotations

import json
import math
import re
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gansmith import strict_json
from gansmith.build import load_split
from gansmith.errors import Diverged, UserError
from gansmith.evaluation import Evaluator
from gansmith.measures import METRICS
from gansmith.receipts import number
from gansmith.recipe import FREE, Recipe, Resolved, difference, flatten, is_run, plan, to_dict
from gansmith.record import Record
from gansmith.report.curves import plot_over_seconds
from gansmith.report.log import read_metrics
from gansmith.run import write_text
from gansmith.schema import did_you_mean
from gansmith.training import train

Say = Callable[[str], None]
VALUES = {value: name for name, row in METRICS.items() for value in row.units}
"""What can be asked for, and the metric that gives it."""
SESSIONS = "sessions.jsonl"
"""In the folder of all seeds: how every session ended and its wall time, which no run keeps."""


@dataclass(frozen=True)
class Goal:
    """A value and its bound, both as the receipts name and measure them: fd <= 60."""

    value: str
    at_most: bool
    bound: float

    def met(self, value: float) -> bool:
        """Whether a score is within the bound; nan never is."""
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        return f"{self.value}{'<=' if self.at_most else '>='}{self.bound:g}"


def parse_goal(text: str) -> Goal:
    """The goal in "fd<=60" or "coverage>=0.5"; UserError for another form, an unknown value, or the wrong direction."""
    match = re.fullmatch(r"\s*(\w+)\s*(<=|>=)\s*(\S+)\s*", text)
    try:
        name, sign, bound = match.groups() if match else ("", "", "")
        goal = Goal(name, sign == "<=", float(bound))
        if not math.isfinite(goal.bound):
            raise ValueError
    except ValueError:
        raise UserError(
            f"--until is {text!r}; it must be a value, <= or >=, and a number, in quotes: --until 'fd<=60'"
        ) from None
    if name not in VALUES:
        raise UserError(f"--until {text}: there is no value {name!r}{did_you_mean(name, VALUES)} ({', '.join(VALUES)})")
    better = METRICS[VALUES[name]].better[name]
    if better == ("higher" if goal.at_most else "lower"):
        raise UserError(f"--until {text}: {name} is better {better}; say {name}{'>=' if goal.at_most else '<='}{bound}")
    return goal


class Until:
    """Whether the training may end, and why it did: by the "goal", the "time", or, if neither, its own "length"."""

    def __init__(self, goals: Sequence[Goal], max_minutes: float) -> None:
        self.goals = goals
        self.max_minutes = max_minutes
        self.ended = "length"

    def __call__(self, record: Record) -> bool:
        scores = {receipt.measure: receipt.value for receipt in record.scores}
        if all(goal.value in scores and goal.met(scores[goal.value]) for goal in self.goals):
            self.ended = "goal"
        elif record.experiment.state.seconds >= 60 * self.max_minutes:
            self.ended = "time"
        return self.ended != "length"


@dataclass(frozen=True)
class Row:
    """What one seed came to: at the first evaluation that met every goal or, where none did, at the latest."""

    seed: int
    run: str
    reached: bool
    why_not: str
    """Empty, or what ended the training."""
    seconds: float
    """Of training: rounds, log, pictures, checkpoints; neither evaluation nor what precedes the first round."""
    images: int
    rounds: int
    epochs: float
    values: Mapping[str, float]
    """The scores at that time, by their full names."""
    after_round: int
    after_seconds: float
    """The evaluation before it, which did not meet the goals: they were reached in between."""
    trained_seconds: float
    """Of training altogether."""
    wall_seconds: float
    """Of all sessions but those that were killed outright: with building, evaluation, pictures at the end."""


@dataclass(frozen=True)
class Result:
    """All seeds, and what they were measured on."""

    recipe: str
    changes: Mapping[str, Any]
    goals: Sequence[str]
    every: int
    """Rounds between two evaluations: the resolution."""
    max_minutes: float
    weights: str
    protocol: Mapping[str, Mapping[str, Any]]
    hardware: Sequence[Mapping[str, Any]]
    """One, unless runs went on elsewhere."""
    rows: Sequence[Row]

    def seconds(self) -> tuple[float, float | None, float | None]:
        """Mean and deviation (n - 1) over the seeds that reached it, and the median of all, for which others are inf.

        nan, None and None where there is nothing to say it of.
        """
        reached = [row.seconds for row in self.rows if row.reached]
        median = statistics.median([row.seconds if row.reached else math.inf for row in self.rows])
        return (
            statistics.fmean(reached) if reached else math.nan,
            statistics.stdev(reached) if len(reached) > 1 else None,
            median if math.isfinite(median) else None,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        mean, deviation, median = self.seconds()
        summary = {
            "reached": sum(row.reached for row in self.rows),
            "of": len(self.rows),
            "seconds_mean_of_reached": None if math.isnan(mean) else mean,
            "seconds_deviation_of_reached": deviation,
            "seconds_median_of_all": median,
        }
        return {**strict_json.plain(asdict(self)), "summary": summary}


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
) -> Result:
    """Train each seed until all goals hold on the validation images; write result.json, table.md and curves.png.

    until: goals such as "fd<=60". max_minutes: of training, for each seed; the recipe's own length ends it, too. The
    scores are measured every `evaluation.every` rounds: that of `overrides` or of the recipe, else once an epoch. A
    goal that is not reached is a result as well. UserError for what cannot be measured, and for runs in `out` that are
    of another recipe or were scored otherwise.
    """
    goals = [parse_goal(text) for text in until]
    if not goals:
        raise UserError("there is no goal; give one: --until 'fd<=60'")
    if not max_minutes > 0:
        raise UserError(f"--max-minutes is {max_minutes:g}; it must be more than 0")
    resolved, flags = _with_evaluation(what, goals, dict(overrides or {}))
    evaluator = Evaluator(
        resolved.recipe.data,
        metrics=resolved.recipe.evaluation.metrics,
        n=resolved.recipe.evaluation.n,
        reference="validation",
        device=device,
        ceiling=False,
        say=lambda text: None,
    )
    if not resolved.recipe.evaluation.every:
        flags["evaluation.every"] = _epoch(resolved.recipe, say)
    recipe = plan(what, flags=flags).recipe
    keyed = [(f"eval/{evaluator.called(VALUES[goal.value], goal.value)}", goal) for goal in goals]
    folder = out or Path("runs") / f"time-to-quality-{resolved.label}"
    runs = {seed: folder / f"seed-{seed}" for seed in seeds}
    for seed, run in runs.items():
        _check_same(run, plan(what, flags={**flags, "seed": seed}).recipe)

    rows = []
    for i, (seed, run) in enumerate(runs.items()):
        row = _row(run, keyed, recipe, max_minutes) if is_run(run) else None
        if row is None or not (row.reached or row.why_not):
            say(f"{i + 1} of {len(seeds)}: seed {seed} until {' and '.join(map(str, goals))}, in {run}")
            _train(what, run, {**flags, "seed": seed}, Until(goals, max_minutes), device, quiet, say)
            row = _row(run, keyed, recipe, max_minutes)
        say(f"seed {seed}: {_said(row)}")
        rows.append(row)
    result = Result(
        recipe=resolved.label,
        changes=dict(overrides or {}),
        goals=[str(goal) for goal in goals],
        every=recipe.evaluation.every,
        max_minutes=max_minutes,
        weights="average" if recipe.ema.halflife_kimg else "raw",
        protocol={key.removeprefix("eval/"): evaluator.protocol(VALUES[goal.value]) for key, goal in keyed},
        hardware=_hardware(list(runs.values())),
        rows=rows,
    )
    write_text(folder / "result.json", strict_json.dumps(result.as_dict(), indent=1) + "\n")
    write_text(folder / "table.md", table(result))
    plot_over_seconds(
        {f"seed {row.seed}": Path(row.run) / "metrics.jsonl" for row in rows},
        {key: [goal.bound for other, goal in keyed if other == key] for key, _ in keyed},
        folder / "curves.png",
    )
    say(f"written: {folder / 'result.json'}, {folder / 'table.md'}, {folder / 'curves.png'}")
    return result


def _with_evaluation(
    what: str | Path, goals: Sequence[Goal], overrides: Mapping[str, Any]
) -> tuple[Resolved, dict[str, Any]]:
    """The recipe with an evaluation of the goals' metrics and of no others, and the flags that make it so."""
    if is_run(what):
        raise UserError(f"{what} is a run; this trains runs of its own from a recipe: {Path(what) / 'recipe.yaml'}")
    for key in ("seed", "evaluation.metrics", "evaluation.best"):
        if key in overrides:
            instead = "--seeds K takes seeds 0 to K-1" if key == "seed" else "--until says what is measured"
            raise UserError(f"{key} cannot be set here: {instead}")
    metrics = list(dict.fromkeys(VALUES[goal.value] for goal in goals))
    flags = {**overrides, "evaluation.metrics": metrics, "evaluation.best": None}
    resolved = plan(what, flags=flags)
    if resolved.recipe.data.validation == 0 and resolved.recipe.data.name != "tfd":
        raise UserError(
            "data.validation is 0, and scores are taken on images that were held back; say --data.validation 10000"
        )
    return resolved, flags


def _epoch(recipe: Recipe, say: Say) -> int:
    """The rounds of an epoch, at least 1."""
    batches = math.ceil(len(load_split(recipe.data, "train", say=say)) / recipe.batch_size)
    rounds = max(1, batches // recipe.game.args.get("n_critic", 1))
    say(f"evaluated every {rounds} rounds, which is an epoch; more finely with --evaluation.every N")
    return rounds


def _check_same(run: Path, wanted: Recipe) -> None:
    """UserError where the run trains, is scored or spends its time otherwise; its length alone may be another."""
    if not is_run(run):
        return
    here, there = (dict(flatten(to_dict(recipe))) for recipe in (plan(run).recipe, wanted))
    changed = difference(here, there)
    for key in (key for key in FREE if key not in ("n_epochs", "steps", "data.root", "data.max_broken")):
        if key == "engine.compile" and {here[key], there[key]} == {"auto", False}:
            continue  # a benchmark that is older than auto
        full = str(Path(str(there[key])).expanduser().resolve())  # a run names a folder of pictures by its full path
        if here[key] != there[key] and not (key == "data.name" and here[key] == full):
            changed = changed or f"{key} was {here[key]} and is {there[key]}"
    if changed:
        raise UserError(f"{run} is of another benchmark than this: {changed}; choose another --out")


def _train(
    what: str | Path,
    run: Path,
    flags: Mapping[str, Any],
    until: Until,
    device: str,
    quiet: bool,
    say: Say,
) -> None:
    """Train the run, or go on with it, and note how that ended."""
    began, ended = time.perf_counter(), "interrupted"
    wanted = plan(what, flags=flags).recipe
    try:
        if is_run(run):
            length = {"n_epochs": wanted.n_epochs, "steps": wanted.steps}
            train(run, overrides=length, device=device, quiet=quiet, enough=until)
        else:
            train(what, out=run, overrides=flags, device=device, quiet=quiet, enough=until)
        ended = until.ended
    except Diverged as error:
        ended = "diverged"
        say(str(error))
    finally:
        if is_run(run):  # else the training was refused, and there is nothing to be timed
            session = {
                "seed": wanted.seed,
                "ended": ended,
                "max_minutes": until.max_minutes,
                "wall_seconds": round(time.perf_counter() - began, 3),
            }
            with (run.parent / SESSIONS).open("a", encoding="utf-8") as file:
                file.write(strict_json.dumps(session) + "\n")


def _row(run: Path, goals: Sequence[tuple[str, Goal]], recipe: Recipe, max_minutes: float) -> Row:
    """What the run's log says; neither reached nor a reason where it is to go on.

    goals: with the keys of the log. Where they were not met, the latest evaluation is shown: of several goals none
    alone is the score.
    """
    seed = plan(run).recipe.seed
    log = read_metrics(run / "metrics.jsonl")
    scored = [row for row in log if all(key in row for key, _ in goals)]
    met = [i for i, row in enumerate(scored) if all(goal.met(float(row[key])) for key, goal in goals)]
    start = {"round": 0, "seconds": 0.0, "images": 0, "epoch": 0.0}
    at = met[0] if met else len(scored) - 1
    row, last = scored[at] if scored else start, log[-1] if log else start
    before = scored[at - 1] if at > 0 else row
    sessions = _sessions(run)
    return Row(
        seed=seed,
        run=str(run),
        reached=bool(met),
        why_not="" if met else _why_not(last, sessions, recipe, max_minutes),
        seconds=float(row["seconds"]),
        images=int(row["images"]),
        rounds=int(row["round"]),
        epochs=float(row["epoch"]),
        values={key.removeprefix("eval/"): float(row[key]) for key, _ in goals if key in row},
        after_round=int(before["round"]),
        after_seconds=float(before["seconds"]),
        trained_seconds=float(last["seconds"]),
        wall_seconds=math.fsum(session["wall_seconds"] for session in sessions),
    )


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


def _sessions(run: Path) -> list[dict[str, Any]]:
    path, seed = run.parent / SESSIONS, plan(run).recipe.seed
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [session for session in map(json.loads, lines) if session["seed"] == seed]


def _hardware(runs: Sequence[Path]) -> list[dict[str, Any]]:
    """On what the runs were trained, as each session noted it; one entry for all that are alike."""
    keys = ("device", "device_name", "cuda", "cores", "threads", "torch", "python", "platform", "gansmith", "commit")
    found: list[dict[str, Any]] = []
    for run in runs:
        for session in json.loads((run / "environment.json").read_text(encoding="utf-8")):
            one = {key: session[key] for key in keys if session.get(key) is not None}
            if one not in found:
                found.append(one)
    return found


# ---- words and tables ------------------------------------------------------------------------------------------


def _said(row: Row) -> str:
    scores = ", ".join(f"{key} {number(value)}" for key, value in row.values.items())
    if row.reached:
        return f"reached after {row.seconds:.1f} s of training, round {row.rounds}: {scores}"
    return f"not reached, {row.why_not}; the last scores, of round {row.rounds}: {scores}"


def table(result: Result) -> str:
    """Markdown: a row for each seed, then what all say together, and on what."""
    names = list(result.protocol)
    cells = [
        ["seed", "seconds", "images", "epochs", "round", "not yet at", *names, "trained (s)", "wall (s)"],
        *(
            [
                str(row.seed),
                f"{row.seconds:.1f}" if row.reached else "not reached",
                f"{row.images:,}",
                f"{row.epochs:.2f}",
                f"{row.rounds:,}",
                f"{row.after_round:,} ({row.after_seconds:.1f} s)" if row.reached else "",
                *(number(row.values[name]) if name in row.values else "" for name in names),
                f"{row.trained_seconds:.1f}",
                f"{row.wall_seconds:.1f}",
            ]
            for row in result.rows
        ),
    ]
    wide = [max(map(len, column)) for column in zip(*cells, strict=True)]
    head, *lines = ["| " + " | ".join(map(str.rjust, line, wide)) + " |" for line in cells]
    changes = "".join(f" --{key} {value}" for key, value in result.changes.items())
    goals = " and ".join(result.goals)
    said = [
        f"{result.recipe}{changes}: until {goals} on the validation images, {result.weights} weights",
        "",
        head,
        "| " + " | ".join("-" * (width - 1) + ":" for width in wide) + " |",
        *lines,
        "",
        _summary(result),
        "",
        "Seconds are of training: rounds, log, pictures and checkpoints, without evaluation or building. Scores were",
        f'taken every {result.every:,} rounds: the goal was reached after the round "not yet at", and the first',
        "evaluation that shows it counts. A row that did not reach it shows its last evaluation.",
        "",
        *(f"{name}: {'; '.join(f'{k}: {v}' for k, v in p.items())}" for name, p in result.protocol.items()),
        "",
        *(f"On: {', '.join(f'{k} {v}' for k, v in one.items())}" for one in result.hardware),
    ]
    if len(result.hardware) > 1:
        said.append("The runs were trained on unlike hardware or software: their times do not belong together.")
    return "\n".join(said) + "\n"


def _summary(result: Result) -> str:
    reached = sum(row.reached for row in result.rows)
    mean, deviation, median = result.seconds()
    parts = [f"Reached with {reached} of {len(result.rows)} seeds"]
    if reached:
        spread = f" +- {deviation:.1f}" if deviation is not None else ""
        parts.append(f"{mean:.1f}{spread} s, the mean{' +- standard deviation' if spread else ''} of those that did")
        parts.append(
            "half of them or more did not, so there is no median of all"
            if median is None
            else f"median of all {median:.1f} s"
        )
    missed = [f"seed {row.seed}: {row.why_not or 'not finished'}" for row in result.rows if not row.reached]
    return "; ".join(parts) + (f". Not reached: {'; '.join(missed)}." if missed else ".")

"""Compare recipes, objectives or any keys over seeds, and runs that are there already: `gansmith compare`.

Interrupted, it goes on where it was: each row and seed is a run of its own, and what is finished is not done again.
"""

from __future__ import annotations

import base64
import math
import multiprocessing
import os
import re
import signal
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from html import escape
from itertools import product
from multiprocessing import connection
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import torch

from gansmith import checkpoint, strict_json
from gansmith.allocator import keep_freed_memory
from gansmith.build import game_of, load_split, needs_of
from gansmith.engine import choose_device
from gansmith.errors import UserError
from gansmith.evaluation.evaluator import Evaluator, choose_reference, evaluate, usual
from gansmith.evaluation.labels import LABELS
from gansmith.evaluation.measures import METRICS, VALUE_OF, has_validation
from gansmith.evaluation.receipts import Receipt, append, check_comparable, number, read
from gansmith.recipe import Recipe, Resolved, flatten, is_run, plan, to_dict, with_full_paths
from gansmith.run.curves import LINES, plot_overlaid
from gansmith.run.folder import check_links, locked, write_text
from gansmith.series import DIVERGED, at_length, check_same, last_line, train_missing
from gansmith.tables import Table
from gansmith.training import Stopped

Say = Callable[[str], None]
End = Callable[["Job", str], None]
SCORES = "compare.jsonl"
"""In a run's folder: its receipts by this protocol: the first maker, one set of samples of seed 0."""
SAME = ("name", "img_size", "channels", "fit", "pairs", "direction", "validation")
"""Keys of data that all rows share."""
APART = (
    *("seed", "sample_interval", "log_interval", "minutes", "checkpoint", "evaluation", "start.digest"),
    *("data.root", "data.n_cpu", "data.memory"),
)
"""Keys, or their beginnings, in which runs of one row may differ."""
RESAMPLES = 20_000
EVERY = 30.0
"""Seconds between two lines of progress."""


@dataclass(frozen=True)
class Job:
    """One run of a row: to be trained as wanted, or there already."""

    row: str
    seed: int
    run: Path
    recipe: Recipe
    wanted: Resolved | None = None

    def trained(self) -> float:
        """The share of its training that is behind it."""
        last, recipe = last_line(self.run), self.recipe
        if self.wanted is None:
            return 1.0
        if recipe.minutes is not None:
            return min(1.0, last["seconds"] / 60 / recipe.minutes)
        return min(1.0, last["round"] / recipe.steps if recipe.steps else last["epoch"] / recipe.n_epochs)

    @property
    def diverged(self) -> bool:
        return (self.run / DIVERGED).exists()


@dataclass(frozen=True)
class Comparison:
    """The runs of each row, the receipts of each run by measure, and why the others have none."""

    out: Path
    rows: Mapping[str, Sequence[Job]]
    scores: Mapping[Path, Mapping[str, Receipt]]
    lost: Mapping[Path, str]
    failed: int
    """How many of these for another reason than that they diverged."""


def compare(
    what: Sequence[str | Path] = ("gan",),
    *,
    vary: Mapping[str, Mapping[str, Any]] | None = None,
    flags: Mapping[str, Any] | None = None,
    seeds: Sequence[int] = range(5),
    metrics: Sequence[str] | None = None,
    n: int | None = None,
    jobs: int | None = None,
    out: Path | None = None,
    device: str = "auto",
    quiet: bool = False,
    say: Say = print,
) -> Comparison:
    """Train what is missing, score it, and write table.md, curves.png and compare.html into `out`.

    what: recipes, each a row, and runs, which stay as they are: those of one recipe are a row. vary: key -> the name of
    each value -> the value; every combination is a row. flags: keys of all that is trained. metrics, n: as in
    `evaluate`; None: a few that fit the data. jobs: processes at once; None: as many as cores, but one where the
    length is in minutes or the device is no CPU. A run that fails or diverges is said in its row. UserError for what
    cannot be compared, and for a run in `out` that is of another recipe or longer.
    """
    what, vary, flags = what or ["gan"], vary or {}, flags or {}
    out = out or Path("runs") / _slug("-".join(["compare", *(Path(one).stem for one in what), *vary]))[:100]
    rows = planned(what, vary, flags, seeds, out)
    everything = [job for row in rows.values() for job in row]
    _check(everything)
    first = everything[0].recipe
    timed = any(job.recipe.minutes is not None for job in everything)
    if timed and (jobs or 1) > 1:
        raise UserError(f"--jobs is {jobs}; with --minutes it must be 1: runs side by side take each other's time")
    metrics = default_metrics(first, say) if metrics is None else metrics
    if metrics:  # an error now, and not after all the work
        reference = choose_reference(first, _silent)
        pictures = [name for name in metrics if name not in LABELS]
        if pictures:
            Evaluator(first, metrics=pictures, n=n, reference=reference, device=device, ceiling=False, say=_silent)
        for name in {*metrics} - {*pictures}:
            if without := next((job for job in everything if _teller(job) is None), None):
                raise UserError(f"{name}: the game {without.recipe.game.name} of {without.row} tells no classes")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    at_once = jobs or (1 if timed or choose_device(device).type != "cpu" else cores)
    if threading.current_thread() is not threading.main_thread():  # only there can signals be taken
        at_once = 1
    scoring = Scoring(metrics, n, device)
    out.mkdir(parents=True, exist_ok=True)
    lost = _all(everything, scoring, at_once, cores, out, quiet, say)
    if len(lost) == len(everything):
        raise UserError(f"none of the runs can be compared; the first: {lost[everything[0].run]}")
    scores = {job.run: {r.measure: r for r in scoring(job)} for job in everything if job.run not in lost}
    for measure in {measure: None for kept in scores.values() for measure in kept}:
        try:
            check_comparable([kept[measure] for kept in scores.values() if measure in kept])
        except UserError as error:
            raise UserError(f"{error}; to have all of them measured anew, remove {SCORES} in the runs") from None
    failed = sum(job.run in lost and not job.diverged for job in everything)
    found = Comparison(out, rows, scores, lost, failed)
    write(found)
    say(f"written: {out / 'table.md'}, {out / 'compare.html'}")
    return found


# ---- what is compared ------------------------------------------------------------------------------------------


def planned(
    what: Sequence[str | Path],
    vary: Mapping[str, Mapping[str, Any]],
    flags: Mapping[str, Any],
    seeds: Sequence[int],
    out: Path,
) -> dict[str, list[Job]]:
    """The runs of each row by its name. UserError for a wrong key, and for rows that are the same twice."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise UserError(f"seeds are {list(seeds)}; they must be different whole numbers, one at least")
    if empty := next((key for key, values in vary.items() if not values), None):
        raise UserError(f"{empty} has no value to vary; give one at least: '{empty}=A|B'")
    if twice := next((key for key in vary if key in flags), None):
        raise UserError(f"{twice} is varied and set; give one of both")
    if "seed" in (*vary, *flags):
        raise UserError("seed cannot be set here; it follows from --seeds K")
    if all(map(is_run, what)) and (vary or flags):
        raise UserError(f"{[*vary, *flags][0]}: runs are compared as they are; to train others name a recipe, too")
    rows: dict[str, list[Job]] = {}
    kinds: dict[str, str] = {}
    for one in what:
        if is_run(one):
            recipe = with_full_paths(plan(one)).recipe
            kind = [(key, value) for key, value in flatten(to_dict(recipe)) if not key.startswith(APART)]
            name = kinds.setdefault(strict_json.dumps(kind), str(one))
            rows.setdefault(name, []).append(Job(name, recipe.seed, Path(one), recipe))
            continue
        for chosen in product(*(values.items() for values in vary.values())):
            changes = {key: value for key, (_, value) in zip(vary, chosen, strict=True)}
            parts = [
                text if key == "objective" else f"{key}={text}" for key, (text, _) in zip(vary, chosen, strict=True)
            ]
            wanted = [with_full_paths(plan(one, flags={**flags, **changes, "seed": seed})) for seed in seeds]
            label, minutes = wanted[0].label, wanted[0].recipe.minutes
            name = " ".join([label, *parts] if len(what) > 1 or not parts else parts)
            same = (row[0].row for row in rows.values() if row[0].wanted and row[0].recipe == wanted[0].recipe)
            if name in rows or (other := next(same, None)):
                raise UserError(f"{name} and {name if name in rows else other} are one and the same; give one of them")
            stem = _slug("-".join([label, *parts, *([] if minutes is None else [f"{minutes:g}min"])]))
            at = zip(seeds, wanted, strict=True)
            rows[name] = [Job(name, seed, out / f"{stem}-{seed}", made.recipe, made) for seed, made in at]
    return rows


def _slug(text: str) -> str:
    return re.sub(r"[^\w.=+-]+", "-", text)


def _check(jobs: Sequence[Job]) -> None:
    """UserError where rows have other data, and where a run that is there is of another recipe, or longer."""
    first = jobs[0]
    for job in jobs:
        for key in SAME:
            one, two = getattr(first.recipe.data, key), getattr(job.recipe.data, key)
            if one != two:
                give = f"give --data.{key}, or runs of the same data"
                raise UserError(f"{first.row} and {job.row} are not compared: data.{key} is {one} and {two}; {give}")
        if job.wanted is not None and is_run(job.run):
            check_same(job.run, job.recipe, "recipe than is asked for")
            last, recipe = last_line(job.run), job.recipe
            a_round = last["epoch"] / max(1, last["round"])
            beyond = last["round"] > recipe.steps if recipe.steps else last["epoch"] >= recipe.n_epochs + a_round
            if recipe.minutes is None and beyond and last["round"]:
                at = f"{last['round']:,} rounds, {last['epoch']:.4g} epochs"
                raise UserError(f"{job.run} was trained for longer than is asked for: {at}; choose another --out")
    if len({job.run.resolve() for job in jobs}) < len(jobs):
        raise UserError("a run is named twice, or two rows would share one; give other names or values")


def default_metrics(recipe: Recipe, say: Say) -> list[str]:
    """A few that need no download: what alone scores the set, distance and coverage of digits, psnr of pairs."""
    found = [name for name, row in METRICS.items() if recipe.data.name in row.alone] or usual(recipe)
    if found == ["parzen_ll"] and not has_validation(recipe.data):
        say("nothing is scored: these pictures need --metrics fd (Inception's weights) or --data.validation N")
        return []
    return ["fd", "dc"] if found == ["fd"] else found


# ---- training and scoring --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scoring:
    """What all runs are scored by."""

    metrics: Sequence[str]
    n: int | None
    device: str

    def __call__(self, job: Job) -> list[Receipt]:
        """The receipts of a run's newest checkpoint, measured now as far as they are not kept."""
        kept, missing = self.kept(job)
        if missing:
            options: dict[str, Any] = {"n": self.n, "device": self.device, "say": _silent, "seeds": (0,)}
            labels = [name for name in missing if name in LABELS]
            first = next(iter(game_of(job.recipe).makers))
            for maker, mine in ((first, [name for name in missing if name not in labels]), (_teller(job), labels)):
                found = evaluate(job.run, metrics=mine, maker=maker, **options) if mine else []
                found = [replace(receipt, subject={**receipt.subject, "n": self.n}) for receipt in found]
                append(found, job.run / SCORES)
                kept += found
        return kept

    def kept(self, job: Job) -> tuple[list[Receipt], list[str]]:
        """The receipts that are there, and the metrics that are missing."""
        check_links(job.run)
        body = checkpoint.verify(checkpoint.newest_good(job.run / "checkpoints", _silent))
        of = (body["sha256"][checkpoint.TENSORS][:12], self.n)
        mine = [r for r in read(job.run / SCORES) if (r.subject.get("checkpoint"), r.subject.get("n")) == of]
        mine = [receipt for receipt in mine if VALUE_OF.get(receipt.measure, receipt.measure) in self.metrics]
        values = {name: {name} if name in LABELS else {*METRICS[name].values} for name in self.metrics}
        return mine, [name for name in self.metrics if not values[name] <= {r.measure for r in mine}]


def _teller(job: Job) -> str | None:
    """The maker of a job's game that tells classes, if there is one."""
    return next((name for name, maker in game_of(job.recipe).makers.items() if maker.classifies), None)


def work(job: Job, scoring: Scoring, quiet: bool = True) -> str:
    """Train and score a run as far as that is missing; why it has no scores, or nothing."""
    try:
        if job.wanted is not None:
            if is_run(job.run):
                with locked(job.run, wait=60):  # the processes of a command that was killed stop after their round
                    pass
            train_missing(job.run, job.wanted, device=scoring.device, quiet=quiet, say=_silent)
        if job.diverged:
            return _shown((job.run / DIVERGED).read_text(encoding="utf-8").strip())
        scoring(job)
    except UserError as error:
        return _shown(str(error))
    except Exception as error:  # whatever a part of one's own raises: the other runs go on
        return _shown(f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")
    return ""


def _shown(text: str) -> str:
    """What a file holds, or is called, does not speak to the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _silent(text: str) -> None:
    pass


def _all(
    jobs: Sequence[Job], scoring: Scoring, at_once: int, cores: int, out: Path, quiet: bool, say: Say
) -> dict[Path, str]:
    """Train and score all; why some have no scores, by run."""
    lost: dict[Path, str] = {}
    ended: set[Path] = set()
    began, before = time.monotonic(), sum(job.trained() for job in jobs)

    def progress(what: str = "") -> None:
        behind = sum(1.0 if job.run in ended else job.trained() for job in jobs)
        seconds, share = time.monotonic() - began, behind - before
        left = round(seconds * (len(jobs) - behind) / share) if share > 1e-3 else 0
        say(f"{len(ended)} of {len(jobs)} runs{f', left about {left // 60}:{left % 60:02d}' if left else ''}{what}")

    def end(job: Job, why: str) -> None:
        ended.add(job.run)
        if why:
            lost[job.run] = why
        progress(f": {job.row}, seed {job.seed}{f': {why}' if why else ''}")

    waiting = [job for job in jobs if not _settled(job, scoring)]
    at_once = min(at_once, len(waiting))
    if waiting:
        say(f"{len(waiting)} of {len(jobs)} runs to train or score, {at_once} at once; they lie in {out}")
    if at_once > 1:
        for recipe in {(needs_of(job.recipe), job.recipe.data): job.recipe for job in waiting}.values():
            with suppress(UserError):  # which the run itself will say
                for split in ("train", choose_reference(recipe, _silent)):  # decoded once, and not by all at a time
                    load_split(recipe, split, say=say)
        _side_by_side(waiting, scoring, at_once, max(1, cores // at_once), out, end, progress)
    for job in jobs:
        if job.run not in ended:
            end(job, work(job, scoring, quiet))
    return lost


def _settled(job: Job, scoring: Scoring) -> bool:
    """Whether nothing is left to do, so that no process need be started for it."""
    try:
        there = job.wanted is None or (is_run(job.run) and (job.diverged or at_length(job.run, job.recipe)))
        return there and (job.diverged or not scoring.kept(job)[1])
    except (UserError, checkpoint.Broken):  # to be said in its row
        return False


def _side_by_side(
    waiting: list[Job], scoring: Scoring, at_once: int, threads: int, out: Path, end: End, progress: Callable[[], None]
) -> None:
    """Each job in a process of its own, so many at once, each with its threads; Stopped after Ctrl-C, all saved."""
    context = multiprocessing.get_context("spawn")
    running: dict[Any, tuple[Job, Any, connection.Connection]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                receive, send = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(send, waiting[0], scoring, threads))
                # A terminal sends Ctrl-C to all; a process that starts deaf to it is told to stop by its parent alone.
                listening = signal.signal(signal.SIGINT, signal.SIG_IGN)
                try:
                    process.start()
                    running[process.sentinel] = waiting.pop(0), process, receive
                finally:
                    signal.signal(signal.SIGINT, listening)
                send.close()
            if not (ready := connection.wait(list(running), timeout=EVERY)):
                progress()
            for sentinel in ready:
                job, process, receive = running.pop(sentinel)
                process.join()
                try:
                    end(job, receive.recv())
                except EOFError:
                    end(job, f"its process ended with exit code {process.exitcode}")
    except KeyboardInterrupt:
        raise Stopped(out, signal.SIGINT) from None
    finally:
        for _, process, _ in running.values():
            process.terminate()  # which a training takes as the wish to stop: it saves
        for _, process, _ in running.values():
            process.join()


def _child(send: connection.Connection, job: Job, scoring: Scoring, threads: int) -> None:
    """What a process does: one job, until that ends, or the process that started it."""
    keep_freed_memory()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        send.send(work(job, scoring))
    except Stopped as stop:
        raise SystemExit(128 + stop.signum) from None


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)


# ---- statistics ------------------------------------------------------------------------------------------------

Values = Sequence[tuple[int, float]]
"""(seed, value) of each run of a row, by seed."""


def interval(first: Values, other: Values) -> tuple[float, float] | None:
    """A 95 % interval of the difference of means, other - first, by the bootstrap; None for fewer than 3 values.

    Values are drawn again with replacement: the differences where both rows have the same seeds, because runs of one
    seed share noise and the order of the images, and are not independent; else those of each row by itself. The
    interval lies between two quantiles of the means of such draws. With few seeds those at 2.5 and 97.5 % are too near
    to each other; they are moved out by what Student's t asks for normal values (the expanded percentile interval of
    Hesterberg 2015, arXiv 1411.5279). No bootstrap leaves the range of the differences, so that n pairs hold the truth
    in at most 1 - 2^(1 - n) of all cases. Measured for normal values (tests/test_compare.py): 75, 87, 92 and 95 % for
    3, 4, 5 and 10 pairs.
    """
    a, b = (np.array([value for _, value in values]) for values in (first, other))
    seeds = [seed for seed, _ in first]
    paired = seeds == [seed for seed, _ in other] and len(set(seeds)) == len(seeds)
    groups = [b - a] if paired else [b, -a]
    if min(map(len, groups)) < 3 or not all(np.isfinite(group).all() for group in groups):
        return None
    rng = np.random.default_rng(0)
    means = sum(group[rng.integers(len(group), size=(RESAMPLES, len(group)))].mean(1) for group in groups)
    n = sum(map(len, groups))
    free = n - len(groups)
    tail = NormalDist().cdf(-student(free) * math.sqrt(n / free))
    low, high = np.quantile(means, (tail, 1 - tail))
    return float(low), float(high)


def student(free: int) -> float:
    """The 97.5 % quantile of Student's t: its expansion in 1 / degrees of freedom (Abramowitz & Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(0.975)
    terms = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96, (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + sum(term / free**k for k, term in enumerate(terms, start=1))


def difference(first: Values, other: Values, better: str) -> str:
    """The difference of means with its interval, and below it what that says."""
    by = statistics.fmean(x for _, x in other) - statistics.fmean(x for _, x in first)
    shown = f"{'+' if by > 0 else ''}{number(by)}"
    if not math.isfinite(by):
        return "not all scores are finite"
    if (found := interval(first, other)) is None:
        return f"{shown}\nno interval: fewer than 3 seeds"
    said = "differs" if better not in ("higher", "lower") else "better" if (by > 0) == (better == "higher") else "worse"
    said = "no difference at this n" if found[0] <= 0 <= found[1] else said
    return f"{shown} [{number(found[0])}, {number(found[1])}]\n{said}"


# ---- the table and the page ------------------------------------------------------------------------------------


def table(found: Comparison) -> Table:
    """A row for each recipe: means over seeds, and below each its difference to the first row."""
    named = {measure: receipt for kept in found.scores.values() for measure, receipt in kept.items()}
    first, lines = next(iter(found.rows)), []
    for name, row in found.rows.items():
        ends = [last_line(job.run) for job in row if job.run in found.scores]
        clocks = [
            f"{statistics.fmean(end[key] for end in ends):,.0f}" for key in ("round", "images", "seconds") if ends
        ]
        lines.append([name, _seeds(found, row), *(_cell(found, name, first, r) for r in named.values()), *clocks])
    if any(receipt.real is not None for receipt in named.values()):
        lines.append(["real images", "", *("" if r.real is None else number(r.real) for r in named.values())])
    told = [
        f"+-: standard deviation over seeds (n - 1). Below it the difference to {first} with a 95 % interval: bootstrap"
        " over seeds, in pairs where both rows have the same seeds.",
        "no difference at this n: the interval holds 0. With 3, 4, 5, 10 seeds such an interval holds the truth in"
        " about 75, 87, 92, 95 % of cases, each by itself: of many some miss it.",
    ]
    below = [
        *(told if named and len(found.rows) > 1 else []),
        *(f"{r.metric}: {'; '.join(f'{key}: {value}' for key, value in r.protocol.items())}" for r in named.values()),
        *(
            f"{j.row}, seed {j.seed}: {found.lost[j.run]}"
            for row in found.rows.values()
            for j in row
            if j.run in found.lost
        ),
    ]
    heads = [f"{r.metric} ({'; '.join(filter(None, (r.unit, f'better {r.better}')))})" for r in named.values()]
    head = ["", "seeds", *heads, "rounds", "images", "seconds"]
    data = found.rows[first][0].recipe.data
    above = f"compared on {data.name}, {'x'.join(map(str, (*data.size, data.channels)))}"
    full = [[_shown(cell) for cell in line + [""] * (len(head) - len(line))] for line in lines]
    return Table([*map(_shown, head)], full, left=(0, 1), above=[_shown(above)], below=[*map(_shown, below)])


def _cell(found: Comparison, name: str, first: str, receipt: Receipt) -> str:
    def values(row: str) -> Values:
        kept = [(job.seed, found.scores.get(job.run, {}).get(receipt.measure)) for job in found.rows[row]]
        return sorted((seed, one.value) for seed, one in kept if one is not None)

    mine, its = values(name), values(first)
    text = replace(receipt, values=[x for _, x in mine]).text() if mine else ""
    return f"{text}\n{difference(its, mine, receipt.better)}" if mine and its and name != first else text


def _seeds(found: Comparison, row: Sequence[Job]) -> str:
    lost = ["diverged" if job.diverged else "failed" for job in row if job.run in found.lost]
    parts = [f"{lost.count(word)} {word}" for word in dict.fromkeys(lost)]
    return f"{len(row) - len(lost)} of {len(row)}: {', '.join(parts)}" if lost else str(len(row))


def write(found: Comparison) -> None:
    """table.md, curves.png, and both in one page beside the last pictures of each row's first run."""
    shown, curves = table(found), found.out / "curves.png"
    logs = [[path for job in row if (path := job.run / "metrics.jsonl").exists()] for row in found.rows.values()]
    plot_overlaid(logs, curves)
    write_text(found.out / "table.md", shown.markdown())
    grids: dict[str, bytes] = {}
    for name, row in found.rows.items():
        if job := next((job for job in row if job.run in found.scores), None):
            frames = sorted((job.run / "growth").glob("*.png"))
            grids |= {f"{name}, seed {job.seed}": path.read_bytes() for path in frames[-1:]}
    write_text(found.out / "compare.html", page(shown, len(found.rows), curves.read_bytes(), grids))


_HEAD = """<!doctype html><html lang="en"><head><meta charset="utf-8"><title>gansmith compare</title>
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #111; background: #fff; margin: 2em auto; max-width: 76em }
table { border-collapse: collapse; display: block; overflow-x: auto } img { max-width: 100% }
th, td { padding: .4em .8em; border-bottom: 1px solid #ccc; text-align: right; vertical-align: top }
th:first-child, td:first-child { text-align: left; white-space: nowrap } .note { color: #555; font-size: 13px }
i { display: inline-block; width: 2em; margin-right: .6em; vertical-align: middle }
figure { display: inline-block; margin: 0 1em 1em 0 } figure img { width: 20em; image-rendering: pixelated }
</style></head><body><h1>gansmith compare</h1>
"""


def page(shown: Table, rows: int, curves: bytes, grids: Mapping[str, bytes]) -> str:
    """One HTML file that needs no other: texts are escaped, pictures are inside, and nothing in it may run or load."""

    def cells(line: Sequence[str], tag: str, mark: str = "") -> str:
        inside = [f"<{tag}>{mark * (i == 0)}{escape(cell)}</{tag}>" for i, cell in enumerate(line)]
        return f"<tr>{''.join(inside)}</tr>".replace("\n", "<br>")

    def picture(png: bytes, text: str) -> str:
        return f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'

    styles = [LINES[i % len(LINES)] for i in range(rows)]
    marks = [f'<i style="border-top: 3px {dash} {colour}"></i>' for colour, dash in styles]
    legend = "".join(f"{mark}{escape(row[0])} &emsp; " for mark, row in zip(marks, shown.rows, strict=False))
    marks += [""] * (len(shown.rows) - rows)
    body = [
        *(f"<p>{escape(line)}</p>" for line in shown.above),
        f"<table>{cells(shown.head, 'th')}",
        *(cells(line, "td", mark) for line, mark in zip(shown.rows, marks, strict=True)),
        "</table>",
        *(f'<p class="note">{escape(line)}</p>' for line in shown.below),
        f"<h2>Curves</h2><p>Means over seeds, and each run faintly.</p><p>{legend}</p>",
        picture(curves, "curves of all rows"),
        "<h2>Pictures</h2><p>The same seeds or inputs throughout, at the end of one run of each row.</p>",
        *(
            f"<figure>{picture(png, name)}<figcaption>{escape(name)}</figcaption></figure>"
            for name, png in grids.items()
        ),
    ]
    return _HEAD + "\n".join(body) + "\n</body></html>\n"

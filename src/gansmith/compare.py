"""Compare recipes, objectives or any keys over seeds, and runs that are there already: `gansmith compare`.

Interrupted, it goes on where it was: each row and seed is a run of its own, and what is finished is not done again.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from gansmith import checkpoint, strict_json
from gansmith.build import game_of, load_split, needs_of, settled
from gansmith.comparison import Comparison, Job, printable, write
from gansmith.engine import choose_device
from gansmith.errors import UserError
from gansmith.evaluation.evaluator import Evaluator, choose_reference, evaluate, usual
from gansmith.evaluation.labels import LABELS
from gansmith.evaluation.measures import METRICS, VALUE_OF, has_validation
from gansmith.evaluation.receipts import Receipt, append, check_comparable, read
from gansmith.recipe import Recipe, flatten, is_run, plan, to_dict, with_full_paths
from gansmith.run.folder import check_links, locked
from gansmith.series import DIVERGED, at_length, check_same, last_line, side_by_side, train_missing

Say = Callable[[str], None]
SCORES = "compare.jsonl"
"""In a run's folder: its receipts by this protocol: the first maker, one set of samples of seed 0."""
# Keys of data that all rows share; keys, or their beginnings, in which runs of one row may differ.
SAME = ("name", "img_size", "channels", "fit", "pairs", "direction", "validation")
APART = (
    *("seed", "sample_interval", "log_interval", "minutes", "checkpoint", "evaluation", "start.digest"),
    *("data.root", "data.n_cpu", "data.memory"),
)


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
    rows = planned(what, vary, flags, seeds, out, choose_device(device))
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
        told = [name for name in metrics if name in LABELS]
        without = next((job for job in everything if _teller(job) is None), None)
        if told and without:
            raise UserError(f"{told[0]}: the game {without.recipe.game.name} of {without.row} tells no classes")
    alone = timed or choose_device(device).type != "cpu"
    scoring = Scoring(metrics, n, device)
    out.mkdir(parents=True, exist_ok=True)
    lost = _all(everything, scoring, jobs or (1 if alone else None), out, quiet, say)
    if len(lost) == len(everything):
        raise UserError(f"none of the runs can be compared; the first: {lost[everything[0].run]}")
    scores = {job.run: {r.measure: r for r in scoring(job)} for job in everything if job.run not in lost}
    for measure in {measure: None for kept in scores.values() for measure in kept}:
        try:
            check_comparable([kept[measure] for kept in scores.values() if measure in kept])
        except UserError as error:
            raise UserError(f"{error}; to have all of them measured anew, remove {SCORES} in the runs") from None
    found = Comparison(out, rows, scores, lost)
    did = "replaced" if (out / "table.md").exists() else "written"
    write(found)
    say(f"{did}: {out / 'table.md'}, {out / 'compare.html'}")
    return found


# ---- what is compared ------------------------------------------------------------------------------------------


def planned(
    what: Sequence[str | Path],
    vary: Mapping[str, Mapping[str, Any]],
    flags: Mapping[str, Any],
    seeds: Sequence[int],
    out: Path,
    device: torch.device,
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
            named = dict(zip(vary, chosen, strict=True))
            changes = {key: value for key, (_, value) in named.items()}
            parts = [text if key == "objective" else f"{key}={text}" for key, (text, _) in named.items()]
            wanted = [with_full_paths(plan(one, flags={**flags, **changes, "seed": seed})) for seed in seeds]
            wanted = [replace(one, recipe=settled(one.recipe, device, _silent)) for one in wanted]
            label, minutes = wanted[0].label, wanted[0].recipe.minutes
            name = " ".join([label, *parts] if len(what) > 1 or not parts else parts)
            for other, row in rows.items():
                if other == name or (row[0].wanted and row[0].recipe == wanted[0].recipe):
                    raise UserError(f"{name} and {other} are one and the same; give one of them")
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
        options: dict[str, Any] = {"n": self.n, "device": self.device, "say": _silent, "seeds": (0,)}
        for maker, labels in ((next(iter(game_of(job.recipe).makers)), False), (_teller(job), True)):
            if mine := [name for name in missing if (name in LABELS) == labels]:
                found = evaluate(job.run, metrics=mine, maker=maker, **options)
                found = [replace(receipt, subject={**receipt.subject, "n": self.n}) for receipt in found]
                append(found, job.run / SCORES)
                kept += found
        return kept

    def kept(self, job: Job) -> tuple[list[Receipt], list[str]]:
        """The receipts that are there, and the metrics that are missing."""
        check_links(job.run)
        newest = checkpoint.newest_good(job.run / "checkpoints", _silent)
        of = (newest.info["sha256"][checkpoint.TENSORS][:12], self.n)
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
            return printable((job.run / DIVERGED).read_text(encoding="utf-8").strip())
        scoring(job)
    except UserError as error:
        return printable(str(error))
    except Exception as error:  # whatever a part of one's own raises: the other runs go on
        return printable(f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}")
    return ""


def _silent(text: str) -> None:
    pass


def _all(
    jobs: Sequence[Job], scoring: Scoring, at_once: int | None, out: Path, quiet: bool, say: Say
) -> dict[Path, str]:
    """Train and score all, so many at once, or as many as there are cores; why some have no scores, by run."""
    ended: dict[Path, str] = {}
    began, before = time.monotonic(), sum(job.trained() for job in jobs)

    def progress(what: str = "") -> None:
        behind = sum(1.0 if job.run in ended else job.trained() for job in jobs)
        seconds, share = time.monotonic() - began, behind - before
        left = round(seconds * (len(jobs) - behind) / share) if share > 1e-3 else 0
        say(f"{len(ended)} of {len(jobs)} runs{f', left about {left // 60}:{left % 60:02d}' if left else ''}{what}")

    def end(job: Job, why: str) -> None:
        ended[job.run] = why
        progress(f": {job.row}, seed {job.seed}{f': {why}' if why else ''}")

    waiting = [job for job in jobs if not _settled(job, scoring)]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    main = threading.current_thread() is threading.main_thread()  # only there can signals be taken
    at_once = min((at_once or cores) if main else 1, len(waiting))
    if waiting:
        say(f"{len(waiting)} of {len(jobs)} runs to train or score, {at_once} at once; they lie in {out}")
    if at_once > 1:
        for recipe in {(needs_of(job.recipe), job.recipe.data): job.recipe for job in waiting}.values():
            with suppress(UserError):  # which the run itself will say
                for split in ("train", choose_reference(recipe, _silent)):  # decoded once, and not by all at a time
                    load_split(recipe, split, say=say)
        do, threads = partial(work, scoring=scoring), max(1, cores // at_once)
        side_by_side(do, waiting, at_once=at_once, threads=threads, out=out, end=end, progress=progress)
    for job in jobs:
        if job.run not in ended:
            end(job, work(job, scoring, quiet))
    return {run: why for run, why in ended.items() if why}


def _settled(job: Job, scoring: Scoring) -> bool:
    """Whether nothing is left to do, so that no process need be started for it."""
    try:
        there = job.wanted is None or (is_run(job.run) and (job.diverged or at_length(job.run, job.recipe)))
        return there and (job.diverged or not scoring.kept(job)[1])
    except UserError:  # to be said in its row
        return False

"""Trainings that belong together: what is missing is trained, what was begun goes on, what is another's stays."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gansmith import checkpoint
from gansmith.errors import Diverged, UserError
from gansmith.recipe import FREE, Recipe, Resolved, flatten, is_run, plan, to_dict
from gansmith.run.folder import finished, write_text
from gansmith.run.log import read_metrics
from gansmith.training import train

DIVERGED = "diverged.txt"
"""In a run's folder: why its training ended on a loss that is not finite. It is not trained again."""
LENGTH = ("n_epochs", "steps", "minutes")


def train_missing(run: Path, wanted: Resolved, *, device: str, quiet: bool, say: Callable[[str], None]) -> None:
    """Train what is wanted as `run`, or go on there, unless it has its length or diverged before."""
    try:
        if not is_run(run):
            train(wanted, out=run, device=device, quiet=quiet)
        elif (run / DIVERGED).exists():
            say(f"{run} diverged before and is not trained again; remove it to have it tried anew")
        elif not at_length(run, wanted.recipe):
            train(run, device=device, overrides=_anew(wanted.recipe), quiet=quiet)
    except Diverged as error:
        say(str(error))
        write_text(run / DIVERGED, f"{error}\n")


def last_line(run: Path) -> Mapping[str, Any]:
    """The last line of a run's log; zeros where there is none yet."""
    path = run / "metrics.jsonl"
    rows = read_metrics(path) if path.exists() else []
    return rows[-1] if rows else {"round": 0, "epoch": 0.0, "images": 0, "seconds": 0.0}


def _anew(wanted: Recipe) -> dict[str, Any]:
    """What a run is given when it goes on; a length in minutes became rounds when it began, and stays."""
    keep = ("data.name", *(LENGTH if wanted.minutes is not None else ("minutes",)))
    return {key: value for key, value in flatten(to_dict(wanted)) if key in FREE and key not in keep}


def at_length(run: Path, wanted: Recipe) -> bool:
    """Whether the run has the length that is wanted behind it, and the checkpoint and the pictures of its end."""
    recipe = plan(run, flags=_anew(wanted)).recipe
    last, kept = last_line(run), checkpoint.everything(run / "checkpoints")
    long = last["round"] >= recipe.steps if recipe.steps else last["epoch"] >= recipe.n_epochs - 1e-3
    return long and bool(kept) and int(kept[0].name) >= last["round"] and finished(run)


def check_same(run: Path, wanted: Recipe, of: str) -> None:
    """UserError where the run trains, is scored or spends its time otherwise; its length alone may be another."""
    here, there = (dict(flatten(to_dict(recipe))) for recipe in (plan(run).recipe, wanted))
    for key in {**here, **there}:
        before, now = here.get(key), there.get(key)
        if before != now and key not in (*LENGTH, "data.root", "data.max_broken", "start.digest"):
            raise UserError(f"{run} is of another {of}: {key} was {before} and is {now}; choose another --out")

"""Trainings that belong together: what is missing is trained, what was begun goes on, what is another's stays."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from multiprocessing import connection
from pathlib import Path
from typing import Any, TypeVar

import torch

from gansmith import checkpoint
from gansmith.allocator import keep_freed_memory
from gansmith.errors import Diverged, UserError
from gansmith.recipe import FREE, Recipe, Resolved, flatten, is_run, plan, to_dict
from gansmith.run.folder import finished, write_text
from gansmith.run.log import read_metrics
from gansmith.training import Stopped, train

T = TypeVar("T")
DIVERGED = "diverged.txt"
"""In a run's folder: why its training ended on a loss that is not finite. It is not trained again."""
LENGTH = ("n_epochs", "steps", "minutes")
EVERY = 30.0  # seconds between two lines of progress


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


# ---- several at once -------------------------------------------------------------------------------------------


def side_by_side(
    work: Callable[[T], str],
    waiting: list[T],
    *,
    at_once: int,
    threads: int,
    out: Path,
    end: Callable[[T, str], None],
    progress: Callable[[], None],
) -> None:
    """Do each job in a process of its own, so many at once, each with its threads; Stopped after Ctrl-C, all saved.

    `end` is told what `work` says of each job, or how else its process ended; `progress` is called every EVERY seconds
    in which none did.
    """
    context = multiprocessing.get_context("spawn")
    running: dict[Any, tuple[T, Any, connection.Connection]] = {}
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                receive, send = context.Pipe(duplex=False)
                process = context.Process(target=_child, args=(send, work, waiting[0], threads))
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


def _child(send: connection.Connection, work: Callable[[T], str], job: T, threads: int) -> None:
    """What a process does: one job, until that ends, or the process that started it."""
    keep_freed_memory()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(threads)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        send.send(work(job))
    except Stopped as stop:
        raise SystemExit(128 + stop.signum) from None


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGTERM)

"""The folder that one training writes, and who may write to it.

recipe.yaml          the resolved recipe: trains again from this file alone
environment.json     one entry per session: versions, device, commit, command
metrics.jsonl        one line per log interval
tensorboard/         the same as TensorBoard events, if TensorBoard is installed
samples/000400.png   25 fresh samples after round 400
growth/000400.png    the samples of seeds 0-24 after round 400
checkpoints/         see `checkpoint.py`
best/                the checkpoint with the best score on the validation images, if `evaluation.best` names one
growth.gif           the growth pictures as a film
curves.png           metrics.jsonl drawn
receipts.jsonl       one line per score that `gansmith evaluate` or `reproduce` measured, with its protocol
compare.jsonl        those of `gansmith compare`; diverged.txt: why a training of `compare` or `reproduce` ended early
nearest-*.png        of `evaluate`: samples beside the training images they are nearest to, a picture for each measure
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from itertools import count
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from gansmith._version import __version__
from gansmith.errors import Diverged, RankLost, UserError
from gansmith.recipe import is_run
from gansmith.run.atomic import replacing


def check_free(out: Path | None) -> None:
    """UserError if `out` holds something already."""
    if out is not None and is_run(out):
        raise UserError(f"{out} holds a run already; to go on with it: gansmith train {out}; or choose another --out")
    if out is not None and out.exists() and (not out.is_dir() or any(p.name != ".lock" for p in out.iterdir())):
        raise UserError(f"{out} exists and is not an empty folder; choose another --out")


def check_links(run: Path) -> None:
    """UserError for a link that leads out of the run: what is written or removed there would be somebody else's."""
    inside = run.resolve()
    for path in run.glob("**/*"):
        if path.is_symlink() and not path.resolve().is_relative_to(inside):
            raise UserError(f"{path} is a link that leads out of the run; remove it")


@contextmanager
def created(out: Path | None, label: str, data: str, empty: Callable[[], bool]) -> Iterator[Path]:
    """A new run's folder, locked: `out`, or the next free runs/LABEL-DATA-NNN.

    If an error ends the block while `empty` says that nothing was trained yet, nothing stays behind; Diverged is no
    such error: it names the checkpoint from before the round. Nor is RankLost, after which a restart goes on here.
    """
    check_free(out)
    called = Path(data).parent.name if re.search(r"[{}*?]", data) else Path(data).name  # a pattern of shards
    was_there = out is not None and out.exists()
    label = re.sub(rf"-{re.escape(called)}-\d+$", "", label)  # of a run whose recipe.yaml is trained again
    run = out or _next_free(f"{label}-{called or 'shards'}")
    run.mkdir(parents=True, exist_ok=True)
    with locked(run):
        try:
            yield run
        except (Diverged, RankLost):
            raise
        except Exception:
            if empty():
                for path in run.iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
                if not was_there:
                    run.rmdir()
                    with contextlib.suppress(OSError):  # runs/ holds others
                        Path("runs").rmdir()
            raise


def _next_free(name: str) -> Path:
    folder = Path("runs")
    folder.mkdir(exist_ok=True)
    plain = re.sub(r"[^\w.-]+", "-", name)
    for number in count(1):
        path = folder / f"{plain}-{number:03d}"
        with contextlib.suppress(FileExistsError):
            path.mkdir()  # two that start at once cannot both make it
            break
    return path


@contextmanager
def locked(run: Path, wait: float = 0) -> Iterator[None]:
    """Hold the run alone; UserError if another training does for `wait` seconds more.

    The lock ends with the process, however that ends.
    """
    check_links(run)
    try:
        held = FileLock(run / ".lock").acquire(timeout=wait)
    except Timeout:
        raise UserError(
            f"another training writes to {run}; wait for it, or train a new run in another folder"
        ) from None
    with held:
        yield


def write_text(path: Path, text: str) -> None:
    """Write a small text file, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


# Lies in a run until the training has its length and the last pictures are drawn; film and curves come before that.
UNFINISHED = ".unfinished"


def finished(run: Path) -> bool:
    """Whether nothing that belongs to the end of a training is missing; older runs have no mark."""
    return (run / "curves.png").exists() and not (run / UNFINISHED).exists()


def note_session(run: Path, *, device: torch.device, at_round: int) -> None:
    """Add what this session runs on to environment.json."""
    path = run / "environment.json"
    try:
        sessions = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        sessions = None
    sessions = sessions if isinstance(sessions, list) else []  # whatever else a stranger's run may hold
    started = datetime.now(UTC).isoformat(timespec="seconds")
    sessions.append({"started": started, "round": at_round, **environment(device)})
    write_text(path, json.dumps(sessions, indent=1) + "\n")


def environment(device: torch.device) -> dict[str, Any]:
    """Versions, device, commit and command of this process."""
    versions = dict[str, str | None]()
    for name in ("torch", "torchvision", "numpy", "pillow", "safetensors"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {
        "gansmith": __version__,
        "commit": _commit(),
        "python": platform.python_version(),
        **versions,
        "platform": platform.platform(),
        "device": str(device),
        "device_name": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "command": sys.argv,
    }


def _commit() -> str | None:
    """The commit of gansmith itself where it runs from a checkout, with a + if files were changed since."""
    ask: dict[str, Any] = {"cwd": Path(__file__).parent, "capture_output": True, "check": True, "text": True}
    try:
        subprocess.run(["git", "ls-files", "--error-unmatch", Path(__file__).name], **ask)  # or it is another's commit
        said = subprocess.run(["git", "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"], **ask)
        return str(said.stdout).strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()

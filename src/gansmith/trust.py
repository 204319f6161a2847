"""Which code from outside gansmith may be imported: what somebody asked for on this machine, and nothing else.

A run that names modules of one's own is remembered when it is trained, outside the run, so that it goes on without
being asked about again: its path with the digests of its recipe and of the files that those modules are.
"""

import hashlib
import json
import os
import sys
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from gansmith.errors import UserError
from gansmith.run.atomic import replacing


@contextmanager
def from_here() -> Iterator[None]:
    """Modules of the current folder are found within the block, and by no import of anybody else's."""
    missing = "" not in sys.path
    if missing:
        sys.path.append("")
    try:
        yield
    finally:
        if missing:
            sys.path.remove("")


@from_here()
def files(module: str) -> list[Path]:
    """The files that importing a module runs, its packages' first; found without importing any. UserError for none."""
    found: list[Path] = []
    path: Iterable[str] | None = None
    for i, part in enumerate(parts := module.split(".")):
        if loaded := sys.modules.get(".".join(parts[: i + 1])):
            origin, path = getattr(loaded, "__file__", None), getattr(loaded, "__path__", ())
        else:
            finders = sys.meta_path if i == 0 else [PathFinder]
            specs = (finder.find_spec(part, None if path is None else [*path]) for finder in finders if part)
            if not (spec := next(filter(None, specs), None)):
                near = f"; did you mean {module[:-3]}:...?" if module.endswith(".py") else ""
                raise UserError(
                    f"there is no Python module {module!r} here or where Python finds its packages{near}: type the"
                    " command in the folder of that module, or set PYTHONPATH"
                )
            origin, path = spec.origin if spec.has_location else None, spec.submodule_search_locations or ()
        if origin is not None:
            found.append(Path(origin))
    return found


def run_around(file: Path) -> Path | None:
    """The run that a file lies in, by its own path or by what a link in it leads to."""
    places = [*Path(os.path.abspath(file)).parents, *file.resolve().parents]
    runs = (place for place in places if (place / "recipe.yaml").is_file())
    return next((run for run in runs if (run / "checkpoints").is_dir() or (run / "environment.json").is_file()), None)


def remember(run: Path, modules: Collection[str]) -> None:
    """Note that the user trained this run with these modules; in silence where that cannot be written."""
    if not modules:
        return
    with suppress(OSError, RuntimeError, UserError):  # RuntimeError: there is no home folder
        entries = {**_entries(), str(run.resolve()): _entry(run, modules)}
        _store().parent.mkdir(parents=True, exist_ok=True)
        with replacing(_store()) as part:
            part.write_text(json.dumps(entries, indent=1), encoding="utf-8")


def remembered(run: Path) -> bool:
    """Whether the user trained this run here, and recipe and modules are what they were."""
    try:
        entry = _entries()[str(run.resolve())]
        return entry == _entry(run, entry["modules"])
    except (OSError, RuntimeError, UserError, KeyError, TypeError, AttributeError):
        return False


def _entry(run: Path, modules: Iterable[str]) -> dict[str, Any]:
    """The digests of a run's recipe, and of the files of each module."""
    digests = {name: {str(file.resolve()): _digest(file) for file in files(name)} for name in modules}
    return {"recipe": _digest(run / "recipe.yaml"), "modules": digests}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _store() -> Path:
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    else:
        base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return base / "gansmith" / "trusted.json"


def _entries() -> dict[str, Any]:
    try:
        entries = json.loads(_store().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) else {}

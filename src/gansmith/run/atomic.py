"""Write a file so that a reader, or a run that is killed, never meets half of it."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gansmith.errors import UserError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path in the folder of `path`; it becomes `path` if the block ends without an error."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def check_empty(folder: Path) -> None:
    """UserError where a folder holds anything that is not hidden: pictures made now would mix with those there."""
    names = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else ()
    if there := next((name for name in names if not name.startswith(".")), None):
        raise UserError(f"{folder} is not empty: it holds {ascii(there)[1:-1]}; give an empty folder, or a new one")


@contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder beside `folder`, which it becomes if the block ends without an error.

    UserError if something is there already, but for an empty folder.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder; give another one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
        part = Path(temporary) / folder.name
        part.mkdir()
        yield part
        if folder.exists():
            folder.rmdir()
        part.rename(folder)

"""Checkpoints: one folder each, tensors as safetensors and the rest as JSON, whole or not there at all.

    checkpoints/00001000/tensors.safetensors
    checkpoints/00001000/state.json           schema version, digests, and the tree that names the tensors

No pickle anywhere: a checkpoint from a stranger cannot run code.
"""

import errno
import hashlib
import json
import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gansmith import strict_json
from gansmith._version import __version__
from gansmith.errors import RankLost, UserError

SCHEMA = 1
TENSORS, STATE = "tensors.safetensors", "state.json"


class Broken(Exception):
    """A checkpoint does not verify, or a state is not fit to be one; the text says why."""


class Read(NamedTuple):
    """A checkpoint that was read: where it lies, the state's tree on the CPU, and state.json without it."""

    path: Path
    tree: dict[str, Any]
    info: dict[str, Any]


# ---- a tree of tensors and plain values, as one flat dict of tensors and JSON -----------------------------------


def pack(tree: Any, tensors: dict[str, Tensor], at: str = "") -> Any:
    """The tree as JSON; every tensor in it goes into `tensors` under its path and leaves {"tensor": path} behind."""
    if isinstance(tree, Tensor):
        while at in tensors:  # {"a": {"b": ...}, "a.b": ...} would share a name
            at += "'"
        tensors[at] = tree.detach().to("cpu").contiguous().clone()  # clone: safetensors refuses shared memory
        return {"tensor": at}
    if isinstance(tree, Mapping):  # as pairs, because an optimizer's keys are whole numbers
        return {"map": [[key, pack(x, tensors, f"{at}.{key}" if at else str(key))] for key, x in tree.items()]}
    if isinstance(tree, (list, tuple)):
        return {"list": [pack(value, tensors, f"{at}.{i}") for i, value in enumerate(tree)]}
    if isinstance(tree, float) and not math.isfinite(tree):
        return {"float": str(tree)}
    if tree is None or isinstance(tree, (bool, int, float, str)):
        return tree
    raise TypeError(f"{at}: a checkpoint cannot hold a {type(tree).__name__}")


def unpack(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `pack`; tuples come back as lists."""
    if not isinstance(node, dict):
        return node
    if "tensor" in node:
        return tensors[node["tensor"]]
    if "float" in node:
        return float(node["float"])
    if "map" in node:
        return {key: unpack(value, tensors) for key, value in node["map"]}
    return [unpack(value, tensors) for value in node["list"]]


# ---- writing ---------------------------------------------------------------------------------------------------


def write(
    folder: Path, round: int, tree: Mapping[str, Any], *, info: Mapping[str, Any], constant: Set[str] = frozenset()
) -> Path:
    """Write one checkpoint and return its path: under a temporary name, synced, then renamed.

    Broken where a player's tensor holds numbers that are not finite, but for those that `constant` names; see
    `not_finite`.
    """
    tensors: dict[str, Tensor] = {}
    packed = pack(tree, tensors)
    if bad := _not_finite(tensors) - constant:
        raise Broken(f"{min(bad)} is not finite")
    final = folder / f"{round:08d}"
    temporary = folder / f".writing-{round:08d}"
    folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(temporary, ignore_errors=True)  # what a killed process left
    temporary.mkdir()
    try:
        try:
            save_file(tensors, temporary / TENSORS)
        except SafetensorError as error:  # how it reports a full disk
            raise OSError(errno.EIO, str(error), str(temporary / TENSORS)) from None
        digests = {TENSORS: file_digest(temporary / TENSORS)}
        body = {"schema": SCHEMA, "gansmith": __version__, "round": round, **info}
        body = strict_json.plain({**body, "sha256": digests, "state": packed})
        text = json.dumps({"digest": _digest(body), **body}, allow_nan=False)
        (temporary / STATE).write_text(text, encoding="utf-8")
        shutil.copymode(temporary / STATE, temporary / TENSORS)  # which safetensors keeps from all others
        for path in (temporary / TENSORS, temporary / STATE, temporary):
            _sync(path)
        replaced = folder / f".replaced-{round:08d}"
        if final.exists():  # a broken one that a resume has skipped, or the same round once more
            shutil.rmtree(replaced, ignore_errors=True)
            os.replace(final, replaced)
        os.replace(temporary, final)
        shutil.rmtree(replaced, ignore_errors=True)
        _sync(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return final


def not_finite(tree: Mapping[str, Any]) -> Set[str]:
    """Which tensors of a state's players hold nan or infinities: before the first round such as a mask's -inf."""
    tensors: dict[str, Tensor] = {}
    pack(tree["players"], tensors, "players")
    return _not_finite(tensors)


def _not_finite(tensors: Mapping[str, Tensor]) -> Set[str]:
    floats = {at: x for at, x in tensors.items() if at.startswith("players.") and x.is_floating_point()}
    return {at for at, x in floats.items() if not torch.isfinite(x).all()}


def prune(folder: Path, round: int, keep: int, keep_every: int) -> None:
    """Of the checkpoints up to `round` remove all but the newest `keep` and the multiples of `keep_every` (0: none).

    Later ones stay: a resume has skipped them as broken, and they must not push out those that are written now.
    """
    for path in [path for path in everything(folder) if int(path.name) <= round][keep:]:
        for_good = keep_every > 0 and int(path.name) > 0 and int(path.name) % keep_every == 0
        if not for_good:
            shutil.rmtree(path)


def file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(body: Mapping[str, Any]) -> str:
    # allow_nan: checkpoints of older versions may hold a bare NaN.
    return hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=True).encode()).hexdigest()


def _sync(path: Path) -> None:
    if sys.platform == "win32" and path.is_dir():  # a folder cannot be opened there
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# ---- reading ---------------------------------------------------------------------------------------------------


def everything(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the newest first, unverified."""
    paths = folder.iterdir() if folder.is_dir() else ()
    return sorted((p for p in paths if p.is_dir() and p.name.isdigit()), key=lambda p: -int(p.name))


def verify(path: Path) -> dict[str, Any]:
    """The checkpoint's state.json after all its digests hold; raises Broken with the reason."""
    try:
        body = json.loads((path / STATE).read_text(encoding="utf-8"))
        if body["schema"] != SCHEMA:
            raise Broken(f"it has schema {body['schema']}, this gansmith {__version__} reads schema {SCHEMA}")
        if body.pop("digest") != _digest(body):
            raise Broken(f"{STATE} does not match its digest")
        if file_digest(path / TENSORS) != body["sha256"][TENSORS]:  # no other name is read, whatever stands there
            raise Broken(f"{TENSORS} does not match its digest")
        if body.get("finite") is False:  # which older versions wrote
            raise Broken("its training has diverged: it holds numbers that are not finite")
    except OSError as error:
        raise Broken(f"{Path(error.filename or path).name}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise Broken(f"{STATE} is damaged") from None
    return dict(body)


def read(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the state's tree on the CPU, state.json without it) of a checkpoint that verifies; raises Broken otherwise."""
    body = verify(path)
    try:
        return unpack(body.pop("state"), load_file(path / TENSORS)), body
    except (OSError, SafetensorError) as error:
        raise Broken(f"{TENSORS}: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
        raise Broken(f"{STATE} is damaged") from None


@contextmanager
def fits(path: Path) -> Iterator[None]:
    """What a checkpoint holds, in good order by its digests, may be of another shape than its run's recipe."""
    try:
        yield
    except (UserError, RankLost, torch.OutOfMemoryError):
        raise
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        where = path.parents[1] / "recipe.yaml"
        why = " ".join((str(error) or type(error).__name__).split("\n\t")[:2]).splitlines()[0]
        raise UserError(f"{path} does not fit {where}: {why}") from None


def newest_good(folder: Path, say: Callable[[str], None]) -> Read:
    """The newest checkpoint that verifies, saying which broken ones were skipped; UserError if there is none."""
    paths = everything(folder)
    for path in paths:
        try:
            tree, info = read(path)
            if path != paths[0]:
                say(f"the newest that is good is {path}")
            return Read(path, tree, info)
        except Broken as reason:
            if not path.exists():  # pruned by a training that goes on beside, which has written a newer one
                return newest_good(folder, say)
            say(f"skipped the broken checkpoint {path}: {reason}")
    what = f"all {len(paths)} checkpoints are broken" if paths else "there is no checkpoint"
    raise UserError(f"{folder}: {what}, so there is nothing to load")

"""Runs from the Hugging Face hub: a stranger's, so data of known names and sizes, with digests, and nothing else.

Two files are fetched, those of the newest checkpoint: state.json, which holds the recipe and the digests of all, and
its tensors. What else a repository holds is for those who look at it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from gansmith import checkpoint
from gansmith.data.cache import cache_folder
from gansmith.errors import UserError
from gansmith.run.atomic import new_folder

PREFIX = "hf:"
_MOST = {checkpoint.STATE: 1 << 28, checkpoint.TENSORS: 1 << 36}  # the largest that each file may be, in bytes


def parsed(name: str) -> tuple[str, str | None]:
    """(owner/name, revision) of owner/name[@revision], with or without hf: before it."""
    word = r"[A-Za-z0-9](?!\S*\.\.)[\w.-]{0,95}"
    found = re.fullmatch(rf"({word}/{word})(?:@([\w./-]{{1,100}}))?", name.removeprefix(PREFIX), re.ASCII)
    if found is None:
        raise UserError(f"{name!r} is no repository of the hub; it must be owner/name, or owner/name@revision")
    return found[1], found[2]


def client() -> Any:
    """The client of the hub, with the user's own token, if any."""
    try:
        from huggingface_hub import HfApi
    except ImportError:
        raise UserError('the hub needs huggingface_hub: pip install "gansmith[hub]"') from None
    return HfApi()


def asked(repo: str, call: Callable[..., Any], **keys: Any) -> Any:
    """What the hub answers; UserError where it does not."""
    try:
        return call(repo_id=repo, **keys)
    except Exception as error:  # no network, no such name, no token, ...: each layer raises errors of its own
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise UserError(f"the hub did not do it for {repo}: {reason}") from None


def pull(repo: str, *, out: str | Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Fetch the run owner/name[@revision] from the Hugging Face hub into a new folder, `out` or runs/NAME; return it.

    It is data and runs no code. UserError for what is not as `gansmith push` leaves it.
    """
    name, info, api = _found(repo)
    return _fetched(name, info, Path(out) if out else Path("runs") / name.partition("/")[2], api, say)


def local(run: str | Path, say: Callable[[str], None] = print, *, trust: bool = False) -> Path:
    """A run's folder: of hf:owner/name[@revision] that in the cache, where each commit is fetched to once."""
    if not str(run).startswith(PREFIX):
        return Path(run)
    if trust or os.environ.get("GANSMITH_TRUST") == "1":
        raise UserError(f"{run} is a stranger's, and nothing is imported for it: gansmith pull it first, and read it")
    name, info, api = _found(str(run))
    folder = cache_folder() / "hub" / f"{name.replace('/', '--')}-{info.sha}"
    return folder if (folder / "recipe.yaml").is_file() else _fetched(name, info, folder, api, say)


def _found(repo: str) -> tuple[str, Any, Any]:
    """owner/name, what the hub says of it, and the client that asked."""
    (name, revision), api = parsed(repo), client()
    return name, asked(name, api.model_info, revision=revision, files_metadata=True), api


def _fetched(repo: str, info: Any, folder: Path, api: Any, say: Callable[[str], None]) -> Path:
    sizes = {one.rfilename: one.size or 0 for one in info.siblings or ()}
    states = (name for name in sizes if re.fullmatch(r"checkpoints/\d{8}/state\.json", name, re.ASCII))
    at = max(states, default="")[:20]
    if not all(0 < sizes.get(f"{at}/{file}", 0) <= most for file, most in _MOST.items()):
        what = "the two files of a checkpoint of a size that can be"
        raise UserError(f"{repo} holds no run as gansmith push leaves it, {what}")
    say(f"fetching {sum(sizes[f'{at}/{file}'] for file in _MOST) / 1e6:.1f} MB of {repo} at {info.sha[:12]}")
    with new_folder(folder) as run:
        (run / at).mkdir(parents=True)
        for file in _MOST:
            name, hub = f"{at}/{file}", run.with_name(".fetched")
            path = Path(asked(repo, api.hf_hub_download, filename=name, revision=info.sha, local_dir=hub))
            if path.is_symlink() or path.resolve() != hub.resolve() / name or path.stat().st_size != sizes[name]:
                raise UserError(f"{repo}: {name} is not the plain file that the hub says it is; nothing is kept")
            path.rename(run / name)
        try:
            body = checkpoint.verify(run / at)
            if body["round"] != int(at[-8:]):
                raise checkpoint.Broken(f"it is of round {body['round']}")
            text = yaml.safe_dump(body["recipe"], sort_keys=False, default_flow_style=None, width=100)
        except (checkpoint.Broken, KeyError, RecursionError) as error:
            raise UserError(f"{repo}: its checkpoint is broken: {error}; nothing is kept") from None
        (run / "recipe.yaml").write_text(text, encoding="utf-8")
    return folder

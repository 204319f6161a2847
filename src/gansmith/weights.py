"""Weights that others publish: from a local file, or by a download that is announced; nothing but the known bytes."""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import safetensors.torch
import torch
from torch import Tensor

from gansmith.errors import UserError


class Published(NamedTuple):
    """A file of weights."""

    name: str
    url: str
    sha256: str  # or its first 8 digits, which torchvision's names have
    megabytes: int
    option: str  # how a user names a local file


def cache() -> Path:
    """Where torch keeps such files."""
    return Path(torch.hub.get_dir()) / "checkpoints"


def download(what: Published, say: Callable[[str], None]) -> Path:
    """The file in torch's cache, fetched to there if need be; nothing is left unless it is whole."""
    path = cache() / Path(what.url).name
    if not path.is_file():
        say(f"downloading {what.name}, {what.megabytes} MB, from {what.url} to {path}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(what.url, str(path), what.sha256, progress=sys.stderr.isatty())
        except (OSError, RuntimeError) as error:  # no network, no room; the wrong bytes
            place = f"put {path.name} into {path.parent}, or give {what.option}"
            raise UserError(f"{what.name} could not be downloaded ({error}): {place}") from None
    return path


def verified(what: Published, path: Path) -> bytes:
    """What the published file holds; UserError for any other."""
    data = _bytes(what, path)
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(what.sha256):
        own = path.parent == cache()
        raise UserError(
            f"{path} is not {Path(what.url).name}, or not all of it: {len(data):,} bytes, and its sha256 begins with"
            f" {digest[:8]}; {'remove it, or give' if own else 'give another by'} {what.option}"
        )
    return data


def read(what: Published, path: Path | None, say: Callable[[str], None]) -> tuple[dict[str, Tensor], Path]:
    """The tensors by name, and the file they are from: `path`, torchvision's own or the same as .safetensors.

    None: the file in torch's cache, else a download to there. UserError for any other file, and without a network.
    """
    path = path or download(what, say)
    if path.suffix != ".safetensors":
        return torch.load(io.BytesIO(verified(what, path)), "cpu", weights_only=True), path
    try:
        return safetensors.torch.load(_bytes(what, path)), path
    except safetensors.SafetensorError as error:
        raise UserError(f"the {what.name} weights {path} are damaged: {error}") from None


def _bytes(what: Published, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"the {what.name} weights {path} cannot be read: {error.strerror}") from None

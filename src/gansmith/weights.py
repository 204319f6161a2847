"""Weights that torchvision publishes: from a local file, or by a download that is announced; as data alone."""

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
    """A file of weights; its name has the first 8 digits of its sha256, as torchvision's have."""

    name: str
    url: str
    megabytes: int
    option: str  # by which a user names a local file


def read(what: Published, path: Path | None, say: Callable[[str], None]) -> tuple[dict[str, Tensor], Path]:
    """The tensors by name, and the file they are from: `path`, torchvision's own or the same as .safetensors.

    None: the file in torch's cache, else a download to there. UserError for any other file, and without a network.
    """
    path = path or _download(what, say)
    try:
        data = path.read_bytes()
        if path.suffix == ".safetensors":
            return safetensors.torch.load(data), path
    except OSError as error:
        raise UserError(f"the {what.name} weights {path} cannot be read: {error.strerror}") from None
    except safetensors.SafetensorError as error:
        raise UserError(f"the {what.name} weights {path} are damaged: {error}") from None
    digest = hashlib.sha256(data).hexdigest()
    if not digest.startswith(_prefix(what)):  # so that the right file is loaded; it is read as data alone
        raise UserError(f"{path} is not {Path(what.url).name}: its sha256 begins with {digest[:8]}")
    return torch.load(io.BytesIO(data), "cpu", weights_only=True), path


def _prefix(what: Published) -> str:
    return Path(what.url).stem.rpartition("-")[2]


def _download(what: Published, say: Callable[[str], None]) -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(what.url).name  # where torch keeps it
    if not path.is_file():
        say(f"downloading {what.name}, {what.megabytes} MB, from {what.url} to {path}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(what.url, str(path), _prefix(what), progress=sys.stderr.isatty())
        except (OSError, RuntimeError) as error:  # no network, no room; the wrong bytes
            raise UserError(
                f"{what.name} could not be downloaded ({error}): put {path.name} into {path.parent}, or give"
                f" {what.option}"
            ) from None
    return path

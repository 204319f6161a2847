"""A process that decodes pictures: compressed bytes come in by its stdin, pixels go out by its stdout.

It opens no files, imports no torch, and ends when its stdin does, however its parent ended. Both ways a message is one
line of JSON and then bytes.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

import gansmith
from gansmith.data import pictures
from gansmith.data.imageset import Bytes
from gansmith.errors import UserError


class Form(NamedTuple):
    """What becomes of every picture."""

    size: tuple[int, int]
    channels: int
    fit: str
    megapixels: int


def decode(data: Sequence[bytes], form: Form) -> tuple[Bytes, list[str | None]]:
    """Pictures (n, C, H, W) of compressed bytes, and for each None or why it is broken."""
    out = np.zeros((len(data), form.channels, *form.size), np.uint8)
    why: list[str | None] = [None] * len(data)
    for i, one in enumerate(data):
        try:
            image = pictures.open_picture(io.BytesIO(one), form.megapixels)
            out[i] = pictures.to_array(image, form.size, form.channels, form.fit)
        except Exception as error:  # on a damaged file the readers of Pillow raise almost anything
            why[i] = pictures.why_broken(error)
    return out, why


class Decoder:
    """The parent's side of one such process."""

    def __init__(self, form: Form) -> None:
        self.form = form
        # The folder of this very package, and no other that happens to be where the command is typed (-P).
        paths = [str(Path(gansmith.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", "from gansmith.data.decoder import main; main()", json.dumps(form)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is for the parent, who may need more batches to end a round
        )

    def decode(self, data: Sequence[bytes]) -> tuple[Bytes, list[str | None]]:
        """As the function `decode`; UserError where the process has died."""
        there, back = self._process.stdin, self._process.stdout
        assert there and back
        try:
            _send(there, json.dumps([len(one) for one in data]), *data)
            why = json.loads(back.readline())
            pixels = np.empty((len(data), self.form.channels, *self.form.size), np.uint8)
            view = pixels.reshape(-1).data
            if back.readinto(view) < len(view):  # type: ignore[attr-defined]
                raise EOFError
        except (OSError, ValueError, EOFError):
            raise UserError(f"a process that decodes pictures has ended (exit code {self._process.wait()})") from None
        return pixels, why

    def close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):  # it has died, and what was written last is lost with it
                assert pipe
                pipe.close()
        self._process.wait()

    __del__ = close


def _send(pipe: IO[bytes], head: str, *data: bytes | memoryview) -> None:
    pipe.write(head.encode() + b"\n")
    for one in data:
        pipe.write(one)
    pipe.flush()


def main() -> None:
    size, *rest = json.loads(sys.argv[1])
    form = Form(tuple(size), *rest)
    while head := sys.stdin.buffer.readline():
        pixels, why = decode([sys.stdin.buffer.read(n) for n in json.loads(head)], form)
        _send(sys.stdout.buffer, json.dumps(why), pixels.reshape(-1).data)

"""Processes that decode pictures: files, or their compressed bytes, come in by stdin, pixels go out by stdout.

They import no torch, and end when their stdin does, however the parent ended. Both ways a message is one line of JSON
and then bytes.
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
from queue import LifoQueue
from typing import IO, NamedTuple

import numpy as np
from PIL import Image

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


# Why a picture is broken; or its width, its height, and whether it loses its colours.
Told = str | tuple[int, int, bool]


def decode(data: Sequence[bytes | Path | Image.Image], form: Form) -> tuple[Bytes, list[Told]]:
    """Pictures (n, C, H, W) of files, compressed bytes or pictures, and what there is to tell of each."""
    out = np.zeros((len(data), form.channels, *form.size), np.uint8)
    told: list[Told] = []
    for i, one in enumerate(data):
        try:
            if isinstance(one, Image.Image):
                image = one
            else:
                image = pictures.open_picture(io.BytesIO(one) if isinstance(one, bytes) else one, form.megapixels)
            out[i] = pictures.to_array(image, form.size, form.channels, form.fit)
            told.append((image.width, image.height, form.channels == 1 and pictures.in_colour(image)))
        except Exception as error:  # on a damaged file the readers of Pillow raise almost anything
            told.append(pictures.why_broken(error))
    return out, told


CODE = "from gansmith.data.decoder import main; main()"  # what the process runs


class Decoders:
    """`n` such processes, started when they are first needed, for any number of threads; one alone is this process."""

    def __init__(self, form: Form, n: int) -> None:
        self.form, self._n = form, min(n, os.cpu_count() or 1)
        self.free: LifoQueue[Decoder | None] = LifoQueue()  # None: one that is not started
        for _ in range(self._n):
            self.free.put(None)

    def decode(self, data: Sequence[bytes | Path]) -> tuple[Bytes, list[Told]]:
        """As the function `decode`; UserError where a process has died."""
        if self._n == 1:
            return decode(data, self.form)
        decoder = self.free.get()
        try:
            decoder = decoder or Decoder(self.form)
            done = decoder.decode(data)
        except BaseException:  # it may have died, or be about to answer what nobody waits for
            self.free.put(None)
            if decoder:
                decoder.close()
            raise
        self.free.put(decoder)
        return done

    def close(self) -> None:
        """Ends the processes; a later use starts them anew."""
        for decoder in [self.free.get() for _ in range(self.free.qsize())]:
            if decoder:
                decoder.close()
            self.free.put(None)


class Decoder:
    """The parent's side of one such process."""

    def __init__(self, form: Form) -> None:
        self.form = form
        # The folder of this very package, and no other that happens to be where the command is typed (-P).
        paths = [str(Path(gansmith.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-W", "ignore", "-c", CODE, json.dumps(form)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,  # Ctrl-C is for the parent, who may need more batches to end a round
        )

    def decode(self, data: Sequence[bytes | Path]) -> tuple[Bytes, list[Told]]:
        """As the function `decode`; UserError where the process has died."""
        there, back = self._process.stdin, self._process.stdout
        assert there and back
        try:
            head = [str(one) if isinstance(one, Path) else len(one) for one in data]
            _send(there, json.dumps(head), *(one for one in data if not isinstance(one, Path)))
            told = json.loads(back.readline())
            pixels = np.empty((len(data), self.form.channels, *self.form.size), np.uint8)
            view = pixels.reshape(-1).data
            if back.readinto(view) < len(view):  # type: ignore[attr-defined]
                raise EOFError
        except (OSError, ValueError, EOFError):
            raise UserError(f"a process that decodes pictures has ended (exit code {self._process.wait()})") from None
        return pixels, told

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
    with contextlib.suppress(BrokenPipeError):  # the parent has gone
        while head := sys.stdin.buffer.readline():
            data = [Path(one) if isinstance(one, str) else sys.stdin.buffer.read(one) for one in json.loads(head)]
            pixels, told = decode(data, form)
            _send(sys.stdout.buffer, json.dumps(told), pixels.reshape(-1).data)
    os._exit(0)  # without a last flush, which would complain

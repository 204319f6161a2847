"""Films as .mp4, by the program ffmpeg where there is one."""

import contextlib
import math
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from gansmith.errors import UserError
from gansmith.run.atomic import replacing


def save_mp4(pages: Sequence[Image.Image], durations: Sequence[int], out: Path) -> None:
    """Write pages of one size, each for its milliseconds; an odd side gets one more line. UserError without ffmpeg."""
    if (program := shutil.which("ffmpeg")) is None:
        raise UserError(f"{out}: .mp4 takes the program ffmpeg, and there is none on PATH; .gif takes no program")
    (width, height), tick = pages[0].size, math.gcd(*durations)
    given = f"-f rawvideo -pix_fmt rgb24 -s {width}x{height} -framerate 1000/{tick} -i -"
    made = "-vf pad=ceil(iw/2)*2:ceil(ih/2)*2 -pix_fmt yuv420p -movflags +faststart -f mp4"
    with replacing(out) as part:
        words = [program, "-v", "error", "-y", *given.split(), *made.split(), str(part.absolute())]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it has ended, and says why
                for page, duration in zip(pages, durations, strict=True):
                    for _ in range(duration // tick):
                        process.stdin.write(page.convert("RGB").tobytes())
            _, said = process.communicate()
        if process.returncode:
            reason = next(reversed(said.decode(errors="replace").split("\n")[:-1]), f"exit {process.returncode}")
            raise UserError(f"{out}: ffmpeg did not write it: {reason}")

"""Images of a run: from network output to a grid, a PNG, and a GIF of how the pictures grew."""

import contextlib
import math
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gansmith.errors import UserError
from gansmith.run.atomic import replacing

_BACKGROUND = 96  # neither the black nor the white of most data, so that the tiles' edges can be seen
_GREYS = 16  # levels in a grey GIF: no steps to be seen at this size, and less than half the bytes of 256
_COLOURS = 128
_DARK, _LIGHT = 17, 221  # of the strip and its caption; both are among the 16 greys
_MOST_FRAMES = 120
_MOVES_MS = 8000  # for about so long the GIF moves
_HOLD_MS = 2000  # how long it rests on its last frame
_WIDE = 480  # pixels that need no enlarging
_SLOWEST_MS = 500  # a GIF of few frames does not dwell on each
FILMS = (".gif", ".mp4")
_FASTEST_MS = 20  # browsers slow anything faster down to 100 ms


def to_uint8(x: Tensor) -> NDArray[np.uint8]:
    """Images (N, C, H, W) in [0, 1] as bytes on the host: clamped, rounded to nearest, copied once."""
    levels: NDArray[np.uint8] = (x.detach() * 255).clamp(0, 255).round().to(torch.uint8).cpu().numpy()
    return levels


def grid(images: NDArray[np.uint8], columns: int, pad: int = 2, background: int = _BACKGROUND) -> Image.Image:
    """Tile bytes (N, C, H, W), C = 1, 3 or 4, row by row with `pad` pixels of a grey around each tile."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    step_y, step_x = height + pad, width + pad
    canvas = np.full((rows * step_y + pad, columns * step_x + pad, channels), background, np.uint8)
    if channels == 4:
        canvas[..., 3] = 255
    for i, image in enumerate(images):
        top, left = pad + i // columns * step_y, pad + i % columns * step_x
        canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    return Image.fromarray(canvas[..., 0] if channels == 1 else canvas)


def enlarged(picture: Image.Image, scale: int) -> Image.Image:
    """Without smoothing."""
    return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)


def of_one_size(rows: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Bytes (N, C, H, W) of several sizes at the largest of them, each pixel as a block of equal ones."""
    most = max(row.shape[2] for row in rows)
    return [row.repeat(most // row.shape[2], 2).repeat(most // row.shape[2], 3) for row in rows]


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures one below the other, flush left on a grey."""
    if len(pictures) == 1:
        return pictures[0]
    mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    width, height = max(p.width for p in pictures), sum(p.height for p in pictures)
    page = Image.new(mode, (width, height), _BACKGROUND if mode == "L" else (_BACKGROUND,) * 3)
    top = 0
    for picture in pictures:
        page.paste(picture.convert(mode), (0, top))
        top += picture.height
    return page


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG; whoever reads `path` meanwhile sees the old file or the new one, never a part."""
    with replacing(path) as part:
        image.save(part, format="PNG")


def frames(run: Path) -> list[Path]:
    """The run's pictures of its fixed samples, by round."""
    paths = (run / "growth").glob("*.png")
    return sorted((path for path in paths if path.stem.isdigit()), key=lambda path: int(path.stem))


def growth_gif(frames: Sequence[Path], out: Path) -> set[str]:
    """Join PNG frames, whose names are their rounds, into a looping GIF with the round under each picture.

    Of many frames the early ones, which change fastest, are kept densest; the first and the last always stay. Narrow
    pictures are enlarged. Of these, frames that cannot be read, or have another size than the last one, are left out;
    what is wrong with them is returned.
    """
    read, bad = dict[Path, Image.Image](), set[str]()
    for path in (frames[i] for i in _thin(len(frames), _MOST_FRAMES)):
        try:
            read[path] = _read(path)
        except UserError as error:
            bad.add(str(error))
    if not read:
        return bad
    size = [*read.values()][-1].size
    bad |= {f"{path}: its size is another" for path, picture in read.items() if picture.size != size}
    pictures = [picture for picture in read.values() if picture.size == size]
    captions = [f"round {int(path.stem)}" for path, picture in read.items() if picture.size == size]
    longest, scale = max(captions, key=len), 2 if pictures[0].width < _WIDE else 1
    pages = [_page(*pair, longest, scale) for pair in zip(pictures, captions, strict=True)]
    each = min(max(round(_MOVES_MS / len(pages) / 10) * 10, _FASTEST_MS), _SLOWEST_MS)  # GIF counts 10 ms
    shades = [np.full((1000, 3), shade, np.uint8) for shade in (_DARK, _LIGHT)]  # of the strip
    save_pages(pages, [each] * (len(pages) - 1) + [_HOLD_MS], out, _sampled(pictures, shades))
    return bad


def save_pages(
    pages: Sequence[Image.Image], durations: Sequence[int], out: Path, colours: NDArray[np.uint8] | None = None
) -> None:
    """Write pages, each for its milliseconds: as .mp4 if `out` ends so, else as a GIF that loops.

    A GIF has few greys, or one palette made for `colours` (N, 3), so that colours do not flicker.
    """
    if out.suffix.lower() == ".mp4":
        return _save_mp4(pages, durations, out)
    if all(page.mode == "L" for page in pages):
        pages = [_few_greys(page) for page in pages]
    else:
        colours = _sampled(pages) if colours is None else colours
        palette = Image.fromarray(colours[None]).quantize(_COLOURS, dither=Image.Dither.NONE)
        pages = [page.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
    with replacing(out) as part:
        pages[0].save(part, format="GIF", save_all=True, append_images=pages[1:], duration=list(durations), loop=0)


def _save_mp4(pages: Sequence[Image.Image], durations: Sequence[int], out: Path) -> None:
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


def _thin(n: int, most: int) -> list[int]:
    """Up to `most` of the indices 0 .. n - 1, even on a square-root scale, both ends among them."""
    if n <= most:
        return list(range(n))
    # The square is steeper than 1 from where it overtakes k, so the larger of both rises strictly.
    return [max(k, round((k / (most - 1)) ** 2 * (n - 1))) for k in range(most)]


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("L" if image.mode in ("1", "L") else "RGB")
    except OSError as error:
        raise UserError(f"{path} cannot be read as a picture: {error}") from error


def _page(picture: Image.Image, caption: str, longest: str, scale: int) -> Image.Image:
    """The picture, enlarged without smoothing, over a strip with its caption."""
    font, large, strip = ImageFont.load_default(), enlarged(picture, scale), 18
    text_width = int(font.getbbox(longest)[2]) + 8  # 4 pixels on either side
    dark, light = (_DARK, _LIGHT) if picture.mode == "L" else ((_DARK,) * 3, (_LIGHT,) * 3)
    page = Image.new(picture.mode, (max(large.width, text_width), large.height + strip), dark)
    page.paste(large, ((page.width - large.width) // 2, 0))
    ImageDraw.Draw(page).text((4, large.height + strip // 2), caption, fill=light, font=font, anchor="lm")
    return page


def _few_greys(page: Image.Image) -> Image.Image:
    """Each grey as the nearest of `_GREYS` even levels, in a palette of them."""
    level = np.linspace(0, _GREYS - 1, 256).round().astype(np.uint8)
    few = Image.fromarray(level[np.asarray(page)]).convert("L")
    few.putpalette([int(grey) for grey in np.linspace(0, 255, _GREYS).round() for _ in range(3)])
    return few


def _sampled(pictures: Sequence[Image.Image], more: Sequence[NDArray[np.uint8]] = ()) -> NDArray[np.uint8]:
    """An even sample of the colours (N, 3) of all pictures, and more."""
    every = 1 + sum(picture.width * picture.height for picture in pictures) // 400_000
    pixels = [np.asarray(picture.convert("RGB")).reshape(-1, 3)[::every] for picture in pictures]
    return np.concatenate([*pixels, *more])

"""Images of a run: from network output to a grid, a PNG, and a GIF of how the pictures grew."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from gansmith.errors import UserError
from gansmith.run.atomic import replacing

_CHANNELS = (1, 3, 4)  # L, RGB, RGBA
_BACKGROUND = 96  # neither the black nor the white of most data, so that the tiles' edges can be seen
_GREYS = 16  # levels in a grey GIF: no steps to be seen at this size, and less than half the bytes of 256
_COLOURS = 128
_YELLOW = (255, 213, 0)
_DARK, _LIGHT = 17, 221  # of the strip and its caption; both are among the 16 greys
_HOLD_MS = 2000  # how long the GIF rests on its last frame
_WIDE = 480  # pixels that need no enlarging
_SLOWEST_MS = 500  # a GIF of few frames does not dwell on each
_FASTEST_MS = 20  # browsers slow anything faster down to 100 ms


def to_uint8(x: Tensor) -> NDArray[np.uint8]:
    """Images (N, C, H, W) in [0, 1] as bytes on the host: clamped, rounded to nearest, copied once."""
    if x.ndim != 4:
        raise ValueError(f"images are (N, C, H, W), not {tuple(x.shape)}")
    levels: NDArray[np.uint8] = (x.detach() * 255).clamp(0, 255).round().to(torch.uint8).cpu().numpy()
    return levels


def grid(images: NDArray[np.uint8], columns: int, pad: int = 2, background: int = _BACKGROUND) -> Image.Image:
    """Tile bytes (N, C, H, W), C = 1, 3 or 4, row by row with `pad` pixels of a grey around each tile."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1] not in _CHANNELS or not len(images):
        raise ValueError(f"a grid takes uint8 (N, 1|3|4, H, W), not {images.dtype} {images.shape}")
    if columns < 1 or pad < 0:
        raise ValueError(f"a grid needs columns >= 1 and pad >= 0, not {columns} and {pad}")
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


def enlarged(rows: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """Bytes (N, C, H, W) of several sizes at the largest of them, each pixel as a block of equal ones."""
    most = max(row.shape[2] for row in rows)
    return [row.repeat(most // row.shape[2], 2).repeat(most // row.shape[2], 3) for row in rows]


def stacked(pictures: Sequence[Image.Image], background: int = _BACKGROUND) -> Image.Image:
    """Pictures one below the other, flush left on a grey."""
    if len(pictures) == 1:
        return pictures[0]
    mode = "L" if all(picture.mode == "L" for picture in pictures) else "RGB"
    width, height = max(p.width for p in pictures), sum(p.height for p in pictures)
    page = Image.new(mode, (width, height), background if mode == "L" else (background,) * 3)
    top = 0
    for picture in pictures:
        page.paste(picture.convert(mode), (0, top))
        top += picture.height
    return page


def framed(
    picture: Image.Image, tiles: Sequence[int], columns: int, size: tuple[int, int], pad: int = 2
) -> Image.Image:
    """A grid in colour, with a yellow frame in the gap around some of its tiles, each of `size` (H, W)."""
    picture = picture.convert("RGBA" if picture.mode == "RGBA" else "RGB")
    draw = ImageDraw.Draw(picture)
    height, width = size
    for i in tiles:
        top, left = i // columns * (height + pad), i % columns * (width + pad)
        box = (left, top, left + width + 2 * pad - 1, top + height + 2 * pad - 1)
        draw.rectangle(box, outline=_YELLOW, width=pad)
    return picture


def save_png(image: Image.Image, path: Path) -> None:
    """Write a PNG; whoever reads `path` meanwhile sees the old file or the new one, never a part."""
    with replacing(path) as part:
        image.save(part, format="PNG")


def growth_gif(
    frames: Sequence[Path], out: Path, *, seconds: float = 8.0, max_frames: int = 120, scale: int | None = None
) -> None:
    """Join PNG frames, in the order given, into a looping GIF with the round under each picture.

    The round is the last integer in a frame's file name. Of more than `max_frames` frames the early ones,
    which change fastest, are kept densest; the first and the last always stay. The GIF moves for about
    `seconds` (less if there are few frames) and rests 2 s on the last frame. Pictures are enlarged `scale` times; None:
    twice if they are narrow. Raises UserError for no frames, a name without a round, an unreadable picture, or
    pictures of more than one size.
    """
    if not frames:
        raise UserError("no frames to make a GIF of")
    if max_frames < 2 or (scale is not None and scale < 1) or seconds <= 0:
        raise ValueError(f"needs max_frames >= 2, scale >= 1, seconds > 0: {max_frames}, {scale}, {seconds}")
    kept = [frames[i] for i in _thin(len(frames), max_frames)]
    pictures = [_read(path) for path in kept]
    for path, picture in zip(kept, pictures, strict=True):
        if picture.size != pictures[0].size:
            raise UserError(f"{path} is {picture.size}, but {kept[0]} is {pictures[0].size}")

    scale = scale or (2 if pictures[0].width < _WIDE else 1)
    captions = [f"round {_round_of(path)}" for path in kept]
    longest = max(captions, key=len)
    pages = [_page(*pair, longest, scale) for pair in zip(pictures, captions, strict=True)]
    each = min(max(round(seconds * 100 / len(pages)) * 10, _FASTEST_MS), _SLOWEST_MS)  # GIF counts 10 ms
    durations = [each] * (len(pages) - 1) + [_HOLD_MS]
    shades = [np.full((1000, 3), shade, np.uint8) for shade in (_DARK, _LIGHT)]  # of the strip
    save_gif(pages, durations, out, _sampled(pictures, shades))


def usable_frames(frames: Sequence[Path]) -> tuple[list[Path], set[str]]:
    """The frames that can be read and have the size of the last one; and what is wrong with the others."""
    sizes: dict[Path, tuple[int, int]] = {}
    bad: set[str] = set()
    for path in frames:
        try:
            sizes[path] = _read(path).size
        except UserError as error:
            bad.add(str(error))
    last = next(reversed(sizes.values()), None)
    odd = [path for path, size in sizes.items() if size != last]
    return [path for path in sizes if path not in odd], bad | {f"{path}: its size is another" for path in odd}


def save_gif(
    pages: Sequence[Image.Image], durations: Sequence[int], out: Path, colours: NDArray[np.uint8] | None = None
) -> None:
    """Write pages as a GIF that loops, each for its milliseconds, in few greys or one palette for `colours` (N, 3)."""
    if all(page.mode == "L" for page in pages):
        pages = [_few_greys(page) for page in pages]
    else:
        palette = _palette(_sampled(pages) if colours is None else colours)
        pages = [page.convert("RGB").quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
    with replacing(out) as part:
        pages[0].save(part, format="GIF", save_all=True, append_images=pages[1:], duration=list(durations), loop=0)


def _thin(n: int, most: int) -> list[int]:
    """Up to `most` of the indices 0 .. n - 1, even on a square-root scale, both ends among them."""
    if n <= most:
        return list(range(n))
    # The square is steeper than 1 from where it overtakes k, so the larger of both rises strictly.
    return [max(k, round((k / (most - 1)) ** 2 * (n - 1))) for k in range(most)]


def _round_of(path: Path) -> int:
    numbers = re.findall(r"\d+", path.stem)
    if not numbers:
        raise UserError(f"{path}: the name of a frame holds its round, as in 000400.png")
    return int(numbers[-1])


def _read(path: Path) -> Image.Image:
    try:
        with Image.open(path) as image:
            return image.convert("L" if image.mode in ("1", "L") else "RGB")
    except OSError as error:
        raise UserError(f"{path} cannot be read as a picture: {error}") from error


def _page(picture: Image.Image, caption: str, longest: str, scale: int) -> Image.Image:
    """The picture, enlarged without smoothing, over a strip with its caption."""
    font = ImageFont.load_default()
    text_width = int(font.getbbox(longest)[2]) + 8  # 4 pixels on either side
    strip = 18
    width, height = picture.width * scale, picture.height * scale
    dark, light = (_DARK, _LIGHT) if picture.mode == "L" else ((_DARK,) * 3, (_LIGHT,) * 3)
    page = Image.new(picture.mode, (max(width, text_width), height + strip), dark)
    large = picture.resize((width, height), Image.Resampling.NEAREST)
    page.paste(large, ((page.width - width) // 2, 0))
    ImageDraw.Draw(page).text((4, height + strip // 2), caption, fill=light, font=font, anchor="lm")
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


def _palette(colours: NDArray[np.uint8]) -> Image.Image:
    """One palette for all frames, so that colours do not flicker."""
    return Image.fromarray(colours[None]).quantize(_COLOURS, dither=Image.Dither.NONE)

"""Pictures in the form that a file's name asks for: one grid, arrays, a folder of single pictures, or a film."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gansmith.errors import UserError
from gansmith.run.atomic import check_empty, replacing
from gansmith.run.pictures import enlarged, grid, save_pages, save_png

ONE: dict[str, dict[str, Any]] = {  # the endings of a single picture, and how Pillow writes it
    ".png": {"format": "PNG"},
    **dict.fromkeys((".jpg", ".jpeg"), {"format": "JPEG", "quality": 95, "subsampling": 0}),
    ".webp": {"format": "WEBP", "lossless": True},
}
_FRAME_MS = 80
_FILM_WIDTH = 600  # at most: films are large files
LOOKED_AT = 900
"""Pixels: a grid for the eye is enlarged to about so wide."""


def save_images(pictures: NDArray[np.uint8], path: Path, *, columns: int, names: Sequence[str] = ()) -> None:
    """Write pictures (N, C, H, W): .png, .jpg, .webp an enlarged grid, .npz images and names, no ending a folder."""
    suffix = path.suffix.lower()
    if suffix not in (*ONE, ".npz", ""):
        grids = ".png, .jpg or .webp (a grid)"
        raise UserError(f"{path}: it must end in {grids}, .npz (arrays) or nothing (a folder of pictures)")
    if suffix in (".jpg", ".jpeg") and pictures.shape[1] == 4:
        raise UserError(f"{path}: a JPEG has no transparency, and these pictures do; take .png or .webp")
    if path.is_dir() and suffix:
        raise UserError(f"{path} is a folder; give the name of a file in it")
    if path.is_file() and not suffix:
        raise UserError(f"{path} is a file; a name without an ending is a folder for the pictures")
    path.parent.mkdir(parents=True, exist_ok=True)
    if suffix in ONE:
        with replacing(path) as part:
            scale = max(1, LOOKED_AT // (columns * pictures.shape[3]))
            enlarged(grid(pictures, columns), scale).save(part, **ONE[suffix])
    elif suffix == ".npz":
        with replacing(path) as part, part.open("wb") as file:
            np.savez_compressed(file, images=pictures, names=np.array(names, dtype=str))
    else:
        path.mkdir(exist_ok=True)
        check_empty(path)
        for picture, name in zip(pictures, names, strict=True):
            save_png(grid(picture[None], 1, pad=0), path / f"{name}.png")


def save_film(pictures: NDArray[np.uint8], path: Path, *, columns: int = 1) -> None:
    """Write frames of M pictures each, (N, M, C, H, W), as a film, enlarged without smoothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pages = [grid(frame, columns, pad=2 if len(frame) > 1 else 0) for frame in pictures]
    pages = [enlarged(page, max(1, _FILM_WIDTH // page.width)) for page in pages]
    save_pages(pages, [_FRAME_MS] * len(pages), path)

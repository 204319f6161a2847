"""One picture file, of any mode and size, as uint8 of one size."""

import contextlib
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageOps, UnidentifiedImageError

from gansmith.data.imageset import Bytes

VERSION = 2  # part of every cache key: raise it when the pixels that come out of this file change

HEIC = (".heic", ".heif") if find_spec("pillow_heif") else ()  # photos of iPhones, where the library is there
# Extensions and formats are named, since Pillow would also start Ghostscript on an EPS file, whatever its name is.
EXTENSIONS = (
    *(".apng", ".avif", ".bmp", ".dib", ".gif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pcx", ".pgm", ".png", ".pnm", ".ppm", ".sgi", ".tga", ".tif", ".tiff", ".webp", *HEIC),
)
FORMATS = [
    *("AVIF", "BMP", "DIB", "GIF", "HEIF", "ICO", "JPEG", "JPEG2000", "MPO"),
    *("PCX", "PNG", "PPM", "SGI", "TGA", "TIFF", "WEBP"),
]

MEGAPIXELS = 200
MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels -> Pillow mode


def open_picture(path: Path | BytesIO, megapixels: int = MEGAPIXELS) -> Image.Image:
    """The first frame of a file, decoded and turned upright; raises whatever Pillow does on a broken file.

    ValueError for a picture of more than so many megapixels, before it is decoded: a small file can claim to be large.
    """
    if isinstance(path, Path) and path.stat().st_size == 0:
        raise ValueError("an empty file")
    if Image.MAX_IMAGE_PIXELS is not None:  # Pillow warns above it, and refuses twice as much
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, megapixels * 10**6)
    with opened(path) as image:
        if image.width * image.height > megapixels * 10**6:
            size = f"{image.width}x{image.height} pixels are more than {megapixels} megapixels"
            raise ValueError(f"{size}; data.max_megapixels allows more")
        image.load()
        with contextlib.suppress(Exception):  # a picture with damaged EXIF is still a picture
            ImageOps.exif_transpose(image, in_place=True)
        return image.copy()


def opened(path: Path | BytesIO) -> Image.Image:
    """A file of the formats that are read, of which only the head is decoded so far."""
    Image.init()
    if HEIC and "HEIF" not in Image.OPEN:
        import pillow_heif

        pillow_heif.register_heif_opener()
    try:
        return Image.open(path, formats=[name for name in FORMATS if name in Image.OPEN])
    except Image.DecompressionBombError:
        raise ValueError("it claims to have far more pixels than data.max_megapixels allows") from None


def why_broken(error: Exception) -> str:
    """The reason for the user, on one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture"  # Pillow's own text repeats the path
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split())[:200] or type(error).__name__


def printable(name: str | Path) -> str:
    """A file name as text of one line that any terminal takes: what cannot be printed is escaped."""
    text = str(name).encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def in_colour(image: Image.Image) -> bool:
    """Whether some pixel is not grey, in whatever mode the picture is stored."""
    if image.mode[0] in "1LIF" and image.mode != "LAB":
        return False
    red, green, blue = image.convert("RGB").split()
    return any(ImageChops.difference(red, other).getbbox() for other in (green, blue))


def to_array(image: Image.Image, size: tuple[int, int], channels: int, fit: str) -> Bytes:
    """A picture of any mode as uint8 (C, *size), size (H, W), scaled with an antialiasing bicubic filter.

    fit: "crop" takes the largest central part of the right shape, "pad" fits the whole picture in and fills up with
    black (transparent black with 4 channels), "stretch" ignores the aspect ratio. Unless there are 4 channels, what is
    transparent is laid on white. ValueError for pixel values without a known range.
    """
    image = shallow(image)
    mode = MODES[channels]
    if mode != "RGBA" and image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    if image.mode not in ("1", "L", "RGB", "RGBA", "P", "LA", "PA", "RGBa"):
        image = image.convert("RGB")  # CMYK, YCbCr, LAB, HSV do not all convert to L or RGBA directly
    image = image.convert(mode)
    width, height = image.size
    h, w = size
    if fit == "crop":
        inner = min(width, max(1, round(height * w / h))), min(height, max(1, round(width * h / w)))
        left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
        box = (left, top, left + inner[0], top + inner[1])
        image = image.resize((w, h), Image.Resampling.BICUBIC, box=box)
    elif fit == "pad":
        scale = min(h / height, w / width)
        inner = max(1, round(width * scale)), max(1, round(height * scale))
        inside = image.resize(inner, Image.Resampling.BICUBIC)
        image = Image.new(image.mode, (w, h))
        image.paste(inside, ((w - inner[0]) // 2, (h - inner[1]) // 2))
    else:
        image = image.resize((w, h), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def shallow(image: Image.Image) -> Image.Image:
    """A picture of at most 8 bits a value.

    16-bit greys are divided by 257, those of 12 bits (none above 4095) by 4095/255. 32-bit integers count as 16-bit
    ones, and floats as 0..1 or else as 0..255.
    """
    if image.mode.startswith("I"):
        deep = np.asarray(image).astype(np.int64)
        low, high = deep.min(), deep.max()
        if low < 0 or high > 65535:
            raise ValueError(f"pixels from {low} to {high}; integers must lie in 0..65535")
        return Image.fromarray(((deep + 128) // 257 if high > 4095 else (deep * 255 + 2047) // 4095).astype(np.uint8))
    if image.mode == "F":
        values = np.asarray(image)
        low, high = float(values.min()), float(values.max())
        if not 0 <= low <= high <= 255:  # false for nan, too
            raise ValueError(f"pixels from {low:g} to {high:g}; floats must lie in 0..1 or 0..255")
        return Image.fromarray(np.rint(values * (255 if high <= 1 else 1)).astype(np.uint8))
    return image

"""Pictures in, pictures out: the files that a trained translator is given, and those that it writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from gansmith.data.folder import Part, list_part
from gansmith.data.pictures import open_picture, printable, to_array, why_broken
from gansmith.errors import UserError
from gansmith.hub import PREFIX
from gansmith.inference import Kind, Round, Sampler, load
from gansmith.run.atomic import check_empty
from gansmith.run.pictures import grid, save_png, to_uint8

SAY_SECONDS = 10.0
MOST_NAMED = 10  # files that cannot be read


class Unreadable(UserError):
    """A file is no picture, or a damaged one."""


def translate(
    run: str | Path,
    pictures: str | Path | Sequence[str | Path],
    *,
    out: str | Path | None = None,
    maker: str | None = None,
    to: str | None = None,
    seeds: Sequence[int] = (0,),
    style: str | Path | None = None,
    mask: str | Path | None = None,
    attributes: Mapping[str, bool] | None = None,
    resize: bool = False,
    round: Round = None,
    ema: bool = True,
    device: str = "auto",
    trust: bool = False,
    say: Callable[[str], None] = print,
) -> list[Path]:
    """Translate picture files, or folders of them, by a run's maker into PNG files of the same names; return these.

    A file may have any size that the network takes; UserError, before anything is written, for others, unless `resize`
    takes them to the next larger one that fits and back. Files that cannot be read are named and passed over; UserError
    if none can. `seeds` draw what the network leaves to chance, as its dropout: one output for each. `style` is a
    second picture, which asks for a maker that takes two; `mask`, where it fills holes, a picture of the same size that
    is white where the hole is; `attributes` are those that it changes. `out` is a folder, by default in the run.
    """
    kind: Kind = "style" if style else "pictures"
    sampler = load(run, maker=maker, to=to, kind=kind, round=round, ema=ema, device=device, trust=trust, say=say)
    chosen = [pictures] if isinstance(pictures, (str, Path)) else pictures
    files = [found for one in chosen for found in _files(Path(one).expanduser())]
    given = _given(sampler, style, mask, attributes)
    label = [f"translate-{sampler.round:06d}{'' if ema else '-raw'}-{maker or f'to-{sampler.maker.imitates}'}"]
    label += [] if list(seeds) == [0] else [f"seeds-{seeds[0]}-{seeds[-1]}"]
    label += [f"{name}-{Path(file).stem}" for name, file in (("style", style), ("mask", mask)) if file]
    label += [f"{name.replace('/', '_')}{'' if value else '=0'}" for name, value in (attributes or {}).items()]
    home = Path("." if str(run).startswith(PREFIX) else run)  # of a run on the hub the results are made here
    folder = home / "-".join(label) if out is None else Path(out)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; it must be a folder")
    if out is not None:
        check_empty(folder)
    targets = _targets(_readable(files, lambda path: _read(path, sampler, resize, given), say), folder, seeds)
    began = said = time.monotonic()
    for i, (target, (path, seed)) in enumerate(targets.items()):
        fields, own, size = _read(path, sampler, resize, given)
        image = grid(to_uint8(sampler.translated(fields, [seed])), 1, pad=0)
        if own != size:  # there and back, or there and as much larger as the network makes it
            back = (image.width * own[0] // size[0], image.height * own[1] // size[1])
            image = image.resize(back, Image.Resampling.BICUBIC)
        target.parent.mkdir(parents=True, exist_ok=True)
        save_png(image, target)
        if (now := time.monotonic()) - said > SAY_SECONDS:
            left = (now - began) / (i + 1) * (len(targets) - i - 1)
            say(f"{i + 1} of {len(targets)} pictures, about {left:.0f} s left")
            said = now
    return list(targets)


def _files(path: Path) -> Iterator[tuple[str, Path]]:
    """(name, file) of a picture, or of all below a folder."""
    if path.is_dir():
        yield from ((name, path / name) for name in list_part(Part(path)).files)
    elif path.is_file():
        yield path.name, path
    else:
        raise UserError(f"there is no picture or folder {printable(str(path))}")


def _readable(
    files: Sequence[tuple[str, Path]], read: Callable[[Path], object], say: Callable[[str], None]
) -> list[tuple[str, Path]]:
    """Those of the files that can be read; the others are named. UserError if none can, or if one does not fit."""
    broken: dict[Path, str] = {}
    for _, path in files:
        try:
            read(path)
        except Unreadable as error:
            broken[path] = str(error)
    if broken and len(broken) == len(files):
        raise UserError(next(iter(broken.values())))
    for why in list(broken.values())[:MOST_NAMED]:
        say(f"passed over: {why}")
    if len(broken) > MOST_NAMED:
        say(f"passed over: {len(broken) - MOST_NAMED} more that cannot be read")
    return [(name, path) for name, path in files if path not in broken]


def _targets(files: Sequence[tuple[str, Path]], folder: Path, seeds: Sequence[int]) -> dict[Path, tuple[Path, int]]:
    """What is written, and of which file and seed; UserError where two files would share a name."""
    targets: dict[Path, tuple[Path, int]] = {}
    for name, path in files:
        for seed in seeds:
            suffix = f"-seed-{seed:0{len(str(max(seeds)))}}" if len(seeds) > 1 else ""
            target = (folder / name).with_suffix("")
            target = target.with_name(f"{target.name}{suffix}.png")
            first, _ = targets.setdefault(target, (path, seed))
            if first != path:
                raise UserError(f"{first} and {path} would both become {target}: translate them one by one")
    return targets


def _given(
    sampler: Sampler, style: str | Path | None, mask: str | Path | None, attributes: Mapping[str, bool] | None
) -> dict[str, Any]:
    """What is asked for beside the pictures, opened once: the style as an array, the mask as a picture."""
    given: dict[str, Any] = {"attributes": attributes}
    if style is not None and sampler.shape is not None:
        other = _open(Path(style))
        given["style"] = to_array(other, sampler.fitting(other.height, other.width), sampler.shape[0], "stretch")
    if mask is not None:
        given["mask"] = _open(Path(mask))
    return given


def _read(
    path: Path, sampler: Sampler, resize: bool, given: Mapping[str, Any]
) -> tuple[Mapping[str, Tensor], tuple[int, int], tuple[int, int]]:
    """The fields of a picture as networks see them, its own size, and that at which they see it: (width, height)."""
    assert sampler.shape is not None
    channels = sampler.shape[0]
    image = _open(path)
    height, width = size = sampler.fitting(image.height, image.width) if resize else (image.height, image.width)
    if (hole := given.get("mask")) is not None:
        fits = resize and hole.size == image.size
        given = {**given, "mask": to_array(hole, size if fits else (hole.height, hole.width), 1, "stretch")}
    try:
        fields = sampler.seen(to_array(image, size, channels, "stretch"), **given)
    except UserError as error:
        there = sampler.fitting(image.height, image.width)
        wish = f"; --resize takes it to {there[0]},{there[1]} and back" * (there != size)
        raise UserError(f"{printable(str(path))}: {error}{wish}") from None
    return fields, image.size, (width, height)


def _open(path: Path) -> Image.Image:
    try:
        return open_picture(path)
    except Exception as error:  # on a damaged file the readers of Pillow raise almost anything
        raise Unreadable(f"{printable(str(path))} cannot be read: {why_broken(error)}") from None

"""Shards from a folder, its files as they are, or from a named set as PNG; and the index of shards that are there."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from gansmith.data import pictures
from gansmith.data.addresses import addresses, is_shards, remote, split_of
from gansmith.data.attributes import TABLE
from gansmith.data.cache import Broken
from gansmith.data.folder import find_folder
from gansmith.data.imageset import sha256
from gansmith.data.load import KNOWN, load_sets
from gansmith.data.prepare import Needs, Source, Wanted, array_source, check_sizes, progress, tell
from gansmith.data.shards import Index, make_index, write_index
from gansmith.data.streamed import permutation
from gansmith.errors import UserError
from gansmith.run.atomic import new_folder


def index_shards(wanted: Wanted) -> Index:
    """Writes the index of shards on this machine beside them, anew if there is one."""
    found = addresses(split_of(wanted.name, "train") or wanted.name)
    folders = {Path(address).parent for address in found}
    if remote(found[0]) or len(folders) > 1:
        raise UserError(f"{wanted.name}: an index is written beside shards in one folder of this machine")
    index = make_index(found, [Path(address).name for address in found], wanted)
    for name, why in index.about["bad"]:
        wanted.say(f"left out the shard {name}: {why}")
    write_index(folders.pop(), index)
    return index


def write_shards(wanted: Wanted, out: Path, *, per_shard: int = 1000, pairs: bool = False) -> Index:
    """The training pictures of a folder, or of a named set at its size, as shards in a new folder, with their index.

    With `pairs` those of equal names in two folders a and b, or the halves of each, are one sample. All are mixed once
    and for all, so that each shard holds some of every class. Broken ones are left out.
    """
    source = _source(wanted, pairs)
    broken = list(source.broken)
    with new_folder(out) as part:
        order = permutation(source.count, "gansmith shards")
        pool = ThreadPoolExecutor(wanted.n_cpu)
        with pool, progress(f"writing {source.count} pictures to {out}", source.count, wanted) as step:
            for start in range(0, source.count, per_shard):
                rows = order[start : start + per_shard]
                with tarfile.open(part / f"{start // per_shard:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
                    for i, (made, bad) in enumerate(pool.map(partial(_members, source), rows.tolist()), start):
                        broken += bad
                        for ending, data in made:
                            info = tarfile.TarInfo(f"{i:09d}.{ending}")
                            info.size = len(data)
                            tar.addfile(info, io.BytesIO(data))
                step(len(rows))
        tell(source.name, source.count, broken, len(broken), 0, wanted)
        found = sorted(part.glob("*.tar"))
        index = make_index([str(path) for path in found], [path.name for path in found], wanted)
        if known := index.about["classes"]:
            numbers = {_label(source.classes, y): y for y in range(len(source.classes))}
            index.rows["y"] = np.array([numbers.get(name, -1) for name in known])[index.rows["y"]]
            index.about.update(classes=[*source.classes], sha256=sha256(index.rows))
        write_index(part, index)
    return index


def _label(classes: Sequence[str], y: int) -> str:
    """The name of a class, or its number where a name would be read as another one, or as a number."""
    plain = all(name.isprintable() and name == name.strip() and not name.isdecimal() for name in classes)
    return classes[y] if plain else str(y)


def _source(wanted: Wanted, pairs: bool) -> Source:
    """What there is to write, with attributes where a folder has a table."""
    if (what := wanted.name) in KNOWN:
        gives = KNOWN[what].gives
        if len(gives) > 1 or KNOWN[what].load.endswith(":load_toy"):
            raise UserError(f"{what} is no single set of pictures, so there are no shards of it")
        (data,) = load_sets(replace(wanted, needs=gives))
        columns = {name: x[:, 0] if wanted.channels == 1 else np.moveaxis(x, 1, 3) for name, x in data.pictures.items()}
        return array_source(data.name, columns, data.marks, data.classes)
    folder = Path(what).expanduser()
    if is_shards(what) or not folder.is_dir():
        raise UserError(f"{what} is no folder of pictures and no named set ({', '.join(KNOWN)})")
    needs: Needs = (("a", "b"),) if pairs else (("x", "bits"),) if (folder / TABLE).is_file() else (("x",),)
    ((_, source),) = find_folder(what, replace(wanted, needs=needs))
    return source


def _members(source: Source, index: int) -> tuple[list[tuple[str, bytes]], list[Broken]]:
    """The members of one sample by their endings, its files as they are, once they have been decoded; or why none."""
    try:
        images, mark = source.read(index)
        sides = [f"{name}." for name in source.fields] if len(images) > 1 else [""]
        opened = [image if isinstance(image, Image.Image) else pictures.open_picture(image) for image in images]
        check_sizes(images, [image.size for image in opened])
        made = []
        for side, given, image in zip(sides, images, opened, strict=True):
            if isinstance(given, Path):
                made.append((f"{side}{given.suffix[1:].lower()}", given.read_bytes()))
            else:
                plain = image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA") else image.convert("RGB")
                plain.save(file := io.BytesIO(), "PNG")
                made.append((f"{side}png", file.getvalue()))
    except UserError:
        raise
    except Exception as error:  # on a damaged file the readers of Pillow raise almost anything
        return [], [Broken(source.title(index), pictures.why_broken(error))]
    if isinstance(mark, int):
        made.append(("cls", _label(source.classes, mark).encode()))
    elif mark is not None:
        told = dict(zip(source.classes, map(int, mark), strict=True))
        made.append(("json", json.dumps(told).encode()))
    return made, []

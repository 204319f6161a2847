"""Pictures per second from JPEG files: gansmith's shards, WebDataset, and a DataLoader over single files.

    python benchmarks/streams.py --repeats 5
    python benchmarks/streams.py --repeats 5 --n 20000 --side 256
    python benchmarks/streams.py --repeats 7 --train fast_mnist    # a training on shards of its set, and from memory

All decode the same files with as many worker processes, shuffle, and give float32 batches in [-1, 1] of the same size.
Interleaved, each time one pass from its first batch to its last; the start of workers is left out. "from memory" is a
second pass of pictures that gansmith keeps; "a folder" is its preparation, once; "decoding alone" is one process that
does nothing else, with its share. With --train the rounds of a recipe are timed instead, in blocks of half a second or
more: from memory, on shards whose pictures are kept, once a pass is through, and on shards that each pass decodes.
"""

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from PIL import Image
from rounds import Bench
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gansmith.data import Wanted, load_sets
from gansmith.data.decoder import Form, decode
from gansmith.data.pictures import to_array
from gansmith.data.stream import Stream
from gansmith.data.write_shards import write_shards
from gansmith.engine import choose_device
from gansmith.recipe import plan
from gansmith.training import alone

SIZE, BATCH = (64, 64), 64


def tensor_of(image: Image.Image) -> Tensor:
    return torch.from_numpy(to_array(image, SIZE, 3, "crop")).float().div_(127.5).sub_(1)


class Files(Dataset[Tensor]):
    """Pictures of a folder, one file each."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.glob("*.jpg"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.paths[index]) as image:
            return tensor_of(image)


def first_of(sample: tuple[Any, ...]) -> Tensor:
    return tensor_of(sample[0])


def make_files(folder: Path, n: int, side: int) -> None:
    draw = np.random.default_rng(0)
    folder.mkdir()
    for i in range(n):
        blocks = Image.fromarray(draw.integers(0, 256, (side // 8, side // 8, 3), dtype=np.uint8))
        blocks.resize((side, side), Image.Resampling.BICUBIC).save(folder / f"{i:06d}.jpg", quality=90)


def timed(batches: Iterator[Any], n: int) -> float:
    """Pictures a second, from after the first batch on."""
    seen = 0
    next(batches)
    began = time.perf_counter()
    for batch in batches:
        seen += len(batch)
        if seen >= n - 2 * BATCH:
            break
    return seen / (time.perf_counter() - began)


def ours(shards: Path, workers: int, keep_mb: int) -> Stream:
    sets = load_sets(Wanted(str(shards), SIZE, 3, n_cpu=workers, keep_mb=keep_mb, say=lambda _: None))
    return Stream(sets, needs=(("x",),), batch_size=BATCH, seed=0, n_cpu=workers)


def contenders(files: Path, shards: Path, n: int, workers: int) -> dict[str, Callable[[], float]]:
    def streamed(keep_mb: int, passes: int) -> float:
        stream = ours(shards, workers, keep_mb)
        for _ in range((passes - 1) * int(stream.batches_per_epoch)):
            next(stream)
        speed = timed(stream, n)
        stream.close()
        return speed

    def over_files() -> float:
        loader = DataLoader(Files(files), BATCH, shuffle=True, num_workers=workers)
        return timed(iter(loader), n)

    def webdataset() -> float:
        import webdataset as wds

        paths = sorted(map(str, shards.glob("*.tar")))
        data = wds.WebDataset(paths, shardshuffle=len(paths)).shuffle(1000).decode("pil").to_tuple("jpg").map(first_of)
        return timed(iter(DataLoader(data, BATCH, num_workers=workers)), n)

    def alone() -> float:
        data = [path.read_bytes() for path in sorted(files.glob("*.jpg"))[: n // 2]]
        began = time.perf_counter()
        for start in range(0, len(data), BATCH):
            decode(data[start : start + BATCH], Form(SIZE, 3, "crop", 200))
        return len(data) / (time.perf_counter() - began)

    def prepared() -> float:
        """A folder that is decoded into the cache, once and for all."""
        with tempfile.TemporaryDirectory() as cache, patch.dict(os.environ, GANSMITH_CACHE=cache):
            began = time.perf_counter()
            load_sets(Wanted(str(files), SIZE, 3, n_cpu=8, say=lambda _: None, progress=False))
            return n / (time.perf_counter() - began)

    found = {"gansmith, shards": lambda: streamed(0, 1), "gansmith, from memory": lambda: streamed(4096, 2)}
    found["gansmith, a folder"] = prepared
    return found | {"webdataset": webdataset, "DataLoader over files": over_files, "decoding alone": alone}


def training(recipe: str, folder: Path, repeats: int, workers: int) -> None:
    """Prints how fast a recipe trains on shards of its own set, beside from memory: ratios of neighbouring blocks."""
    data = plan(recipe).recipe.data
    own: dict[str, Any] = {"n_cpu": workers, "data.validation": 0}
    write_shards(Wanted(data.name, data.size, data.channels, say=lambda _: None), folder / "shards", per_shard=2000)
    cases = {
        "from memory": own,
        "shards, kept": {**own, "data.name": str(folder / "shards"), "data.keep_mb": 4096},
        "shards, decoded on every pass": {**own, "data.name": str(folder / "shards"), "data.keep_mb": 0},
    }
    device = choose_device("cpu")
    with ExitStack() as held:
        held.enter_context(alone(device, tf32=False))
        found: dict[str, list[float]] = {name: [] for name in cases}
        benches = {}
        for i, (name, flags) in enumerate(cases.items()):
            benches[name] = Bench(plan(recipe, flags=flags).recipe, device, folder / str(i), lambda _: None)
            held.callback(benches[name].close)
        rounds = max(2 * bench.warm_up() for bench in benches.values())
        benches["shards, kept"].play(math.ceil(benches["shards, kept"].experiment.rounds_per_epoch))
        for _ in range(repeats):
            for name, bench in benches.items():
                found[name].append(rounds / bench.play(rounds))
    print(f"{recipe + ', on':32s} {'rounds/s, median (range)':>30s} {'of from memory, median (range)':>32s}")
    for name, speeds in found.items():
        shares = [s / m for s, m in zip(speeds, found["from memory"], strict=True)]
        spread, wide = (f"({min(x):,.{digits}f} to {max(x):,.{digits}f})" for x, digits in ((speeds, 1), (shares, 2)))
        print(
            f"{name:32s} {statistics.median(speeds):10,.1f} {spread:>19s} {statistics.median(shares):12.2f} {wide:>19s}"
        )
    print(f"blocks of {rounds} rounds, {workers} workers, {os.cpu_count()} cores")


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, usage=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--n", type=int, default=6000, help="pictures, at least 1000")
    parser.add_argument("--side", type=int, default=64, help="of the JPEG files, in pixels")
    parser.add_argument("--workers", type=int, default=2, help="processes that decode")
    parser.add_argument("--train", metavar="RECIPE", help="time its training on shards of its set, and from memory")
    options = parser.parse_args()
    for name, least in {"repeats": 1, "workers": 1, "n": 1000, "side": 8}.items():
        if getattr(options, name) < least:
            parser.error(f"--{name} is {getattr(options, name)}; it must be at least {least}")
    with tempfile.TemporaryDirectory() as folder:
        if options.train:
            training(options.train, Path(folder), options.repeats, options.workers)
            return
        files, shards = Path(folder, "files"), Path(folder, "shards")
        make_files(files, options.n, options.side)
        write_shards(Wanted(str(files), say=lambda _: None), shards, per_shard=500)
        cases = contenders(files, shards, options.n, options.workers)
        found: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(options.repeats):
            for name, measure in cases.items():
                try:
                    found[name].append(measure())
                except ImportError as error:
                    print(f"{name} is left out: {error}")
    print(f"{'':24s} {'pictures/s, median (range)':>34s} {'of decoding alone':>18s}")
    for name, speeds in found.items():
        if speeds:
            share = statistics.median(s / a for s, a in zip(speeds, found["decoding alone"], strict=True))
            spread = f"({min(speeds):,.0f} to {max(speeds):,.0f})"
            print(f"{name:24s} {statistics.median(speeds):12,.0f} {spread:>21s} {share:18.2f}")
    print(f"{options.n} JPEGs of side {options.side} to 64x64, {options.workers} workers, {os.cpu_count()} cores")


if __name__ == "__main__":
    main()

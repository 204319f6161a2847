"""The stream: what order it gives, that both ways of reading agree, and that it resumes anywhere."""

import itertools
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from gansmith.data import ImageSet, Stream
from gansmith.data import stream as stream_module
from gansmith.errors import UserError

N = 23


def numbered(n: int = N, *, labelled: bool = True, digest: str = "d") -> ImageSet:
    """Pictures whose first pixel is their number and whose label is, too."""
    images = np.random.default_rng(0).integers(0, 256, (n, 3, 4, 5), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(n)
    images.flags.writeable = False
    return ImageSet("numbered", images, np.arange(n) if labelled else None, (), digest)


def mapped(folder: Path) -> ImageSet:
    """The same pictures in a read-only memory map."""
    data = numbered()
    np.save(folder / "images.npy", data.images)
    images = np.load(folder / "images.npy", mmap_mode="r")
    return ImageSet(data.name, images, data.labels, (), data.digest)


def numbers(stream: Stream, batches: int) -> list[list[int]]:
    """The numbers of the pictures in the next batches, from the pixels, checked against the labels."""
    out = []
    for images, labels in itertools.islice(stream, batches):
        found = ((images[:, 0, 0, 0].double() + 1) * 127.5).round().long()
        assert labels is not None and torch.equal(found, labels)
        out.append(found.tolist())
    return out


@pytest.mark.parametrize("memory", ["device", "map"])
@pytest.mark.parametrize("batch_size", [1, 4, 23, 50])
def test_each_picture_once_per_epoch_with_a_short_last_batch(memory: str, batch_size: int) -> None:
    stream = Stream(numbered(), batch_size=batch_size, seed=3, memory=memory, n_cpu=2)
    assert stream.batches_per_epoch == -(-N // batch_size)
    orders = []
    for epoch in range(3):
        assert stream.epoch == epoch
        batches = numbers(stream, stream.batches_per_epoch)
        assert [len(batch) for batch in batches[:-1]] == [batch_size] * (stream.batches_per_epoch - 1)
        assert len(batches[-1]) == (N % batch_size or batch_size)
        orders.append([number for batch in batches for number in batch])
        assert sorted(orders[-1]) == list(range(N))
    assert len({tuple(order) for order in orders}) == 3
    stream.close()


def test_both_ways_of_reading_agree_bit_for_bit(tmp_path: Path) -> None:
    sources = [
        Stream(numbered(), batch_size=4, seed=1, memory="device"),
        Stream(numbered(), batch_size=4, seed=1, memory="map", n_cpu=1),
        Stream(mapped(tmp_path), batch_size=4, seed=1, memory="map", n_cpu=5),
        Stream(mapped(tmp_path), batch_size=4, seed=1, memory="device"),
    ]
    for _ in range(20):
        first, *others = [next(stream) for stream in sources]
        for other in others:
            assert torch.equal(first.images, other.images)
            assert first.labels is not None and other.labels is not None
            assert torch.equal(first.labels, other.labels)
    for stream in sources:
        stream.close()


def test_values_are_exact_at_both_ends() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    for dtype in (torch.float32, torch.float64):
        stream = Stream(ImageSet("ramp", images, None, (), "d"), batch_size=1, seed=0, dtype=dtype)
        batch = next(stream)
        assert batch.labels is None
        expected = torch.arange(256, dtype=dtype).reshape(1, 1, 16, 16) / 127.5 - 1
        assert torch.equal(batch.images, expected)
        assert (batch.images.min(), batch.images.max()) == (-1, 1)


def test_seed_and_epoch_do_not_add_up() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        stream = Stream(numbered(), batch_size=N, seed=seed, memory="device")
        stream.position = epoch
        return numbers(stream, 1)

    orders = [order(seed, epoch) for seed in range(4) for epoch in range(4)]
    assert all(a != b for a, b in itertools.combinations(orders, 2))
    assert order(-5, 0) != order(5, 0)
    assert order(2**70, 0) == order(2**70, 0)


@pytest.mark.parametrize("memory", ["device", "map"])
@pytest.mark.parametrize("position", [0, 1, 4, 5, 6, 7, 12, 600])
def test_resumes_inside_an_epoch_and_at_its_border(tmp_path: Path, memory: str, position: int) -> None:
    straight = Stream(mapped(tmp_path), batch_size=4, seed=9, memory="device")
    numbers(straight, position)
    state = json.loads(json.dumps(straight.state_dict()))
    resumed = Stream(mapped(tmp_path), batch_size=4, seed=9, memory=memory, n_cpu=3)
    numbers(resumed, 2)  # so that something else is already being read ahead
    resumed.load_state_dict(state)
    assert resumed.position == position
    assert resumed.epoch == position / 6
    assert numbers(resumed, 14) == numbers(straight, 14)
    resumed.close()


def test_resuming_something_else_says_what_differs() -> None:
    state = Stream(numbered(), batch_size=4, seed=1).state_dict()
    others = {
        "seed": Stream(numbered(), batch_size=4, seed=2),
        "batch_size": Stream(numbered(), batch_size=5, seed=1),
        "images": Stream(numbered(22), batch_size=4, seed=1),
        "digest": Stream(numbered(digest="e"), batch_size=4, seed=1),
    }
    for key, stream in others.items():
        with pytest.raises(UserError, match=f"{key}.* was .* and is now"):
            stream.load_state_dict(state)


def test_a_failure_of_a_worker_reaches_the_caller_and_does_not_shift_the_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = numbers(Stream(numbered(), batch_size=4, seed=1), 12)
    stream = Stream(numbered(), batch_size=4, seed=1, memory="map", n_cpu=2)
    read = stream._read
    failing = {3}

    def sometimes(position: int) -> torch.Tensor:
        if position in failing:
            raise OSError("the disk is gone")
        return read(position)

    monkeypatch.setattr(stream, "_read", sometimes)
    assert numbers(stream, 3) == expected[:3]
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone"):
            next(stream)
        assert stream.position == 3
    failing.clear()
    assert numbers(stream, 9) == expected[3:]
    stream.close()


def test_reads_ahead_across_the_border_of_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(numbered(), batch_size=4, seed=1, memory="map", n_cpu=4)
    asked: list[int] = []
    read = stream._read

    def noted(position: int) -> torch.Tensor:
        asked.append(position)
        return read(position)

    monkeypatch.setattr(stream, "_read", noted)
    numbers(stream, 4)
    for future in stream._ahead:
        future.result()
    stream.close()
    assert max(asked) >= stream.batches_per_epoch + 2
    assert len(asked) == len(set(asked))


def test_the_order_is_drawn_once_per_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = []
    randperm = torch.randperm

    def counted(*args: int, **kwargs: torch.Generator) -> torch.Tensor:
        drawn.append(args)
        return randperm(*args, **kwargs)

    monkeypatch.setattr(stream_module.torch, "randperm", counted)
    stream = Stream(numbered(), batch_size=1, seed=1, memory="device")
    numbers(stream, 3 * N)
    assert len(drawn) == 3


def test_close_ends_the_threads_and_is_final(tmp_path: Path) -> None:
    for memory in ("map", "device"):
        stream = Stream(mapped(tmp_path), batch_size=4, seed=1, memory=memory, n_cpu=3)
        next(stream)
        stream.close()
        stream.close()
        with pytest.raises(RuntimeError, match="closed"):
            next(stream)
    assert not [t for t in threading.enumerate() if t.name.startswith("gansmith-data")]


def test_auto_keeps_small_sets_in_memory_and_maps_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    data = numbered()
    monkeypatch.setattr(stream_module, "_free_host_memory", lambda: 4 * data.images.nbytes)
    assert Stream(data, batch_size=4, seed=1).in_memory
    assert not Stream(data, batch_size=4, seed=1, copies=2).in_memory
    monkeypatch.setattr(stream_module, "_free_host_memory", lambda: 4 * data.images.nbytes - 1)
    assert not Stream(data, batch_size=4, seed=1).in_memory


def test_free_host_memory_is_plausible() -> None:
    assert 1 << 26 < stream_module._free_host_memory() < 1 << 46


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"n_cpu": 0}, "n_cpu is 0"),
        ({"memory": "disk"}, "memory is 'disk'; it must be one of auto, device, map"),
        ({"data": numbered(0)}, "numbered is empty"),
    ],
)
def test_impossible_values_are_refused(changed: dict[str, object], text: str) -> None:
    arguments: dict[str, object] = {"data": numbered(), "batch_size": 4, "seed": 0, **changed}
    with pytest.raises(UserError, match=text):
        Stream(**arguments)  # type: ignore[arg-type]


def test_the_time_that_batches_are_waited_for_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Stream(mapped(tmp_path), batch_size=4, seed=1, memory="map", n_cpu=1)
    read = stream._read

    def slow(position: int) -> torch.Tensor:
        time.sleep(0.1)
        return read(position)

    monkeypatch.setattr(stream, "_read", slow)
    for _ in range(4):  # nothing else to do meanwhile: every read is waited for
        next(stream)
    assert 0.35 < stream.waited < 4
    before = stream.waited
    time.sleep(0.5)  # work, while a thread reads ahead
    next(stream)
    assert stream.waited - before < 0.1
    stream.close()

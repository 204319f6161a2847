"""The stream: what order it gives, that both ways of reading agree, and that it resumes anywhere."""

import itertools
import json
import math
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gansmith.data import ImageSet
from gansmith.data.stream import Stream
from gansmith.errors import UserError

N = 23


def numbered() -> ImageSet:
    """Pictures whose first pixel is their number and whose label is, too."""
    images = np.random.default_rng(0).integers(0, 256, (N, 3, 4, 5), dtype=np.uint8)
    images[:, 0, 0, 0] = np.arange(N)
    images.flags.writeable = False
    return ImageSet("numbered", {"x": images, "y": np.arange(N)}, (), "d")


def stream_of(data: ImageSet | None = None, **options: Any) -> Stream:
    return Stream((data or numbered(),), needs=(("x", "y"),), **{"batch_size": 4, "seed": 1, "n_cpu": 3, **options})


def numbers(stream: Stream, batches: float) -> list[list[int]]:
    """The numbers of the pictures in the next batches, from the pixels, checked against the labels."""
    out = []
    for batch in itertools.islice(stream, int(batches)):
        found = ((batch["x"][:, 0, 0, 0].double() + 1) * 127.5).round().long()
        assert torch.equal(found, batch["y"]) and batch.size == len(batch)
        out.append(found.tolist())
    return out


@pytest.mark.parametrize("memory", ["device", "map"])
@pytest.mark.parametrize("batch_size", [1, 4, 23, 50])
def test_each_picture_once_per_epoch_with_a_short_last_batch(memory: str, batch_size: int) -> None:
    stream = stream_of(batch_size=batch_size, memory=memory)
    orders = []
    for epoch in range(3):
        assert stream.epoch == epoch
        batches = numbers(stream, stream.batches_per_epoch)
        assert [len(batch) for batch in batches] == [min(batch_size, N - i) for i in range(0, N, batch_size)]
        orders.append(tuple(number for batch in batches for number in batch))
        assert sorted(orders[-1]) == list(range(N))
    assert len(set(orders)) == 3
    stream.close()


# (seed, epoch) -> the first numbers of that epoch, as they have always been: runs of older versions go on with them.
ORDERS = {
    (1, 0): [12, 7, 8, 4, 21, 11, 20, 5, 1, 15],
    (1, 7): [16, 2, 6, 5, 7, 3, 1, 15, 22, 9],
    (12345, 2): [16, 18, 15, 12, 11, 17, 9, 5, 21, 20],
}


def test_orders_never_change_and_seed_and_epoch_do_not_add_up() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        stream = stream_of(batch_size=10, seed=seed)
        old = {"position": 3 * epoch, "seed": seed, "batch_size": 10, "images": N, "digest": "d"}
        stream.load_state_dict(old)
        assert stream.state_dict() == old
        return numbers(stream, 1)[0]

    assert {key: order(*key) for key in ORDERS} == ORDERS
    orders = [order(seed, epoch) for seed in (-1, 0, 1, 2, 2**70) for epoch in range(4)]
    assert all(a != b for a, b in itertools.combinations(orders, 2))


@pytest.mark.parametrize("memory", ["device", "map"])
def test_resumes_inside_an_epoch_and_at_its_border(tmp_path: Path, memory: str) -> None:
    np.save(tmp_path / "images.npy", numbered().images)
    columns = {**numbered().columns, "x": np.load(tmp_path / "images.npy", mmap_mode="r")}
    mapped = ImageSet("numbered", columns, (), "d")
    for position in (0, 1, 5, 6, 7, 600):
        straight = stream_of(memory="device")
        straight.position = position
        state = json.loads(json.dumps(straight.state_dict()))
        resumed = stream_of(mapped, memory=memory)
        numbers(resumed, 2)  # so that something else is already being read ahead
        resumed.load_state_dict(state)
        assert resumed.position == position and resumed.epoch == position / 6
        assert numbers(resumed, 14) == numbers(straight, 14)
        resumed.close()
    for key in ("seed", "batch_size", "images", "digest"):  # something else
        with pytest.raises(
            UserError, match=f"^numbered is not what the run was trained on: .*{key}.* was -1 and is now"
        ):
            resumed.load_state_dict({**state, key: -1})


def test_a_failure_of_a_worker_is_raised_and_does_not_shift_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = numbers(stream_of(), 12)
    stream = stream_of(memory="map")
    read, failing = stream._read, {3}

    def sometimes(position: int) -> dict[str, torch.Tensor]:
        if position in failing:
            raise OSError("the disk is gone")
        return read(position)

    monkeypatch.setattr(stream, "_read", sometimes)
    assert numbers(stream, 3) == expected[:3]
    assert stream.position + len(stream._ahead) > stream.batches_per_epoch  # it reads ahead, into the next epoch
    for _ in range(2):
        with pytest.raises(OSError, match="the disk is gone"):
            next(stream)
        assert stream.position == 3
    failing.clear()
    assert numbers(stream, 9) == expected[3:]
    stream.close()


def test_close_ends_the_threads_and_is_final() -> None:
    for memory in ("map", "device"):
        stream = stream_of(memory=memory)
        next(stream)
        stream.close()
        stream.close()
        with pytest.raises(RuntimeError, match="closed"):
            next(stream)
    assert not [t for t in threading.enumerate() if t.name.startswith("gansmith-data")]


def test_memory_auto_holds_small_sets_and_maps_large_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    data = numbered()
    free = 4 * data.images.nbytes
    assert stream_of(data, free=free).in_memory
    assert not stream_of(data, free=free, copies=2).in_memory
    assert not Stream((data, data), needs=(("x", "y"), ("x", "y")), batch_size=4, seed=1, free=free).in_memory
    assert not stream_of(data, free=free - 1).in_memory
    for guess in (free - 1, free):  # where the system does not tell
        monkeypatch.setattr("gansmith.data.stream.UNTOLD", guess)
        assert stream_of(data, free=math.inf).in_memory is (guess == free)
    with pytest.raises(UserError, match="memory is 'disk'; it must be one of auto, device, map"):
        stream_of(memory="disk")
    with pytest.raises(UserError, match=r"^data.values is raw; with numbered it must be signed, unit or gcn"):
        stream_of(values="raw")


def test_the_time_that_batches_are_waited_for_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = stream_of(memory="map", n_cpu=1)
    read = stream._read
    monkeypatch.setattr(stream, "_read", lambda position: time.sleep(0.05) or read(position))
    for _ in range(4):  # nothing else to do meanwhile: every read is waited for
        next(stream)
    assert 0.15 < stream.waited < 4
    before = stream.waited
    time.sleep(0.2)  # work, while a thread reads ahead
    next(stream)
    assert stream.waited - before < 0.05
    stream.close()


SIZES = {"a": 5, "b": 13}


def domains(memory: str = "device", sizes: dict[str, int] = SIZES, **options: Any) -> Stream:
    """Five pictures a and thirteen pictures b, whose pixels are their numbers."""
    columns = {name: np.repeat(np.arange(n, dtype=np.uint8), 6).reshape(n, 1, 2, 3) for name, n in sizes.items()}
    sets = [ImageSet(name, {name: column}, (), name) for name, column in columns.items()]
    made = {"batch_size": 7, "seed": 3, "values": "unit", "dtype": torch.float64, **options}
    return Stream(sets, needs=(("a",), ("b",)), memory=memory, n_cpu=2, **made)


def both(stream: Stream, batches: int) -> list[dict[str, list[int]]]:
    """The numbers of the pictures, by field."""
    found = [next(stream).fields for _ in range(batches)]
    return [{name: (x[:, 0, 0, 0] * 255).round().int().tolist() for name, x in fields.items()} for fields in found]


def test_batches_of_several_sets_wrap_and_each_set_has_its_own_order() -> None:
    stream = domains()
    assert stream.batches_per_epoch == 13 / 7 and [len(data) for data in stream.sets] == [5, 13]
    batches = both(stream, 65)
    assert stream.epoch == 35.0
    for name, n in SIZES.items():
        assert all(len(batch[name]) == 7 for batch in batches)
        run = [i for batch in batches for i in batch[name]]
        epochs = [tuple(run[start : start + n]) for start in range(0, len(run), n)]
        assert all(sorted(epoch) == list(range(n)) for epoch in epochs)
        assert len(set(epochs)) > 0.6 * min(len(epochs), 120)
    (batch,) = both(domains(sizes={"a": 50, "b": 50}, batch_size=50), 1)  # two sets of one size are not paired
    assert batch["a"] != batch["b"] and sorted(batch["a"]) == sorted(batch["b"])


def test_two_sets_resume_to_the_bit() -> None:
    for position in (0, 1, 13, 1000):
        straight = domains()
        straight.position = position
        state = json.loads(json.dumps(straight.state_dict()))
        expected = both(straight, 20)
        for rank in range(3):  # of which each gets its part
            (share := domains(rank=rank, ranks=3)).load_state_dict(state)
            part = slice(7 * rank // 3, 7 * (rank + 1) // 3)
            assert both(share, 20) == [{name: numbers[part] for name, numbers in batch.items()} for batch in expected]
        both(resumed := domains("map"), 2)
        resumed.load_state_dict(state)
        assert both(resumed, 20) == expected
        resumed.close()


def test_pairs_are_read_from_the_map_where_their_pictures_lie_apart(tmp_path: Path) -> None:
    stack = np.random.default_rng(0).integers(0, 256, (N, 2, 1, 3, 4), dtype=np.uint8)
    np.save(tmp_path / "images.npy", stack)
    images = np.load(tmp_path / "images.npy", mmap_mode="r")
    data = ImageSet("pairs", {"a": images[:, 0], "b": images[:, 1], "y": np.arange(N)}, (), "d")
    made: dict[str, Any] = {"batch_size": 4, "seed": 1, "n_cpu": 2, "values": "unit", "dtype": torch.float64}
    stream, held = (Stream([data], needs=(("a", "b", "y"),), memory=m, **made) for m in ("map", "device"))
    for batch, other in itertools.islice(zip(stream, held, strict=True), 8):
        for i, name in enumerate("ab"):
            assert torch.equal(batch[name], torch.from_numpy(stack[batch["y"], i] / 255))
            assert torch.equal(batch[name], other[name])
    stream.close()

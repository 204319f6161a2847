"""A checkpoint is whole or not there, damage is noticed, and reading one runs no code."""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from gansmith import checkpoint
from gansmith.errors import UserError

TREE = {
    "round": 3,
    "net": {"weight": torch.arange(6.0).reshape(2, 3), "steps": torch.tensor(7)},
    "optimizer": {0: {"exp_avg": torch.ones(2, dtype=torch.float64)}, 1: {}},
    "list": [1, None, True, "text", 0.1, float("nan")],
}


def same(a: Any, b: Any) -> bool:
    """Equal to the bit, types too; a tuple may come back as a list."""
    if isinstance(a, torch.Tensor):
        if not isinstance(b, torch.Tensor) or (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        one, other = (t.contiguous().view(-1).view(torch.uint8) for t in (a, b))
        return torch.equal(one, other)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "checkpoints"


@pytest.fixture
def write(folder: Path) -> Callable[..., Path]:
    def one(round: int, **more: Any) -> Path:
        return checkpoint.write(folder, round, {**TREE, **more}, info={"images": 10 * round, "device": "cpu"})

    return one


# ---- trees -----------------------------------------------------------------------------------------------------

DTYPES = [
    torch.float32,
    torch.float64,
    torch.float16,
    torch.bfloat16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
]


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    numbers = torch.arange(64).to(dtype) if dtype is not torch.bool else torch.arange(64) % 3 == 0
    if dtype.is_floating_point:
        numbers[:4] = torch.tensor([float("nan"), float("inf"), -0.0, -float("inf")], dtype=dtype)
    n = 1
    for side in shape:
        n *= side
    tensor = numbers[:n].reshape(shape)  # a view: many tensors share this memory
    return tensor.transpose(0, -1) if len(shape) > 1 and draw(st.booleans()) else tensor


TREES = st.recursive(
    tensors()
    | st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.integers(0, 5) | st.sampled_from(["a", "b", "tensor", "map", "list", "a.b", "é"]), inner)
    ),
    max_leaves=10,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["net", "rng", "x y"]), TREES, max_size=3))
def test_a_tree_comes_back_through_json(tree: dict[str, Any]) -> None:
    flat: dict[str, torch.Tensor] = {}
    packed = json.loads(json.dumps(checkpoint.pack(tree, flat)))
    assert same(tree, checkpoint.unpack(packed, flat))


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["a", "a.b", "b", "0", "0.b", ""]) | st.sampled_from([0, 1]),
        tensors() | st.dictionaries(st.sampled_from(["b", "c", "b.c", 0, "0"]), tensors(), max_size=3),
        max_size=4,
    )
)
@example({"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1)})
@example({"a": {0: torch.zeros(1), "0": torch.ones(1)}})
def test_no_two_tensors_share_a_place(tree: dict[str, Any]) -> None:
    flat: dict[str, torch.Tensor] = {}
    packed = checkpoint.pack(tree, flat)
    assert same(tree, checkpoint.unpack(packed, flat))


def test_a_written_tree_comes_back(folder: Path) -> None:
    base = torch.arange(12.0)
    tree = {
        "views": [base[2:6], base[4:8], base.reshape(3, 4).T, base],
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "zero": torch.tensor(-0.0),
        "empty": torch.zeros(0, 3),
        "bytes": torch.get_rng_state(),
        "half": torch.randn(3).bfloat16(),
        "none": {},
        "adam": {0: {"step": torch.tensor(3.0), "amsgrad": False}, 12: {}},
        "groups": [{"betas": (0.5, 0.999), "params": [0, 1], "foreach": None}],
        "third": 1 / 3,
    }
    path = checkpoint.write(folder, 7, tree, info={"images": 5})
    got, info = checkpoint.read(path)
    assert same({**tree, "parameter": tree["parameter"].detach()}, got)
    assert info["round"] == 7 and info["images"] == 5 and info["schema"] == checkpoint.SCHEMA
    assert {p.name for p in path.iterdir()} == {"tensors.safetensors", "state.json"}


def test_a_state_without_tensors_is_a_checkpoint_too(folder: Path) -> None:
    assert checkpoint.read(checkpoint.write(folder, 1, {"a": 1}, info={}))[0] == {"a": 1}


@pytest.mark.parametrize("thing", [{1, 2}, b"bytes", 1j, object(), torch.float32])
def test_what_json_cannot_hold_is_refused_by_its_place(thing: Any, folder: Path) -> None:
    with pytest.raises(TypeError, match=r"game.0.odd: a checkpoint cannot hold"):
        checkpoint.write(folder, 1, {"game": [{"odd": thing}]}, info={})
    assert list(folder.iterdir()) == []


def test_its_json_has_no_nan_and_older_ones_that_have_are_read(write: Callable[..., Path], folder: Path) -> None:
    path = checkpoint.write(folder, 1, TREE, info={"score": {"value": -float("inf")}})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    text = (path / "state.json").read_text()
    json.loads(text, parse_constant=refuse)
    tree, info = checkpoint.read(path)
    assert same(tree, TREE) and float(info["score"]["value"]) == -float("inf")
    body = json.loads(text.replace('{"float": "nan"}', "NaN").replace('"-inf"', "-Infinity"))
    del body["digest"]
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    (path / "state.json").write_text(json.dumps({"digest": digest, **body}))
    assert "NaN" in (path / "state.json").read_text()
    tree, info = checkpoint.read(path)
    assert same(tree, TREE) and info["score"]["value"] == -float("inf")


# ---- whole, or not there ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (checkpoint, "save_file"),
        (checkpoint, "file_digest"),
        (json, "dumps"),
        (Path, "write_text"),
        (os, "fsync"),
        (os, "replace"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_a_failure_leaves_nothing_behind(
    target: Any,
    name: str,
    error: BaseException,
    write: Callable[..., Path],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write(1)
    real = getattr(target, name)

    def fail(*args: Any, **kwargs: Any) -> None:
        if name in ("save_file", "write_text"):  # half of a file lies there by then
            Path(args[1] if name == "save_file" else args[0]).write_bytes(b"half")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(target, name, fail)
        with pytest.raises(type(error)):
            write(2)
    assert getattr(target, name) is real
    assert sorted(p.name for p in folder.iterdir()) == ["00000001"]
    assert same(checkpoint.read(folder / "00000001")[0], TREE)
    assert checkpoint.read(write(2))[1]["round"] == 2


def kill_points(folder: Path, snapshots: Path, monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any]) -> list[Path]:
    """Copies of the folder as a kill -9 would leave it before and after everything that touches the disk in `act`."""
    taken: list[Path] = []

    def snapshot() -> None:
        taken.append(snapshots / f"{len(taken):03d}")
        shutil.copytree(folder, taken[-1])

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
        busy = False

        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal busy
            if busy:
                return real(*args, **kwargs)
            busy = True
            snapshot()
            result = real(*args, **kwargs)
            snapshot()
            busy = False
            return result

        return call

    copytree = shutil.copytree
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", watched(checkpoint.save_file))
        patch.setattr(Path, "write_text", watched(Path.write_text))
        patch.setattr(os, "fsync", watched(os.fsync))
        patch.setattr(os, "replace", watched(os.replace))
        patch.setattr(shutil, "rmtree", watched(shutil.rmtree))
        assert shutil.copytree is copytree
        act()
    return taken


def test_a_kill_at_any_moment_leaves_the_old_checkpoint_or_the_new_one(
    write: Callable[..., Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(1)
    left = kill_points(folder, tmp_path / "left", monkeypatch, lambda: write(2))
    assert len(left) > 10
    found = [checkpoint.newest_good(path, pytest.fail).name for path in left]
    assert found == sorted(found) and set(found) == {"00000001", "00000002"}
    # What the kill left does not disturb the next one, and goes away with it.
    for path in left:
        again = checkpoint.write(path, 2, TREE, info={})
        assert same(checkpoint.read(again)[0], TREE)
        assert sorted(p.name for p in path.iterdir()) == ["00000001", "00000002"]


def test_a_kill_while_a_broken_one_is_replaced_leaves_the_older_one(
    write: Callable[..., Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a resume that skipped it, when training comes to its round again."""
    write(1)
    (write(2) / checkpoint.TENSORS).write_bytes(b"")
    left = kill_points(folder, tmp_path / "left", monkeypatch, lambda: write(2))
    found = [checkpoint.newest_good(path, lambda text: None).name for path in left]
    assert found == sorted(found) and set(found) == {"00000001", "00000002"}


def test_a_kill_while_old_ones_are_removed_leaves_the_newest(
    write: Callable[..., Path], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for round in (1, 2, 3):
        write(round)
    real = os.unlink
    left: list[Path] = []

    def unlink(*args: Any, **kwargs: Any) -> None:
        real(*args, **kwargs)
        left.append(tmp_path / f"left{len(left)}")
        with monkeypatch.context() as patch:
            patch.setattr(os, "unlink", real)
            shutil.copytree(folder, left[-1])

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", unlink)
        checkpoint.prune(folder, 3, keep=1, keep_every=0)
    assert len(left) == 4
    for path in left:
        assert checkpoint.newest_good(path, pytest.fail).name == "00000003"


def test_everything_is_synced_before_the_name_appears(
    write: Callable[..., Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    replace, fsync = os.replace, os.fsync

    def note_replace(a: Any, b: Any) -> None:
        replace(a, b)
        events.append(f"rename {Path(b).name}")

    def note_fsync(fd: int) -> None:
        fsync(fd)
        events.append(f"sync {Path(os.readlink(f'/proc/self/fd/{fd}')).name}")

    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to see what is synced")
    monkeypatch.setattr(os, "replace", note_replace)
    monkeypatch.setattr(os, "fsync", note_fsync)
    write(4)
    at = events.index("rename 00000004")
    assert {"sync tensors.safetensors", "sync state.json", "sync .writing-00000004"} <= set(events[:at])
    assert "sync checkpoints" in events[at:]


# ---- damage ----------------------------------------------------------------------------------------------------


def positions(size: int) -> Iterator[int]:
    yield from sorted({*range(0, size, max(1, size // 40)), 0, 1, 7, 8, 9, size - 2, size - 1})


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.STATE])
def test_every_truncation_is_noticed(name: str, write: Callable[..., Path]) -> None:
    path = write(1)
    whole = (path / name).read_bytes()
    for size in positions(len(whole)):
        (path / name).write_bytes(whole[:size])
        with pytest.raises(checkpoint.Broken, match=name):
            checkpoint.read(path)
    (path / name).write_bytes(whole + b"\0")
    with pytest.raises(checkpoint.Broken, match=name):
        checkpoint.read(path)
    (path / name).write_bytes(whole)
    checkpoint.read(path)


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.STATE])
def test_every_flipped_bit_is_noticed(name: str, write: Callable[..., Path]) -> None:
    path = write(1)
    whole = (path / name).read_bytes()
    for at in positions(len(whole)):
        for bit in (0, 5):
            damaged = bytearray(whole)
            damaged[at] ^= 1 << bit
            (path / name).write_bytes(damaged)
            try:
                tree, info = checkpoint.read(path)
            except checkpoint.Broken:
                continue
            # White space of the JSON may change; what it says may not.
            assert json.loads(damaged) == json.loads(whole), (at, bit)


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.STATE])
def test_a_missing_or_unreadable_file_is_noticed(name: str, write: Callable[..., Path]) -> None:
    path = write(1)
    (path / name).unlink()
    with pytest.raises(checkpoint.Broken, match=f"{name}: No such file"):
        checkpoint.verify(path)
    (path / name).mkdir()
    with pytest.raises(checkpoint.Broken, match=name):
        checkpoint.verify(path)


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "3", '"text"', "{}", '{"schema": 1}', '{"schema": 1, "digest": ""}', "{" * 100_000]
)
def test_other_json_is_noticed(text: str, write: Callable[..., Path]) -> None:
    path = write(1)
    (path / checkpoint.STATE).write_text(text, encoding="utf-8")
    with pytest.raises(checkpoint.Broken):
        checkpoint.read(path)


def forge(path: Path, **changes: Any) -> None:
    """Change state.json and give it a digest that holds, as somebody would who wants it to be read."""
    body = {**json.loads((path / checkpoint.STATE).read_text(encoding="utf-8")), **changes}
    body.pop("digest")
    body = {"digest": checkpoint._digest(body), **body}
    (path / checkpoint.STATE).write_text(json.dumps(body), encoding="utf-8")


def test_another_schema_version_is_named(write: Callable[..., Path]) -> None:
    path = write(1)
    forge(path, schema=checkpoint.SCHEMA + 1)
    with pytest.raises(checkpoint.Broken, match=r"it has schema 2, this gansmith .* reads schema 1"):
        checkpoint.read(path)


@pytest.mark.parametrize(
    "state", [{"map": 3}, {"map": [[1]]}, {"tensor": "no such"}, {"tensor": []}, {"other": 1}, {"list": None}]
)
def test_a_forged_tree_is_broken_and_no_traceback(state: Any, write: Callable[..., Path]) -> None:
    path = write(1)
    forge(path, state=state)
    with pytest.raises(checkpoint.Broken):
        checkpoint.read(path)


def test_tensors_without_a_digest_are_not_trusted(write: Callable[..., Path]) -> None:
    path = write(1)
    forge(path, sha256={})
    damaged = bytearray((path / checkpoint.TENSORS).read_bytes())
    damaged[-1] ^= 1
    (path / checkpoint.TENSORS).write_bytes(damaged)
    with pytest.raises(checkpoint.Broken):
        checkpoint.read(path)


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.made),)


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_in_place_of_the_tensors_is_not_run(protocol: int, write: Callable[..., Path], tmp_path: Path) -> None:
    path, made = write(1), tmp_path / "made"
    data = pickle.dumps({"net": Bomb(made)}, protocol=protocol)
    (path / checkpoint.TENSORS).write_bytes(data)
    forge(path, sha256={checkpoint.TENSORS: checkpoint.file_digest(path / checkpoint.TENSORS)})
    with pytest.raises(checkpoint.Broken, match=checkpoint.TENSORS):
        checkpoint.read(path)
    assert not made.exists()
    torch.save({"net": Bomb(made)}, path / checkpoint.TENSORS)
    forge(path, sha256={checkpoint.TENSORS: checkpoint.file_digest(path / checkpoint.TENSORS)})
    with pytest.raises(checkpoint.Broken):
        checkpoint.read(path)
    assert not made.exists()
    pickle.loads(data)  # it is a live one
    assert made.exists()


# ---- choosing and keeping --------------------------------------------------------------------------------------


def test_one_that_a_training_beside_prunes_meanwhile_makes_place_for_its_successor(
    write: Callable[..., Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(1)
    said: list[str] = []
    real = checkpoint.verify

    def verify(path: Path) -> dict[str, Any]:
        if path.name == "00000001":  # the training goes on between the look and the reading
            write(2)
            shutil.rmtree(path)
        return real(path)

    monkeypatch.setattr(checkpoint, "verify", verify)
    assert checkpoint.newest_good(folder, said.append).name == "00000002" and not said


def test_the_newest_good_one_is_taken_and_the_broken_ones_are_said(write: Callable[..., Path], folder: Path) -> None:
    for round in (1, 2, 3, 4):
        write(round)
    (folder / "00000004" / checkpoint.TENSORS).write_bytes(b"")
    (folder / "00000003" / checkpoint.STATE).unlink()
    (folder / "notes").mkdir()
    (folder / "00000009").write_text("a file, no folder", encoding="utf-8")
    said: list[str] = []
    assert checkpoint.newest_good(folder, said.append) == folder / "00000002"
    assert said == [
        f"skipped the broken checkpoint {folder / '00000004'}: tensors.safetensors does not match its digest",
        f"skipped the broken checkpoint {folder / '00000003'}: state.json: No such file or directory",
    ]


def test_nothing_good_is_a_user_error(write: Callable[..., Path], folder: Path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint, so there is nothing to load"):
        checkpoint.newest_good(folder, pytest.fail)
    for round in (1, 2):
        (write(round) / checkpoint.STATE).write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=f"{folder}: all 2 checkpoints are broken"):
        checkpoint.newest_good(folder, lambda text: None)


def test_newest_is_by_number(write: Callable[..., Path], folder: Path) -> None:
    for round in (99_999_999, 100_000_000, 7):
        write(round)
    assert [int(p.name) for p in checkpoint.everything(folder)] == [100_000_000, 99_999_999, 7]


@pytest.mark.parametrize(
    ("keep", "keep_every", "left"),
    [(2, 0, [9, 10]), (1, 0, [10]), (2, 4, [4, 8, 9, 10]), (1, 5, [5, 10]), (100, 0, list(range(1, 11)))],
)
def test_the_newest_and_every_so_many_stay(
    keep: int, keep_every: int, left: list[int], write: Callable[..., Path], folder: Path
) -> None:
    for round in range(1, 11):
        write(round)
        checkpoint.prune(folder, round, keep, keep_every)
    assert sorted(int(p.name) for p in folder.iterdir()) == left


def test_later_ones_do_not_push_out_what_is_written_now(write: Callable[..., Path], folder: Path) -> None:
    for round in (4, 7, 5):  # 7 was found broken, the run went on from 4
        write(round)
    checkpoint.prune(folder, 5, 1, 0)
    assert sorted(int(p.name) for p in folder.iterdir()) == [5, 7]


def test_a_full_disk_is_an_os_error_in_every_part(
    write: Callable[..., Path], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """safetensors reports it as an error of its own; callers know one kind."""

    def full(*args: Any, **kwargs: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left on device"):
        write(1)
    assert list(folder.iterdir()) == []

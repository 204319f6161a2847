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
FILES = pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.STATE])
Write = Callable[..., Path]


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
def write(folder: Path) -> Write:
    return lambda round, **more: checkpoint.write(folder, round, {**TREE, **more}, info={"images": 10 * round})


def numbers(folder: Path) -> list[int]:
    return sorted(int(p.name) for p in folder.iterdir())


# ---- trees -----------------------------------------------------------------------------------------------------


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.uint8, torch.bool]))
    numbers = torch.arange(64).to(dtype)
    if dtype.is_floating_point:
        numbers[:4] = torch.tensor([float("nan"), float("inf"), -0.0, -float("inf")], dtype=dtype)
    tensor = numbers[: torch.Size(shape).numel()].reshape(shape)  # a view: many tensors share this memory
    return tensor.transpose(0, -1) if len(shape) > 1 and draw(st.booleans()) else tensor


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"]))
TREES = st.recursive(
    tensors() | PLAIN,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.integers(0, 5) | st.sampled_from(["a", "b", "tensor", "map", "list", "a.b", "é"]), inner)
    ),
    max_leaves=10,
)
CLASHING = st.dictionaries(
    st.sampled_from(["a", "a.b", "b", "0", "0.b", ""]) | st.sampled_from([0, 1]),
    tensors() | st.dictionaries(st.sampled_from(["b", "c", "b.c", 0, "0"]), tensors(), max_size=3),
    max_size=4,
)


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(["net", "rng", "x y"]), TREES, max_size=3) | CLASHING)
@example({"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1)})
@example({"a": {0: torch.zeros(1), "0": torch.ones(1)}})
def test_a_tree_comes_back_through_json_and_no_two_tensors_share_a_place(tree: dict[str, Any]) -> None:
    flat: dict[str, torch.Tensor] = {}
    packed = json.loads(json.dumps(checkpoint.pack(tree, flat)))
    assert same(tree, checkpoint.unpack(packed, flat))


def test_a_written_tree_comes_back(folder: Path) -> None:
    base, parameter = torch.arange(12.0), torch.nn.Parameter(torch.randn(2, 2))
    tree = {
        **{
            "views": [base[2:6], base[4:8], base.reshape(3, 4).T, base],
            "parameter": parameter,
            "empty": torch.zeros(0, 3),
        },
        **{"rng": torch.get_rng_state(), "adam": {0: {"step": torch.tensor(3.0)}, 12: {}}, "betas": (0.5, 1 / 3)},
    }
    path = checkpoint.write(folder, 7, tree, info={"images": 5})
    got, info = checkpoint.read(path)
    assert same({**tree, "parameter": parameter.detach()}, got)
    assert info["round"] == 7 and info["images"] == 5 and info["schema"] == checkpoint.SCHEMA
    assert {p.name for p in path.iterdir()} == {"tensors.safetensors", "state.json"}
    assert checkpoint.read(checkpoint.write(folder, 1, {"a": 1}, info={}))[0] == {"a": 1}  # without tensors, too


@pytest.mark.parametrize("thing", [{1, 2}, b"bytes", 1j, torch.float32])
def test_what_json_cannot_hold_is_refused_by_its_place(thing: Any, folder: Path) -> None:
    with pytest.raises(TypeError, match=r"game.0.odd: a checkpoint cannot hold"):
        checkpoint.write(folder, 1, {"game": [{"odd": thing}]}, info={})
    assert not folder.exists()


def test_its_json_has_no_nan_and_older_ones_that_have_are_read(folder: Path) -> None:
    path = checkpoint.write(folder, 1, TREE, info={"score": {"value": -float("inf")}})
    text = (path / "state.json").read_text()
    json.loads(text, parse_constant=pytest.fail)
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

TOUCHING = [(checkpoint, "save_file"), (Path, "write_text"), (os, "fsync"), (os, "replace")]
RMTREE = (shutil, "rmtree")


@pytest.mark.parametrize(("target", "name"), [*TOUCHING, (json, "dumps")], ids=lambda v: str(v)[:20])
def test_a_failure_leaves_nothing_behind(
    target: Any, name: str, write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(1)
    errors: list[Any] = [(OSError(28, "No space left on device"), OSError), (KeyboardInterrupt(), KeyboardInterrupt)]
    if name == "save_file":  # safetensors reports a full disk as an error of its own; callers know one kind
        errors.append((SafetensorError("I/O error: No space left on device (os error 28)"), OSError))
    for error, seen in errors:

        def fail(*args: Any, error: BaseException = error, **kwargs: Any) -> None:
            if name in ("save_file", "write_text"):  # half of a file lies there by then
                Path(args[1] if name == "save_file" else args[0]).write_bytes(b"half")
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(target, name, fail)
            with pytest.raises(seen, match="No space left on device" if seen is OSError else None):
                write(2)
        assert numbers(folder) == [1] and same(checkpoint.read(folder / "00000001")[0], TREE)
    assert checkpoint.read(write(2))[1]["round"] == 2


def kill_points(folder: Path, snapshots: Path, act: Callable[[], Any], watch: Any = (*TOUCHING, RMTREE)) -> list[Path]:
    """Copies of the folder as a kill -9 would leave it before and after everything that touches the disk in `act`."""
    taken: list[Path] = []
    copytree, busy = shutil.copytree, False

    def snapshot() -> None:
        taken.append(snapshots / f"{len(taken):03d}")
        copytree(folder, taken[-1])

    def watched(real: Callable[..., Any]) -> Callable[..., Any]:
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

    with pytest.MonkeyPatch.context() as patch:
        for target, name in watch:
            patch.setattr(target, name, watched(getattr(target, name)))
        act()
    return taken


@pytest.mark.parametrize("replaced", [False, True])
def test_a_kill_at_any_moment_leaves_the_old_checkpoint_or_the_new_one(
    replaced: bool, write: Write, folder: Path, tmp_path: Path
) -> None:
    """Also where a resume has skipped a broken one, and training comes to its round again."""
    write(1)
    if replaced:
        (write(2) / checkpoint.TENSORS).write_bytes(b"")
    left = kill_points(folder, tmp_path / "left", lambda: write(2))
    found = [checkpoint.newest_good(path, lambda text: None).path.name for path in left]
    assert len(left) > 10 and found == sorted(found) and set(found) == {"00000001", "00000002"}
    # What the kill left does not disturb the next one, and goes away with it.
    for path in left:
        again = checkpoint.write(path, 2, TREE, info={})
        assert same(checkpoint.read(again)[0], TREE) and numbers(path) == [1, 2]


def test_a_kill_while_old_ones_are_removed_leaves_the_newest(write: Write, folder: Path, tmp_path: Path) -> None:
    for round in (1, 2, 3):
        write(round)
    left = kill_points(folder, tmp_path / "left", lambda: checkpoint.prune(folder, 3, 1, 0), [(os, "unlink")])
    assert len(left) == 8  # two files of two checkpoints
    assert {checkpoint.newest_good(path, pytest.fail).path.name for path in left} == {"00000003"}


def test_everything_is_synced_before_the_name_appears(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs /proc to see what is synced")
    events: list[str] = []
    replace, fsync = os.replace, os.fsync
    monkeypatch.setattr(os, "replace", lambda a, b: (replace(a, b), events.append(f"rename {Path(b).name}")))
    monkeypatch.setattr(
        os, "fsync", lambda fd: (fsync(fd), events.append(f"sync {Path(os.readlink(f'/proc/self/fd/{fd}')).name}"))
    )
    write(4)
    at = events.index("rename 00000004")
    assert {"sync tensors.safetensors", "sync state.json", "sync .writing-00000004"} <= set(events[:at])
    assert "sync checkpoints" in events[at:]


# ---- damage ----------------------------------------------------------------------------------------------------


def positions(size: int) -> Iterator[int]:
    yield from sorted({*range(0, size, max(1, size // 40)), 0, 1, 7, 8, 9, size - 2, size - 1})


def test_a_state_that_is_nested_beyond_reason_is_damaged(write: Write) -> None:
    path = write(1)
    (path / checkpoint.STATE).write_text("[" * 200_000)
    with pytest.raises(checkpoint.Broken, match="damaged"):
        checkpoint.read(path)
    checkpoint.prune(path.parent, 1, 1, 0)


@FILES
def test_every_truncation_and_every_flipped_bit_is_noticed(name: str, write: Write) -> None:
    path = write(1)
    whole = (path / name).read_bytes()
    for damaged in (*(whole[:size] for size in positions(len(whole))), whole + b"\0"):
        (path / name).write_bytes(damaged)
        with pytest.raises(checkpoint.Broken, match=name):
            checkpoint.read(path)
    for at in positions(len(whole)):
        for bit in (0, 5):
            flipped = bytearray(whole)
            flipped[at] ^= 1 << bit
            (path / name).write_bytes(flipped)
            try:
                checkpoint.read(path)
            except checkpoint.Broken:
                continue
            # White space of the JSON may change; what it says may not.
            assert json.loads(flipped) == json.loads(whole), (at, bit)


@FILES
def test_what_is_missing_or_something_else_is_noticed(name: str, write: Write) -> None:
    path = write(1)
    (path / name).unlink()
    with pytest.raises(checkpoint.Broken, match=f"{name}: No such file"):
        checkpoint.verify(path)
    for text in ("", "null", "[]", "3", '"text"', "{}", '{"schema": 1}', '{"schema": 1, "digest": ""}', "{" * 100_000):
        (path / name).write_text(text, encoding="utf-8")
        with pytest.raises(checkpoint.Broken):
            checkpoint.read(path)
    (path / name).unlink()
    (path / name).mkdir()
    with pytest.raises(checkpoint.Broken, match=name):
        checkpoint.verify(path)


def forge(path: Path, **changes: Any) -> None:
    """Change state.json and give it a digest that holds, as somebody would who wants it to be read."""
    body = {**json.loads((path / checkpoint.STATE).read_text(encoding="utf-8")), **changes}
    body.pop("digest")
    body = {"digest": checkpoint._digest(body), **body}
    (path / checkpoint.STATE).write_text(json.dumps(body), encoding="utf-8")


def test_what_is_forged_is_broken_and_no_traceback(write: Write) -> None:
    path = write(1)
    forge(path, schema=checkpoint.SCHEMA + 1)
    with pytest.raises(checkpoint.Broken, match=r"it has schema 2, this gansmith .* reads schema 1"):
        checkpoint.read(path)
    forge(path, schema=checkpoint.SCHEMA, finite=False)  # as older versions wrote one that had diverged
    with pytest.raises(checkpoint.Broken, match="its training has diverged"):
        checkpoint.read(path)
    forge(path, finite=True)
    odd: list[Any] = [{"map": 3}, {"map": [[1]]}, {"tensor": "no such"}, {"tensor": []}, {"other": 1}, {"list": None}]
    for state in odd:
        forge(path, schema=checkpoint.SCHEMA, state=state)
        with pytest.raises(checkpoint.Broken):
            checkpoint.read(path)
    forge(write(2), sha256={})  # tensors without a digest are not trusted
    damaged = bytearray((path / checkpoint.TENSORS).read_bytes())
    damaged[-1] ^= 1
    (path.parent / "00000002" / checkpoint.TENSORS).write_bytes(damaged)
    with pytest.raises(checkpoint.Broken):
        checkpoint.read(path.parent / "00000002")


class Bomb:
    """Makes a folder when it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.made),)


def test_a_pickle_in_place_of_the_tensors_is_not_run(write: Write, tmp_path: Path) -> None:
    path, made = write(1), tmp_path / "made"
    pickles = [pickle.dumps({"net": Bomb(made)}, protocol=protocol) for protocol in (0, 2, 5)]
    torch.save({"net": Bomb(made)}, tmp_path / "torch.pt")
    for data in (*pickles, (tmp_path / "torch.pt").read_bytes()):
        (path / checkpoint.TENSORS).write_bytes(data)
        forge(path, sha256={checkpoint.TENSORS: checkpoint.file_digest(path / checkpoint.TENSORS)})
        with pytest.raises(checkpoint.Broken, match=checkpoint.TENSORS):
            checkpoint.read(path)
    assert not made.exists()
    pickle.loads(pickles[0])  # it is a live one
    assert made.exists()


# ---- choosing and keeping --------------------------------------------------------------------------------------


@pytest.mark.parametrize("reading", ["verify", "load_file"])
def test_one_that_a_training_beside_prunes_meanwhile_makes_place_for_its_successor(
    reading: str, write: Write, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(1)
    said: list[str] = []
    real = getattr(checkpoint, reading)

    def read(path: Path) -> Any:
        if "00000001" in path.parts:  # the training goes on between the look and the reading
            write(2)
            shutil.rmtree(folder / "00000001")
        return real(path)

    monkeypatch.setattr(checkpoint, reading, read)
    assert checkpoint.newest_good(folder, said.append).path.name == "00000002" and not said


def test_the_newest_good_one_is_taken_and_the_broken_ones_are_said(write: Write, folder: Path) -> None:
    with pytest.raises(UserError, match="there is no checkpoint, so there is nothing to load"):
        checkpoint.newest_good(folder, pytest.fail)
    for round in (1, 2, 3, 4):
        write(round)
    (folder / "00000004" / checkpoint.TENSORS).write_bytes(b"")
    (folder / "00000003" / checkpoint.STATE).unlink()
    (folder / "notes").mkdir()
    (folder / "00000009").write_text("a file, no folder", encoding="utf-8")
    said: list[str] = []
    assert checkpoint.newest_good(folder, said.append).path == folder / "00000002"
    assert said == [
        f"skipped the broken checkpoint {folder / '00000004'}: tensors.safetensors does not match its digest",
        f"skipped the broken checkpoint {folder / '00000003'}: state.json: No such file or directory",
        f"the newest that is good is {folder / '00000002'}",
    ]
    for name in ("00000001", "00000002"):
        (folder / name / checkpoint.STATE).write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match=f"{folder}: all 4 checkpoints are broken"):
        checkpoint.newest_good(folder, said.append)


@pytest.mark.parametrize(
    ("keep", "keep_every", "left"),
    [(2, 0, [9, 10]), (1, 0, [10]), (2, 4, [4, 8, 9, 10]), (1, 5, [5, 10]), (100, 0, list(range(1, 11)))],
)
def test_the_newest_and_every_so_many_stay(keep: int, keep_every: int, left: list[int], folder: Path) -> None:
    for round in range(1, 11):
        (folder / f"{round:08d}").mkdir(parents=True)
        checkpoint.prune(folder, round, keep, keep_every)
    assert numbers(folder) == left


def test_newest_is_by_number_and_later_ones_do_not_push_out_what_is_written_now(folder: Path) -> None:
    for round in (99_999_999, 100_000_000, 4, 7, 5):  # 7 was found broken, the run went on from 4
        (folder / f"{round:08d}").mkdir(parents=True)
    assert [int(p.name) for p in checkpoint.everything(folder)] == [100_000_000, 99_999_999, 7, 5, 4]
    checkpoint.prune(folder, 5, 1, 0)
    assert numbers(folder) == [5, 7, 99_999_999, 100_000_000]

"""The Toronto Face Database, from small files of its layout that are made here."""

import os
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from gansmith.data import ImageSet
from gansmith.data.prepare import Wanted
from gansmith.data.tfd import EXPRESSIONS, load_tfd
from gansmith.errors import UserError

N = 60


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANSMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GANSMITH_DATA", raising=False)
    monkeypatch.chdir(tmp_path)  # ./data is the root where none is given


def arrays() -> dict[str, Any]:
    """20 labelled images, of which every fold trains on 12 and takes 4 each for validation and test; 40 unlabeled."""
    rng = np.random.default_rng(0)
    folds = np.zeros((N, 5), np.uint8)
    labelled = rng.permutation(N)[:20]
    for fold in range(5):
        folds[labelled, fold] = rng.permutation([1] * 12 + [2] * 4 + [3] * 4)
    labels = np.full((N, 1), -1, np.int16)
    labels[labelled, 0] = rng.integers(1, 8, 20)
    images = rng.integers(0, 256, (N, 48, 48), dtype=np.uint8)
    return {"images": images, "labs_ex": labels, "labs_id": np.full((N, 1), -1, np.int16), "folds": folds}


def write(content: dict[str, Any], folder: Path = Path("data"), **how: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / "TFD_48x48.mat", content, **how)
    return folder / "TFD_48x48.mat"


def load(split: str, fold: int = 1, root: Path | None = None, size: int = 48, channels: int = 1) -> ImageSet:
    return load_tfd(root, Wanted(size, channels, split, "crop", 0.0, 2, lambda _: None, False), fold=fold)


def test_training_takes_the_unlabeled_images_whatever_the_fold(tmp_path: Path) -> None:
    content = arrays()
    write(content)
    unlabeled = content["images"][content["labs_ex"][:, 0] == -1]
    for fold in range(1, 6):
        data = load("train", fold)
        assert np.array_equal(data.images[:, 0], unlabeled)
        assert data.name == "tfd" and data.labels is None and data.classes == ()
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_an_image_that_one_fold_leaves_out_is_not_trained_on() -> None:
    content = arrays()
    content["folds"][np.flatnonzero(content["folds"][:, 0])[0], 0] = 0
    write(content)
    assert len(load("train")) == 40


@pytest.mark.parametrize("fold", range(1, 6))
@pytest.mark.parametrize(("split", "code"), [("validation", 2), ("test", 3)])
def test_a_fold_validates_and_tests_on_its_own_images(split: str, code: int, fold: int) -> None:
    content = arrays()
    write(content)
    data = load(split, fold)
    rows = [i for i in range(N) if content["folds"][i, fold - 1] == code]
    assert len(rows) == 4
    assert np.array_equal(data.images[:, 0], content["images"][rows])
    assert data.labels is not None and data.labels.tolist() == [content["labs_ex"][i, 0] - 1 for i in rows]
    assert data.classes == EXPRESSIONS and len(EXPRESSIONS) == 7


def matrix(name: str, shape: tuple[int, ...], kind: int, raw: bytes) -> bytes:
    """A MAT 5 variable of class double (6), its numbers stored as `kind`: the format's document, pages 1-9 to 1-17."""

    def element(kind: int, raw: bytes) -> bytes:
        return struct.pack("<II", kind, len(raw)) + raw + bytes(-len(raw) % 8)

    dims = struct.pack(f"<{len(shape)}i", *shape)
    parts = [(6, struct.pack("<II", 6, 0)), (5, dims), (1, name.encode()), (kind, raw)]
    return element(14, b"".join(element(*part) for part in parts))


def test_a_file_as_matlab_writes_it() -> None:
    """Whole doubles are stored as bytes, the first index runs fastest, and the second one counts the rows."""
    miINT8, miUINT8 = 1, 2
    pixels = bytes((7 * n + 2 * row + 3 * column) % 256 for column in range(48) for row in range(48) for n in range(4))
    Path("data").mkdir()
    Path("data/TFD_48x48.mat").write_bytes(
        b"MATLAB 5.0 MAT-file".ljust(124)
        + struct.pack("<H2s", 0x0100, b"IM")
        + matrix("images", (4, 48, 48), miUINT8, pixels)
        + matrix("labs_ex", (4, 1), miINT8, struct.pack("4b", 7, -1, 1, -1))
        + matrix("folds", (4, 5), miUINT8, bytes([2, 0, 3, 0] * 5))
    )
    n, row, column = np.ogrid[:4, :48, :48]
    expected = (7 * n + 2 * row + 3 * column) % 256
    assert np.array_equal(load("train").images[:, 0], expected[[1, 3]])
    for split, i, label in (("validation", 0, 6), ("test", 2, 0)):
        data = load(split)
        assert np.array_equal(data.images[:, 0], expected[[i]])
        assert data.labels is not None and data.labels.tolist() == [label]


def test_another_size_takes_the_common_way() -> None:
    content = arrays()
    content["images"][:] = np.arange(N, dtype=np.uint8)[:, None, None]
    write(content)
    images = load("train", size=20, channels=3).images
    values = np.flatnonzero(content["labs_ex"][:, 0] == -1)
    assert images.shape == (40, 3, 20, 20) and (images == values[:, None, None, None]).all()


def test_the_places_where_the_file_may_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = arrays()
    counts = {}
    for number, folder in enumerate(["given", "given-2/TFD", "set", "data"]):
        content["folds"][:] = 0
        content["folds"][: number + 1] = 3
        content["labs_ex"][: number + 1] = 1
        write(content, tmp_path / folder, do_compression=True)
        counts[folder] = number + 1
    assert len(load("test")) == counts["data"]
    monkeypatch.setenv("GANSMITH_DATA", str(tmp_path / "set"))
    assert len(load("test")) == counts["set"]
    assert len(load("test", root=tmp_path / "given")) == counts["given"]
    assert len(load("test", root=tmp_path / "given-2")) == counts["given-2/TFD"]


def test_a_prepared_set_is_found_again_and_follows_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    content = arrays()
    file = write(content)
    first = load("test")
    write(content, Path("elsewhere"))
    assert load("test", root=Path("elsewhere")).digest == first.digest != load("test", 2).digest
    with monkeypatch.context() as patch:
        for name in ("scipy", "scipy.io"):
            patch.setitem(sys.modules, name, None)
        assert np.array_equal(load("test").images, first.images)
        with pytest.raises(UserError, match=r'tfd needs scipy, .*: pip install "gansmith\[tfd\]"'):
            load("validation")
    content["images"] ^= 255
    write(content)
    os.utime(file, ns=(1, 1))
    assert np.array_equal(load("test").images, 255 - first.images)


def test_without_the_file_one_line_says_where_it_would_have_to_lie(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load("train", root=tmp_path / "x")
    message = str(caught.value)
    assert "not openly available" in message and "GANSMITH_DATA" in message and "\n" not in message
    assert f"put it into {tmp_path / 'x'} or {tmp_path / 'x' / 'TFD'}," in message


@pytest.mark.parametrize("packed", [True, False])
def test_a_file_that_ends_early_is_refused(packed: bool) -> None:
    content = arrays()
    del content["labs_id"]  # not read: what is cut off below is all needed
    file = write(content, do_compression=packed)
    whole = file.read_bytes()
    for end in (0, 1, 127, 128, 130, 200, len(whole) // 2, len(whole) - 200, len(whole) - 5):  # the last 4 are padding
        file.write_bytes(whole[:end])
        with pytest.raises(UserError, match="TFD_48x48.mat (cannot be read as a MATLAB 5 file|has no )") as caught:
            load("train")
        assert "\n" not in str(caught.value)


def test_another_format_is_refused() -> None:
    Path("data").mkdir()
    version_7_3 = b"MATLAB 7.3 MAT-file".ljust(124) + struct.pack("<H2s", 0x0200, b"IM") + bytes(1000)
    for raw in (b"<html>not found</html>" * 50, bytes(2000), version_7_3):
        Path("data/TFD_48x48.mat").write_bytes(raw)
        with pytest.raises(UserError, match="TFD_48x48.mat (cannot be read as a MATLAB 5 file|has no )"):
            load("train")


SHAPES = r"holds .*; TFD_48x48.mat of TFD holds uint8 \(N, 48, 48\), \(N, 1\), \(N, 5\)"


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("images", None, "has no images; "),
        ("folds", None, "has no folds; "),
        ("images", np.zeros((N, 96, 96), np.uint8), SHAPES),
        ("images", np.zeros((N, 48, 48), np.float32), SHAPES),
        ("images", np.zeros((48, 48), np.uint8), SHAPES),
        ("images", np.zeros((N + 1, 48, 48), np.uint8), SHAPES),
        ("labs_ex", np.ones((N, 2)), SHAPES),
        ("folds", np.zeros((N, 4)), SHAPES),
        ("folds", np.full((N, 5), 4), "folds must hold only 0, 1, 2 and 3"),
        ("folds", np.full((N, 5), 1), "has no images for split 'test' of fold 1"),
        ("labs_ex", np.full((N, 1), 8), "labs_ex is 8 for an image of split 'test', fold 1; it must be 1..7"),
        ("labs_ex", np.full((1, N), -1), "labs_ex is -1 for an image"),
        ("labs_ex", np.full((N, 1), 1.5), "labs_ex is 1.5 for an image"),
    ],
)
def test_a_file_of_another_layout_is_refused(key: str, value: Any, message: str) -> None:
    content = arrays()
    if value is None:
        del content[key]
    else:
        content[key] = value
    write(content)
    with pytest.raises(UserError, match=message) as caught:
        load("test")
    assert "\n" not in str(caught.value) and "TFD_48x48.mat" in str(caught.value)


@pytest.mark.parametrize("fold", [-1, 0, 6])
def test_there_are_five_folds(fold: int) -> None:
    write(arrays())
    with pytest.raises(UserError, match=rf"fold is {fold}; it must be one of 1\.\.5"):
        load("train", fold)

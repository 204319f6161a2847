"""Sets that serve one paper alone: stacked MNIST, and the Toronto Face Database from small files of its layout."""

import functools
import hashlib
import math
import os
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from gansmith.data import ImageSet, Wanted, load_sets, shipped
from gansmith.errors import UserError
from gansmith.papers import stacked
from gansmith.papers.stacked import COUNTS, SEEDS, draw
from gansmith.papers.tfd import EXPRESSIONS

decode = functools.cache(shipped.decode)
N = 40
FILE = "TFD_48x48.mat"


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GANSMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GANSMITH_DATA", raising=False)
    monkeypatch.setattr(stacked, "decode", decode)
    monkeypatch.chdir(tmp_path)  # ./data is the root where none is given


def load(name: str, split: str, **how: Any) -> ImageSet:
    size, channels = ((28, 28), 3) if name == "stacked_mnist" else ((48, 48), 1)
    made = {"img_size": size, "channels": channels, "say": lambda _: None, "progress": False, "n_cpu": 2, **how}
    return load_sets(Wanted(name, split=split, **made))[0]


def test_the_stacks_never_change_and_the_label_names_their_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {i.tobytes(): int(label) for split in shipped.SPLITS for i, label in zip(*decode(split), strict=True)}
    for split, digest, first in (("train", "441950639e60af13", 10), ("test", "59d5fb2d1fa3f12f", 272)):
        monkeypatch.setitem(COUNTS, split, 1030)  # more than one piece
        data = load("stacked_mnist", split, say=(said := []).append)
        assert said == ["making 1030 images of stacked_mnist, 2 MB, once"]
        assert hashlib.sha256(data.images[:64].tobytes()).hexdigest().startswith(digest)
        assert data.columns["y"][0] == first and len(data) == 1030 and len(set(data.classes)) == 1000
        for image, label in zip(data.images, data.columns["y"], strict=True):
            digits = [known[channel.tobytes()] for channel in image]
            assert data.classes[label] == "".join(map(str, digits)) and int(data.classes[label]) == label
    monkeypatch.setattr(stacked, "decode", pytest.fail)
    again = load("stacked_mnist", "test", say=pytest.fail)
    assert again.digest == data.digest and np.array_equal(again.images, data.images)
    for changed in ({"img_size": (28, 30)}, {"channels": 1}):
        with pytest.raises(UserError, match="28x28 with 3 channels, not .*; set img_size 28 and channels 3"):
            load("stacked_mnist", "train", **changed)


def test_the_draw_is_as_documented() -> None:
    """Against Python's integers, to the last stack of the real set; train and test are other stacks."""
    assert COUNTS == {"train": 128_000, "test": 26_000}
    stream = hashlib.shake_256(SEEDS["train"]).digest(24 * 128_000)
    train, test = draw("train", 128_000), draw("test", 26_000)
    for i, channel in ((0, 0), (0, 2), (1, 0), (77_777, 1), (127_999, 2)):
        at = 8 * (3 * i + channel)
        assert train[i, channel] == int.from_bytes(stream[at : at + 8], "little") % 70_000
    assert np.array_equal(draw("train", 100), train[:100])
    # Of 128,000 * 26,000 pairs, 1 in 70,000^3 is expected to be the same by chance: 1e-5 pairs.
    assert not np.isin(*(drawn @ [70_000**2, 70_000, 1] for drawn in (test, train))).any()


@pytest.mark.parametrize("split", COUNTS)
def test_digits_and_modes_are_as_frequent_as_independent_draws_make_them(split: str) -> None:
    """All 70,000 digits alike in every channel; the modes by the digits' shares: 7,877 ones and 6,313 fives."""

    def fit(counts: Any, expected: Any) -> bool:
        """Whether chi-square lies within 5 deviations of its mean: both are known, n and sqrt(2 n)."""
        n = len(counts) - 1
        return abs(((counts - expected) ** 2 / expected).sum() - n) < 5 * math.sqrt(2 * n)

    labels = np.concatenate([decode(split)[1] for split in shipped.SPLITS])
    share = np.bincount(labels) / 70_000
    drawn = draw(split, COUNTS[split])
    for channel in range(3):
        assert fit(np.bincount(drawn[:, channel], minlength=70_000), len(drawn) / 70_000)
    counts = np.bincount(labels[drawn] @ [100, 10, 1], minlength=1000)
    assert (counts > 0).all() and fit(counts, np.einsum("a,b,c->abc", share, share, share).ravel() * len(drawn))


def arrays() -> dict[str, Any]:
    """20 labelled images, of which every fold trains on 12 and takes 4 each for validation and test; 20 unlabeled."""
    rng = np.random.default_rng(0)
    folds = np.zeros((N, 5), np.uint8)
    labelled = rng.permutation(N)[:20]
    folds[labelled] = np.transpose([rng.permutation([1] * 12 + [2] * 4 + [3] * 4) for _ in range(5)])
    labels = np.full((N, 1), -1, np.int16)
    labels[labelled, 0] = rng.integers(1, 8, 20)
    return {"images": rng.integers(0, 256, (N, 48, 48), dtype=np.uint8), "labs_ex": labels, "folds": folds}


def write(content: dict[str, Any], folder: Path = Path("data"), **how: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    savemat(folder / FILE, content, **how)
    return folder / FILE


def test_training_takes_what_no_fold_labels_and_each_fold_tests_on_its_own() -> None:
    write(content := arrays())
    train = load("tfd", "train")
    assert len(train) == 20 and np.array_equal(train.images[:, 0], content["images"][content["labs_ex"][:, 0] == -1])
    assert train.labels is None and train.classes == () and load("tfd", "train", fold=5).digest == train.digest
    for split, code in (("validation", 2), ("test", 3)):
        for fold in range(1, 6):
            data = load("tfd", split, fold=fold)
            rows = [i for i in range(N) if content["folds"][i, fold - 1] == code]
            assert len(rows) == 4 and np.array_equal(data.images[:, 0], content["images"][rows])
            assert data.columns["y"].tolist() == [content["labs_ex"][i, 0] - 1 for i in rows]
            assert data.classes == EXPRESSIONS and len(EXPRESSIONS) == 7
    content["folds"][np.flatnonzero(content["folds"][:, 0])[0], 0] = 0  # one fold leaves out a labelled image
    write(content)
    assert load("tfd", "train").digest == train.digest
    with pytest.raises(UserError, match=r"fold is 6; it must be one of 1\.\.5"):
        load("tfd", "train", fold=6)


def matrix(name: str, shape: tuple[int, ...], kind: int, raw: bytes) -> bytes:
    """A MAT 5 variable of class double (6), its numbers stored as int8 (1) or uint8 (2): the format's document, 1-9."""

    def element(kind: int, raw: bytes) -> bytes:
        return struct.pack("<II", kind, len(raw)) + raw + bytes(-len(raw) % 8)

    dims = struct.pack(f"<{len(shape)}i", *shape)
    parts = [(6, struct.pack("<II", 6, 0)), (5, dims), (1, name.encode()), (kind, raw)]
    return element(14, b"".join(element(*part) for part in parts))


def test_a_file_as_matlab_writes_it() -> None:
    """Whole doubles are stored as bytes, the first index runs fastest, and the second one counts the rows."""
    pixels = bytes((7 * n + 2 * row + 3 * column) % 256 for column in range(48) for row in range(48) for n in range(4))
    raw = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<H2s", 0x0100, b"IM")
    raw += matrix("images", (4, 48, 48), 2, pixels)
    raw += matrix("labs_ex", (4, 1), 1, struct.pack("4b", 7, -1, 1, -1))
    raw += matrix("folds", (4, 5), 2, bytes([2, 0, 3, 0] * 5))
    write({}).write_bytes(raw)
    n, row, column = np.ogrid[:4, :48, :48]
    expected = (7 * n + 2 * row + 3 * column) % 256
    assert np.array_equal(load("tfd", "train").images[:, 0], expected[[1, 3]])
    for split, i, label in (("validation", 0, 6), ("test", 2, 0)):
        data = load("tfd", split)
        assert np.array_equal(data.images[:, 0], expected[[i]]) and data.columns["y"].tolist() == [label]


def test_where_the_file_may_lie_and_that_a_prepared_set_follows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    content = arrays()
    for folder in ("given", "given-2/TFD", "set", "data"):
        content["images"] ^= 1
        write(content, Path(folder), do_compression=True)
    given, given_2 = (load("tfd", "test", root=Path(root)).digest for root in ("given", "given-2"))
    with monkeypatch.context() as patch:
        patch.setenv("GANSMITH_DATA", "set")
        assert load("tfd", "test").digest == given != given_2  # the content alone
    data = load("tfd", "test")
    assert data.digest == given_2
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "scipy.io", None)
        assert np.array_equal(load("tfd", "test").images, data.images)
        with pytest.raises(UserError, match=r'tfd needs scipy, .*: pip install "gansmith\[tfd\]"'):
            load("tfd", "validation")
    content["images"] ^= 255
    os.utime(write(content), ns=(1, 1))
    assert np.array_equal(load("tfd", "test").images, 255 - data.images)
    with pytest.raises(UserError, match="not openly available.* put it into x or x/TFD, or set GANSMITH_DATA"):
        load("tfd", "train", root=Path("x"))


def test_a_file_that_ends_early_or_is_none_or_of_another_layout_is_refused() -> None:
    content = arrays()
    whole, packed = (write(content, do_compression=how).read_bytes() for how in (False, True))
    bad = [raw[:end] for raw in (packed, whole) for end in (0, 127, 130, len(raw) // 2, len(raw) - 5)]
    v7_3 = b"MATLAB 7.3 MAT-file".ljust(124) + struct.pack("<H2s", 0x0200, b"IM") + bytes(1000)
    bad += [b"<html>not found</html>" * 50, bytes(2000), v7_3]
    for raw in bad:
        Path("data", FILE).write_bytes(raw)
        with pytest.raises(UserError, match=f"{FILE} (cannot be read as a MATLAB 5 file|has no )[^\n]*$"):
            load("tfd", "train")
    shapes = r"holds .*; TFD_48x48.mat of TFD holds uint8 \(N, 48, 48\), \(N, 1\), \(N, 5\)"
    for key, value, message in (
        ("images", np.zeros((N + 1, 48, 48), np.uint8), shapes),
        ("folds", np.zeros((N, 4)), shapes),
        ("folds", np.full((N, 5), 4), "folds must hold only 0, 1, 2 and 3"),
        ("folds", np.full((N, 5), 1), "has no images for split 'test' of fold 1"),
        ("labs_ex", np.full((N, 1), 1.5), "labs_ex is 1.5 for an image of split 'test', fold 1; it must be 1..7"),
    ):
        write({**content, key: value})
        with pytest.raises(UserError, match=f"{FILE}.*{message}"):
            load("tfd", "test")

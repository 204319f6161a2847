"""Sets by name: the MNIST that ships and what is made from it, and those of torchvision from small files made here."""

import bz2
import hashlib
import io
import os
import struct
import subprocess
import sys
import tarfile
import urllib.request
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

import gansmith
from gansmith.data import ImageSet, Wanted, load_sets, shipped
from gansmith.data.named import DOWNLOADS, NAMED
from gansmith.data.shipped import brightest, coloured, hues, outlines
from gansmith.errors import UserError

PAIRS, DOMAINS = (("a", "b"),), (("a",), ("b",))


def load(what: str, needs: Any, **how: Any) -> tuple[ImageSet, ...]:
    made: dict[str, Any] = {
        "img_size": (28, 28),
        "channels": 1,
        "split": "test",
        "say": lambda _: None,
        "progress": False,
    }
    return load_sets(Wanted(what, needs=needs, **{**made, **how}))


def mnist(split: str, **how: Any) -> ImageSet:
    return load("mnist", (("x",),), split=split, **how)[0]


@pytest.mark.parametrize(
    ("split", "n", "first", "images", "labels"),
    [
        ("train", 60_000, "5041921314", "6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
        ("test", 10_000, "7210414959", "2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
    ],
)
def test_it_is_the_real_one(split: str, n: int, first: str, images: str, labels: str) -> None:
    """With their headers, images and labels have the MD5 of the original files."""
    data = mnist(split)
    assert data.images.shape == (n, 1, 28, 28) and data.images.dtype == np.uint8
    assert data.labels is not None and data.labels.dtype == np.int64
    assert "".join(data.classes[label] for label in data.labels[:10]) == first
    assert (data.name, data.classes) == ("mnist", tuple("0123456789"))
    pixels, digits = ((0x803, n, 28, 28), data.images), ((0x801, n), data.labels.astype(np.uint8))
    for (header, array), digest in ((pixels, images), (digits, labels)):
        raw = np.array(header, ">u4").tobytes() + array.tobytes()
        assert hashlib.md5(raw, usedforsecurity=False).hexdigest() == digest
    assert isinstance(data.images, np.memmap) and not data.images.flags.writeable and not data.labels.flags.writeable
    packed, notice = shipped.SPLITS[split], (Path(shipped.__file__).parent / "mnist" / "NOTICE.md").read_text()
    assert data.digest == packed.digest and packed.images in notice and packed.labels in notice


def test_other_sizes_and_colours_take_the_common_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = mnist("test")
    monkeypatch.setattr(shipped, "load_raw", lambda split, say: raw)
    monkeypatch.setenv("GANSMITH_CACHE", str(tmp_path))
    data = mnist("test", img_size=(8, 8), channels=3, say=(said := []).append)
    assert data.images.shape == (10_000, 3, 8, 8) and (data.images[:, 0] == data.images[:, 2]).all()
    assert "preparing 10000 pictures of mnist at 8x8" in said[0] and "prepared 10000 pictures" in said[1]
    assert np.array_equal(data.columns["y"], raw.columns["y"]) and abs(data.images.mean() - raw.images.mean()) < 2
    assert data.digest.startswith("376fa791e783")  # runs of older versions ask for it
    again = mnist("test", img_size=(8, 8), channels=3, say=pytest.fail)
    assert again.digest == data.digest and np.array_equal(again.images, data.images)
    monkeypatch.undo()
    monkeypatch.setenv("GANSMITH_CACHE", str(tmp_path))
    monkeypatch.setitem(shipped.SPLITS, "test", shipped.Packed(10_000, "0" * 64, "0" * 64))
    with pytest.raises(UserError, match="mnist/test.xz of gansmith is damaged; reinstall it"):
        mnist("test")


def test_mnist_is_split_as_in_2014() -> None:
    """The first 50,000 images to train on, the last 10,000 to choose by; the test set as it is."""
    whole, train, held = mnist("train"), mnist("train", validation=10_000), mnist("validation", validation=10_000)
    for name in ("x", "y"):
        assert np.array_equal(train.columns[name], whole.columns[name][:50_000])
        assert np.array_equal(held.columns[name], whole.columns[name][50_000:])
    assert train.classes == held.classes == whole.classes and train.name == held.name == "mnist"
    test = mnist("test")
    assert mnist("test", validation=10_000).digest == test.digest
    sets = [whole, test, train, held, mnist("train", validation=1), mnist("validation", validation=1)]
    assert len({data.digest for data in sets}) == len(sets)
    # Runs of older versions ask for these.
    assert test.digest.startswith("dfd1fbcd4f7a") and train.digest.startswith("b9de8803b86d")


def test_what_a_named_set_cannot_give_is_said_before_it_is_read() -> None:
    for what, needs, text in (
        ("mnist", PAIRS, "mnist holds single pictures with labels, not pairs of pictures; give .*, or mnist_edges"),
        ("celeba", (("x", "y"),), "celeba holds single pictures, not single pictures with labels; give a folder with"),
        ("celeba", (("x", "bits"),), "not single pictures with attributes; give a folder with a table attributes.csv"),
        ("mnist_colours", PAIRS, "holds two unpaired kinds of pictures with labels, not pairs"),
        ("mnist_edges", (("x",),), "holds pairs of pictures with labels, not single pictures; give a folder of pict"),
        ("mnist_colours", DOMAINS, "mnist_colours is in colour, and channels is 1; it must be 3"),
    ):
        with pytest.raises(UserError, match=text):
            load(what, needs)


def test_edges_are_where_ink_begins() -> None:
    """Of an L of ink the eight neighbours of each of its pixels, without the ink; an edge of the picture is none."""
    digit = np.zeros((1, 28, 28), np.uint8)
    digit[0, 0:3, 0], digit[0, 2, 1], digit[0, 20, 20] = 255, 128, 127
    around = np.pad(np.full((3, 1), 128), ((1, 1), (2, 1)))
    found = np.argwhere(outlines(digit)[0] == 255).tolist()
    assert found == [[0, 1], [1, 1], [1, 2], [2, 2], [3, 0], [3, 1], [3, 2]]
    assert np.array_equal(brightest(digit)[0, :5, :4], np.pad(np.full((4, 2), 255), ((0, 1), (0, 2))) | around)


def test_mnist_edges_pairs_a_digit_with_its_outline() -> None:
    images, labels = shipped.decode("test")
    (data,) = load("mnist_edges", (("a", "b", "y"),))
    assert np.array_equal(data.columns["b"], images) and np.array_equal(data.columns["y"], labels)
    assert np.array_equal(data.columns["a"][:, 0], outlines(images[:, 0]))
    # The same on every machine.
    assert hashlib.sha256(np.ascontiguousarray(data.columns["a"])).hexdigest()[:16] == "d022c5b70a46858d"
    a, b = load("mnist_edges", DOMAINS, direction="b2a")
    assert np.array_equal(a.images, images) and len({a.digest, b.digest, data.digest}) == 3


def test_mnist_colours_are_other_digits_with_another_look() -> None:
    images, labels = shipped.decode("test")
    a, b = load("mnist_colours", DOMAINS, channels=3)
    assert np.array_equal(a.images, np.repeat(images[:5000], 3, axis=1))
    assert np.array_equal(a.columns["y"], labels[:5000]) and np.array_equal(b.columns["y"], labels[5000:])
    assert hashlib.sha256(np.ascontiguousarray(b.images)).hexdigest()[:16] == "9e11e09da61a7336"
    ground, corner = b.images[:, :, 0, 0], images[5000:, 0, :2, :2].max((1, 2)) == 0
    assert ground[corner].min() >= 192 and len(np.unique(ground, axis=0)) > 4000
    assert not np.array_equal(coloured(images[:9, 0], "one"), coloured(images[:9, 0], "other"))
    # Strong and dark all round the wheel, of which red, green and blue are a third apart.
    wheel = hues(np.arange(256, dtype=np.uint8))
    assert (wheel.max(1) == 190).all() and (wheel.min(1) == 0).all()
    assert wheel[[0, 86, 172]].tolist() == [[190, 0, 0], [0, 190, 0], [0, 0, 190]]


# ---- torchvision's ----------------------------------------------------------------------------------------------


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(urllib.request, "urlopen", Mock(side_effect=URLError("no network")))
    monkeypatch.setattr(tarfile.TarFile, "extraction_filter", None, raising=False)
    monkeypatch.setenv("GANSMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GANSMITH_DATA", raising=False)
    monkeypatch.chdir(tmp_path)  # ./data is the root where none is given
    return tmp_path


def named(name: str, said: list[str] | None = None, **how: Any) -> ImageSet:
    if said is not None:
        how["say"] = said.append
    return load(name, (("x",),), **{"split": "train", **how})[0]


def write_idx(folder: Path, prefix: str, n: int) -> Any:
    """A small set in MNIST's file format: n random pictures, labelled 0, 1, 2, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(n).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    labels = np.arange(n, dtype=np.uint8) % 10
    for kind, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
        header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        (folder / f"{prefix}-{kind}").write_bytes(header + array.tobytes())
    return images


def test_mnists_relatives_and_the_places_where_they_may_lie(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A root outside the current folder, as a recipe may name one, is said."""

    for root, n in (("data", 13), ("here", 3), ("there", 4)):
        raw = offline / root / "KMNIST" / "raw"
        images = {"train": write_idx(raw, "train", n), "test": write_idx(raw, "t10k", 5)}
        assert all(np.array_equal(named("kmnist", root=Path(root), split=s).images[:, 0], images[s]) for s in images)
    data = named("kmnist", said := [])
    assert data.columns["y"].tolist() == [*range(10), 0, 1, 2]
    assert data.classes == ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo") and data.name == "kmnist"
    monkeypatch.setenv("GANSMITH_DATA", str(offline / "here"))
    assert len(named("kmnist", said)) == 3 and len(named("kmnist", said, root=Path("there"))) == 4
    assert not any("using" in line for line in said)
    (offline / "inner").mkdir()
    monkeypatch.chdir(offline / "inner")
    assert len(named("kmnist", said, root=Path("../there"))) == 4
    assert said[-1] == f"using kmnist from {offline / 'there'}"


def test_the_tables_fit_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every row is a class that takes its arguments, apart from files it misses; a missing package is named."""
    from torchvision import datasets

    assert NAMED.keys() == DOWNLOADS.keys()
    for row in NAMED.values():
        for arguments in filter(None, row.splits):
            with pytest.raises((RuntimeError, FileNotFoundError)):
                getattr(datasets, row.cls)("nowhere", download=False, **arguments)
    error = ModuleNotFoundError("No module named 'scipy'", name="scipy")
    monkeypatch.setattr(datasets, "SVHN", Mock(side_effect=error))
    with pytest.raises(UserError, match="svhn needs scipy, which is not installed: pip install scipy"):
        named("svhn")


def test_a_set_of_folders(offline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index, name in enumerate(["AnnualCrop", "Forest", "River"]):
        path = offline / "data" / "eurosat" / "2750" / name / "1.jpg"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (64, 64), (50 * index,) * 3).save(path)
    data = named("eurosat", img_size=(16, 16))
    assert data.images[:, 0, 0, 0].tolist() == [0, 50, 100] and data.columns["y"].tolist() == [0, 1, 2]
    assert data.classes == ("AnnualCrop", "Forest", "River")
    with pytest.raises(UserError, match="eurosat has no test split"):
        named("eurosat", split="test")
    monkeypatch.setattr("torchvision.datasets.EuroSAT", pytest.fail)
    assert named("eurosat", img_size=(16, 16)).digest == data.digest  # from the cache


def test_emnist_stands_upright_and_usps_is_one_file(offline: Path) -> None:
    images = write_idx(offline / "data" / "EMNIST" / "raw", "emnist-balanced-train", 4)
    data = named("emnist")
    assert np.array_equal(data.images[:, 0], images.transpose(0, 2, 1)) and len(data.classes) == 47
    lines = [f"{label} " + " ".join(f"{i + 1}:{value}" for i in range(256)) for label, value in ((1, -1), (10, 1))]
    (offline / "data" / "usps.bz2").write_bytes(bz2.compress("\n".join(lines).encode()))
    data = named("usps", img_size=(16, 16))
    assert data.images[:, 0, 0, 0].tolist() == [0, 255] and data.columns["y"].tolist() == [0, 9]
    assert data.classes == tuple("0123456789")


@pytest.mark.parametrize("name", ["fashion_mnist", "usps", "cifar10", "fgvc_aircraft"])
def test_without_a_network_one_line_says_what_to_put_where(name: str, offline: Path) -> None:
    host, files = DOWNLOADS[name]
    with pytest.raises(UserError, match="no network") as caught:
        named(name, said := [])
    assert f"put {files} into data, or set GANSMITH_DATA" in str(caught.value) and "\n" not in str(caught.value)
    assert len(said) == 1 and said[0].endswith(f"downloading what is missing from {host}")


@pytest.mark.parametrize("downloaded", [False, True])
def test_no_archive_is_unpacked_unchecked_or_out_of_its_folder(
    offline: Path, monkeypatch: pytest.MonkeyPatch, downloaded: bool
) -> None:
    """As a recipe's data.root may hold one that the user has never seen; the file of this set has no known digest."""

    class Response(io.BytesIO):
        length, url = None, None

    with tarfile.open(fileobj=(raw := io.BytesIO()), mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("../../out"), io.BytesIO())
    (root := offline / "gift" / "d").mkdir(parents=True)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_: Response(raw.getvalue()))
    if not downloaded:
        (root / "fgvc-aircraft-2013b.tar.gz").write_bytes(raw.getvalue())
    with pytest.raises(UserError, match="outside the destination" if downloaded else "has no known digest"):
        named("fgvc_aircraft", root=root)
    assert not (offline / "out").exists() and len(list(root.iterdir())) == 1


def test_names_need_neither_torch_nor_torchvision() -> None:
    code = "import sys; from gansmith.data import data_names; data_names(); print('torch' in sys.modules)"
    env = os.environ | {"PYTHONPATH": str(Path(gansmith.__file__).parents[1])}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert out.stdout.strip() == "False"

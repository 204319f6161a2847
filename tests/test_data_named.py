"""The sets of torchvision, from small files made here and without a network."""

import gzip
import os
import struct
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
from PIL import Image

import gansmith
from gansmith.data import ImageSet, data_names, load_images
from gansmith.data.named import IDX_CLASSES, IDX_FOLDERS, NAMED
from gansmith.errors import UserError


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", no_network)
    monkeypatch.setenv("GANSMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GANSMITH_DATA", raising=False)
    monkeypatch.chdir(tmp_path)  # ./data is the root where none is given


def write_idx(folder: Path, prefix: str, n: int, *, packed: bool) -> np.ndarray:  # type: ignore[type-arg]
    """A small set in MNIST's file format: n random pictures, labelled 0, 1, 2, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    images = np.random.default_rng(n).integers(0, 256, (n, 28, 28), dtype=np.uint8)
    labels = np.arange(n, dtype=np.uint8) % 10
    for kind, array in (("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)):
        raw = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()
        (folder / f"{prefix}-{kind}{'.gz' if packed else ''}").write_bytes(gzip.compress(raw) if packed else raw)
    return images


def load(name: str, root: Path | None = None, split: str = "train", size: int = 28) -> ImageSet:
    return load_images(name, img_size=size, channels=1, split=split, root=root, say=lambda _: None, n_cpu=2)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("name", ["fashion_mnist", "kmnist"])
def test_idx_sets_from_local_files(tmp_path: Path, name: str, packed: bool) -> None:
    folder = tmp_path / "data" / IDX_FOLDERS[name][0]
    train = write_idx(folder, "train", 13, packed=packed)
    test = write_idx(folder, "t10k", 5, packed=packed)
    data = load(name)
    assert np.array_equal(data.images[:, 0], train)
    assert data.labels is not None and data.labels.tolist() == [*range(10), 0, 1, 2]
    assert data.classes == IDX_CLASSES[name] and data.name == name
    assert np.array_equal(load(name, split="test").images[:, 0], test)


def test_the_root_is_an_argument_or_in_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = write_idx(tmp_path / "here" / "KMNIST" / "raw", "train", 3, packed=True)
    monkeypatch.setenv("GANSMITH_DATA", str(tmp_path / "here"))
    assert np.array_equal(load("kmnist").images[:, 0], images)
    other = write_idx(tmp_path / "there" / "KMNIST" / "raw", "train", 4, packed=True)
    assert np.array_equal(load("kmnist", tmp_path / "there").images[:, 0], other)


def test_debians_fashion_mnist_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "/usr/share/datasets/fashion-mnist" in IDX_FOLDERS["fashion_mnist"]
    images = write_idx(tmp_path / "usr", "train", 3, packed=True)
    monkeypatch.setitem(IDX_FOLDERS, "fashion_mnist", ("FashionMNIST/raw", str(tmp_path / "usr")))
    assert np.array_equal(load("fashion_mnist").images[:, 0], images)


def test_a_damaged_idx_file_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "KMNIST" / "raw"
    write_idx(folder, "train", 3, packed=True)
    for content in (b"", b"no", gzip.compress(b"\0\0\x08\x03" + b"\0" * 4)):
        (folder / "train-images-idx3-ubyte.gz").write_bytes(content)
        with pytest.raises(UserError, match="train-images-idx3-ubyte.gz cannot be read"):
            load("kmnist")


def test_our_class_names_are_those_of_torchvision() -> None:
    from torchvision import datasets

    for name, classes in IDX_CLASSES.items():
        assert tuple(getattr(datasets, NAMED[name].cls).classes) == classes


def test_the_table_fits_torchvision() -> None:
    """Every row is a class that takes its arguments, apart from the files it then misses."""
    from torchvision import datasets

    assert len(NAMED) == 19
    for row in NAMED.values():
        cls = getattr(datasets, row.cls)
        for arguments in (row.train, row.test):
            if arguments is not None:
                with pytest.raises((RuntimeError, FileNotFoundError)):
                    cls("nowhere", download=False, **arguments)


def test_emnist_stands_upright(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "EMNIST" / "raw"
    images = write_idx(folder, "emnist-balanced-train", 4, packed=False)
    data = load("emnist")
    assert np.array_equal(data.images[:, 0], images.transpose(0, 2, 1))
    assert len(data.classes) == 47


def test_a_set_of_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index, name in enumerate(["AnnualCrop", "Forest", "River"]):
        path = tmp_path / "data" / "eurosat" / "2750" / name / "1.jpg"
        path.parent.mkdir(parents=True)
        Image.new("RGB", (64, 64), (50 * index,) * 3).save(path)
    data = load("eurosat", size=16)
    assert data.images[:, 0, 0, 0].tolist() == [0, 50, 100]
    assert data.classes == ("AnnualCrop", "Forest", "River")
    assert data.labels is not None and data.labels.tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="eurosat has no test split"):
        load("eurosat", split="test")
    from torchvision import datasets

    monkeypatch.setattr(datasets, "EuroSAT", pytest.fail)
    assert load("eurosat", size=16).digest == data.digest  # from the cache


def test_usps(tmp_path: Path) -> None:
    import bz2

    (tmp_path / "data").mkdir()
    lines = [f"{label} " + " ".join(f"{i + 1}:{value}" for i in range(256)) for label, value in ((1, -1), (10, 1))]
    (tmp_path / "data" / "usps.bz2").write_bytes(bz2.compress("\n".join(lines).encode()))
    data = load("usps", size=16)
    assert data.images[:, 0, 0, 0].tolist() == [0, 255]
    assert data.labels is not None and data.labels.tolist() == [0, 9]
    assert data.classes == tuple("0123456789")


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("fashion_mnist", "train-images-idx3-ubyte.* into .*FashionMNIST/raw"),
        ("usps", "usps.bz2 and usps.t.bz2 into .*data,"),
        ("cifar10", "cifar-10-python.tar.gz, unpacked into data, or set GANSMITH_DATA"),
        ("food101", "food-101.tar.gz, unpacked into data,"),
        ("dtd", "dtd-r1.0.1.tar.gz, unpacked into data/dtd,"),
    ],
)
def test_without_a_network_one_line_says_what_to_put_where(
    name: str, files: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(IDX_FOLDERS, "fashion_mnist", ("FashionMNIST/raw",))
    said: list[str] = []
    with pytest.raises(UserError, match=files) as caught:
        load_images(name, img_size=8, channels=1, say=said.append, progress=False)
    assert "\n" not in str(caught.value) and "no network" in str(caught.value)
    assert len(said) == 1 and f"downloading it from {NAMED[name].host}" in said[0]


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision import datasets

    def needs_a_package(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    monkeypatch.setattr(datasets, "SVHN", needs_a_package)
    with pytest.raises(UserError, match="svhn needs scipy, which is not installed: pip install scipy"):
        load("svhn")


def test_names_need_neither_torch_nor_torchvision() -> None:
    code = "import sys; from gansmith.data import data_names; data_names(); print('torch' in sys.modules)"
    env = os.environ | {"PYTHONPATH": str(Path(gansmith.__file__).parents[1])}
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert out.stdout.strip() == "False"
    names = data_names()
    assert names[0] == "mnist" and {"mnist", *NAMED} < set(names) and len(set(names)) == len(names)

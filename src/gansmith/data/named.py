"""The classification sets that torchvision knows, each a row of a table."""

import contextlib
import gzip
import http.client
import io
import os
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from gansmith.data.folder import Listing, fingerprint, list_folder
from gansmith.data.imageset import Bytes, ImageSet
from gansmith.data.prepare import Source, Wanted, array_source, cached, prepare
from gansmith.errors import UserError

TRAIN, TEST = {"train": True}, {"train": False}
SPLIT_TRAIN, SPLIT_TEST = {"split": "train"}, {"split": "test"}


@dataclass(frozen=True)
class Named:
    """A class of torchvision.datasets, and what it needs.

    at: the folder or file below the root that holds the set, unpacked (test_at: the one of the test split, if it is
    another). files: what a user without a network puts into the folder `into` below the root. host: where
    torchvision downloads from, and how much. train, test: the arguments for the splits; test is None where there
    is none. transposed: the pictures lie on their side.
    """

    cls: str
    at: str
    files: str
    into: str
    host: str
    train: dict[str, Any]
    test: dict[str, Any] | None
    test_at: str | None = None
    transposed: bool = False


NAMED = {
    "fashion_mnist": Named(
        "FashionMNIST",
        "FashionMNIST/raw",
        "train-images-idx3-ubyte and the three files beside it (.gz is fine)",
        "FashionMNIST/raw",
        "fashion-mnist.s3-website.eu-central-1.amazonaws.com (30 MB)",
        TRAIN,
        TEST,
    ),
    "kmnist": Named(
        "KMNIST",
        "KMNIST/raw",
        "train-images-idx3-ubyte and the three files beside it (.gz is fine)",
        "KMNIST/raw",
        "codh.rois.ac.jp (20 MB)",
        TRAIN,
        TEST,
    ),
    "qmnist": Named(
        "QMNIST",
        "QMNIST/raw",
        "qmnist-{train,test}-images-idx3-ubyte and qmnist-{train,test}-labels-idx2-int",
        "QMNIST/raw",
        "raw.githubusercontent.com (20 MB)",
        TRAIN,
        TEST,
    ),
    "emnist": Named(
        "EMNIST",
        "EMNIST/raw",
        "emnist-balanced-{train,test}-{images-idx3,labels-idx1}-ubyte",
        "EMNIST/raw",
        "biometrics.nist.gov (560 MB)",
        {"split": "balanced", "train": True},
        {"split": "balanced", "train": False},
        transposed=True,
    ),
    "usps": Named(
        "USPS",
        "usps.bz2",
        "usps.bz2 and usps.t.bz2",
        "",
        "www.csie.ntu.edu.tw (8 MB)",
        TRAIN,
        TEST,
        test_at="usps.t.bz2",
    ),
    "cifar10": Named(
        "CIFAR10",
        "cifar-10-batches-py",
        "cifar-10-python.tar.gz, unpacked",
        "",
        "www.cs.toronto.edu (170 MB)",
        TRAIN,
        TEST,
    ),
    "cifar100": Named(
        "CIFAR100",
        "cifar-100-python",
        "cifar-100-python.tar.gz, unpacked",
        "",
        "www.cs.toronto.edu (170 MB)",
        TRAIN,
        TEST,
    ),
    "svhn": Named(
        "SVHN",
        "train_32x32.mat",
        "train_32x32.mat and test_32x32.mat",
        "",
        "ufldl.stanford.edu (250 MB)",
        SPLIT_TRAIN,
        SPLIT_TEST,
        test_at="test_32x32.mat",
    ),
    "stl10": Named(
        "STL10",
        "stl10_binary",
        "stl10_binary.tar.gz, unpacked",
        "",
        "ai.stanford.edu (2.6 GB)",
        SPLIT_TRAIN,
        SPLIT_TEST,
    ),
    "celeba": Named(
        "CelebA",
        "celeba",
        "img_align_celeba.zip, unpacked, and the five .txt files of CelebA",
        "celeba",
        "drive.google.com (1.4 GB)",
        {"split": "train", "target_type": []},
        {"split": "test", "target_type": []},
    ),
    "flowers102": Named(
        "Flowers102",
        "flowers-102",
        "102flowers.tgz, unpacked, imagelabels.mat and setid.mat",
        "flowers-102",
        "thor.robots.ox.ac.uk (350 MB)",
        SPLIT_TRAIN,
        SPLIT_TEST,
    ),
    "food101": Named(
        "Food101",
        "food-101",
        "food-101.tar.gz, unpacked",
        "",
        "data.vision.ee.ethz.ch (5 GB)",
        SPLIT_TRAIN,
        SPLIT_TEST,
    ),
    "oxford_iiit_pet": Named(
        "OxfordIIITPet",
        "oxford-iiit-pet",
        "images.tar.gz and annotations.tar.gz, unpacked",
        "oxford-iiit-pet",
        "thor.robots.ox.ac.uk (810 MB)",
        {"split": "trainval"},
        SPLIT_TEST,
    ),
    "gtsrb": Named(
        "GTSRB",
        "gtsrb/GTSRB/Training",
        "GTSRB-Training_fixed.zip, GTSRB_Final_Test_Images.zip and GTSRB_Final_Test_GT.zip, unpacked",
        "gtsrb",
        "sid.erda.dk (280 MB)",
        SPLIT_TRAIN,
        SPLIT_TEST,
        test_at="gtsrb/GTSRB/Final_Test",
    ),
    "imagenette": Named(
        "Imagenette",
        "imagenette2-320",
        "imagenette2-320.tgz, unpacked",
        "",
        "s3.amazonaws.com (340 MB)",
        {"split": "train", "size": "320px"},
        {"split": "val", "size": "320px"},
    ),
    "dtd": Named(
        "DTD",
        "dtd/dtd",
        "dtd-r1.0.1.tar.gz, unpacked",
        "dtd",
        "www.robots.ox.ac.uk (630 MB)",
        SPLIT_TRAIN,
        SPLIT_TEST,
    ),
    "eurosat": Named(
        "EuroSAT",
        "eurosat/2750",
        "EuroSAT.zip, unpacked",
        "eurosat",
        "huggingface.co (95 MB)",
        {},
        None,
    ),
    "fgvc_aircraft": Named(
        "FGVCAircraft",
        "fgvc-aircraft-2013b",
        "fgvc-aircraft-2013b.tar.gz, unpacked",
        "",
        "www.robots.ox.ac.uk (2.8 GB)",
        {"split": "trainval"},
        SPLIT_TEST,
    ),
    "country211": Named(
        "Country211",
        "country211",
        "country211.tgz, unpacked",
        "",
        "openaipublic.azureedge.net (11 GB)",
        SPLIT_TRAIN,
        SPLIT_TEST,
    ),
}

# The sets in MNIST's own file format, read here: no import of torchvision (3 s), and packed files will do.
IDX_FOLDERS = {
    "fashion_mnist": ("FashionMNIST/raw", "fashion_mnist", "/usr/share/datasets/fashion-mnist"),  # the last: Debian
    "kmnist": ("KMNIST/raw", "kmnist"),
}
IDX_CLASSES = {
    "fashion_mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
}

DOWNLOAD_ERRORS = (
    OSError,  # URLError, HTTPError and time-outs among them
    RuntimeError,  # what torchvision makes of them
    EOFError,
    http.client.HTTPException,
    tarfile.TarError,
    zipfile.BadZipFile,
)


def load_named(name: str, root: Path | None, wanted: Wanted) -> ImageSet:
    """The set `name` from below `root` ($GANSMITH_DATA, else ./data), downloaded to there if it is not."""
    row = NAMED[name]
    if wanted.split == "test" and row.test is None:
        raise UserError(f"{name} has no test split; use split 'train'")
    root = root or Path(os.environ.get("GANSMITH_DATA") or "data")
    if (found := _load_idx(name, root, wanted)) is not None:
        return found
    at = root / (row.test_at or row.at if wanted.split == "test" else row.at)
    if (listing := _present(at)) and (found := cached(_path(name, at, listing, wanted), wanted)) is not None:
        return found
    dataset = _open(name, root, at, wanted)
    if (found := _load_idx(name, root, wanted)) is not None:
        return found
    listing = _present(at) or Listing()

    def read(index: int) -> tuple[Image.Image, int | None]:
        image, label = dataset[index]
        if row.transposed:
            image = image.transpose(Image.Transpose.TRANSPOSE)
        return image, None if label is None else int(label)

    classes = tuple(_class_name(item) for item in getattr(dataset, "classes", ()))
    source = Source(name, len(dataset), read, lambda index: f"picture {index}", classes)
    return prepare(source, _path(name, at, listing, wanted), wanted)


def _path(name: str, at: Path, listing: Listing, wanted: Wanted) -> Path:
    return wanted.path(f"{name}-{wanted.split}", at.resolve(), fingerprint(listing))


def _class_name(item: Any) -> str:
    return item if isinstance(item, str) else str(item[0])  # Imagenette: all names of the class


def _present(at: Path) -> Listing | None:
    """The files at a place, None if there are none."""
    if at.is_file():
        status = at.stat()
        return Listing([at.name], [(status.st_size, status.st_mtime_ns)])
    listing = list_folder(at, None) if at.is_dir() else Listing()
    return listing if listing.names else None


def _open(name: str, root: Path, at: Path, wanted: Wanted) -> Any:
    """The torchvision data set, from the files below root or else downloaded to there."""
    from torchvision import datasets

    row = NAMED[name]
    cls = getattr(datasets, row.cls)
    arguments = row.train if wanted.split == "train" else row.test or {}
    try:
        with contextlib.suppress(OSError, RuntimeError):  # how the sets of torchvision say that they are not there
            return cls(root, download=False, **arguments)
        wanted.say(f"{name} is not in {at}: downloading it from {row.host}")
        root.mkdir(parents=True, exist_ok=True)
        # torchvision draws its own bars on stderr.
        with contextlib.nullcontext() if wanted.progress else contextlib.redirect_stderr(io.StringIO()):
            return cls(root, download=True, **arguments)
    except ImportError as error:
        raise UserError(f"{name} needs {error.name}, which is not installed: pip install {error.name}") from error
    except DOWNLOAD_ERRORS as error:
        reason = " ".join(str(error).split())[-200:] or type(error).__name__
        raise UserError(
            f"{name} is not in {at} and could not be downloaded ({reason}); put {row.files} into {root / row.into}, "
            "or set GANSMITH_DATA to the folder that has it"
        ) from error


def _load_idx(name: str, root: Path, wanted: Wanted) -> ImageSet | None:
    """A set in MNIST's file format, None if there are no such files."""
    prefix = "train" if wanted.split == "train" else "t10k"
    for folder in IDX_FOLDERS.get(name, ()):
        files = tuple(_idx_files(root / folder, prefix))
        if len(files) < 2:
            continue
        stats = [(file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        listing = Listing([file.name for file in files], stats)
        path = _path(name, root / folder, listing, wanted)
        if (found := cached(path, wanted)) is not None:
            return found
        images, labels = (_read_idx(file) for file in files)
        if images.ndim != 3 or labels.shape != images.shape[:1]:
            raise UserError(f"{files[0]} {images.shape} and {files[1].name} {labels.shape} do not match in shape")
        return prepare(array_source(name, images, labels, IDX_CLASSES[name]), path, wanted)
    return None


def _idx_files(folder: Path, prefix: str) -> Iterator[Path]:
    """The image and the label file of a split, each plain or as .gz."""
    for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
        for ending in ("", ".gz"):
            if (file := folder / f"{prefix}-{kind}{ending}").is_file():
                yield file
                break


def _read_idx(file: Path) -> Bytes:
    """The array of an IDX file of bytes; UserError if it is not one."""
    try:
        raw = file.read_bytes()
        raw = gzip.decompress(raw) if file.suffix == ".gz" else raw
        zeros, kind, n_dims = struct.unpack_from(">HBB", raw)
        shape = struct.unpack_from(f">{n_dims}I", raw, 4)
        if (zeros, kind) != (0, 8):
            raise ValueError("its first bytes are not those of an IDX file of bytes")
        return np.frombuffer(raw, np.uint8, offset=4 + 4 * n_dims).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise UserError(f"{file} cannot be read: {error}; remove it to have it downloaded anew") from error

"""The classification sets that torchvision knows, each a row of a table."""

import contextlib
import http.client
import io
import os
import tarfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from gansmith.data.folder import fingerprint, list_folder
from gansmith.data.imageset import ImageSet
from gansmith.data.prepare import Needs, Sample, Source, Wanted, prepare
from gansmith.errors import UserError

Splits = tuple[dict[str, Any], dict[str, Any] | None]
BY_TRAIN: Splits = {"train": True}, {"train": False}
BY_SPLIT: Splits = {"split": "train"}, {"split": "test"}
BY_TRAINVAL: Splits = {"split": "trainval"}, {"split": "test"}
BALANCED: Splits = {"split": "balanced", "train": True}, {"split": "balanced", "train": False}
PIXELS_320: Splits = {"split": "train", "size": "320px"}, {"split": "val", "size": "320px"}
NO_TARGET: Splits = {"split": "train", "target_type": []}, {"split": "test", "target_type": []}


@dataclass(frozen=True)
class Named:
    """A class of torchvision.datasets, and what it needs."""

    cls: str
    at: str  # the folder or file below the root that holds the set, unpacked
    splits: Splits = BY_TRAIN  # the arguments for training and test set; the latter is None where there is none
    test_at: str | None = None  # where the test split lies, if elsewhere
    mixed: bool = False  # as in Known
    gives: Needs = (("x", "y"),)
    transposed: bool = False  # the pictures lie on their side
    unchecked: str | None = None  # an archive that torchvision would unpack without a look at its digest


NAMED = {
    "fashion_mnist": Named("FashionMNIST", "FashionMNIST/raw", mixed=True),
    "kmnist": Named("KMNIST", "KMNIST/raw", mixed=True),
    "qmnist": Named("QMNIST", "QMNIST/raw", mixed=True),
    "emnist": Named("EMNIST", "EMNIST/raw", BALANCED, mixed=True, transposed=True),
    "usps": Named("USPS", "usps.bz2", test_at="usps.t.bz2"),
    "cifar10": Named("CIFAR10", "cifar-10-batches-py", mixed=True),
    "cifar100": Named("CIFAR100", "cifar-100-python", mixed=True),
    "svhn": Named("SVHN", "train_32x32.mat", BY_SPLIT, test_at="test_32x32.mat"),
    "stl10": Named("STL10", "stl10_binary", BY_SPLIT),
    "celeba": Named("CelebA", "celeba", NO_TARGET, mixed=True, gives=(("x",),)),
    "flowers102": Named("Flowers102", "flowers-102", BY_SPLIT),
    "food101": Named("Food101", "food-101", BY_SPLIT),
    "oxford_iiit_pet": Named("OxfordIIITPet", "oxford-iiit-pet", BY_TRAINVAL),
    "gtsrb": Named("GTSRB", "gtsrb/GTSRB/Training", BY_SPLIT, test_at="gtsrb/GTSRB/Final_Test"),
    "imagenette": Named("Imagenette", "imagenette2-320", PIXELS_320),
    "dtd": Named("DTD", "dtd/dtd", BY_SPLIT),
    "eurosat": Named("EuroSAT", "eurosat/2750", ({}, None)),
    "fgvc_aircraft": Named("FGVCAircraft", "fgvc-aircraft-2013b", BY_TRAINVAL, unchecked="fgvc-aircraft-2013b.tar.gz"),
    "country211": Named("Country211", "country211", BY_SPLIT),
}
_FOUR = "train-images-idx3-ubyte and the three files beside it (.gz is fine)"
DOWNLOADS = {
    "fashion_mnist": ("fashion-mnist.s3-website.eu-central-1.amazonaws.com (30 MB)", f"FashionMNIST/raw/{_FOUR}"),
    "kmnist": ("codh.rois.ac.jp (20 MB)", f"KMNIST/raw/{_FOUR}"),
    "qmnist": ("raw.githubusercontent.com (20 MB)", "the four files QMNIST/raw/qmnist-{train,test}-*"),
    "emnist": ("biometrics.nist.gov (560 MB)", "the four files EMNIST/raw/emnist-balanced-*-ubyte"),
    "usps": ("www.csie.ntu.edu.tw (8 MB)", "usps.bz2 and usps.t.bz2"),
    "cifar10": ("www.cs.toronto.edu (170 MB)", "cifar-10-python.tar.gz, unpacked,"),
    "cifar100": ("www.cs.toronto.edu (170 MB)", "cifar-100-python.tar.gz, unpacked,"),
    "svhn": ("ufldl.stanford.edu (250 MB)", "train_32x32.mat and test_32x32.mat"),
    "stl10": ("ai.stanford.edu (2.6 GB)", "stl10_binary.tar.gz, unpacked,"),
    "celeba": ("drive.google.com (1.4 GB)", "a folder celeba with img_align_celeba.zip, unpacked, and five .txt files"),
    "flowers102": (
        "thor.robots.ox.ac.uk (350 MB)",
        "a folder flowers-102 with 102flowers.tgz, unpacked, imagelabels.mat and setid.mat",
    ),
    "food101": ("data.vision.ee.ethz.ch (5 GB)", "food-101.tar.gz, unpacked,"),
    "oxford_iiit_pet": ("thor.robots.ox.ac.uk (810 MB)", "oxford-iiit-pet/{images,annotations}.tar.gz, unpacked,"),
    "gtsrb": ("sid.erda.dk (280 MB)", "gtsrb/GTSRB-Training_fixed.zip and GTSRB_Final_Test_*.zip, unpacked,"),
    "imagenette": ("s3.amazonaws.com (340 MB)", "imagenette2-320.tgz, unpacked,"),
    "dtd": ("www.robots.ox.ac.uk (630 MB)", "dtd/dtd-r1.0.1.tar.gz, unpacked,"),
    "eurosat": ("huggingface.co (95 MB)", "eurosat/EuroSAT.zip, unpacked,"),
    "fgvc_aircraft": ("www.robots.ox.ac.uk (2.8 GB)", "fgvc-aircraft-2013b.tar.gz, unpacked,"),
    "country211": ("openaipublic.azureedge.net (11 GB)", "country211.tgz, unpacked,"),
}
"""Where torchvision downloads each set from, and what a user without a network puts into the root."""

DOWNLOAD_ERRORS = (OSError, RuntimeError, EOFError, http.client.HTTPException, tarfile.TarError, zipfile.BadZipFile)


def load_named(name: str, wanted: Wanted) -> ImageSet:
    """The set `name` from below the root, downloaded to there if it is not."""
    row, test = NAMED[name], wanted.split == "test"
    if (arguments := row.splits[test]) is None:
        raise UserError(f"{name} has no test split; use split 'train'")
    root = wanted.folder_of(name)
    at = root / (row.test_at if test and row.test_at else row.at)
    part = f"{name}-{wanted.split}"

    def path() -> Path:
        if at.is_file():
            status = at.stat()
            return wanted.path(part, at.resolve(), fingerprint({at.name: (status.st_size, status.st_mtime_ns)}))
        return wanted.path(part, at.resolve(), fingerprint(list_folder(at, ("",)).files if at.is_dir() else {}))

    def find() -> Source:
        found = opened or _open(name, root, at, arguments, wanted)

        def read(index: int) -> Sample:
            image, label = found[index]
            upright = image.transpose(Image.Transpose.TRANSPOSE) if row.transposed else image
            return [upright], None if label is None else int(label)

        # Imagenette has several names for each class.
        classes = (item if isinstance(item, str) else str(item[0]) for item in getattr(found, "classes", ()))
        return Source(name, len(found), read, classes=tuple(classes))

    # A download changes the files, and so the path.
    opened = None if path().exists() else _open(name, root, at, arguments, wanted)
    return prepare(path(), wanted, find)


def _open(name: str, root: Path, at: Path, arguments: dict[str, Any], wanted: Wanted) -> Any:
    """The torchvision data set, from the files below root or else downloaded to there."""
    from torchvision import datasets

    row, (host, files) = NAMED[name], DOWNLOADS[name]
    cls = getattr(datasets, row.cls)
    try:
        with contextlib.suppress(OSError, RuntimeError):  # how the sets of torchvision say that they are not there
            return cls(root, download=False, **arguments)
        if row.unchecked and os.path.lexists(archive := root / row.unchecked):
            raise UserError(f"{archive} has no known digest: unpack it yourself, or remove it for a new download")
        wanted.say(f"{name} is not in {at}: downloading what is missing from {host}")
        root.mkdir(parents=True, exist_ok=True)
        # No archive writes outside its folder: the default from Python 3.14 on.
        tarfile.TarFile.extraction_filter = staticmethod(tarfile.data_filter)
        # torchvision draws its own bars on stderr.
        with contextlib.nullcontext() if wanted.progress else contextlib.redirect_stderr(io.StringIO()):
            return cls(root, download=True, **arguments)
    except ImportError as error:
        raise UserError(f"{name} needs {error.name}, which is not installed: pip install {error.name}") from error
    except DOWNLOAD_ERRORS as error:
        reason = " ".join(str(error).split())[-200:] or type(error).__name__
        raise UserError(
            f"{name} is not in {at} and could not be downloaded ({reason}); put {files} into {root}, "
            "or set GANSMITH_DATA to the folder that has it"
        ) from error

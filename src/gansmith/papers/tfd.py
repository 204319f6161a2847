"""The Toronto Face Database (Susskind et al. 2010), in the parts that the GAN paper took: arXiv 1406.2661.

It is not openly available. The file is TFD_48x48.mat, read as pylearn2 does: `images` (N, 48, 48), upright;
`labs_ex`, the expression 1..7, or -1; `folds` (N, 5), one column for each official fold, 0 where an image is
unlabeled, 1 for training, 2 for validation, 3 for testing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gansmith.data.imageset import Bytes, ImageSet, Labels
from gansmith.data.prepare import Source, Wanted, array_source, prepare
from gansmith.errors import UserError

FILE = "TFD_48x48.mat"
KEYS = ("images", "labs_ex", "folds")
FOLDS = 5
UNLABELED = 0
CODES = {"validation": 2, "test": 3}
EXPRESSIONS = ("anger", "disgust", "fear", "happy", "sad", "surprise", "neutral")  # labs_ex 1..7


def load_tfd(name: str, wanted: Wanted) -> ImageSet:
    """TFD from the user's TFD_48x48.mat below the root.

    Split "train" is the unlabeled images, the same for every fold, without labels; "validation" and "test" are those
    of `wanted.fold` 1..5, labelled with the expression. The labelled training images of a fold are not used, as in the
    paper. UserError if there is no such file, or it is not TFD.
    """
    fold = wanted.fold
    if not 1 <= fold <= FOLDS:
        raise UserError(f"fold is {fold}; it must be one of 1..{FOLDS}")
    file = _find(wanted.folder_of(name))
    status = file.stat()
    part = "unlabeled" if wanted.split == "train" else f"fold {fold}"
    path = wanted.path(f"{name}-{wanted.split}", file.resolve(), status.st_size, status.st_mtime_ns, part)

    def find() -> Source:
        images, labels = _select(file, wanted.split, fold)
        return array_source(name, {"x": images}, labels, EXPRESSIONS)

    return prepare(path, wanted, find)


def _find(root: Path) -> Path:
    for file in (root / FILE, root / "TFD" / FILE):
        if file.is_file():
            return file
    raise UserError(
        f"tfd is not openly available: if you have {FILE}, put it into {root} or {root / 'TFD'}, "
        "or set GANSMITH_DATA to the folder that has it"
    )


def _select(file: Path, split: str, fold: int) -> tuple[Bytes, Labels | None]:
    """Images (n, 48, 48) of a split and the numbers of their expressions (n,), None for the unlabeled ones."""
    images, labels, folds = _read(file)
    # Unlabeled in every fold, so that nothing that some fold tests on is trained on.
    keep = folds[:, fold - 1] == CODES[split] if split in CODES else (folds == UNLABELED).all(axis=1)
    if not keep.any():
        raise UserError(f"{file} has no images for split {split!r} of fold {fold}; it is not {FILE} of TFD")
    images = np.ascontiguousarray(images[keep])
    if split == "train":
        return images, None
    labels = labels.reshape(-1)[keep]
    wrong = labels[~np.isin(labels, range(1, len(EXPRESSIONS) + 1))]
    if len(wrong):
        raise UserError(f"{file}: labs_ex is {wrong[0]} for an image of split {split!r}, fold {fold}; it must be 1..7")
    return images, labels.astype(np.int64) - 1


def _read(file: Path) -> tuple[Bytes, NDArray[Any], NDArray[Any]]:
    """The three arrays, their shapes and codes checked."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise UserError('tfd needs scipy, which is not installed: pip install "gansmith[tfd]"') from error
    try:
        found = loadmat(file, variable_names=KEYS)
    except Exception as error:  # on a damaged file scipy raises almost anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{file} cannot be read as a MATLAB 5 file ({reason}); it must be {FILE} of TFD") from error
    if missing := [key for key in KEYS if key not in found]:
        raise UserError(f"{file} has no {' and no '.join(missing)}; {FILE} of TFD has {', '.join(KEYS)}")
    images, labels, folds = (np.asarray(found[key]) for key in KEYS)
    n = len(images) if images.ndim else 0
    right = images.dtype == np.uint8 and images.shape == (n, 48, 48) and folds.shape == (n, FOLDS)
    if not right or labels.shape not in ((n, 1), (1, n)):
        shapes = f"images {images.dtype} {images.shape}, labs_ex {labels.shape}, folds {folds.shape}"
        raise UserError(f"{file} holds {shapes}; {FILE} of TFD holds uint8 (N, 48, 48), (N, 1), (N, {FOLDS})")
    if not np.isin(folds, range(4)).all():
        raise UserError(f"{file}: folds must hold only 0, 1, 2 and 3")
    return images, labels, folds


# ---- scores over all folds -------------------------------------------------------------------------------------


def mean_over_folds(values: Sequence[float], details: Sequence[Mapping[str, Any]]) -> tuple[float, dict[str, Any]]:
    """The mean of the folds' values, and their details; the standard error, where each has one, is that over folds."""
    together: dict[str, Any] = {key: [one[key] for one in details] for key in details[0]}
    if "standard_error" in together:
        together |= {"standard_error": stdev(values) / len(values) ** 0.5, "folds": list(values)}
    return fmean(values), together

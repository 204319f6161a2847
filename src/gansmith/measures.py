"""The measures that a generator is evaluated by: a table of what each compares, what it is called, and what it needs.

The mathematics is in `metrics`; here is the protocol: which images, how many, rounded or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean, stdev
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gansmith.build import load_split
from gansmith.data import ImageSet
from gansmith.data.imageset import Labels
from gansmith.data.load import SHUFFLED, mixed
from gansmith.data.values import VALUES
from gansmith.errors import UserError
from gansmith.metrics.digits import Outputs
from gansmith.metrics.features import Extractor
from gansmith.metrics.frechet import frechet_distance
from gansmith.metrics.kernel import kernel_distance
from gansmith.metrics.modes import (
    class_histogram,
    confidence,
    inception_score,
    kl_to_uniform,
    stacked_modes,
    total_variation,
)
from gansmith.metrics.neighbours import (
    Memorisation,
    Threshold,
    density_coverage,
    memorisation,
    precision_recall,
    threshold,
)
from gansmith.metrics.parzen import SIGMAS, ParzenFit, SigmaChoice, choose_sigma, parzen
from gansmith.recipe import Data
from gansmith.report.pictures import to_uint8

SplitName = Literal["test", "validation", "train"]
FOLDS = (1, 2, 3, 4, 5)
"""Of the Toronto Face Database."""
PARZEN_VALID = 1000
"""The authors' evaluator chooses sigma on so many validation images."""
NUMBERS = 2**24
"""The most numbers of the images that are looked at together: 64 MB as float32."""


class Stored:
    """Images of a set as its bytes, or its map on disk, hold them, in an order of their own."""

    def __init__(self, data: ImageSet, values: str, places: Labels) -> None:
        self.data, self.values, self.places = data, values, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, at: slice) -> Stored:
        return Stored(self.data, self.values, self.places[at])

    def pixels(self) -> Tensor:
        """(N, C, H, W) in [0, 1]"""
        return to_pixels(self.data, self.values, self.places)


class Images:
    """A set of images, and what an extractor makes of them, computed once."""

    def __init__(self, source: Tensor | Stored, extractor: Extractor | None, device: torch.device) -> None:
        self.source = source
        """Pixels (N, C, H, W) in [0, 1], on the CPU, or what is read to get them."""
        self.extractor = extractor
        self.device = device if device.type != "mps" else torch.device("cpu")  # which has no float64
        self._first: dict[int, Images] = {}

    def __len__(self) -> int:
        return len(self.source)

    @property
    def pixels(self) -> Tensor:
        """(N, C, H, W) in [0, 1], on the CPU"""
        return self.pixels_of(slice(None))

    def pixels_of(self, at: slice) -> Tensor:
        part = self.source[at]
        return part if isinstance(part, Tensor) else part.pixels()

    def parts(self) -> Iterator[Tensor]:
        """The pixels, some images at a time: a large set need not fit into memory."""
        rows = max(1, NUMBERS // self.pixels_of(slice(1)).numel())
        for start in range(0, len(self), rows):
            yield self.pixels_of(slice(start, start + rows))

    @property
    def flat(self) -> Tensor:
        """The images as vectors (N, C H W) on the device where they are compared."""
        return self.pixels.flatten(1).to(self.device)

    def flat_parts(self) -> Iterator[Tensor]:
        """The same, some images at a time."""
        return (part.flatten(1).to(self.device) for part in self.parts())

    @cached_property
    def outputs(self) -> Outputs:
        """Features (N, d) and logits (N, K), of the pixels rounded to 8 bits: what a saved picture would give."""
        assert self.extractor is not None
        parts = [self.extractor((part * 255).round() / 255) for part in self.parts()]
        features, logits = (torch.cat(part).to(self.device) for part in zip(*parts, strict=True))
        return Outputs(features, logits)

    def first(self, n: int) -> Images:
        """The first n images, with the outputs that are there already."""
        if n >= len(self):
            return self
        if n not in self._first:
            self._first[n] = part = Images(self.source[:n], self.extractor, self.device)
            if "outputs" in self.__dict__:
                part.outputs = Outputs(*(x[:n] for x in self.outputs))
        return self._first[n]


class Reference:
    """The real images of a recipe, split by split, as its networks see them."""

    def __init__(
        self,
        data: Data,
        split: SplitName,
        extractor: Extractor | None,
        device: torch.device,
        say: Callable[[str], None],
    ) -> None:
        self.data, self.split, self.extractor, self.device, self.say = data, split, extractor, device, say
        self._splits: dict[tuple[str, int], Images] = {}
        self._digests: dict[tuple[str, int], str] = {}

    def of(self, split: str, *, fold: int = 1) -> Images:
        """A split, its images read where they are needed.

        In the published order where that is mixed, so that the first images are those that others took; else in one
        that is drawn once: the first of a folder sorted by class would be of one class.
        """
        key = (split, fold)
        if key not in self._splits:
            try:
                found = load_split(self.data, split, fold=fold, say=self.say, progress=False)
            except UserError as error:
                hint = "; compare with other images: reference validation (see data.validation) or train"
                raise UserError(f"{error}{hint if split == self.split == 'test' else ''}") from None
            self._digests[key] = found.digest
            places = np.arange(len(found)) if self.data.name in SHUFFLED else mixed(len(found))
            self._splits[key] = Images(Stored(found, self.data.values, places), self.extractor, self.device)
        return self._splits[key]

    @property
    def real(self) -> Images:
        """The images that samples are compared with."""
        return self.of(self.split)

    @cached_property
    def nearest_pixels(self) -> Threshold:
        return threshold(self.of("train").flat_parts(), self.real.flat)

    @cached_property
    def nearest_features(self) -> Threshold:
        return threshold(self.of("train").outputs.features, self.real.outputs.features)

    def described(self, split: str, *, folds: bool) -> str:
        """The split by its number of images and the beginning of its digest; with `folds` that of every fold of tfd."""
        taken = FOLDS if folds and self.data.name == "tfd" and split != "train" else (1,)
        parts = [f"{len(self.of(split, fold=fold))} images {self._digests[split, fold][:12]}" for fold in taken]
        return ", ".join(parts)


def to_pixels(data: ImageSet, values: str, places: Labels | None = None) -> Tensor:
    """All images, or those of some places, in [0, 1]; of normalised contrast as pictures show it: it cannot return."""
    to_network, to_unit = VALUES[values]
    places = np.arange(len(data)) if places is None else places
    pixels = torch.empty(len(places), *data.images.shape[1:])
    for part, at in zip(torch.split(pixels, 1000), torch.split(torch.from_numpy(places), 1000), strict=True):
        part.copy_(torch.from_numpy(data.images[at.numpy()]))
        part.copy_(to_unit(to_network(part)) if values == "gcn" else part.div_(255))
    return pixels


# ---- the measures ----------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """Values by name, and what came up on the way."""

    values: dict[str, float]
    details: dict[str, Any]
    pictures: NDArray[np.uint8] | None = None
    """Pairs (P, 2, C, H, W) of a sample and the training image nearest to it, the nearest pair first."""


def _parzen(samples: Images, to: Reference) -> Measured:
    if to.data.name == "tfd":
        return _parzen_folds(samples, to)
    valid = to.of("validation").first(PARZEN_VALID)
    if to.split == "validation":  # to choose a checkpoint: the test images stay unseen
        choice = choose_sigma(samples.flat, valid.flat)
        _warn_of_edge([choice], to)
        return Measured({"parzen_ll": choice.valid}, {"sigma": choice.sigma, "at_edge": choice.at_edge})
    fit = parzen(samples.flat, valid.flat, to.real.flat)
    _warn_of_edge([fit], to)
    details = {
        "sigma": fit.sigma,
        "validation": fit.valid,
        "standard_error": fit.standard_error,
        "at_edge": fit.at_edge,
    }
    return Measured({"parzen_ll": fit.mean}, details)


def _parzen_folds(samples: Images, to: Reference) -> Measured:
    """The mean over TFD's five folds, each with a sigma of its own; the standard error is that over the folds."""
    valid = [to.of("validation", fold=fold).flat for fold in FOLDS]
    if to.split == "validation":
        choices = [choose_sigma(samples.flat, v) for v in valid]
        _warn_of_edge(choices, to)
        return Measured(
            {"parzen_ll": fmean(c.valid for c in choices)},
            {"sigma": [c.sigma for c in choices], "at_edge": [c.at_edge for c in choices]},
        )
    fits = [parzen(samples.flat, v, to.of("test", fold=fold).flat) for v, fold in zip(valid, FOLDS, strict=True)]
    _warn_of_edge(fits, to)
    details = {
        "sigma": [fit.sigma for fit in fits],
        "standard_error": stdev(fit.mean for fit in fits) / len(fits) ** 0.5,
        "folds": [fit.mean for fit in fits],
        "at_edge": [fit.at_edge for fit in fits],
    }
    return Measured({"parzen_ll": fmean(fit.mean for fit in fits)}, details)


def _warn_of_edge(found: Sequence[SigmaChoice | ParzenFit], to: Reference) -> None:
    for sigma in sorted({fit.sigma for fit in found if fit.at_edge}):
        to.say(f"parzen_ll: sigma {sigma:g} is at an end of the grid; a better one may lie beyond")


def _frechet(samples: Images, to: Reference) -> Measured:
    return Measured({"fd": frechet_distance(samples.outputs.features, to.real.outputs.features)}, {})


def _kernel(samples: Images, to: Reference) -> Measured:
    distance = kernel_distance(samples.outputs.features, to.real.outputs.features)
    return Measured({"kd": distance.mean}, {"std_over_subsets": distance.std})


def _precision_recall(samples: Images, to: Reference) -> Measured:
    real = to.real.first(len(samples))
    found = precision_recall(real.outputs.features, samples.outputs.features)
    return Measured({"precision": found.precision, "recall": found.recall}, {})


def _density_coverage(samples: Images, to: Reference) -> Measured:
    real = to.real.first(len(samples))
    found = density_coverage(real.outputs.features, samples.outputs.features)
    return Measured({"density": found.density, "coverage": found.coverage}, {})


def _inception_score(samples: Images, to: Reference) -> Measured:
    score = inception_score(samples.outputs.logits.double().softmax(1))
    return Measured({"score": score.mean}, {"std_over_splits": score.std})


def _classes(samples: Images, to: Reference) -> Measured:
    logits = samples.outputs.logits.double()
    counts = class_histogram(logits.argmax(1), logits.shape[1])
    sure = confidence(logits.softmax(1))
    return Measured(
        {"class_tv": total_variation(counts), "class_kl": kl_to_uniform(counts), "confident": sure.share},
        {"histogram": counts.tolist(), "mean_confidence": sure.mean},
    )


def _stacked(samples: Images, to: Reference) -> Measured:
    channels = [Images(c, samples.extractor, samples.device) for c in torch.split(samples.pixels, 1, dim=1)]
    found = stacked_modes(torch.stack([c.outputs.logits.argmax(1) for c in channels], 1))
    return Measured({"modes": found.modes, "modes_kl": found.kl}, {"hit_at_least": found.at_least})


def _memorised_pixels(samples: Images, to: Reference) -> Measured:
    found = memorisation(samples.flat, to.of("train").flat_parts(), to.nearest_pixels)
    return Measured({"memorised_pixels": found.share}, found.threshold._asdict(), _pairs(found, samples, to))


def _memorised_features(samples: Images, to: Reference) -> Measured:
    found = memorisation(samples.outputs.features, to.of("train").outputs.features, to.nearest_features)
    return Measured({"memorised": found.share}, found.threshold._asdict(), _pairs(found, samples, to))


def _pairs(found: Memorisation, samples: Images, to: Reference, most: int = 20) -> NDArray[np.uint8]:
    nearest = found.distances.argsort()[:most]
    originals = torch.cat([to.of("train").pixels_of(slice(i, i + 1)) for i in found.indices[nearest].tolist()])
    return to_uint8(torch.stack([samples.pixels[nearest.cpu()], originals], 1).flatten(0, 1)).reshape(
        len(nearest), 2, *originals.shape[1:]
    )


@dataclass(frozen=True)
class Metric:
    """A row: the measure, what it is called and compared by, and what it needs."""

    measure: Callable[[Images, Reference], Measured]
    units: Mapping[str, str]
    """Its values by name, each with its unit."""
    better: Mapping[str, str]
    """For each value: higher, lower, or the value that a perfect generator has."""
    paper: str
    protocol: Mapping[str, Any] = field(default_factory=dict)
    features: bool = True
    digits: bool = False
    """Asks which digit an image shows: for the digit classifier alone."""
    channels: Sequence[int] = (1, 3)
    compares: bool = True
    """With real images, so that the reference split is a part of the protocol."""
    also: Sequence[str] = ()
    """Further splits of the real images that it looks at."""
    ceiling: bool = True
    """Real training images in place of samples say what could be reached."""
    equal: bool = False
    """It takes as many real images as samples."""
    folds: bool = False
    """It takes every fold of tfd; the others the first."""
    n: int = 10_000
    note: str = ""


HISTORICAL = "historical: says little of quality (Theis et al. 2016, arXiv 1511.01844)"
METRICS: dict[str, Metric] = {
    "parzen_ll": Metric(
        _parzen,
        {"parzen_ll": "nats"},
        {"parzen_ll": "higher"},
        paper="arXiv 1406.2661",
        also=("validation",),
        protocol={
            "sigmas": f"{len(SIGMAS)} from {SIGMAS[0]:g} to {SIGMAS[-1]:g}",
            "sigma by": f"the first {PARZEN_VALID} validation images; of tfd by all of each fold",
        },
        features=False,
        folds=True,
        note=HISTORICAL,
    ),
    "fd": Metric(_frechet, {"fd": ""}, {"fd": "lower"}, paper="arXiv 1706.08500"),
    "kd": Metric(
        _kernel,
        {"kd": ""},
        {"kd": "lower"},
        paper="arXiv 1801.01401",
        protocol={"kernel": "(x.y/d + 1)^3", "subsets": "100 of 1000, seed 0"},
    ),
    "pr": Metric(
        _precision_recall,
        {"precision": "", "recall": ""},
        {"precision": "higher", "recall": "higher"},
        paper="arXiv 1904.06991",
        protocol={"k": 3},
        equal=True,
    ),
    "dc": Metric(
        _density_coverage,
        {"density": "", "coverage": ""},
        {"density": "1", "coverage": "higher"},
        paper="arXiv 2002.09797",
        protocol={"k": 5},
        equal=True,
    ),
    "score": Metric(
        _inception_score,
        {"score": ""},
        {"score": "higher"},
        paper="arXiv 1606.03498",
        protocol={"splits": 10},
        compares=False,
    ),
    "classes": Metric(
        _classes,
        {"class_tv": "", "class_kl": "nats", "confident": ""},
        {"class_tv": "lower", "class_kl": "lower", "confident": "higher"},
        paper="",
        protocol={"confident": "probability of at least 0.9"},
        digits=True,
        channels=(1,),
        compares=False,
    ),
    "stacked": Metric(
        _stacked,
        {"modes": "of 1000", "modes_kl": "nats"},
        {"modes": "higher", "modes_kl": "lower"},
        paper="arXiv 1712.04086",
        digits=True,
        channels=(3,),
        compares=False,
        n=26_000,
    ),
    "memorised": Metric(
        _memorised_features,
        {"memorised": ""},
        {"memorised": "0.01"},
        paper="",
        also=("train",),
        protocol={"nearer than": "the nearest 1 % of the reference"},
        ceiling=False,
        n=2000,
    ),
    "memorised_pixels": Metric(
        _memorised_pixels,
        {"memorised_pixels": ""},
        {"memorised_pixels": "0.01"},
        paper="",
        also=("train",),
        protocol={"nearer than": "the nearest 1 % of the reference"},
        features=False,
        ceiling=False,
        n=2000,
    ),
}
# The names that the literature keeps for Inception's features; with others the same measure is called otherwise.
INCEPTION_NAMES = {"fd": "fid", "kd": "kid", "score": "is"}

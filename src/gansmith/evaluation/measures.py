"""The measures that a generator is evaluated by: a table of what each compares, what it is called, and what it needs.

The mathematics is in `metrics`; here is the protocol: which images, how many, rounded or not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gansmith.build import fields_of, game_of, load_split
from gansmith.data import ImageSet
from gansmith.data.imageset import Labels
from gansmith.data.load import KNOWN, SHUFFLED, mixed
from gansmith.data.values import VALUES
from gansmith.errors import UserError
from gansmith.metrics import modes, neighbours
from gansmith.metrics.digits import SIDE, Outputs
from gansmith.metrics.features import Extractor
from gansmith.metrics.frechet import frechet_distance
from gansmith.metrics.kernel import kernel_distance, mmd
from gansmith.metrics.neighbours import Threshold, nearest_of_parts, share, threshold
from gansmith.papers.parzen import SIGMAS, choose_sigma, parzen
from gansmith.papers.stacked import stacked_modes
from gansmith.papers.tfd import FOLDS, mean_over_folds
from gansmith.papers.toy import GOOD, TOYS
from gansmith.recipe import Recipe, combine, resolve
from gansmith.run.pictures import to_uint8
from gansmith.sections import Data

SplitName = Literal["test", "validation", "train"]
PARZEN_VALID = 1000  # the authors' evaluator chooses sigma on so many validation images
NUMBERS = 2**24  # the most numbers of the images that are looked at together: 64 MB as float32


def as_recipe(what: Recipe | Data | str) -> Recipe:
    """A recipe as it is; of data alone, or its name, the plainest: single pictures x."""
    if isinstance(what, Recipe):
        return what
    data = Data(name=what) if isinstance(what, str) else what
    return replace(combine().recipe, data=replace(data, labelled=None))


@dataclass(eq=False)
class Stored:
    """One field of a set as its bytes, or its map on disk, hold it, in an order of its own.

    With a recipe, as its views show it, but for those that only vary what is trained on.
    """

    data: ImageSet
    values: str
    places: Labels
    field: str = ""
    recipe: Recipe | None = None
    mirrored: bool = False

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, at: slice) -> Stored:
        return replace(self, places=self.places[at])

    def fields(self, device: torch.device) -> dict[str, Tensor]:
        """All fields of the set as networks see them."""
        assert self.recipe is not None
        return fields_of(self.recipe, [self.data], self.places, device)

    def pixels(self) -> Tensor:
        """(N, C, H, W) in [0, 1]"""
        if self.recipe is not None and shown_by(self.recipe):
            found = VALUES[self.values].to_unit(self.fields(torch.device("cpu"))[self.field])
        else:
            found = to_pixels(self.data.columns.get(self.field, self.data.images), self.values, self.places)
        return found.flip(3) if self.mirrored else found


def shown_by(recipe: Recipe) -> list[str]:
    """The recipe's views that make or change what is shown, and do not only vary it."""
    return [view.name for view in recipe.views if not resolve("views", view.name, view.trusted).augments]


def mirrors(recipe: Recipe, field: str) -> bool:
    """Whether a training saw images of this field mirrored at random."""
    return any(view.name == "flip" and field in view.args["of"] for view in recipe.views)


class Images:
    """A set of images, and what an extractor makes of them, computed once."""

    def __init__(self, source: Tensor | Stored, extractor: Extractor | None, device: torch.device) -> None:
        self.source = source  # pixels (N, C, H, W) in [0, 1], on the CPU, or what is read to get them
        self.extractor = extractor
        self.device = device if device.type != "mps" else torch.device("cpu")  # which has no float64
        self._first: dict[int, Images] = {}

    def __len__(self) -> int:
        return len(self.source)

    def pixels(self, at: slice = slice(None)) -> Tensor:
        """(N, C, H, W) in [0, 1], on the CPU"""
        part = self.source[at]
        return part if isinstance(part, Tensor) else part.pixels()

    def parts(self, numbers: int | None = None) -> Iterator[Tensor]:
        """The pixels, some images at a time: a large set need not fit into memory."""
        rows = max(1, (numbers or NUMBERS) // self.pixels(slice(1)).numel())
        for start in range(0, len(self), rows):
            yield self.pixels(slice(start, start + rows))

    @property
    def flat(self) -> Tensor:
        """The images as vectors (N, C H W) on the device where they are compared."""
        return self.pixels().flatten(1).to(self.device)

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


@dataclass(eq=False)
class Reference:
    """The real images of one field, split by split, as the networks see them."""

    recipe: Recipe
    field: str
    split: SplitName
    extractor: Extractor | None
    device: torch.device
    say: Callable[[str], None]
    fold: int = 1

    def __post_init__(self) -> None:
        self._sets: dict[str, tuple[ImageSet, ...]] = {}
        self._splits: dict[str, Images] = {}
        self.thresholds: dict[str, Threshold] = {}  # how near to training images is too near, by value

    def stored(self, split: str, field: str) -> Stored:
        """A field of a split, its images read where they are needed.

        In the published order where that is mixed, so that the first images are those that others took; else in one
        that is drawn once: the first of a folder sorted by class would be of one class.
        """
        if split not in self._sets:
            try:
                self._sets[split] = load_split(self.recipe, split, fold=self.fold, say=self.say, progress=False)
            except UserError as error:
                hint = "; compare with other images: --reference validation (see data.validation) or train"
                raise UserError(f"{error}{hint if split == self.split == 'test' else ''}") from None
        data, needs = self.recipe.data, game_of(self.recipe).needs
        found = next(one for one, fields in zip(self._sets[split], needs, strict=True) if field in fields)
        places = np.arange(len(found)) if data.name in SHUFFLED else mixed(len(found))
        return Stored(found, data.values, places, field, self.recipe)

    def of(self, split: str) -> Images:
        """The images of a split."""
        if split not in self._splits:
            self._splits[split] = Images(self.stored(split, self.field), self.extractor, self.device)
        return self._splits[split]

    def trained_on(self) -> list[Images]:
        """The training images, and where some were mirrored, all of them mirrored, too."""
        train = self.of("train")
        if not mirrors(self.recipe, self.field):
            return [train]
        if "mirrored" not in self._splits:
            stored = replace(self.stored("train", self.field), mirrored=True)
            self._splits["mirrored"] = Images(stored, self.extractor, self.device)
        return [train, self._splits["mirrored"]]

    @property
    def folds(self) -> Sequence[Reference]:
        """All folds of data that comes in folds; else this alone."""
        several = range(1, FOLDS + 1) if self.recipe.data.name == "tfd" else ()
        return [replace(self, fold=fold) for fold in several] or [self]

    @property
    def real(self) -> Images:
        """The images that samples are compared with."""
        return self.of(self.split)

    def described(self, split: str) -> str:
        """The split by its number of images and the beginning of its digest."""
        stored = self.stored(split, self.field)
        return f"{len(stored)} images {stored.data.digest[:12]}"


def to_pixels(column: NDArray[Any], values: str, places: Labels) -> Tensor:
    """The images of some places in [0, 1]; of normalised contrast as pictures show it: it cannot return.

    Raw values stay as they are.
    """
    to_network, to_unit = VALUES[values]
    pixels = torch.empty(len(places), *column.shape[1:])
    for part, at in zip(torch.split(pixels, 1000), torch.split(torch.from_numpy(places), 1000), strict=True):
        part.copy_(torch.from_numpy(column[at.numpy()]))
        if values != "raw":
            part.copy_(to_unit(to_network(part)) if values == "gcn" else part.div_(255))
    return pixels


# ---- the measures ----------------------------------------------------------------------------------------------


class Measured(NamedTuple):
    """Values by name, and what came up on the way."""

    values: dict[str, float]
    details: dict[str, Any]
    pictures: NDArray[np.uint8] | None = None  # pairs (P, 2, C, H, W) of a sample and the training image nearest to it


def _parzen(samples: Images, to: Reference) -> Measured:
    found = [_parzen_of_fold(samples, fold) for fold in to.folds]
    if len(found) == 1:
        return found[0]
    mean, details = mean_over_folds([one.values["parzen_ll"] for one in found], [one.details for one in found])
    return Measured({"parzen_ll": mean}, details)


def _parzen_of_fold(samples: Images, to: Reference) -> Measured:
    valid = to.of("validation").first(PARZEN_VALID).flat
    if to.split == "validation":  # to choose a checkpoint: the test images stay unseen
        chosen = choose_sigma(samples.flat, valid)
        mean, details = chosen.valid, {}
    else:
        chosen, mean, error = parzen(samples.flat, valid, to.real.flat)
        details = {"validation": chosen.valid, "standard_error": error}
    if chosen.at_edge:
        to.say(f"parzen_ll: sigma {chosen.sigma:g} is at an end of the grid; a better one may lie beyond")
    return Measured({"parzen_ll": mean}, {**details, "sigma": chosen.sigma, "at_edge": chosen.at_edge})


def _frechet(samples: Images, to: Reference) -> Measured:
    return Measured({"fd": frechet_distance(samples.outputs.features, to.real.outputs.features)}, {})


def _kernel(samples: Images, to: Reference) -> Measured:
    distance = kernel_distance(samples.outputs.features, to.real.outputs.features)
    return Measured({"kd": distance.mean}, {"std_over_subsets": distance.std})


def _mmd(samples: Images, to: Reference) -> Measured:
    found = mmd(samples.outputs.features, to.real.outputs.features)
    return Measured({"mmd": found.value}, {"low": found.low, "high": found.high})


def _balls(samples: Images, to: Reference, *, of: Callable[..., Any]) -> Measured:
    real = to.real.first(len(samples))
    if len(real) < 50:  # balls around a few reach to anything
        raise UserError(f"{len(real)} real images: at least 50 are needed")
    return Measured(of(real.outputs.features, samples.outputs.features), {})


def _inception_score(samples: Images, to: Reference) -> Measured:
    score = modes.inception_score(samples.outputs.logits.double().softmax(1))
    return Measured({"score": score.mean}, {"std_over_splits": score.std})


def _classes(samples: Images, to: Reference) -> Measured:
    p = samples.outputs.logits.double().softmax(1)
    counts, largest = torch.bincount(p.argmax(1), minlength=p.shape[1]), p.amax(1)
    values = {"class_tv": modes.total_variation(counts), "class_kl": modes.kl_to_uniform(counts)}
    return Measured(
        {**values, "confident": share(largest >= 0.9)},
        {"histogram": counts.tolist(), "mean_confidence": largest.mean().item()},
    )


def _stacked(samples: Images, to: Reference) -> Measured:
    channels = [Images(c, samples.extractor, samples.device) for c in torch.split(samples.pixels(), 1, dim=1)]
    found = stacked_modes(torch.stack([c.outputs.logits.argmax(1) for c in channels], 1))
    return Measured({"modes": found.modes, "modes_kl": found.kl}, {"hit_at_least": found.at_least})


def _mixture(samples: Images, to: Reference) -> Measured:
    density = to.stored(to.split, to.field).data.density
    assert density is not None
    hits = density.hits(samples.flat.double().cpu().numpy())
    values = {"covered": float((hits > 0).sum()), "good": float(hits.sum() / len(samples))}
    return Measured(values, {"good_of_each_mode": hits.tolist()})


def _paired(samples: Images, to: Reference, *, value: str, of: Callable[[Tensor, Tensor], Tensor]) -> Measured:
    """The mean over pictures of a function (N,) of samples and of the real images that they should be."""
    few = 2**20  # numbers: some of these functions keep many copies
    both = zip(samples.parts(few), to.real.first(len(samples)).parts(few), strict=True)
    found = [of(*(part.to(samples.device, torch.float64) for part in pair)) for pair in both]
    return Measured({value: torch.cat(found).mean().item()}, {})


BORDER = 4  # pixels that papers on super-resolution leave out at each side


def luminance(x: Tensor) -> Tensor:
    """Y = (16 + 65.5 R + 128.6 G + 25.0 B) / 255 of pictures (N, C, H, W) in [0, 1], without a border: (N, 1, h, w)."""
    rgb = x[:, :3].expand(-1, 3, -1, -1)
    y = (16 + (rgb * x.new_tensor([65.481, 128.553, 24.966]).view(3, 1, 1)).sum(1, keepdim=True)) / 255
    return y[:, :, BORDER:-BORDER, BORDER:-BORDER]


def psnr(x: Tensor, y: Tensor) -> Tensor:
    from torchmetrics.functional.image import peak_signal_noise_ratio  # a second to import

    return peak_signal_noise_ratio(x, y, data_range=1.0, reduction="none", dim=(1, 2, 3))


def ssim(x: Tensor, y: Tensor) -> Tensor:
    from torchmetrics.functional.image import structural_similarity_index_measure

    found = structural_similarity_index_measure(x, y, data_range=1.0, reduction="none")
    assert isinstance(found, Tensor)
    return found


def _memorised(
    samples: Images, to: Reference, *, value: str, vectors: Callable[[Images], Iterable[Tensor]], shown: int = 20
) -> Measured:
    """The share of samples that lie nearer to a training image than the nearest held-out images do.

    A share far above the expected one says that training images were copied; one at or below it says little: a copy
    shifted by one pixel is far from its original (Theis et al. 2016, arXiv 1511.01844).
    """
    seen = to.trained_on()

    def parts() -> Iterator[Tensor]:
        return (part for images in seen for part in vectors(images))

    if value not in to.thresholds:
        to.thresholds[value] = threshold(parts(), torch.cat([*vectors(to.real)]))
    limit = to.thresholds[value]
    distances, indices = nearest_of_parts(torch.cat([*vectors(samples)]), parts())
    nearest = distances.argsort()[:shown]
    places = [divmod(i, len(seen[0])) for i in indices[nearest].tolist()]
    originals = torch.cat([seen[which].pixels(slice(i, i + 1)) for which, i in places])
    both = to_uint8(torch.stack([samples.pixels()[nearest.cpu()], originals], 1).flatten(0, 1))
    pairs = both.reshape(len(nearest), 2, *originals.shape[1:])
    details = {**limit._asdict(), **({"mirrored": True} if len(seen) > 1 else {})}
    return Measured({value: share(distances < limit.distance)}, details, pairs)


class Case(NamedTuple):
    """What decides whether a measure can be taken."""

    data: Data
    features: str
    reference: str
    paired: bool  # whether each sample has a truth: what it was made from has the same index as what it imitates


def has_validation(data: Data) -> bool:
    """Whether images are held back, or the set has validation images of its own."""
    return data.validation > 0 or (data.name in KNOWN and KNOWN[data.name].validation)


@dataclass(frozen=True)
class Metric:
    """A row: the measure, what it is called and compared by, and what it needs."""

    measure: Callable[[Images, Reference], Measured]
    values: Mapping[str, tuple[str, str]]
    """What it gives by name: the unit, and what is better: higher, lower, or the value of a perfect generator."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    features: bool = True
    by_channel: bool = False  # the features are those of each channel by itself
    digits: bool = False  # asks which digit an image shows: for the digit classifier alone
    logits: bool = False  # asks for class probabilities
    channels: Sequence[int] = (1, 3)
    least: int = 1  # the smallest height and width that it takes
    paired: bool = False  # compares each sample with the real image that it should be
    compares: bool = True  # with real images, so that the reference split is a part of the protocol
    also: Sequence[str] = ()  # further splits of the real images that it looks at
    equal: bool = False  # takes as many real images as samples
    folds: bool = False  # of data in folds `measure` itself goes over all; the others take the first
    points: bool = False  # takes points of a mixture that is known, not pictures
    alone: Sequence[str] = ()  # sets that are scored by it and, unless more is named, by nothing else; no other set is
    n: int = 10_000
    real: int = 1  # of fewer real images it says little: it must be named to be taken
    note: str = ""

    @property
    def ceiling(self) -> bool:
        """Whether real training images in place of samples say what could be reached."""
        return not self.paired and "train" not in self.also

    def why_not(self, case: Case) -> str | None:
        """Why it cannot be taken, or None."""
        data = case.data
        (h, w), c = data.size, data.channels
        size = f"{h}x{w} with {c} channel(s)"
        if self.points != (data.values == "raw"):
            return "it takes points of a known mixture" if self.points else "it takes pictures, and these are points"
        if self.paired and not case.paired:
            return "it compares each sample with a truth, which only what is made from one picture of a pair has"
        if c not in self.channels:
            return f"it takes images with {' or '.join(map(str, self.channels))} channel(s), and these have {c}"
        if min(h, w) < self.least:
            return f"it looks at squares of {self.least}x{self.least} pixels, and these images are {h}x{w}"
        if self.digits and case.features != "mnist":
            return "it asks which digit an image shows, which the mnist features alone can tell"
        if self.logits and case.features == "mobilenet":
            return "it looks at class probabilities, which the mobilenet features lack"
        if self.features and case.features == "mnist" and (h, w, 1 if self.by_channel else c) != (SIDE, SIDE, 1):
            return f"the mnist features are of {SIDE}x{SIDE} images with 1 channel, and these are {size}"
        if case.reference == "train" and self.also:
            return "it needs images that were not trained on, and the reference is train"
        if "validation" in self.also and not has_validation(data):
            return "it also looks at images that were held back, and data.validation is 0"
        return None


WINDOW = {"window": "Gaussian, 11x11, sigma 1.5"}
LUMINANCE = {"range": 1, "of": "Y, 16 to 235 of 255 (BT.601)", "without": f"a border of {BORDER} pixels"}
NEAREST = {"nearer than": "the nearest 1 % of the reference"}
# Of pairs: a function of both, unit and better end, protocol, the smallest side; *_y as papers on super-resolution do.
PAIRS: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[str, str], Mapping[str, Any], int]] = {
    "psnr": (psnr, ("dB", "higher"), {"range": 1, "mean": "of the dB of each picture"}, 1),
    "ssim": (ssim, ("", "higher"), {"range": 1, **WINDOW}, 11),  # doi 10.1109/TIP.2003.819861
    "psnr_y": (lambda x, y: psnr(luminance(x), luminance(y)), ("dB", "higher"), LUMINANCE, 2 * BORDER + 1),
    "ssim_y": (lambda x, y: ssim(luminance(x), luminance(y)), ("", "higher"), {**LUMINANCE, **WINDOW}, 2 * BORDER + 11),
    "l1": (lambda x, y: (x - y).abs().mean((1, 2, 3)), ("", "lower"), {"range": 1}, 1),  # arXiv 1611.07004
}
METRICS: dict[str, Metric] = {
    "parzen_ll": Metric(  # arXiv 1406.2661
        _parzen,
        {"parzen_ll": ("nats", "higher")},
        also=("validation",),
        protocol={
            "sigmas": f"{len(SIGMAS)} from {SIGMAS[0]:g} to {SIGMAS[-1]:g}",
            "sigma by": f"the first {PARZEN_VALID} validation images; of tfd by all of each fold",
        },
        features=False,
        folds=True,
        real=PARZEN_VALID,
        note="historical: says little of quality (Theis et al. 2016, arXiv 1511.01844)",
    ),
    "fd": Metric(_frechet, {"fd": ("", "lower")}, real=1000),  # arXiv 1706.08500
    "kd": Metric(  # arXiv 1801.01401
        _kernel, {"kd": ("", "lower")}, {"kernel": "(x.y/d + 1)^3", "subsets": "100 of 1000, seed 0"}, real=1000
    ),
    "mmd": Metric(
        _mmd,
        {"mmd": ("", "lower")},
        {"kernel": "(x.y/d + 1)^3", "interval": "95 %, jackknife over samples and real images"},
        n=2000,
        real=3,
    ),
    "pr": Metric(  # arXiv 1904.06991
        partial(_balls, of=neighbours.precision_recall),
        {"precision": ("", "higher"), "recall": ("", "higher")},
        {"k": 3},
        equal=True,
        real=1000,
    ),
    "dc": Metric(  # arXiv 2002.09797
        partial(_balls, of=neighbours.density_coverage),
        {"density": ("", "1"), "coverage": ("", "higher")},
        {"k": 5},
        equal=True,
        real=1000,
    ),
    "score": Metric(  # arXiv 1606.03498
        _inception_score, {"score": ("", "higher")}, {"splits": 10}, compares=False, logits=True
    ),
    "classes": Metric(
        _classes,
        {"class_tv": ("", "lower"), "class_kl": ("nats", "lower"), "confident": ("", "higher")},
        {"confident": "probability of at least 0.9"},
        digits=True,
        channels=(1,),
        compares=False,
    ),
    "stacked": Metric(  # arXiv 1712.04086
        _stacked,
        {"modes": ("of 1000", "higher"), "modes_kl": ("nats", "lower")},
        by_channel=True,
        digits=True,
        channels=(3,),
        compares=False,
        alone=("stacked_mnist",),
        n=26_000,
    ),
    "modes": Metric(  # arXiv 1705.07761
        _mixture,
        {"covered": ("modes", "higher"), "good": ("", "higher")},
        {"good": f"at most {GOOD} deviations from the nearest mean", "covered": "at least 1 good sample"},
        features=False,
        compares=False,
        points=True,
        alone=tuple(TOYS),
        n=2500,
    ),
    "memorised": Metric(
        partial(_memorised, value="memorised", vectors=lambda images: [images.outputs.features]),
        {"memorised": ("", "0.01")},
        NEAREST,
        also=("train",),
        n=2000,
        real=neighbours.FEWEST,
    ),
    "memorised_pixels": Metric(
        partial(_memorised, value="memorised_pixels", vectors=Images.flat_parts),
        {"memorised_pixels": ("", "0.01")},
        NEAREST,
        features=False,
        also=("train",),
        n=2000,
        real=neighbours.FEWEST,
    ),
    **{
        name: Metric(
            partial(_paired, value=name, of=of), {name: unit}, protocol, features=False, least=least, paired=True
        )
        for name, (of, unit, protocol, least) in PAIRS.items()
    },
}
VALUE_OF = {value: name for name, row in METRICS.items() for value in row.values}
"""Each value, and the metric that gives it."""

"""Evaluate a generator: every score has a protocol, what real images reach, and its spread over sets of samples."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gansmith.build import choose_device, load_split
from gansmith.data import data_names
from gansmith.data.folder import has_split, list_folder
from gansmith.data.load import SHUFFLED
from gansmith.errors import UserError
from gansmith.inference import Sampler, load
from gansmith.measures import INCEPTION_NAMES, METRICS, Images, Measured, Reference, SplitName, to_pixels
from gansmith.metrics.features import EXTRACTORS, Extractor, inception, mnist
from gansmith.receipts import Receipt, append
from gansmith.recipe import Data, is_run, plan
from gansmith.report.export import save_images
from gansmith.schema import did_you_mean

Say = Callable[[str], None]
Generate = Callable[[int, int], Tensor]
"""(n, seed) -> n images (n, C, H, W) in [0, 1]."""
DIGITS = ("mnist", "stacked_mnist")
"""Data that the digit classifier can judge."""
MODES = {1: "L", 3: "RGB"}


class Evaluator:
    """Chosen measures on the real images of one recipe, ready for any number of generators.

    metrics: names of METRICS; None: all that the data allows, and what is left out is said. n: samples in a set; None:
    what is usual for each. reference: the split that samples are compared with. features: "mnist" (the digit classifier
    that ships) or "inception"; None: what fits the data. ceiling: measure real training images, too. UserError for what
    cannot be measured, and why.
    """

    def __init__(
        self,
        data: Data | str,
        *,
        metrics: Sequence[str] | None = None,
        n: int | None = None,
        reference: SplitName = "test",
        features: str | None = None,
        inception_weights: Path | None = None,
        device: str = "auto",
        ceiling: bool = True,
        say: Say = print,
    ) -> None:
        data = Data(name=data) if isinstance(data, str) else data
        if data.values == "raw":
            raise UserError(f"{data.name} is made of points, and scores are of pictures: gansmith figure density RUN")
        if n is not None and n < 2:
            raise UserError(f"n is {n}; it must be at least 2")
        if reference not in ("test", "validation", "train"):
            raise UserError(f"reference is {reference!r}; it must be test, validation or train")
        if features is not None and features not in EXTRACTORS:
            raise UserError(f"features is {features!r}; it must be one of {', '.join(EXTRACTORS)}")
        self.data, self.n, self.ceiling, self.say = data, n, ceiling, say
        self.named = metrics is not None
        """Whether a measure that cannot be taken is an error, as where it was asked for by name."""
        where = choose_device(device)
        name = features or ("mnist" if data.name in DIGITS else "inception")
        self.metrics = (
            _named(metrics, name, data, reference) if metrics is not None else _possible(name, data, reference, say)
        )
        self.extractor: Extractor | None = None
        if any(METRICS[m].features for m in self.metrics):
            try:
                self.extractor = mnist(where) if name == "mnist" else inception(inception_weights, where, say)
            except UserError as error:
                self.metrics = [m for m in self.metrics if not METRICS[m].features]
                if metrics is not None or features is not None or not self.metrics:
                    raise
                say(f"all that needs features is left out: {error}")
        self.to = Reference(data, reference, self.extractor, where, say)
        self._real: dict[str, Measured] = {}
        self._parts = self._done = 0
        self._began = 0.0
        self.pictures: dict[str, NDArray[np.uint8]] = {}
        """Of the latest call's first set: the pairs of the memorisation measures."""

    def check_best(self, best: str | None) -> None:
        """UserError unless `best`, if any, is one of the values, has a better end, and may choose a checkpoint."""
        known = [v for name in self.metrics for v, end in METRICS[name].better.items() if end in ("higher", "lower")]
        if best is None:
            return
        if best not in known:
            raise UserError(
                f"evaluation.best is {best!r}; it must be one of {', '.join(known)}{did_you_mean(best, known)}"
            )
        if self.data.name == "tfd":
            raise UserError(
                "evaluation.best must be null for tfd: validation images of one fold are test images of another"
            )

    @property
    def most(self) -> int:
        """The largest number of samples that a measure takes."""
        return max(self.count(name) for name in self.metrics)

    def count(self, name: str) -> int:
        return METRICS[name].n if self.n is None else self.n

    def __call__(self, sets: Sequence[Callable[[], Tensor]], subject: Mapping[str, Any]) -> list[Receipt]:
        """The receipts of sets of samples, each a function that gives `most` or more of them (n, C, H, W) in [0, 1]."""
        found: dict[str, list[Measured]] = {name: [] for name in self.metrics}
        with_features = max((self.count(m) for m in self.metrics if METRICS[m].features and m != "stacked"), default=0)
        self._begin(len(self.metrics) * len(sets))
        for i, draw in enumerate(sets):
            samples = Images(_checked(draw(), self.data, self.most), self.extractor, self.to.device)
            if with_features:  # once for all measures; stacked digits are read channel by channel
                _ = samples.first(with_features).outputs
            for name in list(self.metrics):
                self._next(f"{name} of set {i + 1} of samples")
                row, count = METRICS[name], self.count(name)
                part = samples.first(with_features) if row.features and with_features else samples
                try:
                    measured = row.measure(part.first(count), self.to)
                except UserError as error:
                    if self.named or self.metrics == [name]:
                        raise
                    self.say(f"{name} is left out: {error}")
                    self.metrics.remove(name)
                    continue
                found[name].append(measured)
                if i == 0 and measured.pictures is not None:
                    self.pictures[name] = measured.pictures
        return [receipt for name in self.metrics for receipt in self._receipts(name, found[name], subject)]

    def _begin(self, parts: int) -> None:
        real = [name for name in self.metrics if METRICS[name].ceiling and name not in self._real]
        self._parts = parts + len(real) * (self.ceiling and self.to.split != "train")
        self._done, self._began = 0, time.monotonic()

    def _next(self, what: str) -> None:
        """Say what comes now, and how long the rest may take if its parts take as long as those before."""
        left = ""
        if self._done:
            seconds = round((time.monotonic() - self._began) / self._done * (self._parts - self._done))
            left = f", left about {seconds // 60}:{seconds % 60:02d}"
        self._done += 1
        self.say(f"{self._done} of {self._parts}{left}: {what}")

    def real(self, name: str) -> Measured | None:
        """The same measure with the first training images in place of samples, where there are as many."""
        if not self.ceiling or not METRICS[name].ceiling or self.to.split == "train":
            return None
        if name not in self._real:
            n = self.count(name)
            self._next(f"{name} of real images")
            train = self.to.of("train").first(n)
            if len(train) < n:
                self.say(f"{name} of real images is left out: there are {len(train)} training images, not {n}")
                return None
            self._real[name] = METRICS[name].measure(train, self.to)
        return self._real[name]

    def _receipts(self, name: str, measured: Sequence[Measured], subject: Mapping[str, Any]) -> list[Receipt]:
        row, real = METRICS[name], self.real(name)
        details = {key: [m.details[key] for m in measured] for key in measured[0].details}
        return [
            Receipt(
                metric=self.called(name, value),
                measure=value,
                values=[m.values[value] for m in measured],
                unit=unit,
                better=row.better[value],
                real=None if real is None else real.values[value],
                protocol=self.protocol(name),
                subject=subject,
                details=details,
                note=row.note,
            )
            for value, unit in row.units.items()
        ]

    def called(self, name: str, value: str) -> str:
        """The value's name with features, number of samples and, unless it is the test split, the reference."""
        row, n = METRICS[name], self.count(name)
        if row.features:
            mnist_features = self.extractor is not None and self.extractor.name == "mnist"
            value = f"{value}_mnist" if mnist_features else INCEPTION_NAMES.get(value, f"{value}_inception")
        split = f"_{self.to.split}" if row.compares and self.to.split != "test" else ""
        return f"{value}_{f'{n // 1000}k' if n % 1000 == 0 else n}{split}"

    def protocol(self, name: str) -> dict[str, Any]:
        row, data = METRICS[name], self.data
        protocol: dict[str, Any] = {"n": self.count(name), "images": f"{data.img_size}x{data.img_size}x{data.channels}"}
        if data.values == "gcn":
            protocol["contrast"] = "normalised"
        if row.compares:
            protocol |= {s: self.to.described(s, folds=row.folds) for s in [self.to.split, *row.also]}
        if data.name not in SHUFFLED and (row.equal or row.ceiling):
            protocol["order of real images"] = "drawn once, seed 0"  # the first of them are taken, here or for `real`
        if row.equal:
            protocol["of these"] = f"the first {min(self.count(name), len(self.to.real))}"
        if row.features and self.extractor is not None:
            features = f"{self.extractor.name} {self.extractor.digest[:12]}"
            protocol |= {"features": features, "samples": "rounded to 8 bits"}
        return {**protocol, **row.protocol}


def evaluate(
    what: str | Path | Sampler | Generate,
    *,
    metrics: Sequence[str] | None = None,
    n: int | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    data: Data | str | None = None,
    reference: SplitName | None = None,
    features: str | None = None,
    inception_weights: str | Path | None = None,
    round: int | Literal["best"] | None = None,
    ema: bool = True,
    device: str = "auto",
    out: str | Path | None = None,
    say: Say = print,
) -> list[Receipt]:
    """The receipts of a run's generator, of any generator, or of a folder of pictures.

    what: a run's folder; a Sampler or a function (n, seed) -> (n, C, H, W) in [0, 1]; or a folder of pictures of the
    size and kind of the real ones, which is one set of samples. A run is compared with its own data; the others need
    `data`. reference: the test images if nothing is said; of a folder without, see `choose_reference`. seeds: one set
    of samples each. out: a folder for receipts.jsonl and for the pictures of the samples that
    lie nearest to training images. The other options are those of `Evaluator`.
    """
    if isinstance(seeds, int):
        raise UserError(f"seeds is {seeds}; it must be a sequence of seeds, such as range({seeds})")
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"seeds are {list(seeds)}; they must be different whole numbers from 0 on, one at least")
    what = Path(what) if isinstance(what, str) else what
    out = Path(out) if out is not None else None
    data, sampler, subject = _opened(what, data, round, ema, device, say)
    evaluator = Evaluator(
        data,
        metrics=metrics,
        n=n,
        reference=choose_reference(data, say) if reference is None else reference,
        features=features,
        inception_weights=Path(inception_weights) if inception_weights is not None else None,
        device=device,
        say=say,
    )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        append([], out / "receipts.jsonl")  # to be told now, and not after all the work, where nothing can be written
    if isinstance(what, Path) and sampler is None:
        sets = [partial(_pictures, what, data, evaluator.most, say)]
        subject["samples"] = "8 bits"
    else:
        generate: Generate = sampler.draw if sampler is not None else what  # type: ignore[assignment]
        sets = [partial(generate, evaluator.most, seed) for seed in seeds]
        subject["seeds"] = list(seeds)
    receipts = evaluator(sets, subject)
    if out is not None:
        try:
            append(receipts, out / "receipts.jsonl")
            _draw(evaluator.pictures, out, _label(what, out, sampler, ema), say)
        except OSError as error:  # a full disk must not take the scores along
            say(f"not all is kept: {error.filename or out}: {error.strerror}; the scores themselves are complete")
    return receipts


def _label(what: Path | Sampler | Generate, out: Path, sampler: Sampler | None, ema: bool) -> str:
    """What tells the pictures of several runs, rounds or weights in one folder apart."""
    name = what.name if isinstance(what, Path) and what.resolve() != out.resolve() else ""
    at = f"{sampler.round:06d}{'' if ema else '-raw'}" if sampler is not None else ""
    return "".join(f"{part}-" for part in (name, at) if part)


def _draw(pictures: Mapping[str, NDArray[np.uint8]], out: Path, label: str, say: Say) -> None:
    for name, pairs in pictures.items():
        path = out / f"nearest-{label}{name}.png"
        save_images(pairs.reshape(-1, *pairs.shape[2:]), path, columns=10)
        say(f"samples, each followed by the training image that is nearest to it, the nearest pair first: {path}")


def _opened(
    what: Path | Sampler | Generate,
    data: Data | str | None,
    round: int | Literal["best"] | None,
    ema: bool,
    device: str,
    say: Say,
) -> tuple[Data, Sampler | None, dict[str, Any]]:
    """The real images to compare with, the sampler of a run (or `what`, if it is one), and what receipts say of it."""
    sampler = what if isinstance(what, Sampler) else None
    name = str(what) if isinstance(what, Path) else getattr(what, "__name__", "a generator")
    if isinstance(what, Path) and is_run(what):
        if data is not None:
            raise UserError(f"{what} is a run, which is compared with its own data; leave data away")
        data = plan(what).recipe.data
        sampler = load(what, round=round, ema=ema, device=device, say=say)
    elif isinstance(what, Path) and not what.is_dir():
        raise UserError(f"{what} is neither a run nor a folder of pictures")
    if data is None:
        raise UserError(f"{name} is no run: say which real images it is compared with, such as data mnist")
    data = Data(name=data) if isinstance(data, str) else data
    if sampler is None:
        return data, None, {"what": name}
    if (sampler.values == "gcn") != (data.values == "gcn"):
        raise UserError(f"the generator makes {sampler.values} values, and the real images are {data.values}")
    weights = "average" if sampler.averaged else "raw"
    return data, sampler, {"what": name, "round": sampler.round, "weights": weights, "checkpoint": sampler.digest}


def choose_reference(data: Data, say: Say = print) -> SplitName:
    """The test images; of a folder without them those held back, or else the training images, which `say` is told."""
    folder = Path(data.name).expanduser()
    if data.name in data_names() or not folder.is_dir() or has_split(folder, "test"):
        return "test"
    if data.validation:
        say(f"{folder} has no test pictures (in {folder / 'test'}): compared with the {data.validation} held back")
        return "validation"
    say(
        f"{folder} has no test pictures (in {folder / 'test'}) and data.validation is 0: compared with the training"
        " images, which also rewards copying them. A new run with --data.validation N holds N back"
    )
    return "train"


def shared_metrics(runs: Sequence[Path], features: str | None, reference: SplitName | None) -> list[str]:
    """The measures that the data of all runs allows."""
    possible = [
        _possible(
            features or ("mnist" if data.name in DIGITS else "inception"),
            data,
            reference or choose_reference(data, lambda text: None),
            lambda text: None,
        )
        for data in (plan(run).recipe.data for run in runs)
    ]
    shared = [name for name in possible[0] if all(name in names for names in possible)]
    if not shared:
        raise UserError(f"{', '.join(map(str, runs))}: no metric can be taken of all of them")
    return shared


def _why_not(name: str, features: str, data: Data, reference: str) -> str | None:
    """Why a measure cannot be taken of such data, or None."""
    row = METRICS[name]
    if data.channels not in row.channels:
        return f"it takes images with {' or '.join(map(str, row.channels))} channel(s), and these have {data.channels}"
    if row.features and features == "mnist" and (data.img_size, data.channels) != (28, 1) and name != "stacked":
        size = f"{data.img_size}x{data.img_size} with {data.channels} channel(s)"
        return f"the mnist features are of 28x28 images with 1 channel, and these are {size}"
    if row.digits and features != "mnist":
        return "it asks which digit an image shows, which the mnist features alone can tell"
    if name == "stacked" and data.img_size != 28:
        return f"it takes 28x28 images, and these are {data.img_size}x{data.img_size}"
    if reference == "train" and (name == "parzen_ll" or "train" in row.also):
        return "it needs images that were not trained on, and the reference is train"
    if name == "parzen_ll" and not data.validation and data.name != "tfd":
        return "its sigma is chosen on images that were held back, and data.validation is 0"
    return None


def _named(names: Sequence[str], features: str, data: Data, reference: str) -> list[str]:
    """The measures of these names; UserError for one that is not there or cannot be taken."""
    names = [names] if isinstance(names, str) else list(dict.fromkeys(names))
    if not names:
        raise UserError(f"no metric is named; there are {', '.join(METRICS)}")
    for name in names:
        if name not in METRICS:
            raise UserError(f"there is no metric {name!r}{did_you_mean(name, METRICS)} (metrics: {', '.join(METRICS)})")
        if reason := _why_not(name, features, data, reference):
            raise UserError(f"{name}: {reason}")
    return names


def _possible(features: str, data: Data, reference: str, say: Say) -> list[str]:
    """All measures that such data allows; the others are named with the reason."""
    names = []
    for name in ["stacked"] if data.name == "stacked_mnist" else [m for m in METRICS if m != "stacked"]:
        if reason := _why_not(name, features, data, reference):
            say(f"{name} is left out: {reason}")
        else:
            names.append(name)
    if not names:
        raise UserError(f"{data.name}: none of the metrics can be taken of it")
    return names


def _pictures(folder: Path, data: Data, n: int, say: Say) -> Tensor:
    """n pictures of a folder, drawn without order: files of one class often stand together."""
    size, mode = (data.img_size, data.img_size), MODES.get(data.channels)
    for path in (folder / name for name in list_folder(folder).names):
        try:
            with Image.open(path) as picture:
                (width, height), kind = picture.size, picture.mode
        except Exception:  # on what is no picture Pillow raises almost anything; load_split says so, or refuses it
            continue
        if (width, height) != size or kind != mode:
            raise UserError(
                f"{path} is {width}x{height} {kind}, and the real images are {data.img_size}x{data.img_size} {mode}:"
                " a resized sample would be scored for the resizing"
            )
    named = dataclasses.replace(data, name=str(folder.resolve()), validation=0, values="unit")
    found = load_split(named, "train", say=say)
    if len(found) > n:
        say(f"{n} of the {len(found)} pictures in {folder}")
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    return to_pixels(found, "unit", order[:n].numpy())


def _checked(pixels: Tensor, data: Data, n: int) -> Tensor:
    if not isinstance(pixels, Tensor):
        raise UserError(f"samples are a {type(pixels).__name__}; they must be a torch.Tensor (n, C, H, W) in [0, 1]")
    shape = (data.channels, data.img_size, data.img_size)
    if pixels.dim() != 4 or tuple(pixels.shape[1:]) != shape:
        raise UserError(
            f"samples are {tuple(pixels.shape)}; they must be (n, {', '.join(map(str, shape))}) as the real images"
        )
    if len(pixels) < n:
        raise UserError(f"there are {len(pixels)} samples, and the metrics take {n}: ask for fewer with n")
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        low, high = pixels.min().item(), pixels.max().item()
        raise UserError(f"samples reach from {low:.4g} to {high:.4g}; they must lie in [0, 1]")
    return pixels.detach().float().cpu()

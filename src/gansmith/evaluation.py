"""Evaluate a generator: every score has a protocol, what real images reach, and its spread over sets of samples."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from gansmith.build import choose_device, load_split
from gansmith.errors import UserError
from gansmith.inference import Sampler, load
from gansmith.measures import INCEPTION_NAMES, METRICS, Images, Measured, Reference, SplitName, to_pixels
from gansmith.metrics.features import EXTRACTORS, inception, mnist
from gansmith.receipts import Receipt, append
from gansmith.recipe import Data, is_run, plan
from gansmith.report.export import save_images
from gansmith.schema import did_you_mean

Generate = Callable[[int, int], Tensor]
"""(n, seed) -> n images (n, C, H, W) in [0, 1]."""
DIGITS = ("mnist", "stacked_mnist")
"""Data that the digit classifier can judge."""


class Evaluator:
    """Chosen measures on the real images of one recipe, ready for any number of generators.

    metrics: names of METRICS; None: all that the data allows. n: samples in a set; None: what is usual for each.
    reference: the split that samples are compared with. features: "mnist" (the digit classifier that ships) or
    "inception"; None: what fits the data. ceiling: measure real training images, too. UserError for what cannot be
    measured, and why.
    """

    def __init__(
        self,
        data: Data,
        *,
        metrics: Sequence[str] | None = None,
        n: int | None = None,
        reference: SplitName = "test",
        features: str | None = None,
        inception_weights: Path | None = None,
        device: str = "auto",
        ceiling: bool = True,
        say: Callable[[str], None] = print,
    ) -> None:
        self.data, self.n, self.say = data, n, say
        self.ceiling = ceiling
        self.metrics = _choose(metrics, data, features, say)
        extractor = None
        if any(METRICS[name].features for name in self.metrics):
            name = features or ("mnist" if data.name in DIGITS else "inception")
            if name not in EXTRACTORS:
                raise UserError(f"features is {name!r}; it must be one of {', '.join(EXTRACTORS)}")
            where = choose_device(device)
            extractor = mnist(where) if name == "mnist" else inception(inception_weights, where, say)
        self.extractor = extractor
        self.to = Reference(data, reference, extractor, say)
        self._real: dict[str, Measured] = {}
        self.pictures: dict[str, NDArray[np.uint8]] = {}
        """Of the latest call's first set: the pairs of the memorisation measures."""

    def check(self, best: str | None) -> None:
        """UserError unless the reference can be read and `best`, if any, is one of the values and has a better end."""
        _ = self.to.real
        known = [v for name in self.metrics for v, end in METRICS[name].better.items() if end in ("higher", "lower")]
        if best is not None and best not in known:
            raise UserError(
                f"evaluation.best is {best!r}; it must be one of {', '.join(known)}{did_you_mean(best, known)}"
            )

    @property
    def most(self) -> int:
        """The largest number of samples that a measure takes."""
        return max(self.count(name) for name in self.metrics)

    def count(self, name: str) -> int:
        return self.n or METRICS[name].n

    def __call__(self, sets: Sequence[Callable[[], Tensor]], subject: Mapping[str, Any]) -> list[Receipt]:
        """The receipts of sets of samples, each a function that gives `most` or more of them (n, C, H, W) in [0, 1]."""
        found: dict[str, list[Measured]] = {name: [] for name in self.metrics}
        self._begin(len(self.metrics) * len(sets))
        for i, draw in enumerate(sets):
            samples = Images(_checked(draw(), self.data, self.most), self.extractor)
            for name in self.metrics:
                self._next(f"{name} of set {i + 1} of samples")
                measured = METRICS[name].measure(samples.first(self.count(name)), self.to)
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
        """The same measure with the first training images in place of samples."""
        if not self.ceiling or not METRICS[name].ceiling or self.to.split == "train":
            return None
        if name not in self._real:
            train = self.to.of("train", first=self.count(name))
            if len(train.pixels) < self.count(name):
                return None
            self._next(f"{name} of real images")
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
            used = [self.to.split, *row.also]
            protocol |= {split: f"{data.name}, {self.to.described(split)}" for split in used}
        if row.features and self.extractor is not None:
            protocol |= {
                "features": f"{self.extractor.name} {self.extractor.digest[:12]}",
                "samples": "rounded to 8 bits",
            }
        return {**protocol, **row.protocol}


def evaluate(
    what: str | Path | Sampler | Generate,
    *,
    metrics: Sequence[str] | None = None,
    n: int | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    data: Data | None = None,
    reference: SplitName = "test",
    features: str | None = None,
    inception_weights: Path | None = None,
    round: int | Literal["best"] | None = None,
    ema: bool = True,
    device: str = "auto",
    out: Path | None = None,
    say: Callable[[str], None] = print,
) -> list[Receipt]:
    """The receipts of a run's generator, of any generator, or of a folder of pictures.

    what: a run's folder; a Sampler or a function (n, seed) -> (n, C, H, W) in [0, 1]; or a folder of pictures, which is
    one set of samples. All but a run need `data`: the real images to compare with. out: a folder for receipts.jsonl and
    for the pictures of the samples that lie nearest to training images. The other options are those of `Evaluator`.
    """
    what = Path(what) if isinstance(what, str) else what
    generate: Generate | None = None
    if not isinstance(what, Path):
        generate = what.draw if isinstance(what, Sampler) else what
        subject: dict[str, Any] = {"what": getattr(what, "__name__", "a generator")}
    elif is_run(what):
        sampler = load(what, round=round, ema=ema, device=device, say=say)
        data, generate = data or plan(what).recipe.data, sampler.draw
        subject = {"what": str(what), "round": sampler.round, "weights": "average" if sampler.averaged else "raw"}
    elif what.is_dir():
        subject = {"what": str(what)}
    else:
        raise UserError(f"{what} is neither a run nor a folder of pictures")
    if data is None:
        raise UserError(f"{subject['what']} is no run: say which real images it is compared with, such as data mnist")
    evaluator = Evaluator(
        data,
        metrics=metrics,
        n=n,
        reference=reference,
        features=features,
        inception_weights=inception_weights,
        device=device,
        say=say,
    )
    if generate is None:
        pictures = load_split(dataclasses.replace(data, name=str(what), validation=0), "train", say=say)
        receipts = evaluator([partial(to_pixels, pictures, "unit")], subject)
    else:
        receipts = evaluator(
            [partial(generate, evaluator.most, seed) for seed in seeds], subject | {"seeds": list(seeds)}
        )
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        append(receipts, out / "receipts.jsonl")
        at = f"-{subject['round']:06d}" if "round" in subject else ""
        for name, pairs in evaluator.pictures.items():
            path = out / f"nearest{at}-{name}.png"
            save_images(pairs.reshape(-1, *pairs.shape[2:]), path, columns=10)
            say(f"samples, each followed by the training image that is nearest to it, the nearest pair first: {path}")
    return receipts


def _choose(metrics: Sequence[str] | None, data: Data, features: str | None, say: Callable[[str], None]) -> list[str]:
    """The names of the measures, all of them known; those that the data allows where none are named."""
    if metrics is not None:
        for name in metrics:
            if name not in METRICS:
                raise UserError(
                    f"there is no metric {name!r}{did_you_mean(name, METRICS)} (metrics: {', '.join(METRICS)})"
                )
        return list(dict.fromkeys(metrics))
    if data.name == "stacked_mnist":
        return ["stacked"]
    names = [name for name in METRICS if name != "stacked"]
    if data.name not in DIGITS:
        names.remove("classes")
    if data.name != "tfd" and not data.validation:
        names.remove("parzen_ll")
        say("parzen_ll is left out: its sigma is chosen on images that were held back (data.validation is 0)")
    return names


def _checked(pixels: Tensor, data: Data, n: int) -> Tensor:
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

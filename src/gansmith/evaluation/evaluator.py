"""Evaluate a generator: every score has a protocol, what real images reach, and its spread over sets of samples."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gansmith.build import game_of, load_split, needs_of
from gansmith.data import ImageSet, data_names
from gansmith.data.addresses import is_shards, split_of
from gansmith.data.folder import has_split, list_folder
from gansmith.data.load import SHUFFLED
from gansmith.data.pictures import MODES
from gansmith.data.prepare import UNLABELLED
from gansmith.engine import choose_device
from gansmith.errors import UserError
from gansmith.evaluation import measures
from gansmith.evaluation.labels import LABELS, score_labels
from gansmith.evaluation.measures import METRICS, Images, Measured, Reference, SplitName, Stored, as_recipe
from gansmith.evaluation.receipts import Receipt, append, called
from gansmith.games.game import Maker
from gansmith.inference import Sampler, choose_maker, load, open_run
from gansmith.metrics.digits import SIDE
from gansmith.metrics.features import EXTRACTORS, Extractor, there
from gansmith.recipe import Recipe, is_run
from gansmith.run.export import save_images
from gansmith.schema import did_you_mean
from gansmith.sections import Data

Say = Callable[[str], None]
Generate = Callable[[int, int], Tensor]
"""(n, seed) -> n images (n, C, H, W) in [0, 1]."""
DIGITS = {"mnist": 1, "stacked_mnist": 3, "mnist_edges": 1}  # data of digits, with so many channels
AT_ONCE = 64  # pictures that are read together to be translated
INCEPTION_NAMES = {"fd": "fid", "kd": "kid", "score": "is"}  # what the literature calls these with Inception's features


class Evaluator:
    """Chosen measures on the real images of one field of a recipe, ready for any number of generators.

    what: the recipe, or its data. maker: what makes the samples; they are compared with the field that it imitates, and
    one by one where it makes them from pictures of the same index. None: the game's first. metrics: names of METRICS;
    None: all that the data allows, and what is left out is said. n: samples in a set; None: what is usual for each.
    reference: the split that samples are compared with. features: "mnist" (the digit classifier that ships),
    "inception" or "mobilenet"; None: what fits the data. ceiling: measure real training images, too. UserError for what
    cannot be measured, and why.
    """

    def __init__(
        self,
        what: Recipe | Data | str,
        *,
        maker: Maker | None = None,
        metrics: Sequence[str] | None = None,
        n: int | None = None,
        reference: SplitName = "test",
        features: str | None = None,
        feature_weights: Path | None = None,
        device: str = "auto",
        ceiling: bool = True,
        say: Say = print,
    ) -> None:
        if n is not None and n < 2:
            raise UserError(f"n is {n}; it must be at least 2")
        if reference not in ("test", "validation", "train"):
            raise UserError(f"reference is {reference!r}; it must be test, validation or train")
        if features is not None and features not in EXTRACTORS:
            raise UserError(f"features is {features!r}; it must be one of {', '.join(EXTRACTORS)}")
        recipe, where = as_recipe(what), choose_device(device)
        self.recipe, self.data, self.n, self.ceiling, self.say = recipe, recipe.data, n, ceiling, say
        self.maker = maker or choose_maker(game_of(recipe))
        self.named = metrics is not None  # whether a measure that cannot be taken is an error
        self.there: int | None = None  # how many samples there can be
        case = _case(recipe, self.maker, features, reference)
        self.metrics = _chosen([metrics] if isinstance(metrics, str) else metrics, case, say)
        self.extractor: Extractor | None = None
        if any(METRICS[m].features for m in self.metrics):
            if case.features == "mnist" and feature_weights is not None:
                raise UserError(
                    "--feature-weights: the mnist features ship with gansmith; give --features inception|mobilenet"
                )
            try:
                self.extractor = EXTRACTORS[case.features](feature_weights, where, say)
            except UserError as error:
                self.metrics = [m for m in self.metrics if not METRICS[m].features]
                if metrics is not None or features is not None or feature_weights is not None or not self.metrics:
                    raise
                say(f"all that needs features is left out: {error}")
        self.to = Reference(recipe, self.maker.imitates, reference, self.extractor, where, say)
        if not self.named:
            self._leave_out_what_says_little()
        self._real: dict[str, Measured | None] = {}
        self._parts = self._done = 0
        self._began = 0.0
        self.pictures: dict[str, NDArray[np.uint8]] = {}  # pairs of the memorisation measures, of the latest first set
        if self.maker.pictures:
            there = min(len(self.to.stored(reference, field)) for field in self.maker.pictures)
            self.limit(there, f"{reference} pictures to make samples from")

    def _leave_out_what_says_little(self) -> None:
        """Of few real images, and of blurred photos: say what is left out; UserError if that is all."""
        if {"memorised", "memorised_pixels"} <= {*self.metrics} and self.data.channels == 3:
            self.say(
                "memorised_pixels is left out: in pixels any blurred photo is near to many; memorised takes features"
            )
            self.metrics.remove("memorised_pixels")
        if len(self.to.folds) > 1:  # their authors' own numbers
            return
        for name in list(self.metrics):
            of = "validation" if "validation" in METRICS[name].also else self.to.split
            if (there := len(self.to.of(of))) < (fewest := METRICS[name].real):
                self.say(f"{name} is left out: {there} {of} images are too few; it needs {fewest:,}")
                self.metrics.remove(name)
        if not self.metrics:
            there, split = len(self.to.real), self.to.split
            raise UserError(
                f"{self.data.name}: nothing is left that can be scored by {there} {split} images; put 20 or more into a"
                " folder test beside the others, or hold so many back in a new run"
            )

    def share(self, other: Evaluator) -> None:
        """Take over what another has computed of the same real images."""
        if other.to.field == self.to.field and other.extractor is not None:
            self.to, self._real = other.to, {} if self.there != other.there else other._real

    def check_best(self, best: str | None) -> None:
        """UserError unless `best`, if any, is one of the values, has a better end, and may choose a checkpoint."""
        if best is None:
            return
        values = [item for name in self.metrics for item in METRICS[name].values.items()]
        known = [value for value, (_, end) in values if end in ("higher", "lower")]
        if best not in known:
            near = did_you_mean(best, known)
            raise UserError(f"evaluation.best is {best!r}; it must be one of {', '.join(known)}{near}")
        if len(self.to.folds) > 1:
            why = "validation images of one fold are test images of another"
            raise UserError(f"evaluation.best must be null for {self.data.name}: {why}")

    def limit(self, there: int, why: str) -> None:
        """Say that there are fewer samples than the measures take by themselves, and take these."""
        if there < self.most:
            self.say(f"there are {there:,} {why}: the measures take {there:,} samples, not {self.most:,}")
            self.there = there

    @property
    def most(self) -> int:
        """The largest number of samples that a measure takes."""
        return max(self.count(name) for name in self.metrics)

    def count(self, name: str) -> int:
        n = METRICS[name].n if self.n is None else self.n
        return n if self.there is None else min(n, self.there)

    def make(self, sampler: Sampler, n: int, seed: int) -> Tensor:
        """n samples (n, C, H, W) in [0, 1]: fair draws, or what is made of the first pictures of the reference."""
        if not sampler.maker.pictures:
            return sampler.draw(n, seed)
        sources = [self.to.stored(self.to.split, field) for field in sampler.maker.pictures]
        made = []
        for start in range(0, min(n, *map(len, sources)), AT_ONCE):
            fields: dict[str, Tensor] = {}
            for source in sources:  # of two unpaired domains each gives its own
                if source.field not in fields:
                    fields |= source[start : min(n, start + AT_ONCE)].fields(sampler.device)
            count = len(next(iter(fields.values())))
            seeds = [(seed * n + i) % 2**63 for i in range(start, start + count)]
            made.append(sampler.translated(fields, seeds).cpu())
        return torch.cat(made)

    def __call__(self, sets: Sequence[Callable[[], Tensor]], subject: Mapping[str, Any]) -> list[Receipt]:
        """The receipts of sets of samples, each a function that gives `most` or more of them (n, C, H, W) in [0, 1]."""
        found: dict[str, list[Measured]] = {name: [] for name in self.metrics}
        whole = [m for m in self.metrics if METRICS[m].features and not METRICS[m].by_channel]
        with_features = max(map(self.count, whole), default=0)
        real = [name for name in self.metrics if self._has_real(name) and name not in self._real]
        self._parts, self._done, self._began = len(self.metrics) * len(sets) + len(real), 0, time.monotonic()
        for i, draw in enumerate(sets):
            samples = Images(_checked(draw(), self.data, self.most), self.extractor, self.to.device)
            if with_features:  # once for all measures
                _ = samples.first(with_features).outputs
            for name in list(self.metrics):
                self._next(f"{name} of set {i + 1} of samples")
                part = samples.first(with_features) if METRICS[name].features and with_features else samples
                try:
                    measured = METRICS[name].measure(part.first(self.count(name)), self.to)
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

    def _next(self, what: str) -> None:
        """Say what comes now, and how long the rest may take if its parts take as long as those before."""
        left = ""
        if self._done >= len(self.metrics):  # each once, for they differ a lot
            seconds = round((time.monotonic() - self._began) / self._done * (self._parts - self._done))
            left = f", left about {seconds // 60}:{seconds % 60:02d}"
        self._done += 1
        self.say(f"{self._done} of {self._parts}{left}: {what}")

    def _has_real(self, name: str) -> bool:
        """Whether real images are measured, too."""
        return self.ceiling and METRICS[name].ceiling and self.to.split != "train"

    def real(self, name: str) -> Measured | None:
        """The same measure with the first training images in place of samples, where there are as many."""
        if self._has_real(name) and name not in self._real:
            n = self.count(name)
            self._next(f"{name} of real images")
            train = self.to.of("train").first(n)
            if len(train) < n:
                self.say(f"{name} of real images is left out: there are {len(train)} training images, not {n}")
            self._real[name] = METRICS[name].measure(train, self.to) if len(train) >= n else None
        return self._real.get(name)

    def _receipts(self, name: str, measured: Sequence[Measured], subject: Mapping[str, Any]) -> list[Receipt]:
        row, real = METRICS[name], self.real(name)
        details = {key: [m.details[key] for m in measured] for key in measured[0].details}
        return [
            Receipt(
                metric=self.called(name, value),
                measure=value,
                values=[m.values[value] for m in measured],
                unit=unit,
                # Of few held-back images more than the usual hundredth of new ones is as near as the nearest of these.
                better=f"{details['expected'][0]:.2g}" if "expected" in details else better,
                real=None if real is None else real.values[value],
                protocol=self.protocol(name),
                subject=subject,
                details=details,
                note=row.note,
            )
            for value, (unit, better) in row.values.items()
        ]

    def called(self, name: str, value: str) -> str:
        """The value's name with features, number of samples and, unless it is the test split, the reference."""
        row = METRICS[name]
        if row.features and self.extractor is not None:
            of = self.extractor.name
            value = INCEPTION_NAMES.get(value, f"{value}_{of}") if of == "inception" else f"{value}_{of}"
        return called(value, self.count(name), self.to.split if row.compares else "test")

    def protocol(self, name: str) -> dict[str, Any]:
        row, data, (h, w), n = METRICS[name], self.data, self.data.size, self.count(name)
        of = {"points": data.name} if data.values == "raw" else {"images": f"{h}x{w}x{data.channels}"}
        protocol: dict[str, Any] = {"n": n, **of}
        if self.to.field not in ("x", *UNLABELLED):
            protocol["field"] = self.to.field
        if views := measures.shown_by(self.recipe):
            protocol["views"] = ", ".join(views)
        if self.maker.pictures:
            protocol["made from"] = f"{self.maker.pictures[0]} of the first {n} {self.to.split} images"
        if data.values == "gcn":
            protocol["contrast"] = "normalised"
        if row.compares:
            folds = self.to.folds if row.folds else [self.to]
            for split in (self.to.split, *row.also):
                protocol[split] = ", ".join(fold.described(split) for fold in folds)
        if data.name not in SHUFFLED and (row.equal or row.ceiling or row.paired):
            protocol["order of real images"] = "drawn once, seed 0"  # the first of them are taken, here or for `real`
        if row.equal or row.paired:
            protocol["of these"] = f"the first {min(n, len(self.to.real))}"
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
    maker: str | None = None,
    to: str | None = None,
    data: Recipe | Data | str | None = None,
    reference: SplitName | None = None,
    features: str | None = None,
    feature_weights: str | Path | None = None,
    round: int | Literal["best"] | None = None,
    ema: bool = True,
    device: str = "auto",
    trust: bool = False,
    out: str | Path | None = None,
    say: Say = print,
) -> list[Receipt]:
    """The receipts of a run's makers, of any generator, or of a folder of pictures.

    what: a run's folder; a Sampler or a function (n, seed) -> (n, C, H, W) in [0, 1]; or a folder of pictures of the
    size and kind of the real ones, which is one set of samples. maker or to: one of the run's makers, by name or by the
    field that it imitates; None: all of them. A run is compared with its own data; the others need `data`, which may be
    the recipe of a run, then with the field `to`. reference: the test images if nothing is said; of a folder without,
    see `choose_reference`. seeds: one set of samples each. out: a folder for receipts.jsonl and for the pictures of the
    samples that lie nearest to training images. The other options are those of `Evaluator`.
    """
    check_seeds(seeds)
    what = Path(what) if isinstance(what, str) else what
    out = Path(out) if out is not None else None
    weights = Path(feature_weights) if feature_weights is not None else None
    options: dict[str, Any] = {"n": n, "features": features, "feature_weights": weights, "device": device, "say": say}
    subjects = _subjects(what, data, maker, to, dict(round=round, ema=ema, device=device, trust=trust, say=say))
    reference = choose_reference(subjects[0].recipe, say) if reference is None else reference
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        append([], out / "receipts.jsonl")  # an error now, and not after all the work, where nothing can be written
    names = [metrics] if isinstance(metrics, str) else metrics
    receipts: list[Receipt] = []
    last: Evaluator | None = None
    for one, mine in _shares(subjects, names, say):
        pictures: dict[str, NDArray[np.uint8]] = {}
        if one.maker.classifies:
            assert one.sampler is not None
            found = score_labels(one.sampler, one.recipe, reference, mine, n, one.about, say)
        else:
            evaluator = _evaluator(one, mine, last, alone=len(subjects) == 1, reference=reference, **options)
            if evaluator is None:
                continue
            last = evaluator
            about, sets = _sets(what, one.sampler, evaluator, seeds, say)
            found, pictures = evaluator(sets, {**one.about, **about}), evaluator.pictures
        receipts += found
        if out is not None:
            _keep(found, pictures, out, _label(what, out, one, ema), say)
    if not receipts:
        raise UserError(f"{', '.join(names)}: nothing here can be scored by that" if names else "nothing can be scored")
    return receipts


def _evaluator(
    one: Subject, mine: Sequence[str] | None, last: Evaluator | None, *, alone: bool, say: Say, **options: Any
) -> Evaluator | None:
    """For one subject; None, which is said, where nothing tells anything of it and there are others."""
    try:
        evaluator = Evaluator(one.recipe, maker=one.maker, metrics=mine, say=say, **options)
    except UserError as error:
        if alone or mine is not None:
            raise
        say(f"{one.about.get('maker', one.about['what'])} is left out: {error}")
        return None
    if last is not None:
        evaluator.share(last)
    return evaluator


def check_seeds(seeds: Sequence[int]) -> None:
    """UserError unless these are different whole numbers from 0 on."""
    if isinstance(seeds, int):
        raise UserError(f"seeds is {seeds}; it must be a sequence of seeds, such as range({seeds})")
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise UserError(f"seeds are {list(seeds)}; they must be different whole numbers from 0 on, one at least")


class Subject(NamedTuple):
    """What is scored: a maker of a run, a generator, or a folder of pictures."""

    recipe: Recipe  # which has the real images
    maker: Maker
    sampler: Sampler | None
    about: dict[str, Any]  # what receipts say of it


def _subjects(
    what: Path | Sampler | Generate,
    data: Recipe | Data | str | None,
    maker: str | None,
    to: str | None,
    opened: Mapping[str, Any],
) -> list[Subject]:
    name = str(what) if isinstance(what, Path) else getattr(what, "__name__", "a generator")
    if isinstance(what, Path) and is_run(what):
        if data is not None:
            raise UserError(f"{what} is a run, which is compared with its own data; leave data out")
        run = open_run(what, opened["round"], opened["say"], trust=opened["trust"])
        recipe, makers = run.recipe, game_of(run.recipe).makers
        chosen = choose_maker(game_of(recipe), maker, to) if maker or to else None
        subjects = []
        for called, one in makers.items():
            if chosen in (None, one):
                sampler = load(run, maker=called, **opened)
                more = {"maker": called} if len(makers) > 1 else {}
                subjects.append(Subject(recipe, one, sampler, {**_about(name, sampler, recipe.data), **more}))
        return subjects
    if isinstance(what, Path) and not what.is_dir():
        raise UserError(f"{what} is neither a run nor a folder of pictures")
    if data is None:
        raise UserError(
            f"{name} is no run: say which real images it is compared with, such as --data mnist (in Python: data=)"
        )
    known, recipe = isinstance(data, Recipe), as_recipe(data)
    if maker is not None or (to is not None and not known):
        raise UserError("maker and to choose among the makers of a run; other pictures are compared with one field")
    imitating = choose_maker(game_of(recipe), None, to)
    if not isinstance(what, Sampler):  # which real image its pictures were made from is not known
        return [Subject(recipe, imitating._replace(inputs={}), None, {"what": name})]
    if what.maker.pictures and not known:
        raise UserError("translations need the recipe of their run: data=gansmith.plan(RUN).recipe")
    return [Subject(recipe, what.maker if known else imitating, what, _about(name, what, recipe.data))]


def _shares(
    subjects: Sequence[Subject], names: Sequence[str] | None, say: Say
) -> Iterator[tuple[Subject, list[str] | None]]:
    """What each subject is scored by of the measures that were named; those for other kinds alone are left out."""
    truths = [_has_truth(one.recipe, one.maker) for one in subjects]
    pairs = {name for name, row in METRICS.items() if row.paired} if any(truths) else set()
    labels = {*LABELS} if any(one.maker.classifies for one in subjects) else set()
    for one, has_truth in zip(subjects, truths, strict=True):
        if names is None:
            yield one, None
            continue
        left = labels if has_truth else pairs | labels
        mine = [m for m in names if (m in labels if one.maker.classifies else m not in left)]
        if mine or not names:
            yield one, mine
        elif not (one.maker.classifies or labels.issuperset(names)):  # what is for the other kind, no one misses here
            say(f"{one.about['maker']}: {', '.join(names)} is left out: what it makes has no truth")


def _keep(
    found: Sequence[Receipt], pictures: Mapping[str, NDArray[np.uint8]], out: Path, label: Sequence[str], say: Say
) -> None:
    try:
        append(found, out / "receipts.jsonl")
        for name, images in pictures.items():
            path = out / f"{'-'.join(['nearest', *label, name])}.png"
            save_images(images.reshape(-1, *images.shape[2:]), path, columns=10)
            say(f"samples, each followed by the training image nearest to it, the nearest pair first: {path}")
    except OSError as error:  # a full disk must not take the scores along
        say(f"not all is kept: {error.filename or out}: {error.strerror}; the scores themselves are complete")


def _about(name: str, sampler: Sampler, data: Data) -> dict[str, Any]:
    if any((sampler.values == kind) != (data.values == kind) for kind in ("gcn", "raw")):
        raise UserError(f"the generator makes {sampler.values} values, and the real images are {data.values}")
    weights = "average" if sampler.averaged else "raw"
    return {"what": name, "round": sampler.round, "weights": weights, "checkpoint": sampler.digest}


def _sets(
    what: Path | Sampler | Generate, sampler: Sampler | None, evaluator: Evaluator, seeds: Sequence[int], say: Say
) -> tuple[dict[str, Any], list[Callable[[], Tensor]]]:
    """What receipts say of the sets of samples, and the sets."""
    if isinstance(what, Path) and sampler is None:
        found = _pictures(what, evaluator.data, say)
        evaluator.limit(len(found), f"pictures in {what}")
        if len(found) > evaluator.most:
            say(f"{evaluator.most} of the {len(found)} pictures in {what}")
        # Drawn without order, for files of one class often stand together.
        order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))[: evaluator.most]
        return {"samples": "8 bits"}, [Stored(found, "unit", order.numpy()).pixels]
    generate: Generate = what if sampler is None else partial(evaluator.make, sampler)  # type: ignore[assignment]
    if sampler is not None and sampler.maker.pictures and torch.equal(generate(2, 0), generate(2, 1)):
        say("nothing is drawn while these pictures are made, so that every seed makes the same: one set of samples")
        seeds = seeds[:1]
    return {"seeds": list(seeds)}, [partial(generate, evaluator.most, seed) for seed in seeds]


def _label(what: Path | Sampler | Generate, out: Path, one: Subject, ema: bool) -> list[str]:
    """What tells the pictures of several runs, rounds, weights or makers in one folder apart."""
    label = [what.name] if isinstance(what, Path) and what.resolve() != out.resolve() else []
    if one.sampler is not None:
        label.append(f"{one.sampler.round:06d}{'' if ema else '-raw'}")
    return [*label, one.about["maker"]] if "maker" in one.about else label


def choose_reference(what: Recipe | Data, say: Say = print) -> SplitName:
    """The test images; of a folder without them those held back, or else the training images, which `say` is told."""
    recipe = as_recipe(what)
    data, folder, known = recipe.data, Path(recipe.data.name).expanduser(), recipe.data.name in data_names()
    shards = not known and is_shards(data.name)
    if known or not (shards or folder.is_dir()):
        return "test"
    if split_of(data.name, "test") if shards else has_split(folder, "test", needs_of(recipe), data.pairs):
        return "test"
    lacks = f"{data.name} has no test pictures" + f" (in {folder / 'test'})" * (not shards)
    if data.validation:
        say(f"{lacks}: compared with the {data.validation} held back")
        return "validation"
    copying = "compared with the training images, which also rewards copying them"
    advice = "A new run with --data.validation N holds N back" if not data.per_shard else "Put some shards into test/"
    say(f"{lacks} and data.validation is 0: {copying}. {advice}")
    return "train"


# ---- which measures --------------------------------------------------------------------------------------------


def _has_truth(recipe: Recipe, maker: Maker) -> bool:
    """Whether what a maker takes has the same index as what it imitates."""
    if not maker.pictures or maker.classifies:
        return False
    return any({*maker.pictures, maker.imitates} <= {*fields} for fields in game_of(recipe).needs)


def _case(recipe: Recipe, maker: Maker, features: str | None, reference: str) -> measures.Case:
    data = recipe.data
    digits = data.size == (SIDE, SIDE) and DIGITS.get(data.name) == data.channels
    return measures.Case(data, features or ("mnist" if digits else there()), reference, _has_truth(recipe, maker))


def usual(what: Recipe) -> list[str]:
    """What a training is scored by that names no measure: what needs no download and fits the data."""
    case = _case(what, choose_maker(game_of(what)), None, "validation")
    if what.data.values == "raw":
        return ["modes"]
    return ["psnr"] if case.paired else ["fd"] if case.features == "mnist" else ["parzen_ll"]


def _chosen(names: Sequence[str] | None, case: measures.Case, say: Say) -> list[str]:
    """The measures of these names; UserError for one that is not there or cannot be taken.

    None: all that can; why the others cannot is said.
    """
    if names is None:
        alone = [name for name, row in METRICS.items() if case.data.name in row.alone]
        reasons = {m: METRICS[m].why_not(case) for m in alone or [m for m, row in METRICS.items() if not row.alone]}
        for name, reason in reasons.items():
            if reason and (case.paired or not METRICS[name].paired):  # no one misses a truth where there is none
                say(f"{name} is left out: {reason}")
        if all(reasons.values()):
            raise UserError(f"{case.data.name}: none of the metrics can be taken of it")
        return [name for name, reason in reasons.items() if not reason]
    if not names:
        raise UserError(f"no metric is named; there are {', '.join(METRICS)}")
    for name in names:
        if name in LABELS:
            raise UserError(f"{name}: it scores a maker that tells classes, and pictures are made here")
        if name not in METRICS:
            known = (*METRICS, *LABELS)
            raise UserError(f"there is no metric {name!r}{did_you_mean(name, known)} (metrics: {', '.join(known)})")
        if reason := METRICS[name].why_not(case):
            raise UserError(f"{name}: {reason}")
    return list(dict.fromkeys(names))


# ---- samples ---------------------------------------------------------------------------------------------------


def _pictures(folder: Path, data: Data, say: Say) -> ImageSet:
    """The pictures of a folder, all of the size and kind of the real ones, whichever way their files hold them."""
    (h, w), c, names = data.size, data.channels, [*list_folder(folder).files]
    for path in (folder / name for name in names):
        odd = ""
        try:
            with Image.open(path) as picture:
                if picture.size != (w, h):
                    odd = f"{picture.height}x{picture.width} (height x width)"
                elif picture.mode != MODES[c] or "transparency" in picture.info:
                    pixels = np.asarray(picture.convert("RGBA"))
                    grey = (pixels[..., :3] == pixels[..., :1]).all()
                    odd = "transparent" if pixels[..., 3].min() < 255 else "" if c == 3 or grey else "in colour"
        except Exception:  # on what is no picture Pillow raises almost anything; load_split says so, or refuses it
            continue
        if odd:
            raise UserError(
                f"{path} is {odd}, and the real images are {h}x{w} with {c} channel(s): a sample that is made to fit"
                " would be scored for that, too"
            )
    if lossy := sum(name.lower().endswith((".jpg", ".jpeg", ".jpe", ".jfif")) for name in names):
        say(f"{lossy} of the {len(names)} pictures are JPEG: their losses are scored, too; PNG files score differently")
    named = Data(str(folder.resolve()), data.img_size, c, max_broken=data.max_broken, n_cpu=data.n_cpu)
    return load_split(named, "train", say=say)[0]


def _checked(pixels: Tensor, data: Data, n: int) -> Tensor:
    shape = (data.channels, *data.size)
    least, most, bounds = (-np.inf, np.inf, "") if data.values == "raw" else (0, 1, " in [0, 1]")
    if not isinstance(pixels, Tensor) or pixels.dim() != 4 or tuple(pixels.shape[1:]) != shape:
        found = tuple(pixels.shape) if isinstance(pixels, Tensor) else f"a {type(pixels).__name__}"
        raise UserError(f"samples are {found}; they must be a torch.Tensor (n, {', '.join(map(str, shape))}){bounds}")
    if len(pixels) < n:
        raise UserError(f"there are {len(pixels)} samples, and the metrics take {n}: ask for fewer with n")
    low, high = (bound.item() for bound in pixels.aminmax())
    if not (low >= least and high <= most):
        raise UserError(f"samples reach from {low:.4g} to {high:.4g}; they must lie in [{least}, {most}]")
    return pixels.detach().float().cpu()

"""Evaluation: generators whose scores are known beforehand, and what is refused."""

import functools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

import gansmith
from gansmith import checkpoint, evaluation, measures
from gansmith.build import build_network, build_prior, derive_seed, load_split
from gansmith.data import load_images
from gansmith.data.imageset import ImageSet, Labels
from gansmith.data.load import mixed
from gansmith.errors import UserError
from gansmith.evaluation import Evaluator, choose_reference, evaluate, shared_metrics
from gansmith.inference import Sampler, load
from gansmith.measures import METRICS, Reference, to_pixels
from gansmith.metrics.parzen import parzen
from gansmith.receipts import Receipt, check_comparable, read
from gansmith.recipe import Data, plan
from gansmith.report.log import read_metrics

MNIST = Data(name="mnist", values="unit", validation=10_000)
TINY: dict[str, Any] = {"networks.G.widths": [16], "networks.G.hidden": ["relu"], "networks.D.units": [8, 8]}


def quiet(text: str) -> None:
    pass


@functools.cache
def mnist(split: str) -> Tensor:
    images = load_images("mnist", img_size=28, channels=1, split=split, validation=10_000 * (split != "test"))
    return torch.from_numpy(np.array(images.images)).float() / 255


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """The first digits of MNIST as a folder: 1,100 to train on, 200 held back, 400 to test with."""
    folder = tmp_path_factory.mktemp("digits")
    for split, images in (("train", mnist("train")[:1300]), ("test", mnist("test")[:400])):
        (folder / split).mkdir()
        for i, image in enumerate((images[:, 0] * 255).round().byte().numpy()):
            Image.fromarray(image).save(folder / split / f"{i:04}.png")
    return Data(name=str(folder), values="unit", validation=200)


def of(data: Data, split: str) -> Callable[[int, int], Tensor]:
    """The first images of a split as samples, whatever the seed."""
    return lambda n, seed: to_pixels(load_split(data, split, say=quiet), "unit")[:n]


def from_split(split: str) -> Callable[[int, int], Tensor]:
    """The first real images of a split, whatever the seed."""
    return lambda n, seed: mnist(split)[:n]


def scores(what: Any, *metrics: str, n: int = 1000, data: Data = MNIST, **more: Any) -> dict[str, Receipt]:
    receipts = evaluate(what, metrics=metrics, n=n, seeds=(0,), data=data, say=quiet, **more)
    return {receipt.measure: receipt for receipt in receipts}


def test_the_training_images_as_samples_have_the_score_of_real_images() -> None:
    """Every measure that has a ceiling meets it exactly, for the ceiling is made of these images."""
    names = [name for name, row in METRICS.items() if row.ceiling and name != "stacked"]
    for receipt in scores(from_split("train"), *names).values():
        assert receipt.real == receipt.value, receipt.metric
        assert receipt.spread is None


def test_a_perfect_generator_is_told_from_bad_ones() -> None:
    def only_eights(n: int, seed: int) -> Tensor:
        images = load_images("mnist", img_size=28, channels=1, split="train")
        assert images.labels is not None
        return torch.from_numpy(np.array(images.images[images.labels == 8][:n])).float() / 255

    evaluator = Evaluator(MNIST, metrics=("fd", "kd", "pr", "classes", "score"), n=1000, ceiling=False, say=quiet)
    generator = torch.Generator().manual_seed(0)
    noisy = (mnist("train")[:1000] + 0.3 * torch.randn(1000, 1, 28, 28, generator=generator)).clamp(0, 1)
    sets = {
        "good": mnist("train"),
        "noisy": noisy,
        "eights": only_eights(1000, 0),
        "noise": torch.rand(1000, 1, 28, 28, generator=generator),
    }
    found = {
        name: {receipt.measure: receipt.value for receipt in evaluator([lambda images=images: images], {})}
        for name, images in sets.items()
    }
    good, noisy_ones, eights, noise = found.values()
    for bad in (noisy_ones, eights, noise):
        assert good["fd"] < bad["fd"] / 5 and good["kd"] < bad["kd"] / 5
    assert good["precision"] > 0.8 and 0.3 < noise["precision"] < 0.5  # balls of outliers catch much noise
    assert good["recall"] > 0.8 and eights["recall"] < 0.3
    assert good["class_tv"] < 0.1 and eights["class_tv"] > 0.85
    assert eights["class_kl"] > 0.9 * math.log(10)
    assert good["score"] > 8 and eights["score"] < 1.2


@pytest.mark.parametrize("name", ["memorised", "memorised_pixels"])
def test_copies_are_found_and_new_images_are_not_accused(few: Data, name: str) -> None:
    copies = scores(of(few, "train"), name, n=300, data=few, features="mnist")[name]
    assert copies.value == 1.0 and copies.real is None
    new = scores(from_split("validation"), name, n=2000, data=few, features="mnist")[name]
    assert new.value < 0.01 + 6 * math.sqrt(0.01 / 400)  # the threshold itself is known to a half only: 4 of 400 images


def test_the_pairs_that_are_drawn_are_samples_beside_their_originals(few: Data, tmp_path: Path) -> None:
    train = of(few, "train")(8, 0)
    samples = torch.cat([train[7:8], mnist("validation")[:150]])
    scores(lambda n, seed: samples[:n], "memorised_pixels", n=100, out=tmp_path, data=few)
    [path] = tmp_path.glob("nearest-memorised_pixels.png")
    picture = np.asarray(Image.open(path))
    scale = picture.shape[1] // (10 * 30 + 2)
    first, second = (picture[2 * scale : 30 * scale : scale, x * scale : (x + 28) * scale : scale] for x in (2, 32))
    original = (train[7, 0] * 255).round().numpy()
    assert np.array_equal(first, original) and np.array_equal(second, original)
    assert [r.measure for r in read(tmp_path / "receipts.jsonl")] == ["memorised_pixels"]


def test_pictures_of_several_runs_and_weights_lie_beside_each_other(few: Data, tmp_path: Path) -> None:
    source = Path(few.name) / "train"
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        for path in sorted(source.iterdir())[:120]:
            (tmp_path / name / path.name).write_bytes(path.read_bytes())
        scores(str(tmp_path / name), "memorised_pixels", n=100, out=str(tmp_path / "out"), data=few)
    names = [path.name for path in sorted((tmp_path / "out").glob("nearest*"))]
    assert names == ["nearest-one-memorised_pixels.png", "nearest-two-memorised_pixels.png"]


@pytest.mark.parametrize("reference", ["test", "validation"])
def test_a_bandwidth_at_an_end_of_the_grid_is_said(few: Data, reference: Any) -> None:
    """Copies of the images that choose it are the likelier the narrower the windows."""
    options: dict[str, Any] = {"metrics": ["parzen_ll"], "n": 200, "seeds": (0,), "data": few, "reference": reference}
    for split, at_edge in (("train", False), ("validation", True)):
        said: list[str] = []
        [receipt] = evaluate(of(few, split), say=said.append, **options)
        told = "parzen_ll: sigma 0.1 is at an end of the grid; a better one may lie beyond"
        assert (told in said, receipt.details["at_edge"]) == (at_edge, [at_edge])


def test_what_is_no_path_no_tensor_and_no_list_is_told(few: Data, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="samples are a ndarray; they must be a torch.Tensor"):
        scores(lambda n, seed: np.zeros((n, 1, 28, 28)), "memorised_pixels", n=100, data=few)
    with pytest.raises(UserError, match=r"seeds is 3; it must be a sequence of seeds, such as range\(3\)"):
        evaluate(of(few, "train"), metrics=["parzen_ll"], seeds=3, data=few)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=f"{tmp_path / 'none.pth'} cannot be read|needs torch-fidelity"):
        scores(of(few, "train"), "fd", features="inception", inception_weights=str(tmp_path / "none.pth"), data=few)


def test_names_say_features_number_and_reference() -> None:
    a = scores(from_split("train"), "fd", "parzen_ll", n=500)
    assert (a["fd"].metric, a["parzen_ll"].metric) == ("fd_mnist_500", "parzen_ll_500")
    b = scores(from_split("train"), "fd", "parzen_ll", reference="validation")
    assert (b["fd"].metric, b["parzen_ll"].metric) == ("fd_mnist_1k_validation", "parzen_ll_1k_validation")
    with pytest.raises(UserError, match="different measures"):
        check_comparable([a["fd"], b["fd"]])
    assert a["fd"].protocol["features"].startswith("mnist ")


def test_other_images_are_another_protocol(few: Data) -> None:
    """Of fewer training images only what looks at them is another measure."""
    kinds = [few, replace(few, validation=100)]
    a, b = (scores(from_split("train"), "fd", "memorised_pixels", n=100, data=d, features="mnist") for d in kinds)
    check_comparable([a["fd"], b["fd"]])
    with pytest.raises(UserError, match=r"train is 1100 images \w+ and 1200 images"):
        check_comparable([a["memorised_pixels"], b["memorised_pixels"]])


@pytest.fixture(scope="module")
def sorted_folder(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """Zeros and ones in a folder each: 500 of each to train on, of both 200 held back, 200 of each to test with."""
    folder = tmp_path_factory.mktemp("sorted")
    for split, per_class in (("train", 500), ("test", 200)):
        images = load_images("mnist", img_size=28, channels=1, split=split)
        assert images.labels is not None
        for digit in (0, 1):
            (folder / split / f"class-{digit}").mkdir(parents=True)
            for i, image in enumerate(images.images[images.labels == digit][:per_class, 0]):
                Image.fromarray(image).save(folder / split / f"class-{digit}" / f"{i:03}.png")
    return Data(name=str(folder), values="unit", validation=200)


def test_of_a_folder_sorted_by_class_the_real_images_are_of_all_classes(sorted_folder: Data) -> None:
    train = of(sorted_folder, "train")(800, 0)
    fair = train[torch.randperm(800, generator=torch.Generator().manual_seed(0))]
    found = scores(lambda n, s: fair[:n], "pr", "score", "parzen_ll", n=150, data=sorted_folder, features="mnist")
    assert found["precision"].value > 0.75 and found["recall"].value > 0.75  # with zeros alone to compare with: 0.5
    real = found["score"].real
    assert real is not None and 1.8 < real <= 2 and real == pytest.approx(found["score"].value, abs=0.15)
    assert found["precision"].real is not None and found["precision"].real > 0.75
    again = scores(lambda n, s: fair[:n], "pr", n=150, data=sorted_folder, features="mnist")["precision"]
    assert again == found["precision"]
    for name in ("precision", "score", "parzen_ll"):
        before = {k: v for k, v in found[name].protocol.items() if k != "order of real images"}
        with pytest.raises(UserError, match="order of real images is drawn once, seed 0 and None"):
            check_comparable([found[name], replace(found[name], protocol=before)])
    for split in ("train", "validation", "test"):
        real_images = Reference(sorted_folder, "test", None, torch.device("cpu"), quiet).of(split)
        narrow = real_images.first(60).pixels.mean((1, 2, 3)) < 0.11  # a one has less ink than a zero
        assert 15 < narrow.sum() < 45, split


def test_of_a_set_with_a_published_order_the_first_images_are_those_of_the_set(sorted_folder: Data) -> None:
    reference = Reference(MNIST, "test", None, torch.device("cpu"), quiet)
    assert torch.equal(reference.of("train").first(20).pixels, mnist("train")[:20])
    assert torch.equal(reference.of("test").first(20).pixels, mnist("test")[:20])
    receipt = scores(from_split("train"), "pr", n=100)["precision"]
    assert "order of real images" not in receipt.protocol and receipt.protocol["of these"] == "the first 100"


def test_the_order_that_is_drawn_is_the_same_everywhere() -> None:
    assert mixed(8).tolist() == [7, 0, 3, 6, 4, 2, 1, 5] and sorted(mixed(1000)) == list(range(1000))


def test_the_training_images_are_never_all_in_memory_as_numbers(few: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what is computed changes with the size of the parts in which they are looked at."""
    read: list[int] = []

    def watched(data: ImageSet, values: str, places: Labels | None = None) -> Tensor:
        read.append(len(data) if places is None else len(places))
        return to_pixels(data, values, places)

    monkeypatch.setattr(measures, "to_pixels", watched)
    names, options = ("memorised", "memorised_pixels", "fd"), {"n": 80, "data": few, "features": "mnist"}
    whole = scores(from_split("validation"), *names, **options)
    assert max(read) == 1100
    read.clear()
    monkeypatch.setattr(measures, "NUMBERS", 28 * 28 * 100)
    parts = scores(from_split("validation"), *names, **options)
    assert parts == whole and max(read) == 400  # the test images, which are compared with one another


def test_without_test_images_those_held_back_are_compared_with_or_the_training_images_and_that_is_said(
    few: Data, tmp_path: Path
) -> None:
    said: list[str] = []
    alone = replace(few, name=str(Path(few.name) / "train"))
    for data, chosen, words in (
        (few, "test", []),
        (MNIST, "test", []),
        (alone, "validation", ["has no test pictures", "the 200 held back"]),
        (replace(alone, validation=0), "train", ["has no test pictures", "rewards copying", "--data.validation N"]),
    ):
        said.clear()
        assert choose_reference(data, said.append) == chosen
        assert len(said) == bool(words) and all(word in said[0] for word in words)
    (tmp_path / "cat").mkdir()
    (tmp_path / "test").mkdir()  # a class
    assert choose_reference(Data(name=str(tmp_path), validation=1), said.append) == "validation"
    [precision, recall] = evaluate(
        of(few, "train"), data=alone, metrics=["pr"], n=100, seeds=[0], features="mnist", device="cpu", say=quiet
    )
    assert precision.metric == "precision_mnist_100_validation" and recall.metric == "recall_mnist_100_validation"


def test_what_there_are_too_few_images_for_is_left_out_unless_it_is_named(few: Data) -> None:
    data, said = replace(few, name=str(Path(few.name) / "train"), validation=50), list[str]()
    options: dict[str, Any] = {"data": data, "n": 60, "seeds": [0], "features": "mnist", "device": "cpu"}
    receipts = evaluate(of(few, "train"), **options, say=said.append)
    measures = {receipt.measure for receipt in receipts}
    assert "precision" in measures and not measures & {"memorised", "memorised_pixels"}
    left_out = [text for text in said if text.startswith("memorised is left out: 50 held-out images")]
    assert len(left_out) == 1, said
    with pytest.raises(UserError, match="50 held-out images"):
        evaluate(of(few, "train"), **options, metrics=["memorised"], say=quiet)


def test_the_spread_is_that_of_the_seeds(few: Data) -> None:
    def by_seed(n: int, seed: int) -> Tensor:
        return mnist("train")[seed * n : (seed + 1) * n]

    options: dict[str, Any] = {"metrics": ["fd"], "n": 500, "data": few, "features": "mnist", "say": quiet}
    together = evaluate(by_seed, seeds=(3, 5), **options)[0]
    apart = [evaluate(by_seed, seeds=(s,), **options)[0].value for s in (3, 5)]
    assert list(together.values) == apart and apart[0] != apart[1]
    assert together.spread == pytest.approx(abs(apart[0] - apart[1]) / math.sqrt(2))


def test_a_folder_of_pictures_has_the_scores_of_its_pictures(few: Data, tmp_path: Path) -> None:
    for i, image in enumerate((mnist("validation")[:120, 0] * 255).round().byte().numpy()):
        Image.fromarray(image).save(tmp_path / f"{i:04}.png")
    options: dict[str, Any] = {"metrics": ["fd", "memorised"], "n": 120, "data": few, "features": "mnist", "say": quiet}
    from_folder, direct = (evaluate(what, seeds=(0,), **options) for what in (tmp_path, from_split("validation")))
    assert [r.value for r in from_folder] == pytest.approx([r.value for r in direct])


def test_stacked_digits_are_read_channel_by_channel() -> None:
    data = Data(name="stacked_mnist", channels=3)
    digits = mnist("test")

    def one_mode(n: int, seed: int) -> Tensor:
        return digits[:1].repeat(n, 3, 1, 1)

    def real(n: int, seed: int) -> Tensor:
        rng = np.random.default_rng(0)
        return digits[torch.from_numpy(rng.integers(0, 10_000, (n, 3)))][:, :, 0]

    one = scores(one_mode, "stacked", n=300, data=data)
    assert one["modes"].value == 1 and one["modes_kl"].value == pytest.approx(math.log(1000))
    many = scores(real, "stacked", n=3000, data=data)
    assert 900 < many["modes"].value <= 1000 and many["modes_kl"].value < 0.35
    assert many["modes"].metric == "modes_mnist_3k"
    assert many["modes"].real is not None and many["modes"].real > 900


@pytest.mark.parametrize(
    ("generate", "more", "words"),
    [
        (lambda n, s: torch.rand(n, 1, 32, 32), {}, ["(n, 1, 28, 28)", "32"]),
        (lambda n, s: torch.rand(n, 1, 28, 28) * 2 - 1, {}, ["[0, 1]"]),
        (lambda n, s: torch.full((n, 1, 28, 28), math.nan), {}, ["[0, 1]"]),
        (lambda n, s: torch.rand(3, 1, 28, 28), {}, ["there are 3", "1000"]),
        (lambda n, s: torch.rand(n, 1, 28, 28), {"n": 40}, ["40", "65"]),
        (lambda n, s: torch.rand(n, 1, 28, 28), {"metrics": ["kd"], "n": 40}, ["40", "1000"]),
        (lambda n, s: torch.rand(n, 1, 28, 28), {"metrics": ["fid"]}, ["fid", "did you mean fd"]),
        (lambda n, s: torch.rand(n, 1, 28, 28), {"features": "vgg"}, ["vgg", "mnist, inception"]),
        (
            lambda n, s: torch.rand(n, 1, 28, 28),
            {"metrics": ["parzen_ll"], "reference": "train"},
            ["parzen_ll", "train"],
        ),
        (lambda n, s: torch.rand(n, 1, 28, 28), {"metrics": ["stacked"]}, ["3 channel"]),
        (
            lambda n, s: torch.rand(n, 1, 28, 28),
            {"metrics": ["parzen_ll"], "data": Data(name="mnist")},
            ["data.validation"],
        ),
        (lambda n, s: torch.rand(n, 1, 28, 28), {"data": None}, ["real images"]),
    ],
)
def test_what_cannot_be_measured_is_one_clear_line(generate: Any, more: dict[str, Any], words: list[str]) -> None:
    options: dict[str, Any] = {"metrics": ["fd"], "n": 1000, "seeds": (0,), "data": MNIST, "say": quiet, **more}
    with pytest.raises(UserError) as error:
        evaluate(generate, **options)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert "\n" not in str(error.value)


def test_a_path_that_is_nothing_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a run nor a folder"):
        evaluate(tmp_path / "none", data=MNIST, say=quiet)


def test_without_validation_images_parzen_is_left_out_and_that_is_said() -> None:
    said: list[str] = []
    evaluator = Evaluator(Data(name="mnist"), say=said.append)
    assert "parzen_ll" not in evaluator.metrics and "fd" in evaluator.metrics
    assert any("parzen_ll" in text and "data.validation" in text for text in said)
    assert "parzen_ll" in Evaluator(MNIST, say=quiet).metrics
    assert Evaluator(Data(name="stacked_mnist", channels=3), say=quiet).metrics == ["stacked"]


def test_progress_counts_to_the_end(few: Data) -> None:
    said: list[str] = []
    names = ["fd", "memorised"]
    evaluate(from_split("train"), metrics=names, n=200, seeds=(0, 1), data=few, features="mnist", say=said.append)
    counted = [text for text in said if " of 5" in text]
    assert len(counted) == 5 and counted[0].startswith("1 of 5") and counted[-1].startswith("5 of 5")


# ---- during training -------------------------------------------------------------------------------------------


def train(out: Path, steps: int, **more: Any) -> Path:
    overrides = {
        **TINY,
        "evaluation.every": 10,
        "evaluation.n": 200,
        "evaluation.best": "parzen_ll",
        "log_interval": 5,
        "checkpoint.interval": 10,
        "sample_interval": 1000,
        **more,
    }
    return gansmith.train("gan2014_mnist", out=out, steps=steps, overrides=overrides, quiet=True)


def logged(run: Path) -> dict[int, float]:
    rows = read_metrics(run / "metrics.jsonl")
    return {row["round"]: row[key] for row in rows for key in row if key == "eval/parzen_ll_200_validation"}


def test_training_keeps_the_best_checkpoint_by_the_validation_images(tmp_path: Path) -> None:
    run = train(tmp_path / "run", 60, lr=0.5)
    values = logged(run)
    assert list(values) == [0, 10, 20, 30, 40, 50, 60]
    best = max(values, key=lambda r: values[r])
    [kept] = checkpoint.everything(run / "best")
    assert int(kept.name) == best
    score = checkpoint.verify(kept)["score"]
    assert score == {"metric": "parzen_ll_200_validation", "value": values[best]}
    sampler = load(run, round="best")
    assert sampler.round == best
    again = scores(lambda n, seed: sampler.draw(n, derive_seed(0, 4)), "parzen_ll", n=200, reference="validation")
    assert again["parzen_ll"].value == pytest.approx(values[best], abs=1e-9)


def test_evaluation_changes_nothing_of_the_training_and_resumes_exactly(tmp_path: Path) -> None:
    with_scores = train(tmp_path / "with", 40)
    without = train(tmp_path / "without", 40, **{"evaluation.every": 0, "evaluation.best": None})
    part = train(tmp_path / "part", 30)
    gansmith.train(part, steps=40, quiet=True)
    trees = []
    for run in (with_scores, without, part):
        tensors: dict[str, Tensor] = {}
        tree, _ = checkpoint.read(run / "checkpoints" / "00000040")
        checkpoint.pack(tree["players"], tensors)
        trees.append(tensors)
    for name, tensor in trees[0].items():
        assert all(torch.equal(tensor, other[name]) for other in trees[1:]), name
    assert logged(part) == logged(with_scores) and not logged(without)
    assert [p.name for p in checkpoint.everything(part / "best")] == [
        p.name for p in checkpoint.everything(with_scores / "best")
    ]


def test_a_best_checkpoint_from_a_later_round_than_the_run_is_dropped(tmp_path: Path) -> None:
    run = train(tmp_path / "run", 20)
    [kept] = checkpoint.everything(run / "best")
    kept.rename(kept.with_name("00000099"))  # as if the process had been killed after it
    gansmith.train(run, steps=30, quiet=True)
    assert [int(p.name) for p in checkpoint.everything(run / "best")] != [99]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"evaluation.best": "parzen"}, ["evaluation.best", "did you mean parzen_ll"]),
        ({"evaluation.metrics": ["memorised"], "evaluation.best": "memorised"}, ["evaluation.best"]),
        ({"data.validation": 0}, ["data.validation"]),
        ({"evaluation.metrics": ["fdd"]}, ["fdd", "did you mean fd"]),
    ],
)
def test_a_wrong_evaluation_is_told_before_training_and_leaves_nothing(
    tmp_path: Path, more: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(UserError) as error:
        train(tmp_path / "run", 10, **more)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not (tmp_path / "run").exists()


# ---- the command line ------------------------------------------------------------------------------------------


def test_the_verb_prints_receipts_as_json_and_keeps_them(tmp_path: Path, command: Any) -> None:
    run = train(tmp_path / "run", 20)
    done = command("evaluate", run, "--metrics", "parzen_ll", "--n", 100, "--seeds", "0,1", "--round", "best", "--json")
    out, err = done.communicate()
    assert done.returncode == 0, err
    [receipt] = json.loads(out)
    assert receipt["metric"] == "parzen_ll_100" and len(receipt["values"]) == 2
    assert receipt["subject"]["seeds"] == [0, 1] and receipt["subject"]["weights"] == "average"
    assert [r.as_dict() for r in read(run / "receipts.jsonl")] == [receipt]
    shown = command("evaluate", run, "--metrics", "parzen_ll", "--n", 100, "--seeds", "0,1")
    out, _ = shown.communicate()
    assert "parzen_ll_100" in out and "real images" in out and "historical" in out and "standard error" in out


# ---- what a review found ---------------------------------------------------------------------------------------


def write_digits(folder: Path, images: Tensor) -> Path:
    folder.mkdir(parents=True)
    for i, image in enumerate((images[:, 0] * 255).round().byte().numpy()):
        Image.fromarray(image).save(folder / f"{i:04}.png")
    return folder


def test_a_folder_that_is_called_like_a_data_set_is_still_that_folder(
    few: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_digits(tmp_path / "mnist", torch.rand(100, 1, 28, 28))
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {"metrics": ["fd"], "n": 100, "data": few, "features": "mnist", "say": quiet}
    [noise] = evaluate("mnist", **options)
    [digits] = evaluate(write_digits(tmp_path / "real", mnist("test")[:100]), **options)
    assert noise.value > 10 * digits.value


def test_pictures_of_another_size_or_kind_are_refused_by_name(few: Data, tmp_path: Path) -> None:
    folder = write_digits(tmp_path / "samples", mnist("test")[:100])
    odd = folder / "odd.png"
    for picture, words in (
        (Image.new("L", (40, 36)), "odd.png is 40x36 L, and the real images are 28x28 L"),
        (Image.new("RGB", (28, 28)), "odd.png is 28x28 RGB, and the real images are 28x28 L"),
    ):
        picture.save(odd)
        with pytest.raises(UserError, match=words):
            evaluate(folder, metrics=["memorised_pixels"], n=50, data=few, say=quiet)


def test_of_a_larger_folder_a_fixed_draw_is_scored_and_not_the_first_files(tmp_path: Path) -> None:
    images = load_images("mnist", img_size=28, channels=1, split="test")
    assert images.labels is not None
    by_class = mnist("test")[torch.from_numpy(np.argsort(images.labels, kind="stable"))][::20]
    said: list[str] = []
    folder = write_digits(tmp_path / "sorted", by_class)
    options: dict[str, Any] = {"metrics": ["classes"], "n": 200, "data": MNIST}
    found = {r.measure: r.value for r in evaluate(folder, say=said.append, **options)}
    assert found["class_tv"] < 0.2  # the first 200 of 500 would be four classes: 0.6
    assert any("200 of the 500" in text for text in said)
    assert found == {r.measure: r.value for r in evaluate(folder, say=quiet, **options)}


def test_fewer_draws_of_a_seed_are_the_first_of_more() -> None:
    recipe = plan("infogan", flags={"networks.G.width": 2, "networks.D.width": 2}).recipe
    prior = build_prior(recipe)
    sampler = Sampler(build_network(recipe, "G", prior), prior)
    many = sampler.draw(1500, 3)
    assert torch.equal(many[:37], sampler.draw(37, 3)) and torch.equal(many[:1200], sampler.draw(1200, 3))
    assert not torch.equal(many[:37], sampler.draw(37, 4)) and len(many.flatten(1).unique(dim=0)) > 1400


@pytest.mark.parametrize("seeds", [(), (1, 1), (-1,)])
def test_seeds_are_different_and_at_least_one(seeds: tuple[int, ...]) -> None:
    with pytest.raises(UserError, match="seeds are"):
        evaluate(from_split("train"), metrics=["fd"], n=100, seeds=seeds, data=MNIST, say=quiet)


def test_a_checkpoint_that_is_pruned_while_it_is_opened_makes_place_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(tmp_path / "run", 2)
    real, gone = checkpoint.newest_good, tmp_path / "run" / "checkpoints" / "00000001"
    for round in (None, "best"):
        paths = [gone]
        monkeypatch.setattr(
            checkpoint, "newest_good", lambda f, say, paths=paths: paths.pop() if paths else real(f, say)
        )
        found = load(run, round=round, device="cpu", say=quiet)  # type: ignore[arg-type]
        assert found.round == int(real(run / ("best" if round else "checkpoints"), quiet).name) and not paths


def test_what_is_no_picture_is_said_and_left_out_or_refused_if_there_is_much_of_it(few: Data, tmp_path: Path) -> None:
    for i, image in enumerate((mnist("validation")[:120, 0] * 255).round().byte().numpy()):
        Image.fromarray(image).save(tmp_path / f"{i:04}.png")
    (tmp_path / "notes.png").write_text("not a picture")
    said: list[str] = []
    options: dict[str, Any] = {"metrics": ["memorised_pixels"], "n": 120, "data": few}
    [receipt] = evaluate(tmp_path, say=said.append, **options)
    assert len(receipt.values) == 1 and any("left out notes.png" in text for text in said)
    (tmp_path / "more.png").write_text("nor this")
    with pytest.raises(UserError, match=r"2 of 122 pictures .* are broken"):
        evaluate(tmp_path, say=quiet, **options)


def test_a_disk_that_is_full_by_the_end_does_not_take_the_scores_along(
    few: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(receipts: Any, path: Path) -> None:
        if receipts:  # at the beginning there was room
            raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(evaluation, "append", full)
    said: list[str] = []
    [receipt] = evaluate(
        from_split("validation"),
        metrics=["memorised_pixels"],
        n=50,
        data=few,
        seeds=(0,),
        out=tmp_path,
        say=said.append,
    )
    assert receipt.measure == "memorised_pixels"
    assert f"not all is kept: {tmp_path / 'receipts.jsonl'}: No space left on device" in said[-1]


def test_where_receipts_cannot_be_written_that_is_told_before_the_work(few: Data, tmp_path: Path) -> None:
    (tmp_path / "receipts.jsonl").mkdir()

    def never(n: int, seed: int) -> Tensor:
        raise AssertionError("samples were drawn")

    with pytest.raises(OSError):
        evaluate(never, metrics=["memorised_pixels"], n=50, data=few, out=tmp_path, say=quiet)


def test_a_damaged_best_checkpoint_makes_place_for_the_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = train(tmp_path / "run", 20)
    [kept] = checkpoint.everything(run / "best")
    (kept / "state.json").write_text("{")
    gansmith.train(run, steps=30, quiet=True)
    assert "broken" in capsys.readouterr().out
    [now] = checkpoint.everything(run / "best")
    assert int(now.name) == 30 and checkpoint.verify(now)["score"]["value"] == logged(run)[30]


def test_several_runs_are_scored_by_what_can_be_measured_of_all(tmp_path: Path) -> None:
    with_validation = train(tmp_path / "a", 1)
    without = train(tmp_path / "b", 1, **{"evaluation.every": 0, "evaluation.best": None, "data.validation": 0})
    assert "parzen_ll" in shared_metrics([with_validation], None, "test")
    shared = shared_metrics([with_validation, without], None, "test")
    assert "parzen_ll" not in shared and "fd" in shared


def test_tfd_is_scored_fold_by_fold(tmp_path: Path) -> None:
    """The mean over five folds, each with its own sigma, as if each were evaluated alone."""
    savemat = pytest.importorskip("scipy.io").savemat
    rng = np.random.default_rng(0)
    folds = np.zeros((300, 5), np.uint8)
    for fold in range(5):
        order = rng.permutation(np.arange(100, 300))
        folds[order[:100], fold], folds[order[100:150], fold], folds[order[150:], fold] = 1, 2, 3
    images = rng.integers(0, 256, (300, 48, 48), dtype=np.uint8)
    labels = np.where(np.arange(300) < 100, -1, 1 + np.arange(300) % 7).astype(np.int16)[:, None]
    savemat(tmp_path / "TFD_48x48.mat", {"images": images, "folds": folds, "labs_ex": labels, "labs_id": labels})
    data = Data(name="tfd", img_size=48, values="unit", root=str(tmp_path))
    samples = torch.from_numpy(images[:100, None]).float() / 255
    [receipt] = evaluate(lambda n, s: samples[:n], metrics=["parzen_ll"], n=90, seeds=(0,), data=data, say=quiet)
    alone = []
    for fold in range(5):
        valid, test = (torch.from_numpy(images[folds[:, fold] == code]).float().flatten(1) / 255 for code in (2, 3))
        alone.append(parzen(samples[:90].flatten(1), valid, test).mean)
    assert receipt.value == pytest.approx(np.mean(alone), abs=1e-6)
    assert receipt.details["standard_error"] == [pytest.approx(np.std(alone, ddof=1) / 5**0.5, abs=1e-6)]
    assert receipt.protocol["test"].count("50 images") == 5 and receipt.details["at_edge"] == [[False] * 5]
    first_fold = Evaluator(data, metrics=["memorised_pixels"], say=quiet).protocol("memorised_pixels")
    assert first_fold["test"].count("50 images") == 1  # it takes no other
    with pytest.raises(UserError, match="tfd"):
        Evaluator(data, metrics=["parzen_ll"], reference="validation", say=quiet).check_best("parzen_ll")

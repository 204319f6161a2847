"""Evaluation: generators whose scores are known beforehand, and what is refused."""

import functools
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn

import gansmith
from gansmith import checkpoint
from gansmith.build import build_network, build_prior, derive_seed
from gansmith.cli import main
from gansmith.data import Wanted, load_sets
from gansmith.data.load import mixed
from gansmith.errors import UserError
from gansmith.evaluation import evaluator as evaluation
from gansmith.evaluation import measures
from gansmith.evaluation.evaluator import Evaluator, choose_reference, evaluate
from gansmith.evaluation.measures import METRICS, Images, Reference, as_recipe, to_pixels
from gansmith.evaluation.receipts import Receipt, check_comparable, read
from gansmith.games.game import Maker
from gansmith.inference import Sampler, load
from gansmith.papers.parzen import parzen
from gansmith.priors import Prior
from gansmith.recipe import Data, Recipe, plan
from gansmith.run.log import read_metrics

MNIST = Data(name="mnist", values="unit", validation=10_000)
CPU = torch.device("cpu")


def quiet(text: str) -> None:
    pass


@functools.cache
def mnist(split: str) -> Tensor:
    """The first digits of a split of MNIST, (N, 1, 28, 28) in [0, 1]."""
    (data,) = load_sets(Wanted("mnist", (28, 28), 1, split=split, validation=10_000 * (split != "test")))
    return torch.from_numpy(np.array(data.images[:3000])).float() / 255


@functools.cache
def of_class(digit: int) -> Tensor:
    (data,) = load_sets(Wanted("mnist", (28, 28), 1))
    return torch.from_numpy(np.array(data.images[:20_000][data.columns["y"][:20_000] == digit][:700])).float() / 255


def write(folder: Path, images: Tensor, kind: str = "png", mode: str | None = None) -> Path:
    """Pictures (N, C, H, W) in [0, 1] as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate((images * 255).round().byte().permute(0, 2, 3, 1).numpy()):
        picture = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        picture.convert(mode or picture.mode).save(folder / f"{i:04}.{kind}")
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Data:
    """The first digits of MNIST as a folder: 1,000 to train on, 200 held back, 1,000 to test with."""
    folder = tmp_path_factory.mktemp("digits")
    write(folder / "train", mnist("train")[:1200])
    write(folder / "test", mnist("test")[:1000])
    return Data(name=str(folder), values="unit", validation=200)


def of(data: Data, split: str) -> Callable[[int, int], Tensor]:
    """The first images of a split as samples, whatever the seed."""
    return lambda n, seed: Reference(as_recipe(data), "x", "test", None, CPU, quiet).of(split).first(n).pixels()


def scores(what: Any, *metrics: str, data: Any, n: int = 200, **more: Any) -> dict[str, Receipt]:
    options = {"features": "mnist", "seeds": (0,), "say": quiet, **more}
    return {r.measure: r for r in evaluate(what, metrics=metrics, n=n, data=data, **options)}


# ---- generators whose scores are known ---------------------------------------------------------------------------


def test_the_training_images_as_samples_have_the_score_of_real_images(few: Data) -> None:
    """Every measure that has a ceiling meets it exactly, for the ceiling is made of these images."""
    names = [name for name, row in METRICS.items() if row.ceiling and not row.alone]
    found = scores(of(few, "train"), *names, data=few, n=1000)
    assert len(found) == 12
    for receipt in found.values():
        assert receipt.real == receipt.value and receipt.spread is None, receipt.metric


def test_a_perfect_generator_is_told_from_bad_ones(few: Data) -> None:
    evaluator = Evaluator(few, metrics=("fd", "pr", "classes", "score"), n=500, features="mnist", ceiling=False)
    flat = torch.rand(500, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    sets = (mnist("validation")[:500], flat, of_class(8)[:500])
    real, noise, eights = ({r.measure: r.value for r in evaluator([x.clone], {})} for x in sets)
    assert all(real["fd"] < other["fd"] / 3 for other in (noise, eights))
    assert real["precision"] > 0.75 and noise["precision"] > 0.3  # balls of outliers catch much noise
    assert real["recall"] > 0.75 and eights["recall"] < 0.3
    assert real["class_tv"] < 0.1 and eights["class_tv"] > 0.85 and eights["class_kl"] > 0.9 * math.log(10)
    assert real["score"] > 8 and eights["score"] < 1.2


@pytest.mark.parametrize("name", ["memorised", "memorised_pixels"])
def test_copies_are_found_and_new_images_are_not_accused(few: Data, name: str) -> None:
    copies = scores(of(few, "train"), name, data=few)[name]
    assert copies.value == 1.0 and copies.real is None
    new = scores(lambda n, s: mnist("validation")[:n], name, n=1000, data=few)[name]
    assert new.value < 0.01 + 6 * math.sqrt(0.01 / 1000)  # the threshold is known to a third: 10 of 1,000 images


@pytest.mark.parametrize("name", ["memorised", "memorised_pixels"])
def test_mirrored_copies_are_found_where_the_training_saw_them(few: Data, name: str, tmp_path: Path) -> None:
    recipe, mirrored = replace(as_recipe(few), views=plan("photos").recipe.views), of(few, "train")(100, 0).flip(3)
    options: dict[str, Any] = {"n": 100, "seeds": (0,), "features": "mnist", "metrics": [name], "say": quiet}
    [found] = evaluate(lambda n, s: mirrored, data=recipe, out=tmp_path, **options)
    assert found.value == 1.0 and found.details["mirrored"] == [True]
    picture = np.asarray(Image.open(tmp_path / f"nearest-{name}.png"))
    scale = picture.shape[1] // (10 * 30 + 2)
    first, second = (picture[2 * scale : 30 * scale : scale, x * scale : (x + 28) * scale : scale] for x in (2, 32))
    assert np.array_equal(first, second)
    [plain] = evaluate(lambda n, s: mirrored, data=few, **options)
    assert plain.value < 0.5 and "mirrored" not in plain.details


def test_the_pairs_that_are_drawn_are_samples_beside_their_originals(few: Data, tmp_path: Path) -> None:
    train = of(few, "train")(8, 0)
    samples = torch.cat([train[7:8], mnist("validation")[:150]])
    scores(lambda n, seed: samples[:n], "memorised_pixels", n=100, out=tmp_path, data=few)
    picture = np.asarray(Image.open(tmp_path / "nearest-memorised_pixels.png"))
    scale = picture.shape[1] // (10 * 30 + 2)
    first, second = (picture[2 * scale : 30 * scale : scale, x * scale : (x + 28) * scale : scale] for x in (2, 32))
    original = (train[7, 0] * 255).round().numpy()
    assert np.array_equal(first, original) and np.array_equal(second, original)
    assert [r.measure for r in read(tmp_path / "receipts.jsonl")] == ["memorised_pixels"]


def test_stacked_digits_are_read_channel_by_channel() -> None:
    data, digits = Data(name="stacked_mnist", channels=3), mnist("test")
    evaluator = Evaluator(data, n=600, ceiling=False, say=quiet)
    assert evaluator.metrics == ["stacked"]
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, 3000, (600, 3)))
    one, _ = evaluator([lambda: digits[:1].repeat(600, 3, 1, 1)], {})
    many, kl = evaluator([lambda: digits[rows][:, :, 0]], {})
    assert one.value == 1 and one.metric == "modes_mnist_600"
    assert many.value == pytest.approx(1000 * (1 - 0.999**600), abs=40)  # what is expected of even modes
    assert kl.value == pytest.approx(math.log(1000) - math.log(600), abs=0.4)


@pytest.mark.parametrize("reference", ["test", "validation"])
def test_a_bandwidth_at_an_end_of_the_grid_is_said(few: Data, reference: Any) -> None:
    """Copies of the images that choose it are the likelier the narrower the windows."""
    for split, at_edge in (("train", False), ("validation", True)):
        said: list[str] = []
        receipt = scores(of(few, split), "parzen_ll", data=few, reference=reference, say=said.append)["parzen_ll"]
        told = "parzen_ll: sigma 0.1 is at an end of the grid; a better one may lie beyond"
        assert (told in said, receipt.details["at_edge"]) == (at_edge, [at_edge])


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
    receipt = scores(lambda n, s: samples, "parzen_ll", n=90, data=data)["parzen_ll"]
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


# ---- names, protocols, real images -------------------------------------------------------------------------------


def test_names_say_features_number_and_reference_and_other_images_are_another_protocol(few: Data) -> None:
    def measured(**more: Any) -> Evaluator:
        options = {"features": "mnist", "say": quiet, **more}
        return Evaluator(options.pop("data", few), metrics=["fd", "parzen_ll", "memorised"], **options)

    a, b = measured(n=500), measured(n=1000, reference="validation")
    c = measured(n=500, data=replace(few, validation=100))
    assert (a.called("fd", "fd"), a.called("parzen_ll", "parzen_ll")) == ("fd_mnist_500", "parzen_ll_500")
    assert [b.called(m, m) for m in ("fd", "parzen_ll")] == ["fd_mnist_1k_validation", "parzen_ll_1k_validation"]
    assert a.protocol("fd")["features"].startswith("mnist ") and a.protocol("fd")["images"] == "28x28x1"
    assert a.protocol("fd") == c.protocol("fd")  # it does not look at the training images
    assert [e.protocol("memorised")["train"].split()[0] for e in (a, c)] == ["1000", "1100"]


def test_of_a_folder_sorted_by_class_the_real_images_are_of_all_classes(tmp_path: Path) -> None:
    for digit in (0, 1):
        write(tmp_path / "train" / f"class-{digit}", of_class(digit)[:250])
        write(tmp_path / "test" / f"class-{digit}", of_class(digit)[250:350])
    data = Data(name=str(tmp_path), values="unit", validation=100)
    for split in ("train", "validation", "test"):
        narrow = of(data, split)(60, 0).mean((1, 2, 3)) < 0.11  # a one has less ink than a zero
        assert 15 < narrow.sum() < 45, split
    found = scores(of(data, "train"), "pr", n=100, data=data)["precision"]
    before = {k: v for k, v in found.protocol.items() if k != "order of real images"}
    with pytest.raises(UserError, match="order of real images is drawn once, seed 0 and None"):
        check_comparable([found, replace(found, protocol=before)])


def test_of_a_set_with_a_published_order_the_first_images_are_those_of_the_set() -> None:
    for split in ("train", "test"):
        assert torch.equal(of(MNIST, split)(20, 0), mnist(split)[:20])
    protocol = Evaluator(MNIST, metrics=["pr"], n=100, say=quiet).protocol("pr")
    assert "order of real images" not in protocol and protocol["of these"] == "the first 100"
    assert mixed(8).tolist() == [7, 0, 3, 6, 4, 2, 1, 5] and sorted(mixed(1000)) == list(range(1000))


def test_the_training_images_are_never_all_in_memory_as_numbers(few: Data, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of what is computed changes with the size of the parts in which they are looked at."""
    looked: list[int] = []

    def watched(column: Any, values: str, places: Any) -> Tensor:
        looked.append(len(places))
        return to_pixels(column, values, places)

    monkeypatch.setattr(measures, "to_pixels", watched)
    data = replace(few, name=str(Path(few.name) / "train"))
    options: dict[str, Any] = {"n": 80, "data": data, "reference": "validation"}
    names, samples = ("memorised", "memorised_pixels", "fd"), mnist("validation")
    whole = scores(lambda n, s: samples, *names, **options)
    assert max(looked) == 1000
    looked.clear()
    monkeypatch.setattr(measures, "NUMBERS", 28 * 28 * 100)
    parts = scores(lambda n, s: samples, *names, **options)
    assert parts == whole and max(looked) == 100


def test_without_test_images_those_held_back_are_compared_with_or_the_training_images_and_that_is_said(
    few: Data,
) -> None:
    said: list[str] = []
    alone = replace(few, name=str(Path(few.name) / "train"))
    for data, chosen, words in (
        (few, "test", ""),
        (MNIST, "test", ""),
        (alone, "validation", "the 200 held back"),
        (replace(alone, validation=0), "train", "rewards copying"),
    ):
        said.clear()
        assert choose_reference(data, said.append) == chosen
        assert len(said) == bool(words) and words in "".join(said)
    found = scores(of(few, "train"), "pr", data=alone, n=100)
    assert [r.metric for r in found.values()] == ["precision_mnist_100_validation", "recall_mnist_100_validation"]


def test_what_there_are_too_few_images_for_is_left_out_unless_it_is_named(few: Data) -> None:
    data, said = replace(few, name=str(Path(few.name) / "train"), validation=19), list[str]()
    options: dict[str, Any] = {"data": data, "n": 60, "seeds": [0], "features": "mnist"}
    found = {receipt.measure for receipt in evaluate(of(few, "train"), **options, say=said.append)}
    assert "mmd" in found and not found & {"memorised", "memorised_pixels", "fd", "kd", "precision", "coverage"}
    assert "pr is left out: 19 validation images are too few; it needs 1,000" in said
    assert "memorised is left out: 19 validation images are too few; it needs 20" in said
    sixty = Evaluator(replace(data, validation=60), reference="validation", features="mnist", say=quiet)
    one = scores(of(few, "train"), "memorised", data=replace(data, validation=60), reference="validation", n=60)
    assert one["memorised"].better == "0.016"  # 1 of 61: what new images have
    assert {"mmd", "memorised"} <= {*sixty.metrics} and not {"fd", "kd", "pr", "dc", "parzen_ll"} & {*sixty.metrics}
    with pytest.raises(UserError, match="nothing is left that can be scored by 19 validation images"):
        Evaluator(replace(data, img_size=32), reference="validation", features="mnist", say=quiet)  # no features fit
    with pytest.raises(UserError, match="19 real images: at least 50"):
        evaluate(of(few, "train"), **options, metrics=["pr"], say=quiet)
    with pytest.raises(UserError, match="19 held-out images"):
        evaluate(of(few, "train"), **options, metrics=["memorised"], say=quiet)
    with pytest.raises(UserError, match=r"60 images.* at least 65"):
        evaluate(of(few, "train"), **options, metrics=["fd"], say=quiet)


def test_the_spread_is_that_of_the_seeds_and_progress_counts_to_the_end(few: Data) -> None:
    said: list[str] = []
    found = scores(lambda n, seed: of_class(seed)[:n], "classes", n=60, data=few, seeds=(3, 5), say=said.append)
    assert found["class_tv"].values == pytest.approx([0.9, 0.9], abs=0.05)
    assert [list(counts).index(max(counts)) for counts in found["class_tv"].details["histogram"]] == [3, 5]
    counted = [text for text in said if " of 3" in text]
    assert len(counted) == 3 and counted[0].startswith("1 of 3") and counted[-1].startswith("3 of 3")


def test_without_validation_images_parzen_is_left_out_and_that_is_said() -> None:
    said: list[str] = []
    metrics = Evaluator(Data(name="mnist"), say=said.append).metrics
    assert "parzen_ll" not in metrics and "fd" in metrics and not {"psnr", "stacked"} & {*metrics}
    assert len(said) == 1 and "parzen_ll" in said[0] and "data.validation" in said[0]
    assert "parzen_ll" in Evaluator(MNIST, say=quiet).metrics


@pytest.mark.parametrize(
    ("generate", "more", "words"),
    [
        (lambda n, s: torch.rand(n, 1, 32, 32), {}, "(n, 1, 28, 28)"),
        (lambda n, s: torch.full((n, 1, 28, 28), math.nan), {}, "they must lie in [0, 1]"),
        (lambda n, s: np.zeros((n, 1, 28, 28)), {}, "samples are a ndarray; they must be a torch.Tensor"),
        (lambda n, s: torch.rand(3, 1, 28, 28), {}, "there are 3 samples"),
        (None, {"metrics": ["fid"]}, "did you mean fd"),
        (None, {"metrics": []}, "no metric is named"),
        (None, {"features": "vgg"}, "mnist, inception"),
        (None, {"metrics": "classes", "features": "inception"}, "which digit"),
        (None, {"metrics": ["parzen_ll"], "reference": "train"}, "and the reference is train"),
        (None, {"metrics": ["parzen_ll"], "data": Data(name="mnist")}, "data.validation is 0"),
        (None, {"metrics": ["stacked"]}, "3 channel"),
        (None, {"data": Data(name="mnist", img_size=32), "features": "mnist"}, "32x32"),
        (None, {"data": None}, "which real images"),
        (None, {"maker": "sample"}, "the makers of a run"),
        (None, {"seeds": 3}, "such as range(3)"),
        (None, {"seeds": (1, 1)}, "seeds are [1, 1]"),
        ("none", {}, "neither a run nor a folder"),
    ],
)
def test_what_cannot_be_measured_is_one_clear_line(generate: Any, more: dict[str, Any], words: str) -> None:
    options: dict[str, Any] = {"metrics": ["fd"], "n": 70, "seeds": (0,), "data": MNIST, "say": quiet, **more}
    with pytest.raises(UserError) as error:
        evaluate(generate or (lambda n, s: torch.rand(n, 1, 28, 28)), **options)
    assert words in str(error.value) and "\n" not in str(error.value)


def test_a_full_disk_does_not_take_the_scores_along_and_a_folder_that_cannot_be_written_stops_it_at_once(
    few: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(receipts: Any, path: Path) -> None:
        if receipts:  # at the beginning there was room
            raise OSError(28, "No space left on device", str(path))

    said: list[str] = []
    (tmp_path / "out" / "receipts.jsonl").mkdir(parents=True)
    with pytest.raises(OSError):
        scores(lambda n, s: pytest.fail("samples were drawn"), "fd", data=few, out=tmp_path / "out")
    monkeypatch.setattr(evaluation, "append", full)
    found = scores(of(few, "train"), "memorised_pixels", n=50, data=few, out=tmp_path, say=said.append)
    assert [*found] == ["memorised_pixels"] and "No space left on device" in said[-1]


# ---- folders of pictures -----------------------------------------------------------------------------------------


def test_a_folder_has_the_scores_of_its_pictures_however_many_and_in_whatever_files(
    few: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    digits = mnist("validation")[:120]
    direct = scores(lambda n, s: digits, "fd", n=120, data=few)["fd"]
    monkeypatch.chdir(tmp_path)  # where a folder that is called like a data set is still that folder
    for name, mode in (("mnist", "L"), ("two", "P"), ("three", "RGBA")):
        write(tmp_path / name, digits, mode=mode)
        found = scores(name, "fd", n=3000, data=few, say=said.append)["fd"]
        assert found.value == pytest.approx(direct.value) and found.metric == "fd_mnist_120"
        assert any(f"there are 120 pictures in {name}: the measures take 120 samples, not 3,000" in t for t in said)
    assert not any("JPEG" in text for text in said)
    write(tmp_path / "two", digits[:3], kind="jpg")
    scores("two", "memorised_pixels", data=few, say=said.append)
    assert any(text.startswith("3 of the 123 pictures are JPEG") for text in said)


def test_pictures_of_another_size_or_kind_are_refused_by_name(few: Data, tmp_path: Path) -> None:
    colour = np.zeros((28, 28, 4), np.uint8)
    colour[:, :, 0], colour[:, :, 3] = 9, 255
    for picture, words in (
        (Image.new("L", (40, 36)), "is 36x40 .height x width.*28x28 with 1 channel"),
        (Image.fromarray(colour[..., :3]), "is in colour"),
        (Image.fromarray(colour // 2), "is transparent"),
    ):
        picture.save(tmp_path / "odd.png")
        with pytest.raises(UserError, match=f"odd.png {words}"):
            scores(tmp_path, "memorised_pixels", n=50, data=few)


def test_of_a_larger_folder_a_fixed_draw_is_scored_and_not_the_first_files(few: Data, tmp_path: Path) -> None:
    said: list[str] = []
    folder = write(tmp_path, torch.cat([of_class(digit)[:30] for digit in range(10)]))
    found = scores(folder, "classes", data=few, n=120, say=said.append)
    assert found["class_tv"].value < 0.2  # the first 120 of 300 would be four classes: 0.6
    assert any("120 of the 300" in text for text in said)
    assert found == scores(folder, "classes", data=few, n=120)


# ---- makers from pictures ----------------------------------------------------------------------------------------


class Constant(nn.Module):
    """A network to be had by a sampler."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))


def sampler(make: Callable[..., Tensor], source: str, imitates: str, values: str = "unit") -> Sampler:
    maker = Maker(("G",), {"of": source}, imitates, lambda G, of: make(of))
    return Sampler(Constant(), Prior(), maker=maker, values=values)


def test_errors_of_pairs_in_closed_form() -> None:
    """PSNR of a constant error e: -20 log10 e; SSIM of two constants: the term of luminance alone."""
    truth = 0.9 * torch.rand(5, 3, 16, 24, generator=torch.Generator().manual_seed(0))

    def value(name: str, x: Tensor, y: Tensor) -> float:
        to: Any = SimpleNamespace(real=Images(y, None, CPU))
        return METRICS[name].measure(Images(x, None, CPU), to).values[name]

    each = torch.tensor([0.1, 0.01, 0.1, 0.01, 0.1]).view(-1, 1, 1, 1)  # the mean over pictures, not that of errors
    assert value("psnr", truth + each, truth) == pytest.approx((3 * 20 + 2 * 40) / 5, abs=1e-3)
    assert value("l1", truth + each, truth) == pytest.approx(0.064, abs=1e-7)
    assert value("psnr", truth, truth) == math.inf and value("ssim", truth, truth) == pytest.approx(1, abs=1e-9)
    a, b, c1 = 0.2, 0.7, 0.01**2
    flat = [torch.full((2, 1, 16, 16), x) for x in (a, b)]
    assert value("ssim", *flat) == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-6)
    assert value("ssim", truth, 1 - truth) < 0


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 pictures of 16x24 beside their negatives, 20 more of them to test with; and the two as two folders."""
    folder, generator = tmp_path_factory.mktemp("pairs"), torch.Generator().manual_seed(0)
    for name, n in (("", 70), ("test", 20)):
        a = torch.randint(0, 256, (n, 3, 16, 24), generator=generator) / 255
        write(folder / "halves" / name, torch.cat([a, 1 - a], 3))
        for side, images in (("a", a), ("b", 1 - a)):
            write(folder / "two" / name / side, images)
    return folder


def recipe(name: str, folder: Path, **flags: Any) -> Recipe:
    flags = {"data.name": str(folder), "img_size": [16, 24], "channels": 3, "data.validation": 10, **flags}
    return plan(name, flags=flags).recipe


def test_a_translation_is_compared_with_the_truth_of_the_same_index(pairs: Path) -> None:
    what = recipe("pix2pix", pairs / "halves", **{"data.pairs": "halves"})
    right, half = sampler(lambda a: -a, "a", "b", "signed"), sampler(lambda a: a * 0, "a", "b", "signed")
    said: list[str] = []
    found = scores(right, "l1", data=what, n=15, reference="test")["l1"]
    assert found.value < 1e-7 and found.metric == "l1_15" and found.real is None
    assert found.protocol["images"] == "16x24x3" and found.protocol["field"] == "b"
    assert found.protocol["made from"] == "a of the first 15 test images"
    grey = scores(half, "l1", data=what, n=1000, reference="test", say=said.append, seeds=(4, 5))["l1"]
    assert 0.2 < grey.value < 0.3 and grey.metric == "l1_20" and len(grey.values) == 1
    assert any("every seed makes the same" in text for text in said)
    assert any("there are 20 test pictures" in text and "not 1,000" in text for text in said)
    with pytest.raises(UserError, match="the recipe of their run"):
        scores(right, "l1", data=what.data)
    tiny = recipe("pix2pix", pairs / "halves", **{"data.pairs": "halves", "img_size": [8, 24]})
    with pytest.raises(UserError, match="ssim: it looks at squares of 11x11 pixels"):
        scores(right, "ssim", data=tiny)


def test_what_a_view_makes_is_what_is_compared(pairs: Path) -> None:
    """Colouring: a is the grey of b, so that a copy of it errs by what the colours differ from their luminance."""
    views = [{"name": "flip", "of": ["b"]}, {"name": "grey", "of": "b", "to": "a"}]
    what = recipe("pix2pix", pairs / "two" / "test" / "a", views=views)
    found = scores(sampler(lambda a: a, "a", "b", "signed"), "l1", data=what, n=10, reference="validation")["l1"]
    b = of(Data(str(pairs / "two" / "test" / "a"), (16, 24), 3, values="unit", validation=10), "validation")(10, 0)
    luminance = (b * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    assert found.value == pytest.approx((luminance - b).abs().mean().item(), abs=1e-6)
    assert found.protocol["views"] == "grey"


def test_every_seed_and_picture_has_a_random_stream_of_its_own(few: Data) -> None:
    what = plan("aae", flags={"data.name": few.name, "data.validation": 200}).recipe
    evaluator = Evaluator(what, metrics=["fd"], features="mnist", n=70, say=quiet)
    noisy = sampler(lambda x: x + torch.rand(1), "x", "x")
    made = evaluator.make(noisy, 70, 3)
    fields = evaluator.to.stored("test", "x").fields(CPU)
    assert torch.equal(made, noisy.translated(fields, range(210, 280)))
    assert evaluator.make(noisy, 70, derive_seed(0, 4)).shape == (70, 1, 28, 28)  # a large seed


def test_unpaired_translations_have_distances_and_no_truth(pairs: Path) -> None:
    what = recipe("cyclegan", pairs / "two")
    back = sampler(lambda b: -b, "b", "a", "signed")
    evaluator = Evaluator(what, maker=back.maker, reference="test", features="mnist", say=quiet)
    assert evaluator.metrics == ["memorised_pixels"] and evaluator.most == 20
    a = torch.cat([torch.from_numpy(np.array(Image.open(p)))[None] for p in sorted((pairs / "two/test/a").iterdir())])
    a = a.permute(0, 3, 1, 2) / 255
    made, real = evaluator.make(back, 20, 0), evaluator.to.real.pixels()
    assert torch.allclose(real, a[torch.from_numpy(mixed(20))]) and torch.allclose(made, real, atol=1e-6)
    with pytest.raises(UserError, match="psnr: .*a truth"):
        scores(back, "psnr", data=what, reference="test")


@pytest.fixture(scope="module")
def autoencoder(few: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = {"networks.E.widths": [8, 8], "networks.Dec.widths": [8, 8], "networks.D.widths": [8, 8]}
    folder = tmp_path_factory.mktemp("runs") / "aae"
    overrides = {"data.validation": 200, "sample_interval": 100, **small}
    return gansmith.train("aae", data=few.name, out=folder, steps=2, overrides=overrides, quiet=True)


def test_all_makers_of_a_run_are_scored_or_the_one_that_is_chosen(autoencoder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"features": "mnist", "n": 100, "seeds": (0, 1), "say": quiet, "device": "cpu"}
    found = evaluate(autoencoder, metrics=["fd", "memorised", "l1"], out=tmp_path, **options)
    assert [(receipt.subject["maker"], receipt.metric, len(receipt.values)) for receipt in found] == [
        *(("sample", name, 2) for name in ("fd_mnist_100", "memorised_mnist_100")),
        *(("reconstruct", name, 1) for name in ("fd_mnist_100", "memorised_mnist_100", "l1_100")),
    ]
    assert read(tmp_path / "receipts.jsonl") == found
    assert sorted(path.name for path in tmp_path.glob("*.png")) == [
        "nearest-aae-000002-reconstruct-memorised.png",
        "nearest-aae-000002-sample-memorised.png",
    ]
    [alone] = evaluate(autoencoder, metrics=["fd"], maker="reconstruct", **options)
    assert alone == found[2] and found[0].real == found[2].real == alone.real  # what is shared is the same
    with pytest.raises(UserError, match="made from is None and x of the first"):
        check_comparable([found[0], found[2]])
    with pytest.raises(UserError, match="no maker 'reconstuct'; did you mean reconstruct"):
        evaluate(autoencoder, maker="reconstuct", **options)
    folder, data = write(tmp_path / "pictures", mnist("test")[:100]), plan(autoencoder).recipe
    assert [r.measure for r in evaluate(folder, data=data, to="x", metrics=["fd"], **options)] == ["fd"]


# ---- during training ---------------------------------------------------------------------------------------------


@pytest.fixture
def train(few: Data) -> Callable[..., Path]:
    def go(out: Path, steps: int, **more: Any) -> Path:
        overrides = {
            **{"networks.G.widths": [16], "networks.G.hidden": ["relu"], "networks.D.units": [8, 8]},
            **{"data.validation": 200, "evaluation.every": 10, "evaluation.n": 100, "evaluation.best": "parzen_ll"},
            **{"log_interval": 5, "checkpoint.interval": 10, "sample_interval": 1000, **more},
        }
        return gansmith.train("gan2014_mnist", data=few.name, out=out, steps=steps, overrides=overrides, quiet=True)

    return go


def logged(run: Path) -> dict[int, float]:
    key = "eval/parzen_ll_100_validation"
    return {row["round"]: row[key] for row in read_metrics(run / "metrics.jsonl") if key in row}


Train = Callable[..., Path]


def test_training_keeps_the_best_checkpoint_by_the_validation_images(train: Train, tmp_path: Path) -> None:
    run = train(tmp_path / "run", 40, lr=0.5)
    values = logged(run)
    assert list(values) == [0, 10, 20, 30, 40]
    best = max(values, key=lambda r: values[r])
    [kept] = checkpoint.everything(run / "best")
    assert int(kept.name) == best
    assert checkpoint.verify(kept)["score"] == {"metric": "parzen_ll_100_validation", "value": values[best]}
    kept_one = load(run, round="best")
    again = scores(
        lambda n, seed: kept_one.draw(n, derive_seed(0, 4)),
        *("parzen_ll",),
        **{"n": 100, "data": plan(run).recipe, "reference": "validation"},
    )
    assert kept_one.round == best and again["parzen_ll"].value == pytest.approx(values[best], abs=1e-9)


def test_evaluation_changes_nothing_of_the_training(train: Train, tmp_path: Path) -> None:
    runs = [
        train(tmp_path / "with", 20),
        train(tmp_path / "without", 20, **{"evaluation.every": 0, "evaluation.best": None}),
    ]
    trees: list[dict[str, Tensor]] = [{}, {}]
    for run, tensors in zip(runs, trees, strict=True):
        checkpoint.pack(checkpoint.read(run / "checkpoints" / "00000020")[0]["players"], tensors)
    for name, tensor in trees[0].items():
        assert torch.equal(tensor, trees[1][name]), name
    assert list(logged(runs[0])) == [0, 10, 20] and not logged(runs[1])


@pytest.mark.parametrize("damaged", [True, False])
def test_a_best_checkpoint_that_is_damaged_or_from_a_later_round_makes_place_for_the_next(
    train: Train, tmp_path: Path, damaged: bool
) -> None:
    run = train(tmp_path / "run", 10)
    [kept] = checkpoint.everything(run / "best")
    if damaged:
        (kept / "state.json").write_text("{")
    else:
        kept.rename(kept.with_name("00000099"))  # as if the process had been killed after it
    before = math.nan if damaged else checkpoint.verify(kept.with_name("00000099"))["score"]["value"]
    gansmith.train(run, steps=20, quiet=True)
    [now] = checkpoint.everything(run / "best")
    better = damaged or logged(run)[20] > before
    assert int(now.name) == (20 if better else 99)
    assert checkpoint.verify(now)["score"]["value"] == (logged(run)[20] if better else before)


def test_a_best_checkpoint_of_a_killed_session_stays_until_there_is_a_better_one(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = train(tmp_path / "run", 20)
    [kept] = checkpoint.everything(run / "best")
    kept.rename(kept.with_name("00000030"))
    at = {25: -math.inf, 26: math.inf}  # scores that are worse, and better, than what is there
    plain = Evaluator.__call__

    def scored(self: Evaluator, *args: Any) -> list[Receipt]:
        return [replace(r, values=[at.get(args[1]["round"], r.value)]) for r in plain(self, *args)]

    monkeypatch.setattr(Evaluator, "__call__", scored)
    for steps in at:
        gansmith.train(run, steps=steps, quiet=True, overrides={"evaluation.every": steps})
        [now] = checkpoint.everything(run / "best")
        assert int(now.name) == (30 if steps == 25 else 26)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"evaluation.best": "parzen"}, "did you mean parzen_ll"),
        ({"evaluation.metrics": ["memorised_pixels"], "evaluation.best": "memorised_pixels"}, "evaluation.best"),
        ({"data.validation": 0}, "data.validation"),
    ],
)
def test_a_wrong_evaluation_is_told_before_training_and_leaves_nothing(
    train: Train, tmp_path: Path, more: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        train(tmp_path / "run", 10, **more)
    assert not (tmp_path / "run").exists()


def test_fewer_draws_of_a_seed_are_the_first_of_more() -> None:
    what = plan("infogan", flags={"networks.G.width": 2, "networks.D.width": 2}).recipe
    prior = build_prior(what)
    drawn = Sampler(build_network(what, "G", prior), prior)
    many = drawn.draw(1200, 3)
    assert torch.equal(many[:37], drawn.draw(37, 3)) and torch.equal(many[:1100], drawn.draw(1100, 3))
    assert not torch.equal(many[:37], drawn.draw(37, 4)) and not torch.equal(many[:100], many[1100:])


# ---- the command line --------------------------------------------------------------------------------------------


def test_the_verb_prints_receipts_as_json_or_as_a_table_and_keeps_them(autoencoder: Path) -> None:
    args = ["evaluate", str(autoencoder), "--metrics", "parzen_ll", "--n", "90", "--maker", "sample", "--seeds", "0,1"]
    out = CliRunner().invoke(main, [*args, "--json"])
    [receipt] = json.loads(out.stdout)
    assert receipt["metric"] == "parzen_ll_90" and len(receipt["values"]) == 2, out.stderr
    assert receipt["subject"]["seeds"] == [0, 1] and receipt["subject"]["weights"] == "raw"
    assert [r.metric for r in read(autoencoder / "receipts.jsonl")].count("parzen_ll_90") == 1
    shown = CliRunner().invoke(main, args).stdout.splitlines()
    assert str(autoencoder) in shown[0] and shown[0].split()[-3:] == ["real", "images", "better"]
    assert len([line for line in shown if line.startswith("parzen_ll_90 (nats)")]) == 1
    assert any("historical" in line for line in shown) and any("standard error" in line for line in shown)


def test_copies_of_photos_are_told_by_features_alone_unless_pixels_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, torch.rand(60, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    data, said = Data(name=str(tmp_path), img_size=16, channels=3, validation=20), list[str]()
    options: dict[str, Any] = {"reference": "validation", "features": "mobilenet"}
    monkeypatch.setitem(evaluation.EXTRACTORS, "mobilenet", lambda *args: SimpleNamespace(name="mobilenet"))
    assert Evaluator(data, say=said.append, **options).metrics == ["mmd", "memorised"]
    assert any(text.startswith("memorised_pixels is left out: in pixels any blurred photo") for text in said)
    assert Evaluator(data, metrics=["memorised_pixels"], say=quiet, **options).metrics == ["memorised_pixels"]

    def none(*args: Any) -> Any:
        raise UserError("no network")

    monkeypatch.setitem(evaluation.EXTRACTORS, evaluation.there(), none)
    assert Evaluator(data, say=quiet, reference="validation").metrics == ["memorised_pixels"]

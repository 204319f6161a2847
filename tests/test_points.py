"""Points in the plane: the mixtures they follow, how many modes a generator finds, and the film of a training."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import gansmith
from gansmith import UserError
from gansmith.cli import main
from gansmith.data import Wanted, load_sets
from gansmith.data.load import KNOWN
from gansmith.evaluation.evaluator import Evaluator, evaluate
from gansmith.papers.points import FIELD, SIDE, draw_points, over_density
from gansmith.papers.toy import TOYS, Mixture
from gansmith.recipe import Data, plan
from gansmith.run.log import read_metrics

Numbers = NDArray[np.float64]
NAMES = ("ring", "grid")
GOOD_SHARE = 1 - math.exp(-4.5)  # of a normal in the plane within 3 deviations


def points(name: str, **options: Any) -> Any:
    (data,) = load_sets(Wanted(name, (1, 2), 1, **options))
    return data


# ---- the sets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_density_is_that_of_the_mixture_and_integrates_to_1_on_its_window(name: str) -> None:
    toy = TOYS[name]
    n = 600
    cell = (toy.window[1] - toy.window[0]) / n
    assert toy(toy.mesh(n)).sum() * cell**2 == pytest.approx(1, abs=1e-3)
    x = np.array([[0.1, -0.3], [2.0, 0.03], [1.4, 1.43]])
    exact = [sum(math.exp(-((a - c) ** 2 + (b - d) ** 2) / (2 * toy.deviation**2)) for c, d in toy.means) for a, b in x]
    np.testing.assert_allclose(toy(x), np.array(exact) / (len(toy.means) * 2 * math.pi * toy.deviation**2), rtol=1e-9)


def test_the_ring_and_the_grid_are_those_of_the_literature() -> None:
    ring, grid = (np.array(TOYS[name].means) for name in NAMES)
    np.testing.assert_allclose(np.hypot(*ring.T), 2)
    np.testing.assert_allclose(np.arctan2(ring[:, 1], ring[:, 0]) % (2 * np.pi), np.arange(8) * np.pi / 4)
    assert len({*map(tuple, grid)}) == 25 and {*grid.ravel()} == {-4, -2, 0, 2, 4}
    assert [TOYS[name].deviation for name in NAMES] == [0.02, 0.05]


@pytest.mark.parametrize("name", NAMES)
def test_every_stretch_of_points_follows_the_mixture(name: str) -> None:
    """A part for each mean, alike in number, and in it a normal: moments, and the shares within 1, 2, 3 deviations."""
    toy = TOYS[name]
    k = len(toy.means)
    train, test = points(name), points(name, split="test")
    assert train.images.shape == (50_000, 1, 1, 2) and test.images.shape == (10_000, 1, 1, 2)
    assert train.images.dtype == np.float32 and train.density is toy and train.digest != test.digest
    for some in (train.images, test.images, train.images[3000:8000]):
        x = some.reshape(-1, 2).astype(np.float64)
        part = toy.distances(x).argmin(1)
        assert abs(np.bincount(part, minlength=k) - len(x) / k).max() <= 5
        u = (x - np.array(toy.means)[part]) / toy.deviation
        assert abs(u.mean(0)).max() < 0.01 and abs(np.cov(u.T) - np.eye(2)).max() < 0.03
        own = np.array([u[part == i].mean(0) for i in range(k)])
        assert abs(own).max() < 6 / math.sqrt(len(x) / k)
        for r in (1, 2, 3):
            assert (np.hypot(*u.T) < r).mean() == pytest.approx(1 - math.exp(-(r**2) / 2), abs=0.005)


def test_another_size_is_refused_in_one_line() -> None:
    for size, channels in (((28, 28), 1), ((1, 2), 3), ((2, 1), 1), ((1, 1), 1)):
        with pytest.raises(
            UserError, match=r"^ring holds points: it needs img_size 1,2 and channels 1, .* recipe ring$"
        ):
            load_sets(Wanted("ring", size, channels))


# ---- the measures ----------------------------------------------------------------------------------------------


def scored(samples: Tensor, data: str = "ring") -> tuple[float, float]:
    what = Data(name=data, img_size=(1, samples.shape[-1]), values="raw")
    found = evaluate(lambda n, seed: samples, data=what, n=len(samples), seeds=[0], say=lambda text: None)
    assert [receipt.metric for receipt in found] == [f"{value}_{len(samples)}" for value in ("covered", "good")]
    return found[0].value, found[1].value


def test_modes_and_good_samples_of_sets_that_are_known() -> None:
    draws = torch.Generator().manual_seed(0)
    noise = torch.randn(2401, 1, 1, 2, generator=draws) * 0.02
    means = torch.tensor(TOYS["ring"].means).view(8, 1, 1, 2)
    covered, good = scored(means[torch.arange(2401) % 8] + noise)
    assert covered == 8 and good == pytest.approx(GOOD_SHARE, abs=0.006)  # 3 standard errors
    covered, good = scored(means[:1] + noise)
    assert covered == 1 and good == pytest.approx(GOOD_SHARE, abs=0.006)
    assert scored(torch.zeros(100, 1, 1, 2)) == (0, 0)
    rims = means[2:3] + torch.tensor([[0.0599, 0.0], [0.0, -0.0601]]).view(2, 1, 1, 2)  # 3 deviations are 0.06
    covered, good = scored(torch.cat([rims, means[3:4]]))
    assert covered == 2 and good == pytest.approx(2 / 3)
    assert scored(torch.tensor([-2.0, 3.4, 0.1, 9.0]).view(4, 1, 1, 1), "two_normals_1d") == (
        2,
        0.5,
    )  # on the line, too


def test_a_receipt_says_what_counts_and_what_real_points_reach() -> None:
    what = Data(name="grid", img_size=(1, 2), values="raw")
    toy = TOYS["grid"]
    samples = torch.from_numpy(toy.points(0, 2500)).view(-1, 1, 1, 2)
    covered, good = evaluate(lambda n, seed: samples[:n], data=what, seeds=[0], say=lambda text: None)
    assert covered.real == 25 and good.real == pytest.approx(GOOD_SHARE, abs=0.003)
    assert covered.protocol == {
        "n": 2500,
        "points": "grid",
        "good": "at most 3 deviations from the nearest mean",
        "covered": "at least 1 good sample",
    }
    (of_each,) = covered.details["good_of_each_mode"]
    assert len(of_each) == 25 and sum(of_each) == pytest.approx(2500 * good.value)


def test_points_and_pictures_are_not_scored_as_each_other() -> None:
    ring = Data(name="ring", img_size=(1, 2), values="raw")
    with pytest.raises(UserError, match="parzen_ll: it takes pictures, and these are points"):
        Evaluator(ring, metrics=["parzen_ll"])
    with pytest.raises(UserError, match="modes: it takes points of a known mixture"):
        Evaluator("mnist", metrics=["modes"])
    with pytest.raises(UserError, match="samples reach from nan"):
        scored(torch.full((10, 1, 1, 2), math.nan))


# ---- pictures --------------------------------------------------------------------------------------------------


def at(x: Numbers, picture: Image.Image, toy: Mixture) -> list[tuple[int, ...]]:
    """The colours of a picture at points (N, 2)."""
    low, high = toy.window
    pixels = np.asarray(picture)
    rows, columns = (high - x[:, 1]) / (high - low) * SIDE, (x[:, 0] - low) / (high - low) * SIDE
    return [tuple(pixels[int(r), int(c)]) for r, c in zip(rows, columns, strict=True)]


class Right(nn.Module):
    """D with the logit 50 x_1: sure that what lies to the right is real. In training mode it says the opposite."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(50.0))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x[:, 0, 0, 0] * (1 - 2 * self.training)


@pytest.mark.parametrize("objective", ["non_saturating", "wasserstein"])
def test_a_picture_shows_points_where_they_are_and_d_behind_them(objective: str) -> None:
    toy, judge = TOYS["grid"], Right()
    x = np.array([[1.0, 3.1], [-3.2, -1.0], [70.0, 0.0], [4.99, -4.99]])
    recipe = plan("grid", flags={"objective": objective}).recipe
    picture = over_density(torch.from_numpy(x).view(-1, 1, 1, 2), judge, recipe, toy)
    assert picture.size == (SIDE, SIDE) and picture.mode == "RGB" and judge.training
    for r, g, b in at(x[[0, 1]], picture, toy):
        assert r > 180 and g > 160 and r > b  # light, yellow
    (real,), (fake,) = at(np.array([[3.1, 1.0]]), picture, toy), at(np.array([[-3.1, 1.0]]), picture, toy)
    assert real[0] > 2 * real[2] and fake[2] > 2 * fake[0]


def test_a_picture_counts_good_samples_in_the_ring_around_each_mean() -> None:
    toy = TOYS["ring"]
    blank = np.zeros((FIELD, FIELD))
    far = np.full((1, 2), 50.0)
    rim = np.array([[2 + 3 * 0.02 + 3 * (toy.window[1] - toy.window[0]) / SIDE, 0.0]])
    (light,) = at(rim, draw_points(far, toy, blank), toy)
    assert min(light) > 100  # white on dark


# ---- a training ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    flags = {"sample_interval": 10, "log_interval": 10, "data.validation": 3000, "evaluation.every": 10}
    small = {"networks.G.widths": [16], "networks.D.widths": [16]}
    out = tmp_path_factory.mktemp("ring") / "run"
    return gansmith.train("ring", out=out, steps=20, device="cpu", quiet=True, overrides={**flags, **small})


def test_a_training_leaves_a_film_samples_and_scores(run: Path) -> None:
    for folder in ("growth", "samples"):
        assert [p.name for p in sorted((run / folder).iterdir())] == [f"{n:06d}.png" for n in (0, 10, 20)]
    with Image.open(run / "growth.gif") as film:
        assert film.n_frames == 3 and film.size[0] == SIDE
    growth, samples = ((run / folder / "000010.png").read_bytes() for folder in ("growth", "samples"))
    assert growth != samples
    scores = [row for row in read_metrics(run / "metrics.jsonl") if "eval/covered_10k" in row]
    assert {10, 20} <= {row["round"] for row in scores} and all(0 <= row["eval/good_10k"] <= 1 for row in scores)


def test_a_run_is_scored_and_leaves_receipts(run: Path, tmp_path: Path) -> None:
    found = evaluate(run, seeds=[0, 1], out=tmp_path, device="cpu", say=lambda text: None)
    assert [receipt.metric for receipt in found] == ["covered_2500", "good_2500"]
    assert all(len(receipt.values) == 2 for receipt in found) and (tmp_path / "receipts.jsonl").is_file()


def test_sample_gives_a_picture_or_the_points_themselves(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for words in (["--out", str(tmp_path / "x.png")], ["--seeds", "0-9", "--out", str(tmp_path / "x.npz")]):
        with pytest.raises(SystemExit, match="^0$"):
            main(["sample", str(run), "--device", "cpu", *words])
    with Image.open(tmp_path / "x.png") as picture:
        assert picture.size == (SIDE, SIDE)
    monkeypatch.setattr("gansmith.hub.local", lambda name, say, **more: {"hf:one/ring": run}.get(str(name), name))
    with pytest.raises(SystemExit, match="^0$"):
        main(["sample", "hf:one/ring", "--device", "cpu", "--out", str(tmp_path / "hub.png")])
    assert (tmp_path / "hub.png").read_bytes() == (tmp_path / "x.png").read_bytes()
    with np.load(tmp_path / "x.npz") as made:
        sampler = gansmith.load(run, device="cpu")
        expected = sampler.generate(sampler.latents(range(10))).flatten(1)
        assert np.array_equal(made["points"], expected.numpy()) and made["seeds"].tolist() == [*range(10)]
        assert (made["points"] < 0).any()  # raw coordinates, not pixels


def test_what_is_for_pictures_is_refused_in_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, says in (
        (
            ["sample", str(run), "--grid", "2x2"],
            "numbers, not pictures: --label, --grid and --traverse do not go with it",
        ),
        (["sample", str(run), "--out", "x.jpg"], "must be a file that ends in .png"),
        (["interpolate", str(run)], "makes numbers, not pictures"),
        (["figure", "density", str(run)], "density draws runs on normal_1d, two_normals_1d"),
    ):
        with pytest.raises(SystemExit, match="^2$"):
            main(words)
        (line,) = capsys.readouterr().err.splitlines()
        assert says in line


def test_a_generator_of_pictures_is_refused() -> None:
    flags = {"networks.G": {"name": "mlp_generator"}, "steps": 1}
    with pytest.raises(UserError, match="data.values is raw, and the network of G makes images in the range of signed"):
        gansmith.train("ring", quiet=True, overrides=flags)


def test_the_sets_are_known_by_name() -> None:
    assert {name for name, row in KNOWN.items() if row.load == "gansmith.papers.toy:load_toy"} == {*TOYS}

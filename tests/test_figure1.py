"""Figure 1 of the 2014 paper: sets with a known density, p_g by the change of variables, D*, the training between."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import gansmith
from gansmith import Sampler, UserError
from gansmith.data import Wanted, load_sets
from gansmith.data.stream import Stream
from gansmith.inference import open_run
from gansmith.papers import figures
from gansmith.papers.density import Stage, distance_of_d, jsd, optimal_d, pushforward
from gansmith.papers.figures import four_stages, stage
from gansmith.papers.line import Generator
from gansmith.papers.toy import TOYS, Mixture
from gansmith.priors import Normal, Uniform

Numbers = NDArray[np.float64]


def parts(toy: Mixture) -> list[tuple[float, NormalDist]]:
    """The same mixture out of the standard library."""
    return [(1 / len(toy.means), NormalDist(m, toy.deviation)) for (m,) in toy.means]


def cells(low: float, high: float, n: int) -> tuple[Numbers, Numbers]:
    """(edges, middles) of n equal cells."""
    edges = np.linspace(low, high, n + 1)
    return edges, (edges[1:] + edges[:-1]) / 2


def points(name: str, **options: Any) -> Any:
    (data,) = load_sets(Wanted(name, (1, 1), 1, **options))
    return data


# ---- the sets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["normal_1d", "two_normals_1d"])
def test_a_density_is_that_of_its_normals_and_every_stretch_of_points_follows_it(name: str) -> None:
    toy = TOYS[name]
    x = np.linspace(-12, 12, 2001)
    expected = [sum(w * n.pdf(v) for w, n in parts(toy)) for v in x]
    np.testing.assert_allclose(toy(x[:, None]), expected, rtol=1e-12, atol=1e-300)
    assert toy(x[:, None]).sum() * (x[1] - x[0]) == pytest.approx(1, abs=1e-9)
    _, shown = cells(*toy.window, 4000)
    assert toy(shown[:, None]).sum() * (shown[1] - shown[0]) > 0.9999
    train, test = points(name), points(name, split="test")
    held = points(name, split="validation", validation=1000)
    assert train.images.shape == (10_000, 1, 1, 1) and train.images.dtype == np.float32 and held.density is toy
    assert not np.intersect1d(train.images, test.images).size and train.digest != test.digest and len(held) == 1000
    for some in (train.images, test.images, held.images, train.images[3000:4000], train.images[77:277]):
        ordered = np.sort(some.ravel().astype(np.float64))  # Kolmogorov's distance
        below, i = np.array([sum(w * n.cdf(v) for w, n in parts(toy)) for v in ordered]), np.arange(len(some))
        distance = max(np.abs(below - i / len(i)).max(), np.abs(below - (i + 1) / len(i)).max())
        assert distance < 5 / len(some)  # random points: 0.9 / sqrt(len) on average


def test_numbers_pass_through_the_stream_as_they_are_and_are_not_taken_for_pictures(pictures: Path) -> None:
    data = points("normal_1d")
    for memory in ("device", "map"):
        options: Any = {"needs": (("x",),), "batch_size": 2500, "seed": 0, "memory": memory, "n_cpu": 2}
        stream = Stream([data], values="raw", **options)
        got = torch.cat([next(stream)["x"] for _ in range(4)])
        stream.close()
        assert np.array_equal(np.sort(got.numpy().ravel()), np.sort(data.images.ravel()))
    images = load_sets(Wanted(str(pictures), (16, 16), 1, n_cpu=1))
    for sets, values, right in (([data], "signed", "raw"), (images, "raw", "signed, unit or gcn")):
        with pytest.raises(UserError, match=f"data.values is {values}; .* must be {right}"):
            Stream(sets, values=values, **options)
    with pytest.raises(UserError, match="needs img_size 1 and channels 1, not 28 and 1, and .* raw"):
        load_sets(Wanted("normal_1d", (28, 28), 1))


# ---- p_g -------------------------------------------------------------------------------------------------------


def test_folds_are_counted_from_both_sides_and_points_make_a_histogram() -> None:
    """|z| of U(-1, 1) is U(0, 1); z^2 has the density 1 / (2 sqrt(x)), whose mean over a cell is known."""
    z, mass = np.linspace(-1, 1, 4001), np.full(4000, 1 / 4000)
    for slope in (0.7, -0.7):  # a line makes a box, and the cells at its ends have their share of it
        edges, g = cells(-1, 1, 80)[0], 0.25 + slope * z
        covered = np.clip(np.minimum(edges[1:], 0.95) - np.maximum(edges[:-1], -0.45), 0, None) / 0.025
        np.testing.assert_allclose(pushforward(g[:-1], g[1:], mass, edges), covered / 1.4, atol=1e-12)
    edges, _ = cells(0, 1, 50)
    np.testing.assert_allclose(pushforward(np.abs(z[:-1]), np.abs(z[1:]), mass, edges), 1, atol=1e-12)
    found = pushforward(z[:-1] ** 2, z[1:] ** 2, mass, edges)
    np.testing.assert_allclose(found, np.diff(np.sqrt(edges)) / np.diff(edges), atol=1e-4)
    x = np.random.default_rng(0).normal(size=4000)
    edges, _ = cells(-1, 1.5, 10)  # what is outside is missing
    found = pushforward(x, x, mass, edges)
    np.testing.assert_allclose(found, np.histogram(x, edges)[0] / (4000 * 0.25), atol=1e-12)


# ---- D* and what is measured against it ------------------------------------------------------------------------


def pair(p: NormalDist, q: NormalDist, d: Numbers | None = None) -> Stage:
    _, x = cells(-10, 10, 800)
    return Stage(0, x, np.array([p.pdf(v) for v in x]), np.array([q.pdf(v) for v in x]), d, np.empty(0), np.empty(0))


APART = (NormalDist(-5, 0.3), NormalDist(5, 0.3))


def test_the_optimal_d_of_two_normals_has_a_linear_logit() -> None:
    """log D* / (1 - D*) = log p - log q = (m_p - m_q)(x - (m_p + m_q) / 2) / s^2 where both have deviation s."""
    s = pair(NormalDist(1, 0.8), NormalDist(-0.5, 0.8))
    d = optimal_d(s.p_data, s.p_g)
    near = np.abs(s.x) < 4
    np.testing.assert_allclose(np.log(d / (1 - d))[near], (1.5 * (s.x - 0.25) / 0.64)[near], rtol=1e-9, atol=1e-9)
    assert optimal_d(np.array([0.0, 2.0, 0.0, 3.0]), np.array([0.0, 0.0, 2.0, 3.0])).tolist() == [0.5, 1, 0, 0.5]


def test_the_value_of_the_game_under_the_optimal_d_is_theorem_1() -> None:
    """E_p log D* + E_q log(1 - D*) = -log 4 + 2 JSD, which is 0 of equals and log 2 of strangers."""
    s = pair(NormalDist(0, 1), NormalDist(1, 0.5))
    d, h = optimal_d(s.p_data, s.p_g), s.x[1] - s.x[0]
    value = h * sum(p @ np.log(np.where(p > 1e-12, judged, 1)) for p, judged in ((s.p_data, d), (s.p_g, 1 - d)))
    assert jsd(s) == pytest.approx((value + math.log(4)) / 2, abs=1e-9)
    assert jsd(pair(NormalDist(0, 1), NormalDist(0, 1))) == pytest.approx(0, abs=1e-9)
    for strangers in (APART, (NormalDist(0, 1), NormalDist(30, 1))):  # the second is outside of the picture
        assert jsd(pair(*strangers)) == pytest.approx(math.log(2), abs=1e-9)


def test_the_distance_of_d_is_its_mean_error_where_there_is_mass() -> None:
    s = pair(*APART)
    best = optimal_d(s.p_data, s.p_g)
    wrong = np.where(s.x < 0, best - 0.4, best)  # on p_data's half alone
    for d, distance in ((best, 0), (np.full_like(best, 0.5), 0.5), (wrong, 0.2)):
        assert distance_of_d(s._replace(d=d)) == pytest.approx(distance, abs=1e-9)
    assert distance_of_d(s) == math.inf


# ---- a moment of a training ------------------------------------------------------------------------------------


class Straight(nn.Module):
    """D with the logit a x + b; not in eval mode it says something else."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(1.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.a * x.flatten(1).squeeze(1) - 0.5 + 9 * self.training


def test_g_starts_as_the_prior_moved_and_stretched() -> None:
    toy = TOYS["normal_1d"]
    box = stage(Sampler(Generator(1, (1, 1, 1), shift=0.5, scale=0.8), Uniform(dim=1, bound=2.0)), None, toy, 7)
    expected = np.where(np.abs(box.x - 0.5) < 1.59, 1 / 3.2, np.where(np.abs(box.x - 0.5) > 1.61, 0, np.nan))
    inside = ~np.isnan(expected)
    np.testing.assert_allclose(box.p_g[inside], expected[inside], atol=1e-4)
    np.testing.assert_allclose(box.heads, 0.5 + 1.6 * (2 * box.feet - 1), atol=1e-5)
    assert box.round == 7 and box.d is None and np.array_equal(box.p_data, toy(box.x[:, None]))

    bell = stage(Sampler(Generator(1, (1, 1, 1), shift=-1, scale=0.5), Normal(dim=1)), None, toy, 0)
    np.testing.assert_allclose(bell.p_g, [NormalDist(-1, 0.5).pdf(v) for v in bell.x], atol=1e-3)
    shares = (np.arange(20) + 0.5) / 20
    np.testing.assert_allclose(bell.heads, [NormalDist(-1, 0.5).inv_cdf(v) for v in shares], atol=1e-3)

    wide = stage(Sampler(Generator(4, (1, 1, 1), scale=0.5), Normal(dim=4)), None, toy, 0)  # N(0, 4 / 4)
    exact = [NormalDist().pdf(v) for v in wide.x.reshape(40, 10).mean(1)]
    np.testing.assert_allclose(wide.p_g.reshape(40, 10).mean(1), exact, atol=0.02)
    assert len(wide.feet) == len(wide.heads) == 0


@pytest.mark.parametrize("training", [True, False])
def test_d_is_the_sigmoid_of_its_score_in_eval_mode(training: bool) -> None:
    judge = Straight().train(training)
    found = stage(Sampler(Generator(1, (1, 1, 1)), Uniform(dim=1)), judge, TOYS["two_normals_1d"], 0)
    assert found.d is not None and judge.training == training
    np.testing.assert_allclose(found.d, 1 / (1 + np.exp(-(1.5 * found.x - 0.5))), atol=1e-6)


def test_the_four_stages_are_the_papers() -> None:
    """Stages whose p_g comes nearer step by step, and a D that is right at the third and the last."""
    data, stages = NormalDist(0, 1), []
    for round, (mean, error) in enumerate([(3, 0.3), (2.9, 0.2), (2.8, 0.05), (2.7, 0.2), (1, 0.1), (0.5, 0), (0, 0)]):
        s = pair(data, NormalDist(mean, 1))
        stages.append(s._replace(round=round, d=optimal_d(s.p_data, s.p_g) + error))
    start = jsd(stages[0])
    assert jsd(stages[3]) > start * 2 / 3 > start / 3 > jsd(stages[4])
    assert [s.round for s, _ in four_stages(stages)] == [0, 2, 4, 6]
    assert [s.round for s, _ in four_stages([s._replace(d=None) for s in stages])] == [0, 4, 6]
    assert [[s.round for s, _ in four_stages(stages[:n])] for n in (2, 1)] == [[0, 1], [0]]


# ---- the recipe ------------------------------------------------------------------------------------------------

FEW = {"sample_interval": 100, "checkpoint.interval": 10, "log_interval": 50}


def train(out: Path, steps: int, **keys: Any) -> Path:
    return gansmith.train("figure1", out=out, steps=steps, device="cpu", quiet=True, overrides={**FEW, **keys})


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("figure1") / "run", 200)


def test_training_brings_p_g_to_p_data_through_the_four_stages(
    run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The Wasserstein-1 distance to N(0, 1), from sorted samples, falls to a tenth or less; so does the divergence."""
    quantiles = np.array([NormalDist().inv_cdf((i + 0.5) / 10_001) for i in range(10_001)])
    away = {}
    for round in (0, 200):
        one = gansmith.load(run, round=round, device="cpu")
        x = np.sort(one.generate(torch.from_numpy(quantiles).float()[:, None]).flatten().double().numpy())
        away[round] = np.abs(x - quantiles).mean()
    assert away[0] == pytest.approx(1.5, abs=0.01)  # it starts 1.5 to the right, of the right width
    assert away[200] < away[0] / 10
    drawn: list[Stage] = []
    monkeypatch.setattr(figures, "save_stages", lambda stages, titles, path: drawn.extend(stages))
    figures.figure("density", run, out=tmp_path / "x.png", device="cpu")
    first, found, followed, last = drawn
    assert first.round == 0 and last.round == 200 and 0 < found.round < followed.round < 100
    assert distance_of_d(found) < 0.1 < 0.3 < distance_of_d(first) and distance_of_d(last) < distance_of_d(first) / 4
    assert jsd(found) > 2 / 3 * jsd(first) and jsd(followed) < jsd(first) / 3 and jsd(last) < jsd(first) / 8
    judge = open_run(run, 200).network("D", torch.device("cpu"), ema=False)
    again = stage(gansmith.load(run, device="cpu"), judge, TOYS["normal_1d"], 200)
    assert last.d is not None and np.array_equal(again.d, last.d) and np.array_equal(again.p_g, last.p_g)


def test_a_run_leaves_its_film_and_draws_the_stages_but_no_pictures(run: Path) -> None:
    assert [p.name for p in sorted((run / "growth").iterdir())] == [f"{n:06d}.png" for n in (0, 100, 200)]
    assert not (run / "samples").exists()
    with Image.open(run / "growth.gif") as film, Image.open(run / "growth" / "000100.png") as frame:
        assert film.n_frames == 3 and film.size[0] == frame.size[0] == 640  # wide enough as it is
    assert figures.figure("density", run, device="cpu") == run / "figure-density-000200.png"
    early = figures.figure("density", run, round=10, out=run / "early.png", device="cpu")  # round 0 and round 10
    for path, width in ((run / "figure-density-000200.png", 1440), (early, 720)):
        with Image.open(path) as picture:
            assert picture.size[0] == width
    for name in ("samples", "interpolation", "plane", "walk", "weights"):
        with pytest.raises(UserError, match="numbers, not pictures: gansmith figure density RUN draws them"):
            figures.figure(name, run, device="cpu")


@pytest.mark.parametrize("objective", ["wasserstein", "relativistic"])
def test_a_d_that_gives_no_probability_is_not_drawn(
    objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Stage] = []
    real = figures.save_stages
    monkeypatch.setattr(figures, "save_stages", lambda stages, *rest: (drawn.extend(stages), real(stages, *rest)))
    train(tmp_path / "run", 1, objective=objective)
    assert len(drawn) == 2 and all(s.d is None for s in drawn)

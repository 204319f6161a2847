"""Figure 1 of the 2014 paper: sets with a known density, p_g by the change of variables, D*, the training between."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import gansmith
from gansmith import Sampler, UserError, figures
from gansmith.data import Stream, load_images
from gansmith.data.toy import TOYS, Mixture
from gansmith.figures import four_stages, stage
from gansmith.networks.line import Generator
from gansmith.priors import Normal, Uniform
from gansmith.report import density
from gansmith.report.density import Stage, distance_of_d, jsd, optimal_d, pushforward

Numbers = NDArray[np.float64]


def parts(toy: Mixture) -> list[tuple[float, NormalDist]]:
    """The same mixture out of the standard library."""
    triples = zip(toy.weights, toy.means, toy.deviations, strict=True)
    return [(w, NormalDist(m, s)) for w, m, s in triples]


def kolmogorov(sample: NDArray[Any], toy: Mixture) -> float:
    """The largest distance between the sample's distribution function and the toy's."""
    ordered = np.sort(sample.ravel().astype(np.float64))
    below = np.array([sum(w * n.cdf(x) for w, n in parts(toy)) for x in ordered])
    i = np.arange(len(ordered))
    return float(max(np.abs(below - i / len(i)).max(), np.abs(below - (i + 1) / len(i)).max()))


def cells(low: float, high: float, n: int) -> tuple[Numbers, Numbers]:
    """(edges, middles) of n equal cells."""
    edges = np.linspace(low, high, n + 1)
    return edges, (edges[1:] + edges[:-1]) / 2


# ---- the sets --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOYS)
def test_a_density_is_that_of_its_normals_and_integrates_to_one(name: str) -> None:
    toy = TOYS[name]
    x = np.linspace(-12, 12, 2001)
    expected = [sum(w * n.pdf(v) for w, n in parts(toy)) for v in x]
    np.testing.assert_allclose(toy(x), expected, rtol=1e-12, atol=1e-300)
    assert toy(x).sum() * (x[1] - x[0]) == pytest.approx(1, abs=1e-9)
    _, shown = cells(*toy.window, 4000)
    assert toy(shown).sum() * (shown[1] - shown[0]) > 0.9999


@pytest.mark.parametrize("name", TOYS)
def test_the_points_follow_the_density_and_so_does_every_stretch_of_them(name: str) -> None:
    train = load_images(name, img_size=1, channels=1)
    test = load_images(name, img_size=1, channels=1, split="test")
    assert train.images.shape == (10_000, 1, 1, 1) and train.images.dtype == np.float32 and train.density is TOYS[name]
    assert not np.intersect1d(train.images, test.images).size and train.digest != test.digest
    for some in (train.images, test.images, train.images[3000:4000], train.images[77:277]):
        assert kolmogorov(some, TOYS[name]) < 5 / len(some)  # random points: 0.9 / sqrt(len) on average


def test_what_is_held_back_is_a_stretch_of_the_points_and_keeps_the_density() -> None:
    options: dict[str, Any] = {"img_size": 1, "channels": 1, "validation": 1000}
    train, held = (load_images("normal_1d", split=split, **options) for split in ("train", "validation"))
    assert (len(train), len(held)) == (9000, 1000) and held.density is train.density is TOYS["normal_1d"]
    assert kolmogorov(held.images, TOYS["normal_1d"]) < 5 / 1000


@pytest.mark.parametrize("memory", ["device", "map"])
def test_numbers_pass_through_the_stream_as_they_are(memory: str) -> None:
    data = load_images("normal_1d", img_size=1, channels=1)
    stream = Stream(data, batch_size=2500, seed=0, memory=memory, n_cpu=2, values="raw")
    got = torch.cat([next(stream).images for _ in range(4)])
    stream.close()
    assert got.dtype == torch.float32 and got.shape == (10_000, 1, 1, 1)
    assert np.array_equal(np.sort(got.numpy().ravel()), np.sort(data.images.ravel()))


def test_numbers_and_pictures_are_not_taken_for_each_other(pictures: Path) -> None:
    points = load_images("normal_1d", img_size=1, channels=1)
    images = load_images(str(pictures), img_size=16, channels=1, n_cpu=1)
    with pytest.raises(UserError, match="data.values is signed; for normal_1d it must be raw"):
        Stream(points, batch_size=2, seed=0)
    with pytest.raises(UserError, match="data.values is raw; .* must be signed, unit or gcn"):
        Stream(images, batch_size=2, seed=0, values="raw")
    for size, channels in ((28, 1), (1, 3)):
        with pytest.raises(UserError, match=f"needs img_size 1 and channels 1, not {size} and {channels}, and .* raw"):
            load_images("normal_1d", img_size=size, channels=channels)


# ---- p_g -------------------------------------------------------------------------------------------------------


def uniform_pieces(n: int) -> tuple[Numbers, Numbers]:
    """z in [-1, 1] cut into n pieces, with their mass."""
    return np.linspace(-1, 1, n + 1), np.full(n, 1 / n)


@pytest.mark.parametrize("slope", [0.7, -0.7])
def test_a_straight_line_makes_a_box_of_the_uniform(slope: float) -> None:
    """p_g(x) = 1 / (2 |slope|) between its ends, and the cells at the ends have their share of it."""
    z, mass = uniform_pieces(16)
    g = 0.25 + slope * z
    edges, x = cells(-1, 1, 80)
    found = pushforward(g[:-1], g[1:], mass, edges)
    covered = np.clip(np.minimum(edges[1:], 0.95) - np.maximum(edges[:-1], -0.45), 0, None) / 0.025
    np.testing.assert_allclose(found, covered / 1.4, atol=1e-12)
    assert found.sum() * 0.025 == pytest.approx(1)


def test_a_straight_line_makes_a_normal_of_the_normal() -> None:
    z = np.linspace(-6, 6, 2001)
    normal = NormalDist()
    mass = np.diff([normal.cdf(v) for v in z])
    g = 1 - 0.5 * z
    edges, x = cells(-3, 5, 400)
    there = NormalDist(1, 0.5)
    exact = np.diff([there.cdf(v) for v in edges]) / 0.02
    np.testing.assert_allclose(pushforward(g[:-1], g[1:], mass, edges), exact, atol=1e-4)


def test_a_fold_is_counted_from_both_sides() -> None:
    """|z| of U(-1, 1) is U(0, 1); z^2 has the density 1 / (2 sqrt(x)), whose mean over a cell is known."""
    z, mass = uniform_pieces(4000)
    edges, _ = cells(0, 1, 50)
    np.testing.assert_allclose(pushforward(np.abs(z[:-1]), np.abs(z[1:]), mass, edges), 1, atol=1e-12)
    found = pushforward(z[:-1] ** 2, z[1:] ** 2, mass, edges)
    np.testing.assert_allclose(found, np.diff(np.sqrt(edges)) / np.diff(edges), atol=1e-4)


def test_points_make_a_histogram_and_what_is_outside_is_missing() -> None:
    x = np.random.default_rng(0).normal(size=2500)
    edges, _ = cells(-1, 1.5, 10)
    found = pushforward(x, x, np.full(2500, 1 / 2500), edges)
    np.testing.assert_allclose(found, np.histogram(x, edges)[0] / (2500 * 0.25), atol=1e-12)
    half = pushforward(np.array([0.0]), np.array([2.0]), np.array([1.0]), np.array([0.5, 1.0, 1.5]))
    np.testing.assert_allclose(half, [0.5, 0.5])


# ---- D* and what is measured against it ------------------------------------------------------------------------


def pair(p: NormalDist, q: NormalDist, d: Numbers | None = None, n: int = 800) -> Stage:
    _, x = cells(-10, 10, n)
    empty = np.empty(0)
    return Stage(0, x, np.array([p.pdf(v) for v in x]), np.array([q.pdf(v) for v in x]), d, empty, empty)


def test_the_optimal_d_of_two_normals_has_a_linear_logit() -> None:
    """log D* / (1 - D*) = log p - log q = (m_p - m_q)(x - (m_p + m_q) / 2) / s^2 where both have deviation s."""
    s = pair(NormalDist(1, 0.8), NormalDist(-0.5, 0.8))
    d = optimal_d(s.p_data, s.p_g)
    near = np.abs(s.x) < 4
    np.testing.assert_allclose(np.log(d / (1 - d))[near], (1.5 * (s.x - 0.25) / 0.64)[near], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(optimal_d(s.p_g, s.p_data), 1 - d, atol=1e-12)
    assert optimal_d(np.array([0.0, 2.0, 0.0, 3.0]), np.array([0.0, 0.0, 2.0, 3.0])).tolist() == [0.5, 1, 0, 0.5]


def test_the_value_of_the_game_under_the_optimal_d_is_theorem_1() -> None:
    """E_p log D* + E_q log(1 - D*) = -log 4 + 2 JSD."""
    s = pair(NormalDist(0, 1), NormalDist(1, 0.5))
    d, h = optimal_d(s.p_data, s.p_g), s.x[1] - s.x[0]
    value = h * sum(p @ np.log(np.where(p > 1e-12, judged, 1)) for p, judged in ((s.p_data, d), (s.p_g, 1 - d)))
    assert jsd(s) == pytest.approx((value + math.log(4)) / 2, abs=1e-9)


def test_the_divergence_is_0_of_equals_log_2_of_strangers_and_knows_what_it_cannot_see() -> None:
    here, there = NormalDist(0, 1), NormalDist(30, 1)
    assert jsd(pair(here, here)) == pytest.approx(0, abs=1e-9)
    assert jsd(pair(NormalDist(-5, 0.3), NormalDist(5, 0.3))) == pytest.approx(math.log(2), abs=1e-9)
    assert jsd(pair(here, there)) == pytest.approx(math.log(2), abs=1e-9)  # all of p_g is outside of the picture


def test_the_distance_of_d_is_its_mean_error_where_there_is_mass() -> None:
    s = pair(NormalDist(-5, 0.3), NormalDist(5, 0.3))
    best = optimal_d(s.p_data, s.p_g)
    assert distance_of_d(s._replace(d=best)) == pytest.approx(0, abs=1e-12)
    assert distance_of_d(s._replace(d=np.full_like(best, 0.5))) == pytest.approx(0.5, abs=1e-9)
    wrong = np.where(s.x < 0, best - 0.4, best)  # on p_data's half alone
    assert distance_of_d(s._replace(d=wrong)) == pytest.approx(0.2, abs=1e-9)
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
    assert box.round == 7 and box.d is None and np.array_equal(box.p_data, toy(box.x))

    bell = stage(Sampler(Generator(1, (1, 1, 1), shift=-1, scale=0.5), Normal(dim=1)), None, toy, 0)
    np.testing.assert_allclose(bell.p_g, [NormalDist(-1, 0.5).pdf(v) for v in bell.x], atol=1e-3)
    shares = (np.arange(20) + 0.5) / 20
    np.testing.assert_allclose(bell.heads, [NormalDist(-1, 0.5).inv_cdf(v) for v in shares], atol=1e-3)

    wide = stage(Sampler(Generator(4, (1, 1, 1), scale=0.5), Normal(dim=4)), None, toy, 0)  # N(0, 4 / 4)
    binned = wide.p_g.reshape(40, 10).mean(1)
    exact = [NormalDist().pdf(v) for v in wide.x.reshape(40, 10).mean(1)]
    np.testing.assert_allclose(binned, exact, atol=0.02)
    assert len(wide.feet) == len(wide.heads) == 0


@pytest.mark.parametrize("training", [True, False])
def test_d_is_the_sigmoid_of_its_score_in_eval_mode(training: bool) -> None:
    judge = Straight().train(training)
    found = stage(Sampler(Generator(1, (1, 1, 1)), Uniform(dim=1)), judge, TOYS["two_normals_1d"], 0)
    assert found.d is not None
    np.testing.assert_allclose(found.d, 1 / (1 + np.exp(-(1.5 * found.x - 0.5))), atol=1e-6)
    assert judge.training == training


def test_the_axes_follow_from_the_data_alone() -> None:
    limits = set()
    for q, d in ((NormalDist(0, 1), None), (NormalDist(2, 0.01), np.full(800, 0.9))):
        ax = Figure().add_axes((0, 0, 1, 1))
        density._draw(ax, pair(NormalDist(0, 1), q, d))
        limits.add((ax.get_xlim(), ax.get_ylim()))
    assert len(limits) == 1


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
    assert [s.round for s, _ in four_stages(stages[:2])] == [0, 1]
    assert [s.round for s, _ in four_stages(stages[:1])] == [0]


# ---- the recipe ------------------------------------------------------------------------------------------------

FEW = {"sample_interval": 50, "checkpoint.interval": 10, "log_interval": 50}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("figure1") / "run"
    return gansmith.train("figure1", out=out, steps=200, device="cpu", quiet=True, overrides=FEW)


def samples_of(run: Path, round: int) -> Numbers:
    sampler = gansmith.load(run, round=round, device="cpu")
    z = torch.special.ndtri((torch.arange(10_001, dtype=torch.float64) + 0.5) / 10_001).float()[:, None]
    return np.sort(sampler.generate(z).flatten().double().numpy())


def test_training_brings_p_g_to_p_data(run: Path) -> None:
    """The Wasserstein-1 distance to N(0, 1), from sorted samples, falls to a tenth or less; so does the divergence."""
    quantiles = np.array([NormalDist().inv_cdf((i + 0.5) / 10_001) for i in range(10_001)])
    before, after = (np.abs(samples_of(run, round) - quantiles).mean() for round in (0, 200))
    assert before == pytest.approx(1.5, abs=0.01)  # it starts 1.5 to the right, of the right width
    assert after < before / 10
    found = {}
    for round in (0, 200):
        judge = figures.load_network(run, "D", round=round, device="cpu").net
        found[round] = stage(gansmith.load(run, round=round, device="cpu"), judge, TOYS["normal_1d"], round)
    assert jsd(found[200]) < jsd(found[0]) / 8
    assert distance_of_d(found[200]) < distance_of_d(found[0]) / 4


def test_a_run_leaves_its_film_and_the_four_stages(run: Path) -> None:
    assert [p.name for p in sorted((run / "growth").iterdir())] == [f"{n:06d}.png" for n in range(0, 201, 50)]
    assert not (run / "samples").exists()
    with Image.open(run / "growth.gif") as film, Image.open(run / "growth" / "000050.png") as frame:
        assert film.n_frames == 5 and film.size[0] == frame.size[0] == 640  # wide enough as it is
    path = figures.figure("density", run, device="cpu")
    assert path == run / "figure-density-000200.png"
    with Image.open(path) as picture:
        assert picture.size[0] == 1440  # four panels
    half = figures.figure("density", run, round=10, out=run / "early.png", device="cpu")
    with Image.open(half) as picture:
        assert picture.size[0] == 720  # round 0 and round 10


def test_the_stages_of_the_run_are_in_order(run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    drawn: list[Stage] = []
    monkeypatch.setattr(figures, "save_stages", lambda stages, titles, path: drawn.extend(stages))
    figures.figure("density", run, out=tmp_path / "x.png", device="cpu")
    first, found, followed, last = drawn
    assert first.round == 0 and last.round == 200 and 0 < found.round < followed.round < 100
    assert distance_of_d(found) < 0.1 < 0.3 < distance_of_d(first)
    assert jsd(found) > 2 / 3 * jsd(first) and jsd(followed) < jsd(first) / 3


def test_two_runs_of_a_seed_leave_the_same_film_and_another_seed_does_not(tmp_path: Path) -> None:
    films = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        options = {**FEW, "sample_interval": 4}
        out = gansmith.train(
            "figure1", out=tmp_path / name, steps=8, seed=seed, device="cpu", quiet=True, overrides=options
        )
        films.append([p.read_bytes() for p in (*sorted((out / "growth").iterdir()), out / "growth.gif")])
    assert films[0] == films[1] and all(a != c for a, c in zip(films[0], films[2], strict=True))


def test_a_resumed_run_is_the_run() -> None:
    found = gansmith.verify("figure1", steps=6, device="cpu", overrides=FEW)
    assert found.exact, found.different


@pytest.mark.parametrize("objective", ["wasserstein", "relativistic"])
def test_a_d_that_gives_no_probability_is_not_drawn(
    objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Stage] = []
    monkeypatch.setattr("gansmith.record.save_stages", lambda stages, titles, path: _blank(path, drawn, stages))
    overrides = {**FEW, "objective": objective}
    gansmith.train("figure1", out=tmp_path / "run", steps=2, device="cpu", quiet=True, overrides=overrides)
    assert drawn and all(s.d is None for s in drawn)


def _blank(path: Path, drawn: list[Stage], stages: list[Stage]) -> None:
    drawn.extend(stages)
    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (8, 8)).save(path)


@pytest.mark.parametrize("name", ["samples", "interpolation", "plane", "walk", "weights"])
def test_numbers_are_not_drawn_as_pictures(name: str, run: Path) -> None:
    with pytest.raises(UserError, match="numbers, not pictures: gansmith figure density RUN draws them"):
        figures.figure(name, run, device="cpu")
    with pytest.raises(UserError, match="numbers, not pictures"):
        gansmith.load(run, device="cpu").sample([0])


def test_a_run_on_pictures_has_no_density(pictures: Path, small: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    out = gansmith.train(
        "gan", data=pictures, out=tmp_path / "run", steps=1, device="cpu", quiet=True, overrides=small("gan")
    )
    with pytest.raises(UserError, match="whose density nobody knows; density draws runs on normal_1d"):
        figures.figure("density", out, device="cpu")

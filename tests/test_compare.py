"""Comparisons: which rows there are, what is not done again, what a difference says, a page that nothing escapes."""

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from conftest import CPU
from PIL import Image, ImageColor
from scipy.stats import t as student_t

from gansmith import compare as module
from gansmith import comparison, series
from gansmith.cli import main
from gansmith.compare import compare, planned
from gansmith.comparison import Comparison, difference, page, table
from gansmith.errors import UserError
from gansmith.metrics import bootstrap
from gansmith.metrics.bootstrap import interval, student
from gansmith.recipe import plan
from gansmith.run.curves import LINES, plot_overlaid
from gansmith.run.folder import locked
from gansmith.tables import Table

VARY = {"objective": {"gan": "gan", "hinge": "hinge"}}
FOLDER = {"data.validation": 20, "log_interval": 1}


def values(*of: float, start: int = 0) -> list[tuple[int, float]]:
    return list(enumerate(of, start))


# ---- statistics --------------------------------------------------------------------------------------------------


def test_the_same_seeds_are_compared_in_pairs_and_others_row_by_row() -> None:
    first, better = values(1, 20, 300, 4000, 5), values(1.5, 20.4, 300.6, 4000.5, 5.4)
    low, high = interval(first, better) or (0, 0)
    assert 0.3999 < low < high < 0.6001  # no bootstrap leaves the range of what it draws
    low, high = interval(first, values(1.5, 20.4, 300.6, 4000.5, 5.4, start=9)) or (0, 0)
    assert low < -1000 and high > 1000
    assert interval(values(1, 2, 3), values(3, 4, 5)) == (2, 2)
    low, high = interval(values(0, 0, 0), values(1, 2, 6)) or (0, 0)
    assert (low, high) == (1, 6)  # with 3 seeds Student's t asks for all that there is


def test_an_interval_needs_three_finite_seeds_and_the_words_follow_from_it() -> None:
    assert (
        interval(values(1, 2), values(3, 4)) is None and interval(values(1, 2, 3), values(1, 2, float("nan"))) is None
    )
    assert difference(values(1, 2), values(3, 4), "lower") == "+2\nno interval: fewer than 3 seeds"
    assert difference(values(1, 2, 3), values(3, 4, 5), "lower") == "+2 [2, 2]\nworse"
    assert difference(values(1, 2, 3), values(3, 4, 5), "higher") == "+2 [2, 2]\nbetter"
    assert difference(values(3, 4, 5), values(1, 2, 3), "lower") == "-2 [-2, -2]\nbetter"
    assert difference(values(3, 4, 5), values(1, 2, 3), "1") == "-2 [-2, -2]\ndiffers"
    assert difference(values(1, 2, 3), values(0, 2, 4), "lower") == "0 [-1, 1]\nno difference at this n"
    assert difference(values(1, 2, 3), values(1, 2, float("inf")), "lower") == "not all scores are finite"


def test_the_quantile_is_students() -> None:
    for free, off in ((2, 0.04), (3, 0.01), (4, 0.003), (8, 2e-4), (100, 1e-6)):
        assert student(free) == pytest.approx(student_t.ppf(0.975, free), rel=off)


@pytest.mark.parametrize(("n", "start", "holds"), [(3, 0, 0.75), (5, 0, 0.92), (10, 0, 0.95), (5, 50, 0.945)])
def test_how_often_an_interval_holds_the_truth(
    n: int, start: int, holds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As its docstring and the table say; without the expansion it were 84 % for 5 pairs."""
    monkeypatch.setattr(bootstrap, "RESAMPLES", 2000)
    rng, trials = np.random.default_rng(0), 800
    draws = (interval(values(*rng.normal(size=n)), values(*rng.normal(1, 1, n), start=start)) for _ in range(trials))
    share = np.mean([low <= 1 <= high for low, high in filter(None, draws)])
    assert share == pytest.approx(holds, abs=3 * (holds * (1 - holds) / trials) ** 0.5)


# ---- what is compared --------------------------------------------------------------------------------------------


def test_every_combination_is_a_row_with_a_run_for_each_seed(tmp_path: Path) -> None:
    lrs = {"1e-4": "1e-4", "2e-4": 2e-4}
    rows = planned(
        ["gan", "wgan_gp"], {"objective": {"lsgan": "lsgan"}, "lr": lrs}, {"steps": 9}, (0, 3), tmp_path, CPU
    )
    assert [*rows] == [f"{a} lsgan lr={b}" for a in ("gan", "wgan_gp") for b in lrs]
    job = rows["wgan_gp lsgan lr=1e-4"][1]
    assert (job.run, job.seed) == (tmp_path / "wgan_gp-lsgan-lr=1e-4-3", 3)
    recipe = job.recipe
    assert recipe.objective is not None and recipe.objective.name == "least_squares" and recipe.seed == 3
    assert recipe.optimizers["D"].args["lr"] == 1e-4 and recipe.steps == 9
    rows = planned(["gan"], {"lr": {"1e-4": 1e-4}}, {"minutes": 0.5}, (0,), tmp_path, CPU)
    assert [row[0].run.name for row in rows.values()] == ["gan-lr=1e-4-0.5min-0"]  # other minutes are other runs
    assert [*planned(["gan"], {}, {}, (0,), tmp_path, CPU)] == ["gan"]


def refused(tmp_path: Path, *words: str) -> str:
    done = CliRunner().invoke(main, ["compare", *words, "--out", str(tmp_path / "out")])
    assert done.exit_code == 2 and not (tmp_path / "out").exists(), done.output
    said = [line for line in done.output.splitlines() if "error" in line]
    assert len(said) == 1, done.output
    return said[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("gna", "did you mean gan"),
        ("gan --vary lrr=1|2", "lrr: there is no such key; did you mean lr?"),
        ("gan --lrr 1", "did you mean lr?"),
        ("gan --vary lr", "'lr=1e-4|2e-4'"),
        ("gan --vary lr=|", "lr has no value to vary"),
        ("gan --vary lr=1|2 --vary lr=3", "is varied twice"),
        ("gan --vary lr=1|2 --lr 3", "lr is varied and set"),
        ("gan --objective ,", "objective has no value to vary"),
        ("gan --objective hinge,hing", "did you mean hinge"),
        ("gan --objective gan,vanilla", "vanilla and gan are one and the same"),
        ("gan gan", "gan and gan are one and the same"),
        ("gan --seeds 0", "0 is not in the range"),
        ("gan --vary seed=1|2", "--seeds K"),
        ("gan --vary img_size=16|28", "img_size=16 and img_size=28 are not compared: data.img_size is 16 and 28"),
        ("gan ring", "gan and ring are not compared: data.name is mnist and ring"),
        ("gan --minutes 1 --jobs 2", "with --minutes it must be 1"),
        ("gan --metrics fdd", "did you mean fd"),
        ("gan --metrics psnr", "psnr: it compares each sample with a truth"),
    ],
)
def test_what_cannot_be_compared_is_told_before_anything_is_trained(tmp_path: Path, words: str, said: str) -> None:
    assert said in refused(tmp_path, *words.split())


# ---- runs --------------------------------------------------------------------------------------------------------

Compare = Callable[..., Comparison]


@pytest.fixture(scope="module")
def go(pictures: Path) -> Compare:
    """go(out, ...): the recipe gan made small with two objectives, in this process."""
    from conftest import small_flags

    flags = small_flags("gan", **FOLDER, **{"data.name": str(pictures)})

    def call(
        out: Path, what: Any = ("gan",), *, vary: Any = VARY, steps: int = 3, more: Any = (), **options: Any
    ) -> Any:
        options = {"seeds": (0, 1, 2), "jobs": 1, "device": "cpu", "quiet": True, "n": 20, **options}
        return compare(what, vary=vary, flags={**flags, "steps": steps, **dict(more)}, out=out, **options)

    return call


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def done(go: Compare, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Comparison]:
    yield go(tmp_path_factory.mktemp("done"), say=silent)


@pytest.fixture
def again(done: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, to be changed, without curves."""
    png = (done.out / "curves.png").read_bytes()
    monkeypatch.setattr(comparison, "plot_overlaid", lambda rows, out, names: out.write_bytes(png))
    return Path(shutil.copytree(done.out, tmp_path / "again"))


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be trained, and nothing scored."""
    for home, name in ((series, "train"), (module, "evaluate")):
        monkeypatch.setattr(home, name, lambda *args, **options: pytest.fail("done again"))


def test_the_table_has_means_over_seeds_and_differences_to_the_first_row(done: Comparison) -> None:
    shown = table(done)
    assert shown.head[2] == "parzen_ll_20_validation (nats; higher is better)"
    assert [row[:2] for row in shown.rows] == [["gan", "3"], ["hinge", "3"], ["real images", ""]]
    scores = {}
    for name in ("gan", "hinge"):
        lines = [(done.out / f"gan-{name}-{seed}" / "compare.jsonl").read_text() for seed in range(3)]
        scores[name] = [json.loads(line)["value"] for line in lines]  # one set of samples each
    gan, hinge = (row[2].split("\n") for row in shown.rows[:2])
    for cell, of in ((gan, scores["gan"]), (hinge, scores["hinge"])):
        mean, spread = map(float, cell[0].split(" +- "))
        assert mean == pytest.approx(fmean(of), rel=0.01) and spread == pytest.approx(stdev(of), rel=0.1)
    assert len(gan) == 1 and float(hinge[1].split()[0]) == pytest.approx(
        fmean(scores["hinge"]) - fmean(scores["gan"]), rel=1e-3
    )
    assert [row[3:5] for row in shown.rows] == [["3", "24"], ["3", "24"], ["", ""]]  # rounds of 8 images
    assert (done.out / "table.md").read_text() == shown.markdown()
    assert done.failed == 0 and done.lost == {}


def test_what_is_there_is_neither_trained_nor_scored_again(
    go: Compare, again: Path, still: None, words: Any, small: Any, pictures: Path
) -> None:
    said: list[str] = []
    found = go(again, say=said.append)
    assert table(found).rows and said[5].startswith("6 of 6 runs: hinge, seed 2")
    line = [
        "compare",
        "gan",
        "--objective",
        "gan,hinge",
        "--seeds",
        "3",
        "--n",
        "20",
        "--jobs",
        "1",
        "--out",
        str(again),
    ]
    shown = CliRunner().invoke(main, [*line, *words({**small("gan"), "steps": 3, **FOLDER, "data": pictures})])
    assert shown.exit_code == 0 and "no difference at this n" in shown.stdout, shown.output
    minutes = plan("gan", flags={"minutes": 1}).recipe  # whose rounds a run has decided when it began
    assert series.at_length(again / "gan-hinge-0", minutes)


def test_what_was_begun_goes_on_and_only_the_longer_training_is_scored_anew(go: Compare, again: Path) -> None:
    shutil.rmtree(again / "gan-gan-1")
    for late in (again / "gan-gan-0" / "checkpoints" / "00000003", again / "gan-gan-2" / "curves.png"):
        shutil.rmtree(late) if late.is_dir() else late.unlink()  # what kill -9 may leave
    before = (again / "gan-hinge-0" / "checkpoints").stat().st_mtime_ns
    kept = (again / "gan-hinge-0" / "compare.jsonl").read_text()
    found = go(again, say=silent)
    assert [series.last_line(job.run)["round"] for row in found.rows.values() for job in row] == [3] * 6
    assert table(found).rows[0][2] == table(go(again, say=silent)).rows[0][2] and not found.lost
    assert (again / "gan-hinge-0" / "checkpoints").stat().st_mtime_ns == before
    assert (again / "gan-hinge-0" / "compare.jsonl").read_text() == kept
    longer = go(again, seeds=(0,), steps=4, say=silent)
    assert [row[3] for row in table(longer).rows] == ["4", "4", ""]
    assert len((again / "gan-hinge-0" / "compare.jsonl").read_text().splitlines()) == 2


def test_a_run_of_another_recipe_or_a_longer_one_is_left_alone(go: Compare, again: Path, still: None) -> None:
    with pytest.raises(
        UserError, match=r"gan-gan-0 is of another recipe than is asked for: optimizers\.G\.lr was 0\.0002"
    ):
        go(again, more={"lr": 0.1}, say=silent)
    with pytest.raises(UserError, match=r"gan-gan-0 was trained for longer than is asked for: 3 rounds"):
        go(again, steps=2, say=silent)


def test_a_run_that_diverges_or_fails_is_said_in_its_row_and_the_others_stand(
    go: Compare, again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = series.train_missing

    def train_missing(run: Path, *args: Any, **options: Any) -> None:
        if run.name == "gan-lr=0.001-1":
            raise RuntimeError("a broken part\nof mine")
        full(run, *args, **options)

    monkeypatch.setattr(module, "train_missing", train_missing)
    vary = {"lr": {"1e-3": 1e-3, "0.001": 1.001e-3, "1e30": 1e30}}
    found = go(again, vary=vary, seeds=(0, 1), say=silent)
    assert [row[1] for row in table(found).rows] == ["2", "1 of 2: 1 failed", "0 of 2: 2 diverged", ""]
    assert found.failed == 1
    below = "\n".join(table(found).below)
    assert "bootstrap" not in below  # two seeds have no interval
    assert (
        "lr=0.001, seed 1: RuntimeError: a broken part\n" in below
        and "lr=1e30, seed 1: training stopped in round" in below
    )
    monkeypatch.setattr(series, "train", lambda *args, **options: pytest.fail("what diverged is not tried again"))
    assert go(again, vary=vary, seeds=(0, 1), say=silent).lost == found.lost
    (again / "gan-lr=1e30-1" / series.DIVERGED).write_text("\x1b[2J a stranger's")
    said: list[str] = []
    assert "\x1b" not in table(go(again, vary=vary, seeds=(0, 1), say=said.append)).markdown() + "".join(said)
    assert "\N{REPLACEMENT CHARACTER}[2J a stranger's" in "".join(said)
    with pytest.raises(UserError, match="none of the runs can be compared; the first: training stopped"):
        go(again, vary={"lr": {"1e30": 1e30}}, seeds=(0, 1), say=silent)


def test_runs_by_folder_are_rows_by_recipe(go: Compare, again: Path, tmp_path: Path, still: None) -> None:
    runs = [again / f"gan-{name}-{seed}" for name in ("hinge", "gan") for seed in (2, 0, 1)]
    found = compare(runs, n=20, out=tmp_path / "out", device="cpu", say=silent)
    assert [*found.rows] == [str(runs[0]), str(runs[3])] and [len(row) for row in found.rows.values()] == [3, 3]
    assert "in pairs" in "\n".join(table(found).below) and not (tmp_path / "out" / "gan-gan-0").exists()
    with pytest.raises(UserError, match="lr: runs are compared as they are"):
        compare(runs, flags={"lr": 1}, out=tmp_path / "out")
    with pytest.raises(UserError, match="a run is named twice"):
        compare([runs[0], runs[0]], out=tmp_path / "out")
    text = (runs[0] / "recipe.yaml").read_text()
    (runs[0] / "recipe.yaml").write_text(text.replace("fit: crop", "fit: pad"))
    with pytest.raises(UserError, match=r"are not compared: data\.fit is pad and crop"):
        compare(runs, out=tmp_path / "out")


def test_scores_of_other_protocols_are_refused(done: Comparison, go: Compare, again: Path) -> None:
    file = again / "gan-hinge-0" / "compare.jsonl"
    text = file.read_text()
    odd = text.replace('"measure": "parzen_ll"', '"measure": "odd"') + text.replace(', "n": 20}', "}")
    file.write_text(odd + text.replace('"images": "16x16x1"', '"images": "32x32x1"'))
    with pytest.raises(UserError, match="are not compared: images is 16x16x1 and 32x32x1"):
        go(again, say=silent)


@pytest.mark.slow
def test_processes_side_by_side_find_what_one_finds(done: Comparison, go: Compare, again: Path) -> None:
    shutil.rmtree(again / "gan-gan-1")
    (again / "gan-hinge-0" / "compare.jsonl").write_text("no receipts")
    said: list[str] = []
    found = go(again, jobs=2, say=said.append)
    assert found.rows["gan"][1].run in found.scores and found.failed == 1
    assert [*map(str, found.lost)] == [str(again / "gan-hinge-0")]
    assert all("compare.jsonl does not hold receipts" in why for why in found.lost.values())
    (again / "gan-hinge-0" / "compare.jsonl").unlink()
    shown, before = table(go(again, say=silent)), table(done)
    assert [row[:5] for row in shown.rows] == [row[:5] for row in before.rows]  # all but the seconds


@pytest.mark.slow
def test_processes_side_by_side_stop_at_ctrl_c_and_end_with_their_parent(
    command: Callable[..., "subprocess.Popen[str]"], pictures: Path, tmp_path: Path, words: Any, small: Any
) -> None:
    flags = small("gan", **{"data.name": pictures, "steps": 10**6, "log_interval": 1, "sample_interval": 10**6})
    line = ["compare", "gan", "--seeds", 2, "--jobs", 2, "--out", "out", *words(flags)]
    runs = [tmp_path / "out" / f"gan-{seed}" for seed in (0, 1)]

    def started(after: list[int]) -> "subprocess.Popen[str]":
        process = command(*line, cwd=tmp_path, start_new_session=True)
        while process.poll() is None and any(
            series.last_line(r)["round"] <= k + 2 for r, k in zip(runs, after, strict=True)
        ):
            time.sleep(0.05)
        return process

    process = started([0, 0])
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "the same command goes on where it was" in said and "Traceback" not in said, (
        said
    )
    rounds = [int(max(path.name for path in (run / "checkpoints").iterdir())) for run in runs]
    assert min(rounds) > 2 and rounds == [series.last_line(run)["round"] for run in runs]
    process = started(rounds)  # it goes on, for the logs grow from there
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    for run, before in zip(runs, rounds, strict=True):
        with locked(run, wait=60):
            assert int(max(path.name for path in (run / "checkpoints").iterdir())) > before


# ---- the page ----------------------------------------------------------------------------------------------------


class Seen(HTMLParser):
    """All tags of a page with their attributes, and all its texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags = list[tuple[str, dict[str, str | None]]]()
        self.texts = list[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_the_page_is_one_file_with_curves_and_a_grid_of_each_row(done: Comparison) -> None:
    text = (done.out / "compare.html").read_text()
    seen = Seen(text)
    pictures = [str(at["src"]) for tag, at in seen.tags if tag == "img"]
    assert len(pictures) == 1 + 2 and not re.search(r"(src|href|url)\W{0,3}(http|/|\.)", text)
    sizes = []
    for source in pictures:
        kind, data = source.split(",")
        assert kind == "data:image/png;base64"
        sizes.append(Image.open(io.BytesIO(base64.b64decode(data))).size)
    assert sizes[0][0] > 1000 and sizes[1] == sizes[2] == (92, 92)  # five by five of 16 by 16
    assert {tag for tag, _ in seen.tags}.isdisjoint({"script", "link", "iframe", "object"})
    assert "gan, seed 0" in seen.texts and "hinge, seed 0" in seen.texts


def test_what_files_and_recipes_are_called_does_not_speak_html() -> None:
    evil = '"><script>alert(1)</script>&amp;'
    shown = Table(["", evil], [[evil, f"1\n{evil}"]], above=[evil], below=[evil])
    seen = Seen(page(shown, 1, b"png", {evil: b"png"}))
    assert "script" not in {tag for tag, _ in seen.tags}
    assert len([text for text in seen.texts if evil in text]) == 6 and ("img", evil) in [
        (tag, at.get("alt")) for tag, at in seen.tags
    ]
    assert "Content-Security-Policy" in {at.get("http-equiv") for _, at in seen.tags}


def test_rows_are_drawn_over_each_other_each_in_its_colour(tmp_path: Path) -> None:
    logs = [[tmp_path / f"{row}-{seed}.jsonl" for seed in (0, 1)] for row in range(2)]
    for row, paths in enumerate(logs):
        for seed, path in enumerate(paths):
            lines = [{"round": k, "images": 8 * k, "loss/$D_$": row + 0.1 * seed} for k in range(1, 20)]
            path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    plot_overlaid(logs, tmp_path / "curves.png", ["a$x_{$", "\N{HANGUL SYLLABLE HAN}"])
    pixels = np.asarray(Image.open(tmp_path / "curves.png").convert("RGB")).reshape(-1, 3).astype(int)
    for colour, _ in LINES[:2]:
        assert (np.abs(pixels - ImageColor.getrgb(colour)).sum(1) < 30).sum() > 200
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UserError, match="none of the runs has logged"):
        plot_overlaid([[tmp_path / "empty.jsonl"]], tmp_path / "curves.png")


def test_classifiers_are_compared_by_their_accuracy(tmp_path: Path, small: Any) -> None:
    flags = {**small("sgan", img_size=28), "data.labelled": 20, "steps": 2}
    ways = {"game.lambda_unlabelled": {"0": 0, "1": 1}}
    found = compare(["sgan"], vary=ways, flags=flags, seeds=[0], metrics=["accuracy"], n=50, jobs=1, out=tmp_path)
    assert all({*kept} == {"accuracy"} and kept["accuracy"].values for kept in found.scores.values())
    assert len(found.scores) == 2 and "accuracy_50" in (tmp_path / "table.md").read_text()
    assert "accuracy: the game simultaneous of gan tells no classes" in refused(
        tmp_path, "gan", "--metrics", "accuracy"
    )

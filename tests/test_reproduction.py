"""Reproductions: what is trained, what is not trained twice, and the table."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gansmith import checkpoint, series
from gansmith.errors import UserError
from gansmith.evaluation.evaluator import evaluate
from gansmith.papers import reproduction
from gansmith.papers.reproduction import REPRODUCTIONS, Reproduction, Row, Variant, reproduce, table
from gansmith.recipe import plan
from gansmith.run.log import read_metrics

SMALL: dict[str, Any] = {
    **{"data.validation": 30, "batch_size": 20, "networks.G.widths": [8], "networks.D.units": [4, 4]},
    **{"networks.G.hidden": ["relu"], "evaluation.every": 1, "evaluation.n": 30, "sample_interval": 1000},
    "log_interval": 1,
}


def quiet(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reproduction]:
    """A reproduction of a second: 40 pictures to train on, 30 held back, 30 to test with; windows of 25 samples."""
    folder, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, n in (("train", 70), ("test", 30)):
        (folder / split).mkdir()
        for i in range(n):
            Image.fromarray(rng.integers(0, 256, (28, 28), dtype=np.uint8)).save(folder / split / f"{i}.png")
    small = {**SMALL, "data.name": str(folder)}
    what = Reproduction(
        takes="seconds",
        paper=("225", "2"),
        where="a test",
        metric="parzen_ll",
        variants={
            "paper": Variant("as it is", "gan2014_mnist", small),
            "other": Variant("another loss", "gan2014_mnist", {**small, "objective": "minimax"}),
            "fast": Variant("too fast", "gan2014_mnist", {**small, "lr": 1e30, "schedules": []}),
            "fast at once": Variant(
                "before its first line", "gan2014_mnist", {**small, "lr": 1e30, "schedules": [], "log_interval": 1000}
            ),
        },
    )
    full = reproduction.evaluate
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REPRODUCTIONS, "tiny", what)
        patch.setattr(reproduction, "evaluate", lambda *args, **options: full(*args, n=25, **options))
        yield what


@pytest.fixture(scope="module")
def done(tiny: Reproduction, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Row]]:
    out = tmp_path_factory.mktemp("done")
    options: dict[str, Any] = {"n_epochs": 2, "out": out, "quiet": True, "say": quiet}
    first = reproduce("tiny", seeds=(0,), only=["paper", "other"], **options)
    return out, first + reproduce("tiny", seeds=(1,), only=["paper"], **options)


@pytest.fixture
def again(done: tuple[Path, list[Row]], tmp_path: Path) -> Path:
    """The same, to be changed: two epochs of paper and other, of seed 0."""
    for name in ("paper-0", "other-0"):
        shutil.copytree(done[0] / name, tmp_path / "again" / name)
    return tmp_path / "again"


def test_the_table_has_every_variant_and_seed_beside_paper_and_real_images(
    tiny: Reproduction, done: tuple[Path, list[Row]]
) -> None:
    out, rows = done
    assert [(row.variant, row.seed) for row in rows] == [("paper", 0), ("other", 0), ("paper", 1)]
    for row in rows:
        log = read_metrics(row.run / "metrics.jsonl")
        scores = {line["round"]: line[key] for line in log for key in line if key.startswith("eval/")}
        best = max(scores, key=lambda n: scores[n])
        assert row.receipt.subject["round"] == best and row.best_epoch == best / 2 and row.epochs == 2
        assert plan(row.run).recipe.seed == row.seed
    found = table(tiny, rows)
    assert (out / "table.md").read_text() == found.markdown()
    paper, ours, other, real = found.rows
    values = [row.receipt.value for row in rows if row.variant == "paper"]
    mean, spread = sum(values) / 2, abs(values[0] - values[1]) / 2**0.5
    assert (paper[1], paper[5], ours[1:4]) == ("225", "2", [f"{mean:.2f}", f"{spread:.2f}", "0, 1"])
    assert other[0] == "other: another loss" and real[1] == f"{rows[0].receipt.real:.2f}"
    assert len(json.loads((out / "table.json").read_text())) == 3
    assert (out / "curves.png").stat().st_size > 1000


def test_what_is_there_is_not_done_again_and_what_is_unfinished_goes_on(
    again: Path, done: tuple[Path, list[Row]], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def run(n_epochs: int) -> Row:
        options: dict[str, Any] = {"only": ["paper"], "n_epochs": n_epochs, "out": again, "quiet": True}
        return reproduce("tiny", seeds=(0,), say=said.append, **options)[0]

    # Other receipts of a run are not taken for its score.
    evaluate(again / "paper-0", metrics=["parzen_ll"], n=30, seeds=(7,), round="best", out=again / "paper-0", say=quiet)
    with monkeypatch.context() as patch:
        for module, name in ((series, "train"), (reproduction, "evaluate")):
            patch.setattr(module, name, lambda *args, **options: pytest.fail("done again"))
        first = run(2)
    assert first.receipt == done[1][0].receipt and first.epochs == 2
    longer = run(4)  # scored again, since the longer training may have another best
    [best] = (first.run / "best").iterdir()
    assert longer.epochs == 4
    assert longer.receipt.subject["checkpoint"] == checkpoint.verify(best)["sha256"][checkpoint.TENSORS][:12]
    assert [row["variant"] for row in json.loads((again / "table.json").read_text())] == ["paper", "other"]


def test_wrong_names_are_told_with_the_nearest_right_one(tiny: Reproduction, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean gan2014_mnist"):
        reproduce("gan2014_mnits", out=tmp_path)
    with pytest.raises(UserError, match="did you mean paper"):
        reproduce("tiny", only=["papers"], out=tmp_path)
    with pytest.raises(UserError, match=r"such as range\(3\)"):
        reproduce("tiny", seeds=3, out=tmp_path)  # type: ignore[arg-type]


def test_every_variant_is_a_recipe_that_keeps_its_best_by_the_metric_on_the_same_images() -> None:
    what = REPRODUCTIONS["gan2014_mnist"]
    recipes = {key: plan(v.recipe, flags=v.changes).recipe for key, v in what.variants.items()}
    for key, recipe in recipes.items():
        assert recipe.evaluation.best == what.metric and recipe.evaluation.every > 0, key
        assert recipe.data.validation == 10_000 and recipe.data.name == "mnist", key
        assert recipe.evaluation.n == 10_000, key
    paper = recipes.pop("paper")
    assert paper.ema.halflife_kimg is None and recipes["averaged"].ema.halflife_kimg == 500
    assert replace(recipes["averaged"], ema=paper.ema) == paper
    for key in ("alternating", "minimax", "k5"):
        assert recipes[key].networks == paper.networks and recipes[key].optimizers == paper.optimizers
        assert recipes[key].schedules == paper.schedules
    assert recipes["k5"].game.args["n_critic"] == 5 and recipes["alternating"].game.name == "alternating"


def test_what_does_not_belong_to_the_table_is_refused_or_left_out_and_said(again: Path) -> None:
    said: list[str] = []
    options: dict[str, Any] = {"n_epochs": 2, "out": str(again), "quiet": True, "say": said.append}
    shutil.rmtree(again / "other-0")
    for name in ("other-0", "paper-1", "paper-2"):
        shutil.copytree(again / "paper-0", again / name)
    text = (again / "paper-1" / "recipe.yaml").read_text()
    (again / "paper-1" / "recipe.yaml").write_text(text.replace("seed: 0", "seed: 1"))
    [best] = (again / "paper-1" / "best").iterdir()
    (best / checkpoint.TENSORS).write_bytes(b"")
    reproduce("tiny", only=["paper"], seeds=(0,), **options)
    told = [text for text in said if "left out of the table" in text]
    assert len(told) == 3
    assert "other-0" in told[2] and "objective.name" in told[2]
    assert "paper-1" in told[0] and "broken" in told[0]
    assert "paper-2" in told[1] and "seed was 0 and is 2" in told[1]
    assert [row["seed"] for row in json.loads((again / "table.json").read_text())] == [0]
    with pytest.raises(UserError, match=r"other-0 is of another recipe.*objective\.name"):
        reproduce("tiny", only=["other"], seeds=(0,), **options)


def test_a_training_that_diverges_is_scored_as_far_as_it_came_and_not_trained_again(
    again: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    options: dict[str, Any] = {"seeds": (0,), "n_epochs": 2, "out": again, "quiet": True, "say": said.append}
    names = ["fast", "fast at once"]
    first = reproduce("tiny", only=names, **options)
    assert [(row.diverged, row.best_epoch) for row in first] == [(True, 0), (True, 0)]
    assert any("not finite" in text for text in said)
    monkeypatch.setattr(series, "train", lambda *args, **options: pytest.fail("trained again"))
    assert reproduce("tiny", only=names, **options) == first
    assert any("fast-0 diverged before" in text for text in said)
    assert (again / "table.md").read_text().count("0 (diverged); 1 of 1 diverged |") == 2

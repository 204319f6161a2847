"""Reproductions: what is trained, what is not trained twice, and the table."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gansmith import checkpoint, reproduction
from gansmith.errors import UserError
from gansmith.evaluation import evaluate
from gansmith.recipe import plan
from gansmith.report.log import read_metrics
from gansmith.reproduction import REPRODUCTIONS, Reproduction, Variant, reproduce, table

SMALL: dict[str, Any] = {
    "data.validation": 59_000,
    "batch_size": 500,
    "networks.G.widths": [8],
    "networks.D.units": [4, 4],
    "networks.G.hidden": ["relu"],
    "evaluation.every": 1,
    "evaluation.n": 50,
    "sample_interval": 1000,
    "log_interval": 1,
}
TINY = Reproduction(
    paper=("225", "2"),
    where="a test",
    metric="parzen_ll",
    variants={
        "paper": Variant("as it is", "gan2014_mnist", SMALL),
        "other": Variant("another loss", "gan2014_mnist", {**SMALL, "objective": "minimax"}),
    },
)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reproduction of seconds, its Parzen windows of 40 samples."""
    monkeypatch.setitem(REPRODUCTIONS, "tiny", TINY)
    full = reproduction.evaluate
    monkeypatch.setattr(reproduction, "evaluate", lambda *args, **options: full(*args, n=40, **options))


def test_the_table_has_every_variant_and_seed_beside_paper_and_real_images(tiny: None, tmp_path: Path) -> None:
    rows = reproduce("tiny", seeds=(0, 1), n_epochs=2, out=tmp_path / "out", quiet=True, say=lambda text: None)
    assert [(row.variant, row.seed) for row in rows] == [("paper", 0), ("other", 0), ("paper", 1), ("other", 1)]
    for row in rows:
        scores = {
            r["round"]: v for r in read_metrics(row.run / "metrics.jsonl") for k, v in r.items() if k[:5] == "eval/"
        }
        best = max(scores, key=lambda n: scores[n])
        assert row.receipt.subject["round"] == best and row.best_epoch == best / 2 and row.epochs == 2
        assert plan(row.run).recipe.seed == row.seed
    text = (tmp_path / "out" / "table.md").read_text()
    assert text == table(TINY, rows)
    paper, ours, other, real = [line for line in text.splitlines() if line.startswith("| ")][2:]
    values = [row.receipt.value for row in rows if row.variant == "paper"]
    mean, spread = sum(values) / 2, abs(values[0] - values[1]) / 2**0.5
    assert (
        "| 225 | | | | 2 |" in paper.replace("|  |", "| |").replace("|  |", "| |")
        and f"| {mean:.2f} | {spread:.2f} | 0, 1 |" in ours
    )
    assert other.startswith("| other: another loss |")
    assert f"{rows[0].receipt.real:.2f}" in real
    assert len(json.loads((tmp_path / "out" / "table.json").read_text())) == 4
    assert (tmp_path / "out" / "curves.png").stat().st_size > 1000


def test_what_is_there_is_not_done_again_and_what_is_unfinished_goes_on(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(n_epochs: int) -> Any:
        [row] = reproduce(
            "tiny", seeds=(0,), only=["paper"], n_epochs=n_epochs, out=tmp_path, quiet=True, say=lambda text: None
        )
        return row

    first = run(2)
    longer = run(4)
    assert (first.epochs, longer.epochs) == (2, 4)
    calls: list[str] = []
    monkeypatch.setattr(reproduction, "train", lambda *args, **options: calls.append("train"))
    monkeypatch.setattr(reproduction, "evaluate", lambda *args, **options: calls.append("evaluate"))
    torch.manual_seed(0)
    again = run(4)
    assert not calls and again == longer
    [best] = (first.run / "best").iterdir()  # scored again, since the longer training has another best
    assert longer.receipt.subject["checkpoint"] == checkpoint.verify(best)["sha256"][checkpoint.TENSORS][:12]
    assert longer.receipt.subject["checkpoint"] != first.receipt.subject["checkpoint"]


def test_wrong_names_are_told_with_the_nearest_right_one(tiny: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gan2014_mnits.*did you mean gan2014_mnist"):
        reproduce("gan2014_mnits", out=tmp_path)
    with pytest.raises(UserError, match=r"papers.*did you mean paper\?.*paper, other"):
        reproduce("tiny", only=["papers"], out=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", REPRODUCTIONS)
def test_every_variant_is_a_recipe_that_keeps_its_best_by_the_metric_on_the_same_images(name: str) -> None:
    what = REPRODUCTIONS[name]
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


def test_a_short_trial_does_not_stand_for_the_whole_and_the_table_keeps_what_is_there(
    tiny: None, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"seeds": (0,), "out": tmp_path, "quiet": True, "say": lambda text: None}
    [trial] = reproduce("tiny", only=["paper"], n_epochs=1, **options)
    [other] = reproduce("tiny", only=["other"], n_epochs=2, **options)
    assert "| paper: " in (tmp_path / "table.md").read_text() and "| other: " in (tmp_path / "table.md").read_text()
    [whole] = reproduce("tiny", only=["paper"], n_epochs=3, **options)
    assert (trial.epochs, other.epochs, whole.epochs) == (1, 2, 3)
    assert [row["variant"] for row in json.loads((tmp_path / "table.json").read_text())] == ["paper", "other"]


def test_other_receipts_of_a_run_are_not_taken_for_its_score(tiny: None, tmp_path: Path) -> None:
    options: dict[str, Any] = {"seeds": (0,), "out": tmp_path, "quiet": True, "say": lambda text: None}
    [before] = reproduce("tiny", only=["paper"], n_epochs=2, **options)
    evaluate(before.run, metrics=["parzen_ll"], n=30, seeds=(7,), round="best", out=before.run, say=lambda text: None)
    [after] = reproduce("tiny", only=["paper"], n_epochs=2, **options)
    assert after == before


def test_a_run_of_another_recipe_is_refused(tiny: None, tmp_path: Path) -> None:
    options: dict[str, Any] = {"out": tmp_path, "quiet": True, "say": lambda text: None}
    [row] = reproduce("tiny", only=["paper"], seeds=(0,), n_epochs=1, **options)
    row.run.rename(tmp_path / "other-0")
    with pytest.raises(UserError, match=r"other-0 is of another recipe.*objective\.name"):
        reproduce("tiny", only=["other"], seeds=(0,), n_epochs=1, **options)


def test_what_does_not_belong_to_the_table_is_left_out_and_said(tiny: None, tmp_path: Path) -> None:
    said: list[str] = []
    options: dict[str, Any] = {"n_epochs": 1, "out": str(tmp_path), "quiet": True, "say": said.append}
    [row] = reproduce("tiny", only=["paper"], seeds=(0,), **options)
    for name in ("other-0", "paper-1", "paper-2"):
        shutil.copytree(row.run, tmp_path / name)
    text = (tmp_path / "paper-1" / "recipe.yaml").read_text()
    (tmp_path / "paper-1" / "recipe.yaml").write_text(text.replace("seed: 0", "seed: 1"))
    [best] = (tmp_path / "paper-1" / "best").iterdir()
    (best / checkpoint.TENSORS).write_bytes(b"")
    reproduce("tiny", only=["paper"], seeds=(0,), **options)
    told = [text for text in said if "left out of the table" in text]
    assert len(told) == 3
    assert "other-0" in told[2] and "objective.name" in told[2]
    assert "paper-1" in told[0] and "broken" in told[0]
    assert "paper-2" in told[1] and "seed was 0 and is 2" in told[1]
    assert [row["seed"] for row in json.loads((tmp_path / "table.json").read_text())] == [0]


def test_a_count_is_no_seeds(tiny: None, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"seeds is 3; .*such as range\(3\)"):
        reproduce("tiny", seeds=3, out=tmp_path)  # type: ignore[arg-type]


def test_a_training_that_diverges_is_scored_as_far_as_it_came_and_the_others_go_on(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Variant("far too fast", "gan2014_mnist", {**SMALL, "lr": 1e30, "schedules": []})
    monkeypatch.setitem(REPRODUCTIONS, "tiny", replace(TINY, variants={"broken": broken, **TINY.variants}))
    said: list[str] = []
    rows = reproduce(
        "tiny", only=["broken", "paper"], seeds=(0,), n_epochs=2, out=tmp_path, quiet=True, say=said.append
    )
    assert [row.diverged for row in rows] == [True, False]
    assert any("not finite" in text for text in said)
    assert "0 (diverged); 1 of 1 diverged |" in (tmp_path / "table.md").read_text()


def test_a_seed_that_diverged_stays_so_in_later_calls_and_is_not_trained_again(
    tiny: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its first line of metrics, too: all that is there then is the score of round 0."""
    changes = {**SMALL, "lr": 1e30, "schedules": [], "log_interval": 1000, "evaluation.every": 1000}
    broken = Variant("far too fast", "gan2014_mnist", changes)
    monkeypatch.setitem(REPRODUCTIONS, "tiny", replace(TINY, variants={"broken": broken, **TINY.variants}))
    said: list[str] = []
    options: dict[str, Any] = {"n_epochs": 1, "out": tmp_path, "quiet": True, "say": said.append}
    first = reproduce("tiny", only=["broken"], seeds=(0, 1), **options)
    with monkeypatch.context() as never:
        never.setattr(reproduction, "train", lambda *args, **options: pytest.fail("trained again"))
        again = reproduce("tiny", only=["broken"], seeds=(0, 1), **options)
    assert again == first and [row.diverged for row in first] == [True, True] and first[0].best_epoch == 0
    assert any("broken-0 diverged before" in text for text in said)
    reproduce("tiny", only=["paper"], seeds=(0,), **options)
    text = (tmp_path / "table.md").read_text()
    assert "| 0 (diverged), 1 (diverged); 2 of 2 diverged |" in text and "| 0 |" in text
    assert [row["diverged"] for row in json.loads((tmp_path / "table.json").read_text())] == [True, True, False]

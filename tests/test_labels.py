"""A budget of labels, and makers that tell classes or clusters: what they see, and how they are scored."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import save_noise
from PIL import Image

import gansmith
from gansmith.data.load import budget, load_sets
from gansmith.data.prepare import Wanted
from gansmith.errors import UserError
from gansmith.evaluation.evaluator import evaluate
from gansmith.evaluation.labels import LABELS
from gansmith.evaluation.receipts import Receipt
from gansmith.inference import load
from gansmith.metrics.clusters import ari, cluster_accuracy, nmi

SEMI = (("x", "y"), ("u",))


def quiet(text: str) -> None: ...


# ---- the budget --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [2, 10, 99, 100, 1000])
def test_the_budget_is_exact_and_balanced(k: int) -> None:
    labels = np.random.default_rng(0).integers(0, 10, 5000)
    labels[labels == 9] = np.where(np.arange((labels == 9).sum()) < 7, 9, 8)  # of one class there are 7 only
    here = budget(labels, k)
    counts = np.bincount(labels[here], minlength=10)
    assert len(here) == len({*here.tolist()}) == counts.sum() == k and (np.diff(here) > 0).all()
    assert counts[9] <= 7 and counts[:9].max() - counts[:9].min() <= 1
    assert counts[9] == 7 or counts[:9].max() - counts[9] <= 1
    assert {*here.tolist()} >= {*budget(labels, k - 1).tolist()}  # a larger budget adds to a smaller one


def test_the_budget_of_mnist_is_the_same_everywhere() -> None:
    own, all_of_them = load_sets(Wanted("mnist", (28, 28), 1, needs=SEMI, labelled=100, say=quiet))
    assert own.labels is not None and np.bincount(own.labels).tolist() == [10] * 10
    (whole,) = load_sets(Wanted("mnist", (28, 28), 1, needs=(("x", "y"),), say=quiet))
    assert whole.labels is not None
    here = budget(whole.labels, 100)
    assert here[:8].tolist() == [97, 509, 532, 601, 677, 781, 1665, 2178] and (own.images == whole.images[here]).all()
    assert {*all_of_them.columns} == {"u"} and len(all_of_them) == 60_000 and all_of_them.digest == whole.digest
    every, _ = load_sets(Wanted("mnist", (28, 28), 1, needs=SEMI, say=quiet))
    assert len(every) == 60_000 and every.digest == whole.digest != own.digest
    test, _ = load_sets(Wanted("mnist", (28, 28), 1, needs=SEMI, labelled=100, split="test", say=quiet))
    assert len(test) == 10_000


def test_a_wrong_budget_is_refused(tmp_path: Path) -> None:
    for name in "01":
        save_noise(tmp_path / "two" / name, 3)
    save_noise(tmp_path / "none", 3)
    for what, needs, labelled, text in (
        ("two", SEMI, 1, r"data.labelled is 1, and two has 6 labelled images .* from 2, one for each class, to 6"),
        ("two", SEMI, 7, "data.labelled is 7"),
        ("two", (("x", "y"),), 4, "the game sees no pictures without labels: it must be null"),
        ("none", SEMI, 4, "there are no labels in .*one subfolder per class"),
    ):
        with pytest.raises(UserError, match=text):
            load_sets(Wanted(str(tmp_path / what), 16, needs=needs, labelled=labelled, say=quiet, n_cpu=1))


# ---- the measures ------------------------------------------------------------------------------------------------


def test_accuracy_by_hand() -> None:
    told, labels = torch.tensor([0, 1, 2, 2, 1]), torch.tensor([0, 2, 2, 2, 0])
    assert LABELS["accuracy"].measure(told, labels) == pytest.approx(3 / 5)
    assert cluster_accuracy(told, labels) == pytest.approx(3 / 5)
    assert cluster_accuracy((told + 1) % 3, labels) == pytest.approx(3 / 5)  # clusters have no names
    assert cluster_accuracy(torch.tensor([0, 1, 2, 3]), torch.tensor([0, 0, 1, 1])) == 1 / 2  # one each
    assert cluster_accuracy(torch.zeros(4, dtype=torch.int64), torch.tensor([0, 0, 0, 1])) == 3 / 4


def test_clusters_stand_for_the_classes_that_fit_best(monkeypatch: pytest.MonkeyPatch) -> None:
    told, labels = torch.randint(0, 5, (2, 60), generator=torch.Generator().manual_seed(1))
    best = max(sum(int(((told == i) & (labels == c)).sum()) for i, c in enumerate(p)) for p in permutations(range(5)))
    assert cluster_accuracy(told, labels) == pytest.approx(best / 60)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    with pytest.raises(UserError, match="^cluster_accuracy needs scipy, which is not installed: pip install scipy$"):
        cluster_accuracy(told, labels)


def test_agreement_of_partitions() -> None:
    labels = torch.tensor([0, 0, 1, 1])
    for told in (labels, 1 - labels, labels + 4):
        assert nmi(told, labels) == pytest.approx(1) and ari(told, labels) == pytest.approx(1)
    finer = torch.tensor([0, 0, 1, 2])  # I = log 2, H = log 2 and 1.5 log 2; pairs: 1 of 6, 2 and 1
    assert nmi(finer, labels) == pytest.approx(1 / 1.25)
    assert ari(finer, labels) == pytest.approx((1 - 2 / 6) / (1.5 - 2 / 6))
    crossed = torch.tensor([0, 1, 0, 1])  # independent
    assert nmi(crossed, labels) == pytest.approx(0, abs=1e-12) and ari(crossed, labels) == pytest.approx(-0.5)
    assert nmi(torch.zeros_like(labels), labels) == 0 and ari(torch.zeros_like(labels), labels) == 0


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_agreement_as_torchmetrics_has_it() -> None:
    clustering: Any = pytest.importorskip("torchmetrics.functional.clustering")
    draws = torch.Generator().manual_seed(0)
    told, noise = (torch.randint(0, 7, (500,), generator=draws) for _ in range(2))
    labels = torch.where(torch.rand(500, generator=draws) < 0.6, (told + 2) % 7, noise)
    assert nmi(told, labels) == pytest.approx(
        float(clustering.normalized_mutual_info_score(told, labels, "arithmetic")), abs=1e-5
    )
    assert ari(told, labels) == pytest.approx(float(clustering.adjusted_rand_score(told, labels)), abs=1e-5)


# ---- a run -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes that the brightness of noise tells apart, 12 pictures of each to train on and 9 to test."""
    made = tmp_path_factory.mktemp("brightness")
    for split, n in (("train", 12), ("test", 9)):
        for y in range(2):
            save_noise(made / split / str(y), n, seed=y)
            for path in (made / split / str(y)).iterdir():
                with Image.open(path) as picture:
                    picture.point(lambda v, y=y: 155 * y + v // 3).save(path)
    return made


Scored = dict[str, Receipt]


@pytest.fixture
def scored(folder: Path, small: Callable[..., dict[str, Any]], tmp_path: Path) -> Callable[..., tuple[Path, Scored]]:
    def run(recipe: str, steps: int, measures: list[str], **flags: Any) -> tuple[Path, Scored]:
        out = gansmith.train(
            recipe,
            data=folder,
            out=tmp_path / recipe,
            steps=steps,
            overrides=small(recipe, **flags),
            device="cpu",
            quiet=True,
        )
        found = evaluate(out, metrics=measures, device="cpu", out=out, say=quiet)
        return out, {receipt.metric: receipt for receipt in found}

    return run


@pytest.mark.parametrize("recipe", ["acgan", "sgan"])
def test_a_classifier_is_scored_on_the_test_pictures(
    recipe: str, folder: Path, scored: Callable[..., tuple[Path, Scored]]
) -> None:
    adam = {"name": "adam", "lr": 0.01}
    budget = {"data.labelled": 4} if recipe == "sgan" else {}
    out, found = scored(recipe, 30, ["accuracy"], **{"optimizers.D": adam}, **budget)
    receipt = found["accuracy_18"]
    assert {*found} == {"accuracy_18"} and receipt.value >= 0.9
    assert receipt.protocol["n"] == 18 and receipt.protocol["test"].startswith("18 images ")
    assert receipt.subject["maker"] == "classify" and receipt.subject["labels seen"] == (4 if budget else "all")
    sampler = load(out, maker="classify", device="cpu", say=quiet)
    (test,) = load_sets(Wanted(str(folder), (16, 16), 1, needs=(("x", "y"),), split="test", say=quiet, n_cpu=1))
    x = torch.from_numpy(test.images.copy()).float() / 127.5 - 1
    assert test.labels is not None
    right = sampler.logits({"x": x}).argmax(1).numpy() == test.labels
    assert receipt.value == pytest.approx(right.sum() / 18)
    for kind in ("latent", "pictures"):
        with pytest.raises(UserError, match="the maker classify makes no pictures"):
            load(out, maker="classify", kind=kind, say=quiet)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="nmi: nothing here"):
        evaluate(out, metrics=["nmi"], device="cpu", say=quiet)


def test_clusters_are_scored_with_labels_that_the_game_never_saw(scored: Callable[..., tuple[Path, Scored]]) -> None:
    out, found = scored("cluster_gan", 2, ["cluster_accuracy", "nmi", "ari"])
    assert {*found} == {"cluster_accuracy_18", "nmi_18", "ari_18"}
    assert 0.1 <= found["cluster_accuracy_18"].value <= 1 and all(math.isfinite(r.value) for r in found.values())
    assert found["nmi_18"].subject["labels seen"] == "none"

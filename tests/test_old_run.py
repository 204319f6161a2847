"""A run of gansmith 0.1.0, as it lay on disk: it still samples, goes on and scores as it did there.

tests/old_run/run is what was left by: gansmith train gan --img_size 8 --latent_dim 8 --networks.G.widths "[8, 8]"
--networks.D.widths "[8]" --batch_size 8 --data.validation 100 --ema.halflife_kimg 0.05 --steps 4. made.safetensors
holds what that version then made of it: samples of four seeds, weights and moments after 8 rounds, and scores.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import gansmith
from gansmith import checkpoint
from gansmith.evaluation.evaluator import evaluate

HERE = Path(__file__).parent / "old_run"
MADE = load_file(HERE / "made.safetensors")
# To the bit on the machine that made it; another processor may round otherwise.
ROUNDING = {"rtol": 1e-5, "atol": 1e-7}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return Path(shutil.copytree(HERE / "run", tmp_path / "run"))


def test_it_samples_the_same_pictures(run: Path) -> None:
    sampler = gansmith.load(run, device="cpu")
    assert sampler.averaged and sampler.round == 4
    assert np.array_equal(sampler.sample(range(4)), MADE["samples"])


def test_it_goes_on_to_the_same_weights_and_moments(run: Path) -> None:
    gansmith.train(run, steps=8, device="cpu", quiet=True)
    players = checkpoint.read(run / "checkpoints" / "00000008")[0]["players"]
    names = [name for name in MADE if name.startswith(("G.", "D."))]
    assert len(names) > 50
    for name in names:
        player, part, place = name.split(".", 2)
        np.testing.assert_allclose(found(players[player][part], place), MADE[name], **ROUNDING, err_msg=name)


def found(tree: Mapping[Any, Any], place: str) -> Any:
    """What lies at a dotted place; a network's tensors have dots in their names, an optimizer's states are numbered."""
    if place in tree:
        return tree[place]
    first, rest = place.split(".", 1)
    return found(tree[int(first) if first.isdecimal() else first], rest)


def test_it_scores_the_same(run: Path) -> None:
    names = [name for name in MADE if name.endswith("_validation")]
    said = {"n": 50, "seeds": [0, 1], "reference": "validation", "device": "cpu", "say": lambda text: None}
    receipts = evaluate(run, metrics=["parzen_ll", "memorised_pixels"], **said)  # type: ignore[arg-type]
    values = {receipt.metric: receipt.values for receipt in receipts}
    assert len(names) == 2
    for name in names:
        np.testing.assert_allclose(values[name], MADE[name], rtol=1e-5)

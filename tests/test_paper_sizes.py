"""Translators at the sizes of their papers: built, played for two rounds, and asked for a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import save_noise

import gansmith
from gansmith.run.log import read_metrics

SIZES: dict[str, tuple[str, dict[str, Any], float]] = {  # layout of the data, flags, parameters of all players
    "pix2pix": (
        "pairs",
        {
            "networks.G": {"name": "unet", "width": 64, "depth": 8},
            "networks.D": {"name": "pair_critic", "width": 64, "patch": 70},
        },
        57.2e6,
    ),
    "cyclegan": (
        "domains",
        {
            **{f"networks.{name}": {"name": "resnet_translator", "width": 64, "blocks": 9} for name in ("AB", "BA")},
            **{f"networks.{name}": {"name": "patch_critic", "width": 64, "patch": 70} for name in ("DA", "DB")},
        },
        28.3e6,
    ),
}


@pytest.mark.slow
@pytest.mark.usefixtures("blind")
@pytest.mark.parametrize("name", SIZES)
def test_a_translator_of_the_papers_size_trains_and_translates(name: str, tmp_path: Path) -> None:
    layout, flags, parameters = SIZES[name]
    for part in ("x",) if layout == "pairs" else ("A", "B"):
        folder = tmp_path / "data" / ("" if layout == "pairs" else part)
        save_noise(folder, 2, size=(256, 512 if layout == "pairs" else 256))
    never = {"sample_interval": 1000, "views": [], "evaluation.every": 0, "data.validation": 0}
    run = gansmith.train(
        name,
        data=tmp_path / "data",
        out=tmp_path / "run",
        steps=2,
        device="cpu",
        quiet=True,
        overrides={"img_size": 256, "batch_size": 1, "log_interval": 1, **never, **flags},
    )
    rows = read_metrics(run / "metrics.jsonl")
    assert len(rows) == 2 and all(np.isfinite(v) for row in rows for k, v in row.items() if k.startswith("loss/"))
    sampler = gansmith.load(run, device="cpu")
    (made,) = sampler.translate([np.zeros((sampler.shape[0], 256, 256), np.uint8)])  # type: ignore[index]
    assert made.shape == (sampler.shape[0], 256, 256) and made.std() > 0  # type: ignore[index]
    players = gansmith.inference.open_run(run).tree["players"].values()
    assert sum(t.numel() for p in players for t in p["net"].values()) == pytest.approx(parameters, rel=0.02)

"""Translators at the sizes of their papers: built, played for two rounds, and asked for a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import save_noise

import gansmith
from gansmith.run.log import read_metrics

HOLES: dict[str, Any] = {"views": [{"name": "hole", "place": "centre"}], "img_size": 128, "channels": 3}
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
    "context_encoder": (
        "pictures",
        {
            **HOLES,
            "networks.G": {"name": "context_encoder", "width": 64, "bottleneck": 4000},
            "networks.D": {"name": "patch_critic", "width": 64, "patch": 70},
        },
        74.4e6,
    ),
    "discogan": (
        "domains",
        {
            **{"img_size": 64},
            **{f"networks.{name}": {"name": "discogan_translator", "width": 64, "depth": 4} for name in ("AB", "BA")},
            **{f"networks.{name}": {"name": "discogan_critic", "width": 64, "depth": 4} for name in ("DA", "DB")},
        },
        16.6e6,
    ),
    "dualgan": (
        "domains",
        {
            **{f"networks.{name}": {"name": "unet", "width": 64, "depth": 8} for name in ("AB", "BA")},
            **{f"networks.{name}": {"name": "clipped_patch_critic", "width": 64, "patch": 70} for name in ("DA", "DB")},
        },
        114.4e6,
    ),
    "unit": (
        "domains",
        {
            **{f"networks.E{name}": {"name": "unit_encoder", "width": 64, "blocks": 3} for name in "AB"},
            **{f"networks.G{name}": {"name": "unit_decoder", "width": 64, "blocks": 3} for name in "AB"},
            **{f"networks.D{name}": {"name": "unit_critic", "width": 64, "layers": 6} for name in "AB"},
            "networks.S": {"name": "unit_shared", "width": 64, "blocks": 1},
        },
        68.3e6,
    ),
    "munit": (
        "domains",
        {
            **{f"networks.{x}": {"name": "munit_autoencoder", "width": 64, "blocks": 4, "units": 256} for x in "AB"},
            **{f"networks.D{x}": {"name": "munit_critic", "width": 64, "layers": 4, "scales": 3} for x in "AB"},
        },
        46.6e6,
    ),
    "bicyclegan": (
        "pairs",
        {
            "networks.G": {"name": "bicyclegan_unet", "width": 64, "depth": 8},
            "networks.E": {"name": "bicyclegan_encoder", "width": 64, "blocks": 4},
            **{f"networks.D_{x}": {"name": "bicyclegan_critic", "width": 64, "patch": 70} for x in ("VAE", "LR")},
        },
        65.5e6,
    ),
    "pixelda": (
        "classes",
        {
            "img_size": 32,
            "networks.G": {"name": "pixelda_translator", "width": 64, "blocks": 6},
            "networks.D": {"name": "pixelda_critic", "width": 64},
        },
        2.4e6,
    ),
    "stargan": (
        "attributes",
        {
            "img_size": 128,
            "networks.G": {"name": "stargan_translator", "width": 64, "blocks": 6},
            "networks.D": {"name": "stargan_critic", "width": 64, "layers": 6},
        },
        53.2e6,
    ),
}
IN_CI = ("pix2pix",)
PARTS = {
    "pictures": ("",),
    "pairs": ("",),
    "attributes": ("",),
    "domains": ("A", "B"),
    "classes": ("A/0", "A/1", "B/0", "B/1"),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name if name in IN_CI else pytest.param(name, marks=pytest.mark.large) for name in SIZES]
)
def test_a_translator_of_the_papers_size_trains_and_translates(name: str, tmp_path: Path) -> None:
    layout, flags, parameters = SIZES[name]
    for part in PARTS[layout]:
        save_noise(tmp_path / "data" / part, 2, size=(256, 512 if layout == "pairs" else 256))
    if layout == "attributes":
        table = "file,a,b,c,d,e\n000.png,0,1,0,1,0\n001.png,1,0,0,1,0\n"
        (tmp_path / "data" / "attributes.csv").write_text(table, encoding="utf-8")
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
    assert sampler.shape is not None
    wished = {"a": True} if layout == "attributes" else None
    mask = np.full((1, *sampler.shape[1:]), 255, np.uint8) if "mask" in sampler.maker.inputs else None
    (made,) = sampler.translate([np.zeros(sampler.shape, np.uint8)], attributes=wished, mask=mask)
    assert made.shape == sampler.shape and made.std() > 0
    players = gansmith.inference.open_run(run).tree["players"].values()
    assert sum(t.numel() for p in players for t in p["net"].values()) == pytest.approx(parameters, rel=0.02)

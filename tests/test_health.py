"""What a training's numbers say of its health: quiet where all is well, one line with a flag to try where it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gansmith
from gansmith.run.health import alike, trouble

WELL = {"loss/D": 0.4, "loss/G": 2.0, "D/real": 0.8, "D/fake": 0.2, "D/right_real": 0.9, "D/right_fake": 0.99}


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({}, None),
        ({"grad/G": 0.5, "lr/G": 1e-4}, None),
        ({"D/real": 3e8}, "D/real is 3.0e+08, so the scores explode; bound the critic"),
        ({"loss/G": -2e6}, "loss/G is -2.0e+06, so the scores explode"),
        ({"D/right_real": 1.0, "D/right_fake": 1.0, "loss/G": 27.0}, None),  # sure, while G still learns
        ({"D/right_real": 1.0, "D/right_fake": 1.0, "D/fake": 1e-6}, "D has won: .* a chance of 1e-06; lower its rate"),
        ({"D/right_real": 0.9, "D/right_fake": 1.0, "D/fake": 1e-6}, None),
        ({"grad/G": 1e-12}, "grad/G is 1.0e-12, so G no longer learns"),
        ({"grad/G": 0.0, "lr/G": 0.0}, None),  # a schedule has stopped it
    ],
)
def test_a_line_of_the_log(row: dict[str, float], says: str | None) -> None:
    found = trouble({**WELL, **row})
    if says is None:
        assert found is None
    else:
        assert found is not None and all(part in found for part in says.split(" .* "))
        assert "--" in found  # a flag to try


def test_samples_that_are_nearly_one_picture() -> None:
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (25, 1, 8, 8), dtype=np.uint8)
    same = np.repeat(real[:1], 25, 0)
    assert alike(real[::-1], real) is None
    assert alike((real // 2).astype(np.uint8), real) is None
    assert "they differ" in str(alike(same, real)) and "gan_r1" in str(alike(same, real))


def test_a_training_that_has_gone_says_so_once_and_at_its_end(
    small: Any, pictures: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = small("gan", objective="wasserstein", lr=10.0, log_interval=2)
    gansmith.train("gan", data=pictures, out=tmp_path / "gone", steps=30, device="cpu", overrides=flags)
    lines = capsys.readouterr().err.splitlines()
    assert sum("so the scores explode" in line for line in lines) == 2
    assert lines[-1].startswith("look again: ")
    gansmith.train("gan", data=pictures, out=tmp_path / "well", steps=30, device="cpu", overrides=small("gan"))
    assert "look again" not in capsys.readouterr().err


def test_film_and_curves_are_drawn_at_checkpoints_and_a_stray_picture_costs_neither(
    small: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr("gansmith.run.record.PATIENCE", 0)
    monkeypatch.setattr("gansmith.run.record.plot_curves", lambda metrics, out, title: drawn.append(1) or out.touch())
    flags = small("gan", sample_interval=2, log_interval=1, **{"checkpoint.interval": 2})
    run, common = tmp_path / "run", {"device": "cpu"}
    gansmith.train("gan", data=pictures, out=run, steps=4, overrides=flags, **common)
    assert len(drawn) == 3  # two checkpoints and the end
    (run / "growth" / "notes.png").write_bytes(b"mine")
    (run / "growth" / "000001.png").write_bytes(b"cut")
    (run / "growth.gif").unlink()
    capsys.readouterr()
    gansmith.train(run, steps=6, **common)
    assert (run / "growth.gif").exists()
    assert "the film goes without " in (said := capsys.readouterr().err) and "000001.png cannot be read" in said

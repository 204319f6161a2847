"""Curves: every series is drawn with its values, odd rows do no harm."""

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gansmith.errors import UserError
from gansmith.papers.reproduction import plot_scores
from gansmith.run import curves
from gansmith.run.curves import plot_curves


def rows_of(n: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    fixed = {"D/real": 0.6, "D/fake": 0.4}
    return [
        {
            **{"round": 50 * k, "images": 6400 * k, "epoch": 6400 * k / 60000, **fixed},
            **{"loss/D": 1 + rng.normal(), "loss/G": k / n, "grad/D": math.exp(rng.normal())},
        }
        for k in range(1, n + 1)
    ]


def draw(folder: Path, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tail: str = "") -> Any:
    """Draw rows and return the figure; the PNG is curves.png in the folder."""
    from matplotlib.figure import Figure

    drawn: list[Any] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self) or save(self, *a, **k))
    metrics = folder / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    plot_curves(metrics, folder / "curves.png", "a run \N{HANGUL SYLLABLE HAN}")
    with Image.open(folder / "curves.png") as image:
        assert image.format == "PNG" and np.asarray(image.convert("L")).std() > 5  # not an empty page
    assert sorted(p.name for p in folder.iterdir()) == ["curves.png", "metrics.jsonl"]
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    return drawn[0]


def legend(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_panels_share_the_images_and_name_their_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**row, "game/k": 0.5, "game/M": 2.0} for row in rows_of(300)]
    figure = draw(tmp_path, rows, monkeypatch, tail='{"round": 15050, "ima')
    loss, output, grad, game = figure.axes
    assert [legend(ax) for ax in figure.axes] == [["D", "G"], ["real", "fake"], ["D"], ["k", "M"]]
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss", "mean output of D", "gradient norm", "game"]
    assert grad.get_yscale() == "log" and loss.get_yscale() == output.get_yscale() == "linear"
    assert "thousands" in game.get_xlabel()
    raw = max((line for line in loss.lines if line.get_color() == "#0072B2"), key=lambda x: len(x.get_xdata()))
    assert np.allclose(raw.get_xdata(), 6.4 * np.arange(1, 301)) and raw.get_alpha() == pytest.approx(0.25)
    assert loss.lines[0].get_color() == grad.lines[0].get_color()  # D has one colour in all panels
    top, bottom = loss.child_axes[0], loss.get_xlim()  # epochs stand on top where they begin
    assert top.get_xlabel() == "epochs" and top.get_xlim() == pytest.approx((bottom[0] / 60, bottom[1] / 60), abs=1e-6)


def test_odd_rows_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One row is drawn as points; what cannot be drawn is left out and counted; nothing but nan gives a picture."""
    rows = rows_of(20)
    rows[3]["loss/D"], rows[4]["loss/G"], rows[5]["grad/D"] = "nan", "-inf", 0.0
    loss, output, grad = draw(tmp_path, rows, monkeypatch).axes
    assert [t.get_text() for t in loss.texts] == ["left out: 2 values not finite"]
    assert [t.get_text() for t in grad.texts] == ["left out: 1 value not finite or not positive"]
    assert not output.texts and all(np.isfinite(line.get_ydata()).all() for line in loss.lines)
    figure = draw(tmp_path, rows_of(1), monkeypatch)
    assert all(line.get_marker() == "o" for ax in figure.axes for line in ax.lines)
    assert len(draw(tmp_path, [{**row, "grad/D": "nan", "loss/D": "nan"} for row in rows_of(3)], monkeypatch).axes) == 3


def test_all_targets_of_a_score_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn: list[Any] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, part, **k: drawn.append(self) or part.touch())
    metrics = tmp_path / "metrics.jsonl"
    scores = [{"round": k, "seconds": 5.0 * k, "epoch": k, "eval/density": 0.5 * k} for k in range(3)]
    metrics.write_text("".join(json.dumps(row) + "\n" for row in scores))
    plot_scores({"seed 0": metrics}, tmp_path / "c.png", over="seconds", targets={"density": [0.9, 1.1]})
    plot_scores({"seed 0": metrics}, tmp_path / "c.png", over="epoch")
    [ax], [over_epochs] = (figure.axes for figure in drawn)
    [targets] = ax.collections
    ends = [[tuple(map(float, end)) for end in line] for line in targets.get_segments()]
    assert ends == [[(0.0, y), (1.0, y)] for y in (0.9, 1.1)]  # x in widths of the picture
    assert legend(ax) == ["seed 0", "target"] and ax.get_xlim() == pytest.approx((-0.5, 10.5))
    assert over_epochs.lines[0].get_xdata().tolist() == [0, 1, 2] and over_epochs.get_ylabel() == "density"


def test_the_running_median_ignores_a_spike_and_follows_a_slope() -> None:
    x = np.arange(1000.0)
    y = 2 * x
    y[500] = 1e9
    middle_x, middle_y = curves._running_median(x, y)
    inner = (middle_x >= 20) & (middle_x < 980)
    assert len(middle_x) == 200 and np.abs(middle_y - 2 * middle_x)[inner].max() <= 2


def test_no_rows_or_nothing_to_draw_is_said(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    for text in ('{"rou', '{"round": 1, "seconds": 2.0}\n'):
        metrics.write_text(text)
        with pytest.raises(UserError, match="nothing to draw"):
            plot_curves(metrics, tmp_path / "c.png", "t")
    assert not (tmp_path / "c.png").exists()

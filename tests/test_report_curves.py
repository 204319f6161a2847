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
from gansmith.report import curves
from gansmith.report.curves import plot_curves, plot_over_seconds


def _rows(n: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {
            "round": 50 * k,
            "images": 6400 * k,
            "epoch": 6400 * k / 60000,
            "loss/D": 1 + rng.normal(),
            "loss/G": k / n,
            "D/real": 0.6,
            "D/fake": 0.4,
            "grad/D": math.exp(rng.normal()),
        }
        for k in range(1, n + 1)
    ]


def _draw(folder: Path, rows: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tail: str = "") -> Any:
    """Draw rows and return the figure; the PNG is curves.png in the folder."""
    from matplotlib.figure import Figure

    drawn: list[Any] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **k: drawn.append(self) or save(self, *a, **k))
    metrics = folder / "metrics.jsonl"
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows) + tail)
    plot_curves(metrics, folder / "curves.png", "a run")
    with Image.open(folder / "curves.png") as image:
        assert image.format == "PNG"
        assert np.asarray(image.convert("L")).std() > 5  # not an empty page
    assert sorted(p.name for p in folder.iterdir()) == ["curves.png", "metrics.jsonl"]
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    return drawn[0]


def _texts(ax: Any) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_three_panels_share_the_images_and_name_their_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = _draw(tmp_path, _rows(300), monkeypatch, tail='{"round": 15050, "ima')
    loss, output, grad = figure.axes
    assert [_texts(ax) for ax in figure.axes] == [["D", "G"], ["real", "fake"], ["D"]]
    assert [ax.get_ylabel() for ax in figure.axes] == ["loss", "mean output of D", "gradient norm"]
    assert grad.get_yscale() == "log" and loss.get_yscale() == output.get_yscale() == "linear"
    assert "thousands" in grad.get_xlabel()
    raw = max((line for line in loss.lines if line.get_color() == "#0072B2"), key=lambda x: len(x.get_xdata()))
    assert np.allclose(raw.get_xdata(), 6.4 * np.arange(1, 301))
    assert raw.get_alpha() == pytest.approx(0.25)
    assert loss.lines[0].get_color() == grad.lines[0].get_color()  # D has one colour in all panels


def test_epochs_stand_on_top_where_they_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    top = _draw(tmp_path, _rows(300), monkeypatch).axes[0].child_axes[0]
    low, high = top.get_xlim()
    bottom = top.get_figure().axes[0].get_xlim()
    assert top.get_xlabel() == "epochs"
    assert (low, high) == pytest.approx((bottom[0] / 60, bottom[1] / 60), abs=1e-6)


def test_values_of_the_game_get_a_panel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = _draw(tmp_path, [{**row, "game/k": 0.5, "game/M": 2.0} for row in _rows(9)], monkeypatch)
    assert len(figure.axes) == 4 and _texts(figure.axes[3]) == ["k", "M"]


def test_one_row_is_drawn_as_points(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = _draw(tmp_path, _rows(1), monkeypatch)
    assert all(line.get_marker() == "o" for ax in figure.axes for line in ax.lines)


def test_what_cannot_be_drawn_is_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = _rows(20)
    rows[3]["loss/D"], rows[4]["loss/G"], rows[5]["grad/D"] = "nan", "-inf", 0.0
    loss, output, grad = _draw(tmp_path, rows, monkeypatch).axes
    assert [t.get_text() for t in loss.texts] == ["left out: 2 values not finite"]
    assert [t.get_text() for t in grad.texts] == ["left out: 1 value not finite or not positive"]
    assert not output.texts
    assert all(np.isfinite(line.get_ydata()).all() for line in loss.lines)


def test_a_series_of_nothing_but_nan_still_gives_a_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[dict[str, Any]] = [{"round": k, "grad/D": "nan", "loss/D": "nan"} for k in range(3)]
    figure = _draw(tmp_path, rows, monkeypatch)
    assert len(figure.axes) == 2 and figure.axes[-1].get_xlabel() == "rounds"


def test_all_targets_of_a_score_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.figure import Figure

    drawn: list[Any] = []
    monkeypatch.setattr(Figure, "savefig", lambda self, part, **k: drawn.append(self) or part.touch())
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text(
        "".join(json.dumps({"round": k, "seconds": 5.0 * k, "eval/density": 0.5 * k}) + "\n" for k in range(3))
    )
    plot_over_seconds({"seed 0": metrics}, {"eval/density": [0.9, 1.1]}, tmp_path / "curves.png")
    [ax] = drawn[0].axes
    [targets] = ax.collections
    ends = [[tuple(map(float, end)) for end in line] for line in targets.get_segments()]
    assert ends == [[(0.0, y), (1.0, y)] for y in (0.9, 1.1)]  # x in widths of the picture
    assert _texts(ax) == ["seed 0", "target"] and ax.get_xlim() == pytest.approx((-0.5, 10.5))


def test_the_running_median_ignores_a_spike_and_follows_a_slope() -> None:
    x = np.arange(1000.0)
    y = 2 * x
    y[500] = 1e9
    middle_x, middle_y = curves._running_median(x, y)
    assert len(middle_x) == 200
    inner = (middle_x >= 20) & (middle_x < 980)
    assert np.abs(middle_y - 2 * middle_x)[inner].max() <= 2


def test_no_rows_or_nothing_to_draw_is_said(tmp_path: Path) -> None:
    metrics = tmp_path / "metrics.jsonl"
    metrics.write_text('{"rou')
    with pytest.raises(UserError, match="no complete row"):
        plot_curves(metrics, tmp_path / "c.png", "t")
    metrics.write_text('{"round": 1, "seconds": 2.0}\n')
    with pytest.raises(UserError, match="nothing to draw"):
        plot_curves(metrics, tmp_path / "c.png", "t")
    assert not (tmp_path / "c.png").exists()

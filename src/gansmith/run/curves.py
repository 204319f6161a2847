"""One picture of how a run went, from its metrics.jsonl."""

import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gansmith.errors import UserError
from gansmith.run.atomic import replacing
from gansmith.run.log import read_metrics

# Okabe and Ito's palette, which colour-blind readers can tell apart. One player, one colour in all panels.
_COLOURS = {"D": "#0072B2", "G": "#D55E00", "real": "#009E73", "fake": "#CC79A7"}
_MORE_COLOURS = ("#E69F00", "#56B4E9", "#000000", "#999999")

_LOG = "grad/"  # the keys that have a logarithmic scale begin so
# Label of the axis, beginnings of the keys shown.
_PANELS = {
    "loss": ("loss/",),
    "mean output of D": ("D/real", "D/fake"),
    "share judged correctly": ("D/right_",),
    "V, Jensen-Shannon": ("value/",),
    "gradient norm": (_LOG,),
    "game": ("game/",),
    "augmentation": ("augment/",),
    "held-back images": ("eval/",),
}
# What tells the rows of `plot_overlaid` apart: colour and dash, by the names that HTML has for them, too.
LINES = [(colour, dash) for dash in ("solid", "dashed", "dotted") for colour in (*_COLOURS.values(), *_MORE_COLOURS)]

_ASIAN = ("Noto Sans CJK KR", "Noto Sans CJK JP", "NanumGothic", "Malgun Gothic", "Apple SD Gothic Neo", "AppleGothic")
_SEEN = "images seen by D (thousands)"
_Curve = tuple[NDArray[np.float64], NDArray[np.float64]]


def plot_curves(metrics: Path, out: Path, title: str) -> None:
    """Draw losses, D's outputs, gradient norms and the game's own values over images seen, as a PNG.

    Faint lines are the rows, strong ones their running median. Panels without any key are left out; so are values that
    are not finite (or not positive, for gradient norms), and a note counts them. UserError with nothing to draw.
    """
    rows = read_metrics(metrics)
    keys = list(dict.fromkeys(key for row in rows for key in row))
    found = {label: [key for key in keys if key.startswith(starts)] for label, starts in _PANELS.items()}
    if not (drawn := {label: shown for label, shown in found.items() if shown}):
        raise UserError(f"{metrics} holds nothing to draw: no loss/, D/, grad/ or game/ values")
    figure, axes = panels(len(drawn), 0.9 + 2.2 * len(drawn))
    figure.suptitle(title, fontsize=12, fontfamily=_fonts(), parse_math=False)
    for ax, (label, shown) in zip(axes, drawn.items(), strict=True):
        _draw(ax, rows, shown)
        ax.set_ylabel(label)
    figure.align_ylabels(axes)
    axes[-1].set_xlabel(_SEEN)
    _epochs_on_top(axes[0], rows)
    save(figure, out)


def plot_overlaid(rows: Sequence[Sequence[Path]], out: Path, names: Sequence[str] = ()) -> None:
    """Draw all values of several logs, a panel each, as a PNG: row i of metrics.jsonl in LINES[i].

    A line is the mean of a row's runs, with a faint one for each; where these were logged at other rounds, only the
    runs themselves. UserError with nothing to draw.
    """
    logs = [[read_metrics(path) for path in row] for row in rows]
    keys = dict.fromkeys(key for row in logs for log in row for line in log for key in line)
    shown = [key for starts in _PANELS.values() for key in keys if key.startswith(starts)]
    if not shown:
        raise UserError("none of the runs has logged a value to draw")
    figure, axes = panels(len(shown), 0.6 + 2.1 * -(-len(shown) // 2), columns=2)
    for ax, key in zip(axes, shown, strict=True):
        for i, row in enumerate(logs):
            colour, dash = LINES[i % len(LINES)]
            curves = [curve for lines in row if len((curve := _curve(lines, key)[0])[0])]
            if len(curves) > 1 and len({x.tobytes() for x, _ in curves}) == 1:
                for x, y in curves:
                    ax.plot(*_running_median(x, y), color=colour, linewidth=0.6, alpha=0.3)
                curves = [(curves[0][0], np.mean([y for _, y in curves], 0))]
            for x, y in curves:
                ax.plot(*_running_median(x, y), color=colour, linewidth=1.5, linestyle=dash, marker=_lone(x))
        if key.startswith(_LOG):
            ax.set_yscale("log")
        ax.set_title(key, fontsize=10, loc="left", parse_math=False)
        ax.set_xlabel(_SEEN, fontsize=8)
    if names:
        from matplotlib.lines import Line2D

        styles: Any = islice(cycle(LINES), len(names))
        lines = [Line2D([], [], color=colour, linestyle=dash) for colour, dash in styles]
        legend = figure.legend(
            lines, names, loc="outside upper left", frameon=False, prop={"family": _fonts(), "size": 8}
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    save(figure, out)


def panels(n: int, height: float, columns: int = 1) -> tuple[Any, Any]:
    """A figure of n panels, which in one column share the axis below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 + 4 * columns, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(-(-n // columns), columns, sharex=columns == 1, squeeze=False).flatten()
    for ax in axes[n:]:
        ax.remove()
    axes = axes[:n]
    for ax in axes:
        ax.grid(True, color="0.9", linewidth=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _fonts() -> list[str]:
    """matplotlib's own font, which lacks Asian scripts, and those of them that are installed."""
    from matplotlib.font_manager import fontManager

    there = {font.name for font in fontManager.ttflist}
    return ["DejaVu Sans", *(name for name in _ASIAN if name in there)]


def save(figure: Any, out: Path) -> None:
    with replacing(out) as part, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # no font has it: a box stands for it
        figure.savefig(part, format="png")


def _draw(ax: Any, rows: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> None:
    more = cycle(_MORE_COLOURS)
    left_out = 0
    for key in keys:
        (x, y), bad = _curve(rows, key)
        left_out += bad
        name = key.split("/", 1)[1]
        colour = _COLOURS.get(name) or next(more)
        middle_x, middle_y = _running_median(x, y)
        if len(middle_x) < len(x) or not np.array_equal(middle_y, y):
            ax.plot(x, y, color=colour, alpha=0.25, linewidth=0.7)
        ax.plot(middle_x, middle_y, color=colour, linewidth=1.6, marker=_lone(x), label=name)
    if log := keys[0].startswith(_LOG):
        ax.set_yscale("log")
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    if left_out:
        what = "not finite or not positive" if log else "not finite"
        note = f"left out: {left_out} value{'s' if left_out > 1 else ''} {what}"
        ax.text(0.01, 0.97, note, transform=ax.transAxes, va="top", fontsize=8, color="0.35")


def _curve(rows: Sequence[Mapping[str, Any]], key: str) -> tuple[_Curve, int]:
    """Where and what `key` was, and how many of its values cannot be drawn."""
    points = [(row["images"] / 1000, float(row[key])) for row in rows if key in row]
    x, y = np.array(points, np.float64).reshape(-1, 2).T
    good = np.isfinite(y) & ((y > 0) | (not key.startswith(_LOG)))
    return (x[good], y[good]), int((~good).sum())


def _lone(x: NDArray[np.float64]) -> str:
    """The marker of a curve: a line of one point would be invisible."""
    return "o" if len(x) == 1 else ""


def _running_median(x: NDArray[np.float64], y: NDArray[np.float64]) -> _Curve:
    """Medians over 1/25 of the values, at 200 or fewer centres: unlike a mean it ignores single spikes."""
    half = len(x) // 50
    centres = np.unique(np.linspace(0, len(x) - 1, min(len(x), 200)).round().astype(int))
    medians = [np.median(y[max(0, i - half) : i + half + 1]) for i in centres]
    return x[centres], np.array(medians, np.float64)


def _epochs_on_top(ax: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    """Add an axis of epochs if the rows name two of them at least; epochs are linear in images."""
    epochs, images = (np.array([row[key] for row in rows], np.float64) for key in ("epoch", "images"))
    if epochs[0] == epochs[-1]:
        return
    slope, offset = np.polyfit(images / 1000, epochs, 1)
    top = ax.secondary_xaxis("top", functions=(lambda x: slope * x + offset, lambda e: (e - offset) / slope))
    top.set_xlabel("epochs")

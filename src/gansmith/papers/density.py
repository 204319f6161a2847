"""Figure 1 of the 2014 paper (arXiv 1406.2661): densities on the line, what D says there, and how G maps z to x."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gansmith.run.atomic import replacing

Numbers = NDArray[np.float64]
# Okabe and Ito's palette; the lines are those of the paper: p_data dotted, p_g solid, D dashed.
_DATA, _GENERATED, _D, _OPTIMAL = "#000000", "#009E73", "#0072B2", "#56B4E9"
_HEADROOM = 1.8  # the axis of densities reaches so many times as high as p_data
_NOWHERE = 1e-3  # of the highest p_data: where both densities are lower, D* is the ratio of nothing to nothing


class Stage(NamedTuple):
    """One moment of a training on the line. x are the middles of B equal cells that fill the picture."""

    round: int
    x: Numbers
    """(B,)"""
    p_data: Numbers
    """(B,)"""
    p_g: Numbers
    """(B,), the mean over each cell"""
    d: Numbers | None
    """(B,), D(x), or None where D gives no probability"""
    feet: Numbers
    """(A,), where the arrows begin: z as a share of the shown range of the prior"""
    heads: Numbers
    """(A,), where they end: G(z)"""


def pushforward(starts: Numbers, ends: Numbers, mass: Numbers, edges: Numbers) -> Numbers:
    """The density of mass (n,) that is spread evenly from starts (n,) to ends (n,), in either direction.

    Given as its mean over each cell (B,) between the edges (B + 1,); what lies outside of them is missing. With starts
    G(z_i), ends G(z_i+1) and the prior's mass between z_i and z_i+1 this is the change of variables, exact for the G
    that is linear between the z_i, monotone or not. Where start and end are equal the mass is a point.
    """
    below = np.zeros(len(edges))
    for part in np.array_split(np.arange(len(mass)), 1 + len(mass) // 1000):
        low, high = np.minimum(starts[part], ends[part]), np.maximum(starts[part], ends[part])
        share = np.clip(edges[:, None], low, high) - low
        width = high - low
        points = width == 0
        share[:, points] = edges[:, None] >= low[points]
        below += share @ (mass[part] / np.where(points, 1, width))
    return np.diff(below) / np.diff(edges)


def optimal_d(p_data: Numbers, p_g: Numbers) -> Numbers:
    """D*(x) = p_data(x) / (p_data(x) + p_g(x)), Proposition 1 of the paper; 1/2 where both are 0."""
    total = p_data + p_g
    return np.divide(p_data, total, out=np.full_like(total, 0.5), where=total > 0)


def jsd(stage: Stage) -> float:
    """The Jensen-Shannon divergence of p_data and p_g in nats, 0 to log 2, by the cells of the stage.

    JSD = 1/2 int p_data log(2 p_data / (p_data + p_g)) + 1/2 int p_g log(2 p_g / (p_data + p_g)). The mass of p_g
    outside of the picture counts as if there were no data.
    """
    cell = stage.x[1] - stage.x[0]
    total = stage.p_data + stage.p_g
    outside = max(0.0, 1 - stage.p_g.sum() * cell)
    divergence = outside * np.log(2)
    for p in (stage.p_data, stage.p_g):
        seen = p > 0
        divergence += cell * float(p[seen] @ (np.log(2 * p[seen]) - np.log(total[seen])))
    return float(divergence / 2)


def distance_of_d(stage: Stage) -> float:
    """The mean of |D(x) - D*(x)| over x from p_data and p_g in equal shares; infinite where D gives no probability."""
    if stage.d is None:
        return float("inf")
    weight = stage.p_data + stage.p_g
    return float(np.average(np.abs(stage.d - optimal_d(stage.p_data, stage.p_g)), weights=weight))


def save_stages(stages: Sequence[Stage], titles: Sequence[str], path: Path) -> None:
    """Draw stages side by side as a PNG, each with its title. The axes depend on the data alone, not on the stage."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    n = len(stages)
    width, height = (6.4, 4.6) if n == 1 else (3.6 * n, 4.4)
    figure = Figure(figsize=(width, height), dpi=100)
    FigureCanvasAgg(figure)
    lines: list[Any] = []
    heading = 0.6 if n == 1 else 0.75  # inches for legend and title
    for i, (stage, title) in enumerate(zip(stages, titles, strict=True)):
        # Axes without ticks and texts instead of titles: half the time for a frame, of which a film has many.
        ax = figure.add_axes(((i + 0.03) / n, 0.02, 0.94 / n, 0.97 - heading / height), xticks=[], yticks=[])
        lines = _draw(ax, stage)
        ax.text(0.5, 1.01, title, transform=ax.transAxes, ha="center", va="bottom", fontsize=10)
    figure.legend(handles=lines, loc="upper center", ncols=len(lines), frameon=False, fontsize=10)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        figure.savefig(part, format="png", pil_kwargs={"compress_level": 3})


def _draw(ax: Any, stage: Stage) -> list[Any]:
    """Densities and D, for which the same height is 0 to 1; below them arrows from the line of z to that of x."""
    left, right = 1.5 * stage.x[0] - 0.5 * stage.x[1], 1.5 * stage.x[-1] - 0.5 * stage.x[-2]
    highest = stage.p_data.max()
    top = _HEADROOM * highest
    lines = []
    if stage.d is not None:
        best = optimal_d(stage.p_data, stage.p_g)
        best[stage.p_data + stage.p_g < _NOWHERE * highest] = np.nan
        ax.hlines(top / 2, left, right, color="0.88", linewidth=0.8)
        ax.text(left, top / 2, "D = 1/2", color="0.6", fontsize=8, va="bottom")
        lines += ax.plot(stage.x, best * top, color=_OPTIMAL, linewidth=1, label="D*")
        lines += ax.plot(stage.x, stage.d * top, color=_D, linewidth=1.6, linestyle="--", label="D")
    lines += ax.plot(stage.x, stage.p_g, color=_GENERATED, linewidth=1.8, label="$p_g$")
    lines += ax.plot(stage.x, stage.p_data, color=_DATA, linewidth=1.8, linestyle=":", label="$p_{data}$")

    x_line, z_line = -0.02 * top, -0.32 * top
    margin = 0.02 * (right - left)
    feet = left + margin + stage.feet * (right - left - 2 * margin)
    arrows: dict[str, Any] = {"angles": "xy", "scale_units": "xy", "scale": 1, "color": "0.25"}
    rise = np.full_like(feet, x_line - z_line)
    ax.quiver(feet, z_line, stage.heads - feet, rise, width=0.003, headwidth=4, headlength=5, **arrows)
    ax.hlines((x_line, z_line), left, right, color="black", linewidth=1)
    for name, y, side in (("x", x_line, "top"), ("z", z_line, "bottom")):
        ax.text(right, y, name, ha="right", va=side, fontsize=10, style="italic")
    ax.set_xlim(left, right)
    ax.set_ylim(z_line - 0.02 * top, top)
    ax.axis("off")
    return lines[::-1]

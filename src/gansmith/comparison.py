"""What comparing several runs has found: a table with the differences between rows, and a page that shows all of it."""

from __future__ import annotations

import base64
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from string import Template

from gansmith.evaluation.receipts import Receipt, number
from gansmith.metrics.bootstrap import Values, interval
from gansmith.recipe import Recipe, Resolved
from gansmith.run.curves import LINES, plot_overlaid
from gansmith.run.folder import write_text
from gansmith.run.pictures import frames
from gansmith.series import DIVERGED, last_line
from gansmith.tables import Table

PAGE = Path(__file__).with_suffix(".html")


@dataclass(frozen=True)
class Job:
    """One run of a row: to be trained as wanted, or there already."""

    row: str
    seed: int
    run: Path
    recipe: Recipe
    wanted: Resolved | None = None

    def trained(self) -> float:
        """The share of its training that is behind it."""
        last, recipe = last_line(self.run), self.recipe
        if self.wanted is None:
            return 1.0
        if recipe.minutes is not None:
            return min(1.0, last["seconds"] / 60 / recipe.minutes)
        return min(1.0, last["round"] / recipe.steps if recipe.steps else last["epoch"] / recipe.n_epochs)

    @property
    def diverged(self) -> bool:
        return (self.run / DIVERGED).exists()


def printable(text: str) -> str:
    """What a file holds, or is called, does not speak to the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


@dataclass(frozen=True)
class Comparison:
    """The runs of each row, the receipts of each run by measure, and why the others have none."""

    out: Path
    rows: Mapping[str, Sequence[Job]]
    scores: Mapping[Path, Mapping[str, Receipt]]
    lost: Mapping[Path, str]

    @property
    def failed(self) -> int:
        """How many of these for another reason than that they diverged."""
        return sum(job.run in self.lost and not job.diverged for row in self.rows.values() for job in row)


# ---- the table -------------------------------------------------------------------------------------------------


def difference(first: Values, other: Values, better: str) -> str:
    """The difference of means with its interval, and below it what that says."""
    by = statistics.fmean(x for _, x in other) - statistics.fmean(x for _, x in first)
    shown = f"{'+' if by > 0 else ''}{number(by)}"
    if not math.isfinite(by):
        return "not all scores are finite"
    if (found := interval(first, other)) is None:
        return f"{shown}\nno interval: fewer than 3 seeds"
    said = "differs" if better not in ("higher", "lower") else "better" if (by > 0) == (better == "higher") else "worse"
    said = "no difference at this n" if found[0] <= 0 <= found[1] else said
    return f"{shown} [{number(found[0])}, {number(found[1])}]\n{said}"


def table(found: Comparison) -> Table:
    """A row for each recipe: means over seeds, and below each its difference to the first row."""
    named = {measure: receipt for kept in found.scores.values() for measure, receipt in kept.items()}
    first, lines = next(iter(found.rows)), []
    shown: list[list[str]] = []
    for name, row in found.rows.items():
        ends = [last_line(job.run) for job in row if job.run in found.scores]
        means = [statistics.fmean(end[key] for end in ends) for key in ("round", "images", "seconds") if ends]
        shown.append(cells := [_cell(found, name, first, receipt) for receipt in named.values()])
        lines.append([name, _seeds(found, row), *cells, *(f"{mean:,.0f}" for mean in means)])
    if any(receipt.real is not None for receipt in named.values()):
        lines.append(["real images", "", *(number(receipt.real) for receipt in named.values())])
    told = [f"+-: standard deviation over seeds (n - 1). Below it the difference to {first}."]
    if any("[" in cell for cells in shown for cell in cells):
        told += [
            "[, ]: its 95 % interval: bootstrap over seeds, in pairs where both rows have the same seeds.",
            "no difference at this n: the interval holds 0. With 3, 4, 5, 10 seeds such an interval holds the truth in"
            " about 75, 87, 92, 95 % of cases, each by itself: of many some miss it.",
        ]
    lost = [job for row in found.rows.values() for job in row if job.run in found.lost]
    below = [
        *(told if named and len(found.rows) > 1 else []),
        *(f"{r.metric}: {'; '.join(f'{key}: {value}' for key, value in r.protocol.items())}" for r in named.values()),
        *(f"{job.row}, seed {job.seed}: {found.lost[job.run]}" for job in lost),
    ]
    heads = [f"{r.metric} ({'; '.join(filter(None, (r.unit, f'{r.best} is better')))})" for r in named.values()]
    head = ["", "seeds", *heads, "rounds", "images", "seconds"]
    data = found.rows[first][0].recipe.data
    above = f"compared on {data.name}, {'x'.join(map(str, (*data.size, data.channels)))}"
    full = [[printable(cell) for cell in line + [""] * (len(head) - len(line))] for line in lines]
    return Table([*map(printable, head)], full, left=(0, 1), above=[printable(above)], below=[*map(printable, below)])


def _cell(found: Comparison, name: str, first: str, receipt: Receipt) -> str:
    def values(row: str) -> Values:
        kept = [(job.seed, found.scores.get(job.run, {}).get(receipt.measure)) for job in found.rows[row]]
        return sorted((seed, one.value) for seed, one in kept if one is not None)

    mine, its = values(name), values(first)
    text = replace(receipt, values=[x for _, x in mine]).text() if mine else ""
    return f"{text}\n{difference(its, mine, receipt.better)}" if mine and its and name != first else text


def _seeds(found: Comparison, row: Sequence[Job]) -> str:
    lost = ["diverged" if job.diverged else "failed" for job in row if job.run in found.lost]
    parts = [f"{lost.count(word)} {word}" for word in dict.fromkeys(lost)]
    return f"{len(row) - len(lost)} of {len(row)}: {', '.join(parts)}" if lost else str(len(row))


# ---- the page --------------------------------------------------------------------------------------------------


def write(found: Comparison) -> None:
    """table.md, curves.png, and both in one page beside the last pictures of each row's first run."""
    shown, curves = table(found), found.out / "curves.png"
    logs = [[path for job in row if (path := job.run / "metrics.jsonl").exists()] for row in found.rows.values()]
    plot_overlaid(logs, curves, [*map(printable, found.rows)])
    write_text(found.out / "table.md", shown.markdown())
    grids: dict[str, bytes] = {}
    for name, row in found.rows.items():
        if job := next((job for job in row if job.run in found.scores), None):
            grids |= {f"{name}, seed {job.seed}": path.read_bytes() for path in frames(job.run)[-1:]}
    write_text(found.out / "compare.html", page(shown, len(found.rows), curves.read_bytes(), grids))


def page(shown: Table, rows: int, curves: bytes, grids: Mapping[str, bytes]) -> str:
    """One HTML file that needs no other: texts are escaped, pictures are inside, and nothing in it may run or load."""

    def cells(line: Sequence[str], tag: str, mark: str = "") -> str:
        inside = [f"<{tag}>{mark * (i == 0)}{escape(cell)}</{tag}>" for i, cell in enumerate(line)]
        return f"<tr>{''.join(inside)}</tr>".replace("\n", "<br>")

    def picture(png: bytes, text: str) -> str:
        return f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'

    marks = [""] * len(shown.rows)
    for i in range(rows):
        colour, dash = LINES[i % len(LINES)]
        marks[i] = f'<i style="border-top: 3px {dash} {colour}"></i>'
    marked = [*zip(shown.rows, marks, strict=True)]
    figure = "<figure>{}<figcaption>{}</figcaption></figure>"
    return Template(PAGE.read_text(encoding="utf-8")).substitute(
        above="\n".join(f"<p>{escape(line)}</p>" for line in shown.above),
        table="\n".join([cells(shown.head, "th"), *(cells(line, "td", mark) for line, mark in marked)]),
        below="\n".join(f'<p class="note">{escape(line)}</p>' for line in shown.below),
        curves=picture(curves, "curves of all rows"),
        pictures="\n".join(figure.format(picture(png, name), escape(name)) for name, png in grids.items()),
    )

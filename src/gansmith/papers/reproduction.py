"""Reproduce a table of a paper: train every variant with every seed, score them by one protocol, write one table.

Interrupted, it goes on where it was: each training is a run of its own, and what is finished is not done again.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gansmith import checkpoint, strict_json
from gansmith.build import load_split
from gansmith.errors import UserError
from gansmith.evaluation.evaluator import check_seeds, evaluate
from gansmith.evaluation.receipts import Receipt, append, check_comparable, read
from gansmith.recipe import Recipe, difference, is_run, plan, to_dict
from gansmith.run.curves import panels, save
from gansmith.run.folder import write_text
from gansmith.run.log import read_metrics
from gansmith.schema import did_you_mean
from gansmith.series import DIVERGED, train_missing
from gansmith.tables import Table

SCORES = "reproduction.jsonl"
"""In a run's folder: the receipts of its best checkpoints by the reproduction's protocol, and no others."""


@dataclass(frozen=True)
class Variant:
    """A recipe with changes, trained and scored like the others."""

    about: str
    recipe: str
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Reproduction:
    """One number of a paper, and what is trained to find it again; the first variant is the paper's own experiment."""

    paper: tuple[str, str]
    """The value, and its standard error over test images."""
    where: str
    metric: str
    takes: str
    variants: Mapping[str, Variant]


REPRODUCTIONS: dict[str, Reproduction] = {
    "gan2014_mnist": Reproduction(
        paper=("225", "2"),
        where="adversarial nets on MNIST, Table 1 of Goodfellow et al. 2014 (arXiv 1406.2661)",
        metric="parzen_ll",
        takes="days on two CPU cores; two hours with --only averaged --n_epochs 50",
        variants={
            "paper": Variant(
                "as the authors' code: both players at once, non-saturating; G's weights themselves",
                "gan2014_mnist",
                {"ema.halflife_kimg": None},
            ),
            "averaged": Variant("the same training; the moving average of G's weights", "gan2014_mnist"),
            "alternating": Variant(
                "averaged, and Algorithm 1: D, then G on fresh noise", "gan2014_mnist", {"game": "alternating"}
            ),
            "minimax": Variant("averaged, and G descends log(1 - D(G(z)))", "gan2014_mnist", {"objective": "minimax"}),
            "k5": Variant(
                "averaged, and Algorithm 1 with five steps of D for one of G",
                "gan2014_mnist",
                {"game": "alternating", "game.n_critic": 5, "evaluation.every": 500, "sample_interval": 100},
            ),
            "post": Variant(
                "the post's networks and Adam; G's weights themselves",
                "gan",
                {
                    "data.validation": 10_000,
                    "evaluation.every": 3910,
                    "evaluation.metrics": ["parzen_ll"],
                    "evaluation.best": "parzen_ll",
                },
            ),
        },
    )
}


@dataclass(frozen=True)
class Row:
    """One training and its score."""

    variant: str
    seed: int
    run: Path
    receipt: Receipt
    best_epoch: float
    epochs: float
    rounds: int
    seconds: float
    diverged: bool


def reproduce(
    name: str = "gan2014_mnist",
    *,
    seeds: Sequence[int] = (0, 1, 2),
    only: Sequence[str] | None = None,
    n_epochs: int | None = None,
    out: str | Path | None = None,
    device: str = "auto",
    quiet: bool = False,
    say: Callable[[str], None] = print,
) -> list[Row]:
    """Train and score, and write table.md, table.json and curves.png into `out` after every training.

    only: some of the variants; the table holds all that `out` has. n_epochs: length of each training, instead of the
    recipe's. The checkpoint that is scored is the best one on the validation images. A training that diverges is scored
    by that, too, and marked; it stays so, and is not tried again until its run is removed. UserError for names that are
    not there, and for a run in `out` that is of another recipe.
    """
    if name not in REPRODUCTIONS:
        known = ", ".join(REPRODUCTIONS)
        raise UserError(f"there is no reproduction {name!r}{did_you_mean(name, REPRODUCTIONS)} (there is: {known})")
    check_seeds(seeds)
    what = REPRODUCTIONS[name]
    variants = list(only or what.variants)
    for variant in variants:
        if variant not in what.variants:
            known = ", ".join(what.variants)
            near = did_you_mean(variant, what.variants)
            raise UserError(f"there is no variant {variant!r}{near} (variants: {known})")
    out = Path(out) if out is not None else Path("runs") / f"reproduce-{name}"
    rows = _finished(what, out, say)
    jobs = [(variant, seed) for seed in seeds for variant in variants]
    for i, (variant, seed) in enumerate(jobs):
        say(f"{i + 1} of {len(jobs)}: {variant}, seed {seed}")
        run = out / f"{variant}-{seed}"
        _train(run, what.variants[variant], seed, n_epochs, device, quiet, say)
        rows[variant, seed] = _score(variant, seed, run, what.metric, device, say)
        write(what, rows, out)
    say(f"written: {out / 'table.md'}, {out / 'table.json'}, {out / 'curves.png'}")
    return [rows[job] for job in jobs]


def _train(
    run: Path, variant: Variant, seed: int, n_epochs: int | None, device: str, quiet: bool, say: Callable[[str], None]
) -> None:
    """Train the run, or go on with it, unless it has its length already or diverged."""
    wanted = _wanted(variant, seed)
    length: dict[str, Any] = {"n_epochs": n_epochs or wanted.n_epochs}
    images = max(map(len, load_split(wanted, "train", say=say)))
    rounds = length["n_epochs"] * images // wanted.batch_size
    rounds //= wanted.game.args.get("n_critic", 1)
    length["evaluation.every"] = max(1, min(wanted.evaluation.every, rounds))  # a short trial is scored, too
    if is_run(run) and (changed := _changed(run, wanted)):
        raise UserError(f"{run} is of another recipe than this reproduction: {changed}; choose another --out")
    resolved = plan(variant.recipe, flags={**variant.changes, **length, "seed": seed})
    train_missing(run, resolved, device=device, quiet=quiet, say=say)


def _wanted(variant: Variant, seed: int) -> Recipe:
    return plan(variant.recipe, flags={**variant.changes, "seed": seed}).recipe


def _changed(run: Path, wanted: Recipe) -> str | None:
    return difference(to_dict(plan(run).recipe), to_dict(wanted))


def _score(variant: str, seed: int, run: Path, metric: str, device: str, say: Callable[[str], None]) -> Row:
    """The row of a run whose best checkpoint is scored, now if that was not done before."""
    best = checkpoint.newest_good(run / "best", say)
    receipts = _receipts(run, best)
    if not receipts:
        receipts = evaluate(run, metrics=[metric], round="best", device=device, say=say)
        append(receipts, run / SCORES)
    last = read_metrics(run / "metrics.jsonl")[-1]
    per_image = last["epoch"] / last["images"] if last["images"] else 0.0  # it diverged before its first line
    return Row(
        variant=variant,
        seed=seed,
        run=run,
        receipt=receipts[-1],
        best_epoch=best.info["images"] * per_image,
        epochs=last["epoch"],
        rounds=last["round"],
        seconds=last["seconds"],
        diverged=(run / DIVERGED).exists(),
    )


def _finished(what: Reproduction, out: Path, say: Callable[[str], None]) -> dict[tuple[str, int], Row]:
    """What was trained and scored into `out` before, by variant and seed; what cannot be taken is said."""
    rows = {}
    for name, variant in what.variants.items():
        for run in sorted(out.glob(f"{name}-*")):
            seed = run.name.removeprefix(f"{name}-")
            if not seed.isdecimal() or not (run / SCORES).exists():
                continue
            try:
                if changed := _changed(run, _wanted(variant, int(seed))):
                    say(f"{run} is left out of the table: it is of another recipe: {changed}")
                elif _receipts(run, checkpoint.newest_good(run / "best", say)):
                    rows[name, int(seed)] = _score(name, int(seed), run, what.metric, "cpu", say)
            except UserError as error:
                say(f"{run} is left out of the table: {error}")
    return rows


def _receipts(run: Path, best: checkpoint.Read) -> list[Receipt]:
    """Those of the checkpoint that is the best one now: a run that was trained further has another."""
    digest = best.info["sha256"][checkpoint.TENSORS]
    return [r for r in read(run / SCORES) if digest.startswith(r.subject["checkpoint"])]


# ---- the table -------------------------------------------------------------------------------------------------


def write(what: Reproduction, found: Mapping[tuple[str, int], Row], out: Path) -> None:
    """table.md for people, table.json for programs, curves.png of the validation scores."""
    rows = list(found.values())
    check_comparable([row.receipt for row in rows])
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "table.md", table(what, rows).markdown())
    write_text(out / "table.json", strict_json.dumps([_plain(row) for row in rows], indent=1) + "\n")
    logs = {f"{row.variant}, seed {row.seed}": row.run / "metrics.jsonl" for row in rows}
    plot_scores(logs, out / "curves.png", over="epoch")


def table(what: Reproduction, rows: Sequence[Row]) -> Table:
    """The paper's number, ours for each variant over its seeds, and what real images reach."""
    receipt = rows[0].receipt
    columns = (
        *("mean", "+- over trainings", "seeds", "+- over samples", "+- over test images", "sigma"),
        *("best epoch", "epochs trained", "rounds", "seconds"),
    )
    value, error = what.paper
    lines = [["the paper", value, "", "", "", error, "", "not recorded"]]
    for name, variant in what.variants.items():
        if mine := [row for row in rows if row.variant == name]:
            lines.append([f"{name}: {variant.about}", *_cells(mine)])
    if receipt.real is not None:
        lines.append(["as many real training images", f"{receipt.real:.2f}"])
    protocol = "; ".join(f"{key}: {value}" for key, value in receipt.protocol.items())
    return Table(
        ["", *columns],
        [line + [""] * (1 + len(columns) - len(line)) for line in lines],
        above=[f"{receipt.metric} of {what.where}"],
        below=[f"Unit: {receipt.unit}. Protocol: {protocol}. {receipt.note}."],
    )


def _cells(rows: Sequence[Row]) -> list[str]:
    values = [row.receipt.value for row in rows]
    return [
        f"{statistics.fmean(values):.2f}",
        f"{statistics.stdev(values):.2f}" if len(values) > 1 else "one seed",
        _seeds(rows),
        _each(row.receipt.spread for row in rows),
        _each(statistics.fmean(row.receipt.details["standard_error"]) for row in rows),
        ", ".join(sorted({f"{sigma:.4g}" for row in rows for sigma in row.receipt.details["sigma"]})),
        ", ".join(f"{row.best_epoch:.0f}" for row in rows),
        ", ".join(f"{row.epochs:.0f}" for row in rows),
        ", ".join(f"{row.rounds:,}" for row in rows),
        ", ".join(f"{row.seconds:,.0f}" for row in rows),
    ]


def _seeds(rows: Sequence[Row]) -> str:
    text = ", ".join(f"{row.seed}{' (diverged)' * row.diverged}" for row in rows)
    lost = sum(row.diverged for row in rows)
    return f"{text}; {lost} of {len(rows)} diverged" if lost else text


def _each(values: Iterable[float | None]) -> str:
    return ", ".join("" if value is None else f"{value:.2f}" for value in values)


def _plain(row: Row) -> dict[str, Any]:
    return {
        "variant": row.variant,
        "seed": row.seed,
        "run": str(row.run),
        "best_epoch": row.best_epoch,
        "epochs": row.epochs,
        "rounds": row.rounds,
        "diverged": row.diverged,
        "seconds": row.seconds,
        "receipt": row.receipt.as_dict(),
    }


# ---- the curves ------------------------------------------------------------------------------------------------


def plot_scores(
    runs: Mapping[str, Path], out: Path, *, over: str, targets: Mapping[str, Sequence[float]] | None = None
) -> None:
    """Draw the scores on held-back images of several runs, by their names, over "epoch" or "seconds", as a PNG.

    runs: name -> metrics.jsonl. targets: the scores to draw, each with values to be reached; None: all scores. The
    scale is logarithmic where all values are positive and lie far apart. Raises UserError where there is no score.
    """
    rows = {name: read_metrics(path) for name, path in runs.items()}
    found = dict.fromkeys(key[5:] for log in rows.values() for row in log for key in row if key.startswith("eval/"))
    if not found:
        raise UserError(f"none of {', '.join(map(str, runs.values()))} has a score to draw")
    targets = dict.fromkeys(found, ()) if targets is None else targets
    figure, axes = panels(len(targets), 0.9 + 3.4 * len(targets))
    for ax, (score, bounds) in zip(axes, targets.items(), strict=True):
        shown = [*bounds]
        for name, log in rows.items():
            points = [(float(row[over]), float(row[f"eval/{score}"])) for row in log if f"eval/{score}" in row]
            points = [(x, y) for x, y in points if math.isfinite(y)]
            shown += [y for _, y in points]
            ax.plot(*zip(*points, strict=True) if points else ([], []), linewidth=1.4, marker=".", label=name)
        if bounds:
            across = ax.get_yaxis_transform()
            ax.hlines(bounds, 0, 1, transform=across, color="0.35", linewidth=1.0, linestyle="--", label="target")
        if shown and min(shown) > 0 and max(shown) > 20 * min(shown):
            ax.set_yscale("log")
        ax.set_ylabel(score)
    axes[0].legend(frameon=False)
    axes[-1].set_xlabel({"epoch": "epochs", "seconds": "seconds of training, evaluation apart"}[over])
    save(figure, out)

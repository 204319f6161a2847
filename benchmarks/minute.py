"""What a minute makes: `gansmith train fast_mnist --minutes 1`, and what each of its choices bought.

    python benchmarks/minute.py --pace         # on an idle machine: how many rounds of each item a minute holds
    python benchmarks/minute.py                # trains and scores what is missing, for so many rounds
    python benchmarks/minute.py --page         # the tables, from docs/minute.jsonl

The ladder goes from the recipe as it was to the recipe as it is, a change a rung; what was tried besides is the recipe
with one change. How many rounds a minute holds is measured first, for all items in turns, with all cores. Other work on
the machine then delays a training and does not change it. The changes were found on held-back training images; the
scores here are of 10,000 samples against the test images, which chose nothing.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from rounds import Bench
from zoo import processor

from gansmith.cli import recipe_words
from gansmith.engine import choose_device
from gansmith.recipe import plan
from gansmith.tables import Table
from gansmith.training import alone

LINES = Path(__file__).parents[1] / "docs" / "minute.jsonl"
PACE = LINES.with_name("minute-pace.json")
SCORES = ("fd_mnist_10k", "coverage_mnist_10k", "confident_mnist_10k")
BEFORE = (
    "--networks.G.hidden 1 --networks.D {name: conv_discriminator, width: 32} --objective non_saturating --schedules []"
    " --batch_size 64 --optimizers.G.lr 4e-3 --optimizers.D.lr 4e-3 --b1 0.5 --ema.halflife_kimg null"
)
FALL = "--schedules [{name: linear, of: lr, after: 0.3, over: 0.7, unit: training}]"
CRITIC = "--networks.D small_critic --optimizers.G.lr 2e-3 --optimizers.D.lr 5e-4"
RECIPE = "a moving average of G: the recipe"
LADDER = {  # each rung has the changes of those above it
    "the recipe as it was": BEFORE,
    "a smaller D with a hidden layer and no statistics of batches; its rate a quarter of G's": CRITIC,
    "batches of 32, not 64": "--batch_size 32",
    "least squares": "--objective least_squares",
    "Adam's b1 0, not 0.5": "--b1 0",
    "a second hidden layer in G": "--networks.G.hidden 2",
    "rates that fall to 0 after 30 % of the minute": FALL,
    RECIPE: "--ema.halflife_kimg 10",
}
FIVE = "five minutes of the recipe"
TRIED = {
    "the logistic losses, not least squares": "--objective non_saturating",
    "batches of 64": "--batch_size 64",
    "one hidden layer in G": "--networks.G.hidden 1",
    "labels: `gansmith train acgan --minutes 1`": "acgan",
    FIVE: "",
    "a relativistic objective": "--objective relativistic",
    "the hinge": "--objective hinge",
    "batches of 16": "--batch_size 16",
    "half the rates": "--optimizers.G.lr 1e-3 --optimizers.D.lr 2.5e-4",
    "twice the rates": "--optimizers.G.lr 4e-3 --optimizers.D.lr 1e-3",
    "a cosine, not a line": "--schedules [{name: cosine, of: lr, unit: training}]",
    "D without any normalisation": "--networks.D.norm false",
    "a third hidden layer in G": "--networks.G.hidden 3",
    "G of width 12": "--networks.G.width 12",
    "G of width 24": "--networks.G.width 24",
    "D of width 24": "--networks.D.width 24",
}


def words_of(name: str) -> list[str]:
    """The words after `gansmith train` of an item, but for its length."""
    below = [*LADDER][: [*LADDER].index(name) + 1] if name in LADDER else []
    words = " ".join(LADDER[rung] for rung in below) or TRIED[name]
    recipe, _, rest = words.partition(" ") if words[:1].isalpha() else ("fast_mnist", "", words)
    parts = re.split(r" (?=--)", rest) if rest else []
    return [recipe, *(word for part in parts for word in part.split(" ", 1))]


def paces(names: Sequence[str], repeats: int = 5) -> dict[str, int]:
    """How many rounds of each item a minute holds: blocks of a second of all items in turns, the median of five."""
    device, seconds = choose_device("cpu"), dict[str, list[float]]()
    with ExitStack() as held:
        held.enter_context(alone(device, tf32=False))
        folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
        benches = {}
        for i, name in enumerate(names):
            what, flags = recipe_words("", tuple(words_of(name)), {})
            made = Bench(plan(what, flags=flags).recipe, device, folder / str(i), lambda text: None)
            benches[name] = held.enter_context(closing(made))
            made.warm_up()
        blocks = {name: max(1, round(20 / made.play(20))) for name, made in benches.items()}
        for turn in range(repeats):
            print(f"{turn + 1} of {repeats} turns", flush=True)
            for name, made in benches.items():
                seconds.setdefault(name, []).append(made.play(blocks[name]) / blocks[name])
    return {name: round(60 / statistics.median(found)) for name, found in seconds.items()}


def measured(name: str, seed: int, minute: int) -> dict[str, Any]:
    """Train an item and score it on the test images, each by the command that a person would type."""

    def gansmith(*words: str) -> str:
        done = subprocess.run([sys.executable, "-m", "gansmith", *words], capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"gansmith {' '.join(words)}\n{done.stderr}")
        return done.stdout

    rounds = minute * (5 if name == FIVE else 1)
    with tempfile.TemporaryDirectory() as folder:
        run = str(Path(folder, "run"))
        gansmith("train", *words_of(name), "--steps", str(rounds), "--seed", str(seed), "--out", run, "--device", "cpu")
        scored = gansmith("evaluate", run, "--metrics", "fd,dc,classes", "--seeds", "0", "--json", "--device", "cpu")
    values = {one["metric"]: one["values"][0] for one in json.loads(scored)}
    return {"item": name, "seed": seed, "rounds": rounds, "scores": {key: round(values[key], 4) for key in SCORES}}


def spread(values: list[float], digits: int) -> str:
    middle = f"{statistics.mean(values):.{digits}f}"
    return middle if len(values) < 2 else f"{middle} ± {statistics.stdev(values):.{digits}f}"


def table(names: list[str], lines: list[dict[str, Any]]) -> Table:
    rows = []
    for name in names:
        if own := [line for line in lines if line["item"] == name]:
            cells = [spread([line["scores"][key] for line in own], d) for key, d in zip(SCORES, (1, 3, 3), strict=True)]
            rows.append([name, str(len(own)), f"{own[0]['rounds']:,}", *cells])
    return Table(["", "seeds", "rounds", *(f"`{key}`" for key in SCORES)], rows)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, usage=argparse.SUPPRESS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--pace", action="store_true")
    parser.add_argument("--page", action="store_true")
    parser.add_argument(
        "--part", type=int, nargs=2, default=(0, 1), metavar=("I", "N"), help="every N-th item from I on"
    )
    options = parser.parse_args()
    known = json.loads(PACE.read_text()) if PACE.exists() else {"rounds": {}}
    minute = known["rounds"]
    if options.pace:
        found = paces([RECIPE, *(name for name in (*LADDER, *TRIED) if name not in minute and name != RECIPE)])
        scale = minute.get(RECIPE, found[RECIPE]) / found[RECIPE]  # the machine of today beside that of the first time
        minute |= {name: round(scale * rounds) for name, rounds in found.items()}
        PACE.write_text(json.dumps({"cpu": processor(), "threads": os.cpu_count(), "rounds": minute}, indent=1) + "\n")
        return
    if unknown := [name for name in (*LADDER, *TRIED) if name not in minute]:
        parser.error(f"first measure how many rounds a minute holds, with --pace: {unknown[0]}")
    lines = [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.exists() else []
    if not options.page:
        seeds, done = range(options.seeds), {(line["item"], line["seed"]) for line in lines}
        wanted = [(name, seed) for items in (LADDER, TRIED) for seed in seeds for name in items]
        missing = [item for item in wanted if item not in done][options.part[0] :: options.part[1]]
        for i, (name, seed) in enumerate(missing, 1):
            print(f"{i} of {len(missing)}: {name}, seed {seed}", flush=True)
            with LINES.open("a") as file:
                file.write(json.dumps(measured(name, seed, minute[name])) + "\n")
        lines = [json.loads(line) for line in LINES.read_text().splitlines()]
    for names in ([*LADDER], [*TRIED]):
        print(table(names, lines).markdown(), end="\n\n")


if __name__ == "__main__":
    main()

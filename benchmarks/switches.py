"""What settings buy: variants of a recipe against the recipe as it is.

    python benchmarks/switches.py --recipe fast_mnist
    python benchmarks/switches.py --recipe wgan_gp --only penalties batch_size

The other values of the section `engine`, penalties on every 16th move of D (Karras et al. 2020, arXiv 1912.04958,
section 3.1), and batches of half and of twice the size. Each variant plays in turns with the recipe, block by block in
one process, so that other work on the machine slows both. Prints the ratio of images per second of neighbouring blocks,
median and range, and how much longer the first round takes (a compiler). Precision, memory format and compiler change
speed and rounding; penalties and batch sizes change what is trained.
"""

import argparse
import math
import statistics
import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from rounds import Bench

from gansmith import plan
from gansmith.cuda_math import cuda_math
from gansmith.engine import choose_device
from gansmith.errors import UserError
from gansmith.recipe import Recipe
from gansmith.run.folder import environment
from gansmith.tables import Table
from gansmith.training import alone

LAZY = 16


def variants(recipe: Recipe) -> dict[str, list[dict[str, Any]]]:
    """The flags of each variant, by switch."""
    engine, size = recipe.engine, recipe.batch_size
    precisions = [kind for kind in ("float32", "tf32", "bfloat16") if kind != engine.precision]
    lazy = {f"penalties.{i}.every": LAZY for i, p in enumerate(recipe.penalties) if p.args["every"] == 1}
    return {
        "precision": [{"engine.precision": kind} for kind in precisions],
        "channels_last": [{"engine.channels_last": not engine.channels_last}],
        "compile": [{"engine.compile": not engine.compile}],
        "penalties": [lazy] if lazy else [],
        "batch_size": [{"batch_size": n} for n in (size // 2, 2 * size) if n],
    }


class Variant:
    """A recipe that plays; `first` is how many seconds its first round took."""

    def __init__(self, recipe: Recipe, device: torch.device, folder: Path) -> None:
        self.tf32 = recipe.engine.precision == "tf32"
        self.said: list[str] = []
        with cuda_math(tf32=self.tf32):
            self.bench = Bench(recipe, device, folder, self.said.append)
            self.first = self.bench.play(1)
            self.block = self.bench.warm_up()

    def speed(self, rounds: int) -> float:
        """Images per second."""
        state = self.bench.experiment.state
        before = state.images
        with cuda_math(tf32=self.tf32):
            seconds = self.bench.play(rounds)
        return (state.images - before) / seconds


def compared(what: str, flags: dict[str, Any], base: Variant, repeats: int, folder: Path) -> list[str]:
    """The cells of a row: times as fast, lowest, highest, how much longer the first round takes, remarks."""
    players = base.bench.experiment.game.players
    if "engine.channels_last" in flags and not any(p.dim() == 4 for one in players for p in one.parameters):
        return ["", "", "", "", "the networks have no convolutions"]
    try:
        other = Variant(plan(what, flags=flags).recipe, base.bench.device, folder)
    except UserError as error:
        return ["", "", "", "", f"not here: {error}"]
    with closing(other.bench):
        period = math.lcm(base.bench.period, other.bench.period)
        rounds = math.ceil(base.block / period) * period
        pairs = [(base.speed(rounds), other.speed(rounds)) for _ in range(repeats)]
    ratios = [there / here for here, there in pairs]
    cells = [f"{x:.2f}" for x in (statistics.median(ratios), min(ratios), max(ratios))]
    remarks = [text for text in other.said if text.startswith("engine.")]
    return [*cells, f"{other.first - base.first:+.1f}", "; ".join(remarks)]


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, usage=argparse.SUPPRESS)
    parser.add_argument("--recipe", default="gan", help="a name or a YAML file")
    parser.add_argument("--only", nargs="+", metavar="SWITCH", help="some of the switches")
    parser.add_argument("--repeats", type=int, default=9, help="blocks of each, a quarter of a second long")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error(f"--repeats is {options.repeats}; it must be at least 1")
    try:
        recipe, device = plan(options.recipe).recipe, choose_device(options.device)
    except UserError as error:
        parser.error(str(error))
    switches = variants(recipe)
    if unknown := [name for name in options.only or () if name not in switches]:
        parser.error(f"--only {unknown[0]}: the switches are {', '.join(switches)}")
    rows = []
    with alone(device, tf32=False), tempfile.TemporaryDirectory() as folder:
        base = Variant(recipe, device, Path(folder, "base"))
        with closing(base.bench):
            for flags in (flags for name in options.only or switches for flags in switches[name]):
                row = " ".join(f"--{key} {str(value).lower()}" for key, value in flags.items())
                rows.append([row, *compared(options.recipe, flags, base, options.repeats, Path(folder, row))])
    on = ", ".join(f"{key} {value}" for key, value in environment(device).items() if key != "command" and value)
    head = [f"{options.recipe} with", "times as fast", "lowest", "highest", "first round (s)", ""]
    Table(head, rows, left=(0, 5), below=[f"on {on}"]).show()


if __name__ == "__main__":
    main()

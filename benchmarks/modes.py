"""How many modes each objective finds: the same networks, rounds and seeds for all, on points in the plane.

    python benchmarks/modes.py --data ring --seeds 3 --steps 2000 --out runs/modes.jsonl

Trains the recipes `ring` and `grid` with every row of OBJECTIVES, rates falling to 0 over --steps, all else as it is;
those that need a Lipschitz critic with the penalty wgan_gp of weight 0.1, as in its authors' code for toy sets. A mode
is covered if one of 2,500 samples lies at most 3 deviations from its mean; the good share is that of all such samples
(Srivastava et al. 2017, arXiv 1705.07761). Each training adds a line to --out, and what is there is not trained again.
Seconds are of the processor, on one thread, pictures included.
"""

import argparse
import itertools
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import gansmith
from gansmith.evaluation.evaluator import evaluate
from gansmith.objectives import OBJECTIVES

PENALTY = {"penalties": [{"name": "wgan_gp", "weight": 0.1}]}
COLUMNS = {"covered": 1, "good": 2, "seconds": 0}


def trained(data: str, objective: str, seed: int, steps: int, device: str) -> dict[str, Any]:
    """Modes covered, good share and seconds of one training."""
    flags = {"objective": objective, "seed": seed, "sample_interval": steps}
    flags |= PENALTY if OBJECTIVES[objective].lipschitz else {}
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        run = gansmith.train(data, out=Path(folder, "run"), steps=steps, device=device, quiet=True, overrides=flags)
        seconds = round(time.process_time() - began, 1)
        found = evaluate(run, seeds=[0], device=device, say=lambda text: None)
    return {**{receipt.measure: receipt.value for receipt in found}, "seconds": seconds}


def spread(values: list[float], digits: int) -> str:
    deviation = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{deviation}"


def row(data: str, objective: str, found: list[dict[str, Any]]) -> str:
    """The line of a table in Markdown."""
    name = f"{objective} + wgan_gp" if OBJECTIVES[objective].lipschitz else objective
    cells = [spread([one[key] for one in found], digits) for key, digits in COLUMNS.items()]
    return f"| {' | '.join([data, name, *cells])} |"


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, usage=argparse.SUPPRESS)
    parser.add_argument("--data", nargs="+", choices=("ring", "grid"), default=("ring", "grid"))
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=tuple(OBJECTIVES))
    parser.add_argument("--seeds", type=int, default=3, help="so many, from 0 on")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/modes.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    lines = options.out.read_text(encoding="utf-8").splitlines() if options.out.exists() else []
    there = [json.loads(line) for line in lines]
    shown = []
    for data, objective in itertools.product(options.data, options.objectives):
        found = []
        for seed in range(options.seeds):
            key = {"data": data, "objective": objective, "seed": seed, "steps": options.steps}
            one = next((one for one in there if one.items() >= key.items()), None)
            if one is None:
                one = {**key, **trained(**key, device=options.device)}
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(one) + "\n")
            found.append(one)
        shown.append(row(data, objective, found))
    print("| data | objective | modes covered | good share | seconds |", "| --- | --- | --- | --- | --- |", sep="\n")
    print(*shown, sep="\n")


if __name__ == "__main__":
    main()

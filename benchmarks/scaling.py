"""How fast several processes train: images per second at 1, 2, 4, 8 ranks, and what the sum over them costs.

    python benchmarks/scaling.py --repeats 3

Interleaved, each case a `torchrun` of its own on made-up pictures, the batch of the recipe per rank ("weak") and in all
("strong"). With CUDA the ranks are limited to the devices there are; efficiency is images per second over ranks times
those of one. On a CPU there is no second device, and one machine's cores are shared: two processes of one thread stand
beside one process of two threads and of one. For each the milliseconds of a round and, for several ranks, those of the
flat all-reduces of the recipe's gradients alone, measured in the same processes after the training.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple


class Case(NamedTuple):
    ranks: int
    threads: int
    kind: str
    """"weak": the recipe's batch on each rank; "strong": that batch shared by all."""


class Measured(NamedTuple):
    images_per_second: float
    round_ms: float
    reduce_ms: float


def worker(recipe_name: str, kind: str, rounds: int, device: str) -> None:
    """Play the loop of `train`, without its record, in this process; rank 0 prints what it measured as JSON."""
    from contextlib import ExitStack
    from unittest.mock import patch

    import numpy as np
    import torch
    from rounds import seconds_of

    from gansmith import plan
    from gansmith.build import build
    from gansmith.data import ImageSet, Wanted
    from gansmith.distributed import joined
    from gansmith.launch import launch
    from gansmith.run.live import Live
    from gansmith.training import alone, play
    from gansmith.world import World

    def made_up(wanted: Wanted) -> tuple[ImageSet, ...]:
        rng, n = np.random.default_rng(0), 16 * batch_size
        shape = (n, wanted.channels, *wanted.size)

        def column(field: str) -> Any:
            return rng.integers(0, 10, n) if field == "y" else rng.integers(0, 256, shape, dtype=np.uint8)

        digits = tuple("0123456789")
        return tuple(ImageSet("noise", {name: column(name) for name in own}, digits, "") for own in wanted.needs)

    here = launch()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    with ExitStack() as entered:
        world = entered.enter_context(joined(device)) if here.size > 1 else World(torch.device(device))
        recipe = plan(recipe_name).recipe
        batch_size = recipe.batch_size * (here.size if kind == "weak" else 1)
        recipe = plan(recipe_name, flags={"batch_size": batch_size}).recipe
        entered.enter_context(alone(world.device, tf32=recipe.engine.precision == "tf32"))
        with patch("gansmith.build.load_sets", made_up):
            made = build(recipe, world.device, say=lambda text: None, progress=False, world=world)
        live = Live(start=0, total=1, rounds_per_epoch=1, images_per_round=1, quiet=True)

        def milliseconds(call: Callable[[], object]) -> float:
            return 1000 * seconds_of(call, world.device) / rounds

        def train(times: int) -> None:
            play(made, None, live, made.state.round + times)

        train(5)
        round_ms = milliseconds(lambda: train(rounds))
        reduce_ms = 0.0
        if (whole := world.reduce) is not None:
            sums: list[list[torch.Tensor]] = []

            def caught(tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
                sums.append([t.clone() for t in tensors])
                return whole(tensors)

            for player in made.game.players:
                player.reduce = caught
            train(1)
            reduce_ms = milliseconds(lambda: [whole(tensors) for _ in range(rounds) for tensors in sums])
        made.stream.close()
        if here.rank == 0:
            shown = batch_size * made.game.batches_per_round
            print(json.dumps(Measured(1000 * shown / round_ms, round_ms, reduce_ms)._asdict()))


def measure(case: Case, recipe: str, rounds: int, device: str) -> Measured:
    own = [str(Path(__file__).resolve()), "--worker", case.kind, "--recipe", recipe]
    own += ["--rounds", str(rounds), "--device", device]
    start = [sys.executable]
    if case.ranks > 1:
        start += ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(case.ranks)]
    env = {**os.environ, "OMP_NUM_THREADS": str(case.threads), "GOMP_SPINCOUNT": "10000"}
    done = subprocess.run([*start, *own], env=env, check=True, capture_output=True, text=True)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, usage=argparse.SUPPRESS)
    parser.add_argument("--recipe", default="gan")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--worker", choices=("weak", "strong"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    for name in ("repeats", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; it must be at least 1")
    import torch

    from gansmith import plan
    from gansmith.errors import UserError

    try:
        plan(options.recipe)
    except UserError as error:
        parser.error(str(error))

    devices = torch.cuda.device_count() if options.device != "cpu" else 0
    device = "cuda" if devices else "cpu"
    if options.worker:
        worker(options.recipe, options.worker, options.rounds, device)
        return
    if options.device == "cuda" and not devices:
        parser.error("--device cuda: PyTorch finds none here (there is: cpu)")
    if devices:
        cases = [Case(n, 1, kind) for kind in ("weak", "strong") for n in (1, 2, 4, 8) if n <= devices]
    else:
        cases = [Case(n, threads, kind) for kind in ("weak", "strong") for n, threads in ((1, 1), (1, 2), (2, 1))]
    found: dict[Case, list[Measured]] = {case: [] for case in cases}
    for _ in range(options.repeats):
        for case in cases:
            found[case].append(measure(case, options.recipe, options.rounds, device))
    print(f"{options.recipe} on {device}, median of {options.repeats} (range)")
    print(
        f"{'batch':7s} {'ranks':>5s} {'threads':>7s} {'images per second':>26s} {'efficiency':>10s} {'round ms':>9s}"
        f" {'all-reduce ms':>13s} {'share':>6s}"
    )
    for case, all_of in found.items():
        speeds = [m.images_per_second for m in all_of]
        alone = [m.images_per_second for m in found[Case(1, 1, case.kind)]]
        # Of the same repeat, so that what else the machine does falls on both.
        ratio = statistics.median(a / (case.ranks * b) for a, b in zip(speeds, alone, strict=True))
        round_ms = statistics.median(m.round_ms for m in all_of)
        reduce_ms = statistics.median(m.reduce_ms for m in all_of)
        spread = f"({min(speeds):,.0f} to {max(speeds):,.0f})"
        cost = f"{reduce_ms:13.2f} {reduce_ms / round_ms:6.1%}" if case.ranks > 1 else f"{'-':>13s} {'-':>6s}"
        print(
            f"{case.kind:7s} {case.ranks:5d} {case.threads:7d} {statistics.median(speeds):8,.0f} {spread:>17s}"
            f" {ratio:10.2f} {round_ms:9.2f} {cost}"
        )


if __name__ == "__main__":
    main()

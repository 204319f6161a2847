"""A card in eight minutes: does everything run on it, is a resumed run the same run, how fast is it.

    python benchmarks/gpu.py --out gpu              # gpu/results.json as it goes, gpu/table.md at the end
    python benchmarks/gpu.py --parts card,dry
    python benchmarks/gpu.py --device cpu --tiny    # the same path without a card, in two minutes

Each part is a list of items that a process of its own works through, with a limit in seconds for the part and for each
item; all limits together are 480 seconds. An item that fails is a row with its error; one that hangs, or that takes the
process down with it, is a row, too, and a new process goes on with the next. gpu/PART.log holds what the processes
print, tracebacks in full.

The machine with the card needs no network and no installation, and its torch and torchvision stay as they are: run from
the source tree, `PYTHONPATH=src python benchmarks/gpu.py`. What its Python lacks is said at the start. Carry it as
wheels, for its version of Python, without what they need, or pip would bring another torch (all of these: 43 MB):

    pip download --no-deps --only-binary :all: --python-version 3.12 --platform manylinux2014_x86_64 \
        --platform manylinux_2_27_x86_64 --platform manylinux_2_28_x86_64 --dest wheels click filelock pyyaml rich \
        markdown-it-py mdurl pygments safetensors torchmetrics lightning-utilities packaging numpy pillow \
        matplotlib contourpy cycler fonttools kiwisolver pyparsing python-dateutil six    # of these what is lacking
    python -m pip install --no-index --no-deps --target site wheels/*.whl                 # there
    PYTHONPATH=src:site python benchmarks/gpu.py
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import functools
import json
import os
import queue
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

NEEDS = [
    "torch",
    "torchvision",
    "torchmetrics",
    "numpy",
    "PIL",
    "click",
    "yaml",
    "rich",
    "safetensors",
    "filelock",
    "matplotlib",
]
TWO_CORES = 25.26
"""Seconds that an epoch of the post's script takes on the two cores of docs/performance.md."""
GONE = 70
"""The exit code of a process whose card no longer answers: what it has begun next is not to blame."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """What every item is told."""

    device: str
    tiny: bool

    def flags(self, recipe: str) -> dict[str, Any]:
        """What this script changes in a recipe."""
        flags = {**STAND_INS.get(recipe, {}), **(TINY[recipe] if self.tiny else {})}
        return flags | ({"data.name": noise()} if flags.get("data.name") == NOISE else {})


@dataclass(frozen=True)
class Part:
    """A list of items, how one of them is measured, and the seconds that the part and an item of it may take."""

    about: str
    seconds: float
    each: float
    items: Callable[[bool], list[str]]
    """`tiny` or not -> items."""
    measure: Callable[[str, Setting], Row]
    below: Callable[[list[Row]], list[str]] = field(default=lambda rows: [])
    """Lines below the table."""


NOISE = "noise"
STAND_INS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("gan2014_cifar10_conv", "gan2014_cifar10_fc", "gan2014_tfd_pretrain"), {"data.name": "mnist"}),
    "gan2014_tfd": {"data.name": "mnist", "networks.G.weights": None},
    "photos": {"networks.D": "photo_critic"},
    "srgan_x4": {"data.name": NOISE, "networks.F": "digit_features"},
    "esrgan_x4": {"data.name": NOISE, "networks.F": {"name": "digit_features", "values": "unit"}},
}
"""For data and weights that do not ship, and for digits in the size of photos, which take minutes to prepare."""
_MLP = {"networks.G.widths": [16, 16], "networks.D.widths": [16], "batch_size": 16}
TINY: dict[str, dict[str, Any]] = {
    "gan": _MLP,
    "wgan_gp": _MLP,
    "fast_mnist": {"networks.G.width": 2, "networks.D.width": 2, "batch_size": 16},
}


# ---- what is measured: one item in, one row out -------------------------------------------------------------------


def all_recipes(tiny: bool) -> list[str]:
    from gansmith.recipe import recipe_names

    return list(TINY) if tiny else recipe_names()


def card(item: str, setting: Setting) -> Row:
    """Versions, or the speed of a large matrix product or copy."""
    import torch
    from rounds import seconds_of

    from gansmith.cuda_math import cuda_math

    device = torch.device(setting.device)
    if item == "versions":
        return versions(device)
    n, dtype = 256 if setting.tiny else 8192, torch.bfloat16 if item == "bfloat16 product" else torch.float32
    a, b, large, other = (torch.randn(n, n, device=device).to(dtype) for _ in range(4))

    def product() -> None:
        torch.mm(a, a, out=b)

    def copy() -> None:
        for _ in range(8):
            large.copy_(other)

    call, amount = (copy, 8 * 2 * 4 * n**2) if item == "copy" else (product, 2 * n**3)
    with cuda_math(tf32=item == "tf32 product"):
        seconds = [seconds_of(call, device) for _ in range(8)]
    return {"found": f"{amount / 1e12 / statistics.median(seconds):.3f} {'TB/s' if item == 'copy' else 'TFLOP/s'}"}


def versions(device: Any) -> Row:
    import torch
    from epoch import driver

    from gansmith.run.folder import environment

    found = {key: value for key, value in environment(device).items() if key != "command"}
    if device.type == "cuda":
        properties, cudnn = torch.cuda.get_device_properties(device), torch.backends.cudnn
        found |= {"driver": driver(), "cudnn": cudnn.version()}  # type: ignore[no-untyped-call]
        found |= {"triton": find_spec("triton") is not None}
        found |= {"capability": f"{properties.major}.{properties.minor}", "GB": f"{properties.total_memory / 1e9:.1f}"}
    return {"found": "below", "page": ", ".join(f"{key} {value}" for key, value in found.items() if value)}


def dry(item: str, setting: Setting) -> Row:
    """A training from the start to its last pictures and checkpoint, without curves, which the card does not draw."""
    from gansmith import train

    with tempfile.TemporaryDirectory(prefix="gansmith-gpu-") as folder, no_curves():
        began, flags, steps = time.perf_counter(), setting.flags(item), 2 if setting.tiny else 10
        train(item, out=Path(folder, "run"), steps=steps, device=setting.device, overrides=flags, quiet=True)
    return {"seconds": round(time.perf_counter() - began, 2), "with": words(STAND_INS.get(item, {}))}


def games(tiny: bool) -> list[str]:
    """GAME RECIPE: the first recipe of each game."""
    from gansmith.recipe import plan

    found: dict[str, str] = {}
    for name in all_recipes(tiny):
        found.setdefault(str(plan(name).recipe.game.name), name)
    return [" ".join(pair) for pair in found.items()]


def exact(item: str, setting: Setting) -> Row:
    """What `gansmith verify` finds."""
    from gansmith.exactness import verify

    recipe = item.split()[1]
    flags = {**setting.flags(recipe), "evaluation.every": 0}
    with no_curves():
        found = verify(recipe, steps=2 if setting.tiny else 5, device=setting.device, overrides=flags)
    if found.exact:
        return {"compared": f"{found.tensors} tensors, {found.values} values"}
    shown = ", ".join(found.different[:3])
    return {"error": f"{len(found.different)} of {found.tensors + found.values} differ: {shown}"}


def rounds(item: str, setting: Setting) -> Row:
    """ms a round of the loop with its log; 200 rounds, or as many as 8 seconds allow."""
    import torch

    most, until = (4, 1.0) if setting.tiny else (200, 8.0)
    with bench(item, setting) as made:
        first, cuda = made.play(1), made.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(made.device)
        blocks, block, state = list[float](), max(1, most // 20), made.experiment.state
        made.play(block)
        images, round = state.images, state.round
        while len(blocks) * block < most and sum(blocks) < until:
            blocks.append(made.play(block))
        row = {"ms a round": f"{1e3 * statistics.median(blocks) / block:.3f}", "rounds": state.round}
        row["images/s"] = f"{(state.images - images) / (state.round - round) * block / statistics.median(blocks):,.0f}"
        row["first round (s)"] = f"{first:.2f}"
        if cuda:
            row["MB"] = f"{torch.cuda.max_memory_allocated(made.device) / 1e6:,.0f}"
    return row


def epochs(tiny: bool) -> list[str]:
    from epoch import CASES

    return [f"{case}, {i + 1}" for i in range(1 if tiny else 2) for case in CASES]


def one_epoch(item: str, setting: Setting) -> Row:
    """Seconds for an epoch, as `benchmarks/epoch.py` takes them."""
    from epoch import CASES, EPOCH

    steps = 3 if setting.tiny else EPOCH
    return {"seconds": round(CASES[item.rpartition(",")[0]](setting.device, steps), 3), "rounds": steps}


def against_the_post(rows: list[Row]) -> list[str]:
    """Medians for an epoch of 938 rounds, and how many times the post's script they are."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if "seconds" in row:
            found.setdefault(row["item"].rpartition(",")[0], []).append(row["seconds"] * 938 / row["rounds"])
    medians = {case: statistics.median(seconds) for case, seconds in found.items()}
    base = medians.get("the post's script")
    lines = []
    for case, seconds in medians.items():
        line = f"{case}: {seconds:.3f} s an epoch, {TWO_CORES / seconds:.1f} times the post's script on two cores"
        lines.append(line + (f" ({TWO_CORES} s), {base / seconds:.2f} times the post's script here" if base else ""))
    return lines


def parts_of_a_round(item: str, setting: Setting) -> Row:
    """What `benchmarks/rounds.py` finds, as a page, too."""
    from rounds import profile, table

    from gansmith import plan

    resolved = plan(item, flags=setting.flags(item))
    found = profile(resolved, setting.device, seconds=0.1 if setting.tiny else 5, say=print)
    page = table(found).markdown()
    share = {name: f"{ceiling['share']:.1%}" for name, ceiling in found["ceilings"].items()}
    return {"ms a round": f"{found['round']['median']:.3f}", **share, "page": page, "profile": found}


def switches(tiny: bool) -> list[str]:
    """RECIPE KEY=VALUE, what compiles last."""
    precisions = ["engine.precision=bfloat16", "engine.precision=tf32"]
    convolutions = [*precisions, "engine.channels_last=true"]
    if tiny:
        return [f"fast_mnist {switch}" for switch in convolutions]
    found = {"gan": precisions, "dcgan": convolutions, "r3gan": convolutions}
    plain = [f"{recipe} {switch}" for recipe, each in found.items() for switch in each]
    return [*plain, "gan engine.compile=true", "dcgan engine.compile=true"]


def switched(item: str, setting: Setting) -> Row:
    """Against the recipe as it is, block by block, as `benchmarks/switches.py` does it."""
    import torch
    from switches import Variant, compared

    from gansmith import plan
    from gansmith.recipe import parsed
    from gansmith.training import alone

    recipe, _, switch = item.partition(" ")
    key, _, value = switch.partition("=")
    flags, device = setting.flags(recipe), torch.device(setting.device)
    with tempfile.TemporaryDirectory(prefix="gansmith-gpu-") as folder, alone(device, tf32=False):
        base = Variant(plan(recipe, flags=flags).recipe, device, Path(folder, "base"))
        with contextlib.closing(base.bench):
            changed = {**flags, key: parsed(value, key)}
            cells = compared(recipe, changed, base, 1 if setting.tiny else 5, Path(folder, "other"))
    return dict(zip(("times as fast", "lowest", "highest", "first round (s)", "remark"), cells, strict=True))


def largest_batch(item: str, setting: Setting) -> Row:
    """Images a second over batches that double until there is no memory left, or less than 5 % more of them."""
    import torch

    from gansmith import plan
    from gansmith.errors import OutOfMemory

    size, found, why = plan(item).recipe.batch_size, dict[int, float](), "there is no time for more"
    until = time.perf_counter() + (1 if setting.tiny else 10)
    while time.perf_counter() < until:
        try:
            with bench(item, setting, batch_size=size) as made:
                made.play(3)
                seconds = [made.play(made.period) for _ in range(2 if setting.tiny else 10)]
                images = made.experiment.game.batches_per_round * size * made.period
                whole = size > len(made.experiment.stream.sets[0])
        except (OutOfMemory, torch.OutOfMemoryError):
            why = f"there is no memory for {size:,}"
            break
        if whole:
            why = "all images are in one batch"
            break
        found[size] = images / statistics.median(seconds)
        if size // 2 in found and found[size] < 1.05 * found[size // 2]:
            why = f"{size:,} brings less than 5 % more"
            break
        size *= 2
    pays = max((n for n in found if found[n] >= 1.05 * found.get(n // 2, 0.0)), default=None)
    speeds = ", ".join(f"{n:,}: {speed:,.0f}" for n, speed in found.items())
    return {"pays up to": pays, "images/s by batch": speeds, "ends because": why}


# ---- what items share ---------------------------------------------------------------------------------------------


@contextlib.contextmanager
def bench(recipe: str, setting: Setting, **more: Any) -> Iterator[Any]:
    """A recipe that is played on and on, without pictures, checkpoints and scores."""
    import torch
    from rounds import Bench

    from gansmith import plan
    from gansmith.training import alone

    made, device = plan(recipe, flags={**setting.flags(recipe), **more}).recipe, torch.device(setting.device)
    tf32 = made.engine.precision == "tf32"
    with tempfile.TemporaryDirectory(prefix="gansmith-gpu-") as folder, alone(device, tf32=tf32):
        one = Bench(made, device, Path(folder), print)
        with contextlib.closing(one):
            yield one


@functools.cache
def noise() -> str:
    """A folder of 48 pictures of 128x128 in colour, until this process ends."""
    import numpy as np
    from PIL import Image

    folder = Path(tempfile.mkdtemp(prefix="gansmith-gpu-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for i in range(48):
        pixels = np.random.default_rng(i).integers(0, 256, (128, 128, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return str(folder)


def no_curves() -> Any:
    return patch("gansmith.run.record.plot_curves", lambda metrics, out, title: out.touch())


def pages(rows: list[Row]) -> list[str]:
    return [row["page"] for row in rows if "page" in row]


def words(flags: dict[str, Any]) -> str:
    return " ".join(f"--{key} {str(value).lower()}" for key, value in flags.items())


PARTS: dict[str, Part] = {
    "card": Part(
        "Versions and the card; a large product, and a large copy, counting bytes read and written.",
        *(20, 20),
        lambda tiny: ["versions", "float32 product", "tf32 product", "bfloat16 product", "copy"],
        card,
        pages,
    ),
    "dry": Part("Ten rounds of every recipe, with pictures and checkpoints.", 100, 25, all_recipes, dry),
    "verify": Part("`gansmith verify`, 5 rounds, of one recipe per game.", 75, 25, games, exact),
    "epoch": Part("`benchmarks/epoch.py`.", 50, 30, epochs, one_epoch, against_the_post),
    "rounds": Part("200 rounds of every recipe.", 100, 25, all_recipes, rounds),
    "bench": Part(
        "`benchmarks/rounds.py`; shares of a large product and of a large copy.",
        *(40, 25),
        lambda tiny: ["gan"] if tiny else ["gan", "fast_mnist", "wgan_gp"],
        parts_of_a_round,
        pages,
    ),
    "switches": Part("Settings of `engine` against the recipe as it is, interleaved.", 60, 45, switches, switched),
    "batch": Part(
        "The largest batch that pays.",
        *(35, 20),
        lambda tiny: ["gan"] if tiny else ["gan", "fast_mnist", "dcgan"],
        largest_batch,
    ),
}


# ---- the process that measures ------------------------------------------------------------------------------------


def work(part: Part, items: Sequence[str], setting: Setting) -> None:
    """Print the row of each item as a line of JSON; whatever else is printed goes to stderr."""
    out = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        for item in items:
            try:
                row = part.measure(item, setting)
            except (Exception, SystemExit) as error:
                print(f"\n{item}:", file=sys.stderr)
                traceback.print_exc()
                row = {"error": told(error)}
            print(json.dumps({"item": item, **row}), file=out, flush=True)
            if "error" in row and not answers(setting.device):
                sys.exit(GONE)


def told(error: BaseException) -> str:
    """The last line of a traceback; of a message of several lines the first, for CUDA's end in general advice."""
    text = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    places = [frame for frame in traceback.extract_tb(error.__traceback__) if "gansmith" in Path(frame.filename).parts]
    at = f" ({Path(places[-1].filename).name}:{places[-1].lineno})" if places else ""
    return f"{type(error).__name__}: {text}{at}"


def answers(device: str) -> bool:
    """Whether the device still works: after some errors of a kernel no call of this process does."""
    if not device.startswith("cuda"):
        return True
    import torch

    try:
        return bool(torch.ones(1, device=device).sum().item() == 1)
    except Exception:
        return False


# ---- the process that waits ---------------------------------------------------------------------------------------


class Child:
    """A process of this script that measures items; `why` is how it ended."""

    def __init__(self, name: str, items: Sequence[str], options: argparse.Namespace) -> None:
        command = [sys.executable, sys.argv[0], "--work", name, "--items", json.dumps(items)]
        command += ["--device", options.device, *["--tiny"] * options.tiny]
        self.log = (options.out / f"{name}.log").open("a+", encoding="utf-8")
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=self.log, text=True, start_new_session=True
        )
        self.lines: queue.Queue[str | None] = queue.Queue()
        self.why = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.lines.put(line)
        self.lines.put(None)

    def rows(self, each: float, until: float) -> Iterator[Row]:
        """Its rows as they come, until it ends or is ended: an item took longer than `each`, or `until` is over."""
        try:
            while True:
                wait = min(each, until - time.monotonic())
                if (line := self.lines.get(timeout=max(0.0, wait))) is None:
                    break
                yield json.loads(line)
            code = self.process.wait(timeout=10)
            self.why = "" if code == 0 else f"the process ended with {_ending(code)}{self._last()}"
        except (queue.Empty, subprocess.TimeoutExpired):
            self.why = f"no result within {wait:.0f} s"
        finally:
            self.end()

    def _last(self) -> str:
        self.log.seek(0)
        lines = self.log.read().strip().splitlines()
        return f": {lines[-1]}" if lines else ""

    def end(self) -> None:
        """With all that it has started; one that the driver holds is left behind."""
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5)
        self.log.close()


def _ending(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"


def played(name: str, part: Part, options: argparse.Namespace, note: Callable[[list[Row]], None]) -> list[Row]:
    """The rows of a part: every item has one."""
    slack = 4 if options.tiny else 1  # on a machine that does other work
    left, rows, until = part.items(options.tiny), list[Row](), time.monotonic() + slack * part.seconds
    while left:
        child, before = Child(name, left, options), len(rows)
        for row in child.rows(slack * part.each, until):
            left.remove(row["item"])
            rows.append(row)
            note(rows)
        if left and time.monotonic() >= until:
            rows += [{"item": item, "error": f"the part's {slack * part.seconds:g} s were over"} for item in left]
            left = []
        elif left and (child.process.returncode != GONE or len(rows) == before):
            rows.append({"item": left.pop(0), "error": child.why})
        note(rows)
    return rows


HIDDEN = ("profile", "page")


def page(name: str, part: Part, found: dict[str, Any]) -> str:
    """A part as Markdown."""
    from gansmith.tables import Table

    rows: list[Row] = found["rows"]
    failed = sum("error" in row for row in rows)
    keys = list(dict.fromkeys(key for row in rows for key in row if key not in HIDDEN))
    cells = [["" if (value := row.get(key)) is None else str(value) for key in keys] for row in rows]
    head = f"## {name}\n\n{part.about} {found['seconds']:.0f} s; {len(rows)} items, {failed} failed."
    words = [i for i, key in enumerate(keys) if key in ("item", "error", "found", "with", "compared", "remark")]
    return Table(keys, cells, left=words, above=[head], below=part.below(rows)).markdown()


def checked() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, usage=argparse.SUPPRESS)
    parser.add_argument("--parts", default=",".join(PARTS), help="%(default)s")
    parser.add_argument("--device", default="cuda", help="cuda (cuda:0, ...), or cpu")
    parser.add_argument("--tiny", action="store_true", help="few and small items")
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="a folder [%(default)s]")
    parser.add_argument("--work", choices=[*PARTS], help=argparse.SUPPRESS)
    parser.add_argument("--items", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.parts = options.parts.split(",")
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"--parts {unknown[0]}: the parts are {', '.join(PARTS)}")
    if lacking := [name for name in NEEDS if find_spec(name) is None]:
        parser.error(f"this Python lacks {', '.join(lacking)}; the head of this file says how to carry wheels")
    return options


def main() -> None:
    options = checked()
    if options.work:
        work(PARTS[options.work], options.items, Setting(options.device, options.tiny))
        return
    from gansmith.run.atomic import replacing

    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"device": options.device, "tiny": options.tiny, "parts": {}}

    for name in options.parts:
        began = time.monotonic()
        (options.out / f"{name}.log").unlink(missing_ok=True)

        def note(rows: list[Row], name: str = name, began: float = began) -> None:
            results["parts"][name] = {"seconds": time.monotonic() - began, "rows": rows}
            with replacing(options.out / "results.json") as part:
                part.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")

        try:
            rows = played(name, PARTS[name], options, note)
        except Exception as error:  # of the list of items: the other parts go on
            traceback.print_exc()
            rows = [{"item": "the list of items", "error": told(error)}]
        note(rows)
        print(page(name, PARTS[name], results["parts"][name]), flush=True)
    pages = [page(name, PARTS[name], found) for name, found in results["parts"].items()]
    (options.out / "table.md").write_text("\n".join(pages), encoding="utf-8")
    sys.exit(any("error" in row for found in results["parts"].values() for row in found["rows"]))


if __name__ == "__main__":
    main()

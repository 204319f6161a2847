"""The golden runs: every recipe on real MNIST, in minutes of one core, with three seeds; docs/zoo.md and its gallery.

    python benchmarks/zoo.py --next                 # train and score one item that is missing; again until none is
    python benchmarks/zoo.py --next --only dcgan --seeds 1
    python benchmarks/zoo.py --next --pictures DIR  # also those on the folders of pictures that lie in DIR
    python benchmarks/zoo.py --page                 # write docs/zoo.md and docs/pictures/zoo.png from what is there

An item is a recipe and a seed. Its line goes to docs/zoo/results.jsonl, the pictures of seed 0 to docs/zoo/RECIPE.png;
items that have a line are skipped. Runs stay in runs/zoo; an item that was interrupted goes on where it stopped.
"""

import argparse
import json
import os
import platform
import shlex
import statistics
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Item:
    """How long a recipe trains, by what it is scored, and what is said of it."""

    rounds: int
    metrics: Sequence[str] = ("fd", "dc", "classes")
    flags: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = ""
    """Where it is another than the item's name: a variant, of which the page has scores and no pictures."""
    note: str = ""
    folder: str = ""
    """Of pictures, in the folder that --pictures names; "": the recipe's own data."""
    shown: bool = True
    """Whether what is made of them may stand in the docs."""


DAISIES = partial(Item, metrics=("mmd",), flags={"img_size": 64}, folder="daisy2sunflower", shown=False)
ITEMS: dict[str, Item] = {
    "fast_mnist": Item(9375),
    "gan": Item(
        10_000,
        note="A collapse: three or four kinds of picture, speckled. It is the method, not the budget: the networks of"
        " the post, with BatchNorm's eps of 0.8, still show few digits after 50 epochs ([results](results.md)).",
    ),
    "dcgan": Item(5000),
    "lsgan": Item(10_000),
    "wgan": Item(4000, note="Varied, and blurred by the budget: 5e-5 is the paper's rate, for far longer trainings."),
    "wgan_gp": Item(3000),
    "wgan_div": Item(3000),
    "bgan": Item(10_000),
    "dragan": Item(8000),
    "gan_r1": Item(4000),
    "relativistic_gan": Item(5000),
    "ragan": Item(5000),
    "softmax_gan": Item(10_000),
    "ebgan": Item(4000),
    "began": Item(3000, note="Falls short: one blurred shape so soon, and ones alone later ([why](results.md#began))."),
    "hinge_sn": Item(4000),
    "r3gan": Item(1876, note="Slowest of all by the round, and still getting better: two epochs are little for it."),
    "cgan": Item(8000),
    "acgan": Item(6000, metrics=("fd", "dc", "classes", "accuracy")),
    "projection": Item(5000, note="The right digit nearly always, in few hands: coverage is half of `acgan`'s."),
    "sgan": Item(
        938,
        metrics=("fd", "dc", "accuracy"),
        note="Accuracy is what this game is for: 100 labels in all, the same for every seed.",
    ),
    "sgan_labels_alone": Item(
        938,
        metrics=("accuracy",),
        flags={"game.lambda_unlabelled": 0},
        recipe="sgan",
        note="The same classifier without a game and without the other pictures: what `sgan` is held against.",
    ),
    "infogan": Item(3000, flags={"networks.G.width": 16, "networks.D.width": 16}),
    "cluster_gan": Item(
        1876,
        metrics=("fd", "dc", "psnr", "cluster_accuracy", "nmi", "ari"),
        note="Falls short: strokes, and clusters far from the ten digits; the authors play 500,000 rounds.",
    ),
    "aae": Item(
        3000,
        metrics=("fd", "dc", "classes", "psnr"),
        note="Blurred, as auto-encoders are: E and Dec minimise squares, and nothing tells them to be sharp.",
    ),
    "pix2pix": Item(4000, metrics=("psnr", "ssim", "l1")),
    "cyclegan": Item(4000, metrics=("kept",)),
    "discogan": Item(4000, metrics=("kept",), note="One green for all digits: nothing in the losses asks for variety."),
    "dualgan": Item(4000, metrics=("kept",)),
    "unit": Item(6000, metrics=("kept",)),
    "munit": Item(3000, metrics=("kept",)),
    "stargan": Item(2000, metrics=("edited",)),
    "srresnet": Item(3000, metrics=("psnr", "ssim", "bicubic")),
    "srgan": Item(
        3000,
        metrics=("psnr", "ssim", "bicubic"),
        note="Sharper than `srresnet` and further from the truth: an edge in another place costs more than a blur.",
    ),
    "esrgan": Item(3000, metrics=("psnr", "ssim", "bicubic")),
    "context_encoder": Item(2000, metrics=("psnr", "ssim")),
    "ccgan": Item(
        1000,
        metrics=("accuracy",),
        note="Falls short: holes are filled well, and the classifier gains next to nothing by it in so few rounds.",
    ),
    "ccgan_labels_alone": Item(1000, metrics=("accuracy",), flags={"game.lambda_gan": 0}, recipe="ccgan"),
    "bicyclegan": Item(
        1500,
        metrics=("psnr",),
        note="Seeds paint blue and green and not yet red; `reconstruct` turns red into green for the same reason.",
    ),
    "pixelda": Item(1000, metrics=("accuracy",)),
    "pixelda_source_only": Item(
        1000,
        metrics=("accuracy",),
        flags={"game.source_only": True},
        recipe="pixelda",
        note="Without adaptation: `classify` is what `pixelda` is held against.",
    ),
    "pixelda_target_only": Item(
        1000,
        metrics=("accuracy",),
        flags={"game.source_only": True, "data.direction": "b2a"},
        recipe="pixelda",
        note="Taught on the target's labels: `classify_a` is what adaptation could reach at best.",
    ),
    "cogan": Item(2000, metrics=("agree",)),
    "facades_pix2pix": Item(
        8000,
        metrics=("psnr", "ssim"),
        flags={"img_size": 64, "channels": 3, "batch_size": 4, "data.direction": "b2a"},
        recipe="pix2pix",
        folder="facades",
        shown=False,
        note="Windows, ledges and doors stand where the label map has them, in one brown, with frayed walls. After"
        " 1,500 rounds it was 13.8 dB and .233: more rounds sharpen, and PSNR does not reward that.",
    ),
    "facades_bicyclegan": Item(
        2500,
        metrics=("psnr",),
        flags={"img_size": 64, "data.direction": "b2a", "views": []},
        recipe="bicyclegan",
        folder="facades",
        shown=False,
        note="Falls short: rows of windows can be guessed in a blur, in the tint that the code says. PSNR is lower than"
        " after one round for `a2b`, and little higher for `reconstruct`.",
    ),
    "daisies_cyclegan": DAISIES(
        3000,
        recipe="cyclegan",
        note="Petals turn yellow, and back to white; grounds get a texture of patches. By these features the"
        " sunflowers made are further from real ones than the daisies that they were made from (.37): the texture"
        " counts more than the colour.",
    ),
    "daisies_discogan": DAISIES(
        1500, recipe="discogan", note="Falls short: yellow and white clouds under a grid; shapes are lost."
    ),
    "daisies_dualgan": DAISIES(
        2000,
        recipe="dualgan",
        note="Falls short: it finds the negative, white petals become dark and dark grounds yellow. A cycle forbids"
        " nothing of that, and of the five `mmd` likes it best.",
    ),
    "daisies_unit": DAISIES(
        2000,
        recipe="unit",
        note="White petals become yellow with dark hearts, sunflowers daisies, coarse and with a grid.",
    ),
    "daisies_munit": DAISIES(
        1000,
        recipe="munit",
        note="Falls short: colours turn and shapes dissolve. In the style of a given picture (`a2b_like`) shapes are"
        " kept better, under a blur.",
    ),
    "emoji_stargan": Item(
        1000,
        metrics=("psnr",),
        flags={"img_size": 64},
        recipe="stargan",
        folder="emoji",
        note="Skin turns as told, in hands and faces alike, and the rest stays; man and woman are hardly told apart,"
        " edges are frayed. `psnr` is of pictures told what they are already.",
    ),
    "flowers_srresnet": Item(
        3000,
        metrics=("psnr_y", "ssim_y", "bicubic", "enlarged"),
        flags={"img_size": 64, "channels": 3},
        recipe="srresnet",
        folder="flowers",
        shown=False,
        note="Sharper than bicubic enlargement everywhere, by 0.8 to 1.1 dB, after 13 minutes on 2,946 flowers of"
        " 64x64; the paper, after a million rounds on ImageNet, has 32.1 dB on Set5 and 28.5 on Set14.",
    ),
    "flowers_srgan": Item(
        400,
        metrics=("psnr_y", "ssim_y", "bicubic", "enlarged"),
        flags={"img_size": 64, "channels": 3, "start.run": "runs/zoo/flowers_srresnet-0", "game.lambda_pixel": 1.0},
        recipe="srgan",
        folder="flowers",
        shown=False,
        note="From the run of `flowers_srresnet`: colours stay, edges sharpen under a faint grid, PSNR falls behind"
        " bicubic. From scratch and without the term of pixels (`--steps 1500`, the last two flags left out) yellow"
        " flowers became red: 17.1 dB.",
    ),
    "flowers_esrgan": Item(
        1200,
        metrics=("psnr_y", "ssim_y", "bicubic", "enlarged"),
        flags={"img_size": 64, "channels": 3},
        recipe="esrgan",
        folder="flowers",
        shown=False,
        note="Falls short: from scratch, in so few rounds, dark scratches stand where detail should be.",
    ),
    "flowers_context_encoder": Item(
        1500,
        metrics=("psnr",),
        flags={"img_size": 64, "channels": 3},
        recipe="context_encoder",
        folder="flowers",
        shown=False,
        note="The hole gets the colours of its surroundings, without seams at the border, and no shapes.",
    ),
    "flowers_ccgan": Item(
        1200,
        metrics=("accuracy",),
        flags={"img_size": 64, "channels": 3},
        recipe="ccgan",
        folder="flowers",
        shown=False,
        note="Falls short: holes get the right colours under a grid of dots. The classifier has .49 right of 318"
        " flowers of four kinds, and .46 by the labels alone: a difference within chance, and one seed.",
    ),
    "flowers_ccgan_labels_alone": Item(
        1200,
        metrics=("accuracy",),
        flags={"img_size": 64, "channels": 3, "game.lambda_gan": 0},
        recipe="ccgan",
        folder="flowers",
        shown=False,
    ),
    "usps_cogan": Item(
        1200,
        metrics=("agree",),
        flags={"channels": 1},
        recipe="cogan",
        folder="mnist2usps",
        note="About half look like digits at this length; in .36 of the pairs one digit is read on both sides, by"
        " chance .10.",
    ),
    "usps_pixelda": Item(
        1000,
        metrics=("accuracy",),
        flags={"channels": 1},
        recipe="pixelda",
        folder="mnist2usps",
        note="Falls short: worse than without adaptation (`usps_source_only`); ones lose their shape. 10,000 of MNIST.",
    ),
    "usps_source_only": Item(
        1000,
        metrics=("accuracy",),
        flags={"channels": 1, "game.source_only": True},
        recipe="pixelda",
        folder="mnist2usps",
        shown=False,
    ),
    "ring": Item(6000, metrics=("modes",)),
    "grid": Item(6000, metrics=("modes",)),
}
"""In the order of the page."""
SHOWN = (
    *("fd", "density", "coverage", "class_tv", "confident", "psnr", "ssim", "l1", "mmd", "bicubic"),
    *(
        "accuracy",
        "cluster_accuracy",
        "nmi",
        "ari",
        "covered",
        "good",
        "kept",
        "agree",
        "rarest",
        "turned_blue",
        "unframed",
    ),
)
"""The scores that have a column, by the beginning of their names."""
SAMPLES: int | None = None
"""For the scores; None: what is usual."""
FACE = 152
"""The side of a recipe's face in the gallery, in pixels: five digits and the gaps between them."""


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, usage=argparse.SUPPRESS)
    parser.add_argument("--next", action="store_true")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--only", default=",".join(ITEMS))
    parser.add_argument("--pictures", type=Path)
    parser.add_argument("--feature-weights", type=Path, help="MobileNet's, for the real pictures; else a download")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "zoo")
    args = parser.parse_args()
    names = args.only.split(",")
    if unknown := [name for name in names if name not in ITEMS]:
        parser.error(f"--only {unknown[0]}: the recipes are {', '.join(ITEMS)}")
    if args.seeds < 1 or args.threads < 1:
        parser.error("--seeds and --threads must be at least 1")
    if args.next == args.page:
        parser.error("say --next or --page")
    lines = read(args.docs)
    if args.page:
        write_page(args.docs, lines)
        return
    done = {(line["recipe"], line["seed"]) for line in lines}
    there = [name for name in names if (folder := folder_of(ITEMS[name], args.pictures)) is None or folder.is_dir()]
    if lacking := [name for name in names if name not in there]:
        print(f"left out, for want of their pictures (--pictures DIR): {', '.join(lacking)}")
    missing = [
        (name, seed)
        for seed in range(args.seeds)
        for name in there
        if (name, seed) not in done and (seed == 0 or not ITEMS[name].folder)  # real pictures: one seed
    ]
    if not missing:
        print("nothing is missing")
        return
    name, seed = missing[0]
    print(f"{name}, seed {seed}; {len(missing) - 1} more after it")
    line = train(name, seed, args.threads, args.docs, args.runs, args.pictures, args.feature_weights)
    with (args.docs / "zoo" / "results.jsonl").open("a", encoding="utf-8") as out:
        out.write(json.dumps(line) + "\n")


def folder_of(item: Item, pictures: Path | None) -> Path | None:
    """Where an item's pictures should lie; None for data that need no folder."""
    return (pictures or Path("no pictures")) / item.folder if item.folder else None


def read(docs: Path) -> list[dict[str, Any]]:
    path = docs / "zoo" / "results.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


# ---- one item ----------------------------------------------------------------------------------------------------


def train(
    name: str,
    seed: int,
    threads: int,
    docs: Path,
    runs: Path,
    pictures: Path | None = None,
    weights: Path | None = None,
) -> dict[str, Any]:
    """The line of an item, with its scores before the first round and after the last one."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    import torch

    import gansmith
    from gansmith.series import last_line, train_missing

    torch.set_num_threads(threads)
    item, run = ITEMS[name], runs / f"{name}-{seed}"
    flags = {"checkpoint.interval": 1000, "sample_interval": max(1, item.rounds // 20), **item.flags, "seed": seed}
    if (folder := folder_of(item, pictures)) is not None:
        flags["data.name"] = str(folder)
    began = time.time()
    for out, steps in ((run.with_name(f"{run.name}-untrained"), 1), (run, item.rounds)):
        wanted = gansmith.plan(item.recipe or name, flags={**flags, "steps": steps})
        train_missing(out, wanted, device="cpu", quiet=True, say=print)
    scores, before = (measured(out, item.metrics, weights) for out in (run, run.with_name(f"{run.name}-untrained")))
    (docs / "zoo").mkdir(exist_ok=True)
    if seed == 0 and item.shown and (item.folder or not item.recipe):
        face(run, docs / "zoo" / f"{name}.png")
    return {
        "recipe": name,
        "seed": seed,
        "rounds": item.rounds,
        "seconds": round(last_line(run)["seconds"], 1),
        "threads": threads,
        "flags": dict(item.flags),
        "scores": scores,
        "after one round": before,
        "cpu": processor(),
        "torch": torch.__version__,
        "gansmith": gansmith.__version__,
        "took": round(time.time() - began),
    }


def measured(run: Path, metrics: Sequence[str], weights: Path | None = None) -> dict[str, float]:
    """The scores of one set of samples, by their names with features and number of samples."""
    import gansmith

    named = [name for name in metrics if name not in OWN]
    found = {key: value for name in metrics if name in OWN for key, value in OWN[name](run).items()}
    if named:
        seen: dict[str, Any] = {"features": "mobilenet", "feature_weights": weights} if "mmd" in metrics else {}
        receipts = gansmith.evaluate(
            run, metrics=named, n=SAMPLES, seeds=(0,), device="cpu", say=lambda text: None, **seen
        )
        makers = [(f"{r.subject['maker']}/" if "maker" in r.subject else "", r) for r in receipts]
        found |= {f"{maker}{receipt.metric}": round(receipt.values[0], 4) for maker, receipt in makers}
    return found


def read_digits(x: Any) -> Any:
    """What the shipped classifier reads (N,) in pictures (N, C, H, W) in [0, 1]: their luminance at 28x28, in white on
    black, the darkest and the brightest pixel of each at 0 and 1."""
    import torch

    from gansmith.metrics import digits

    y = torch.nn.functional.interpolate(x.float().mean(1, keepdim=True), (28, 28), mode="area")
    y = torch.where(y[:, :, :2].mean((1, 2, 3), keepdim=True) > 0.5, 1 - y, y)
    y = y - y.amin((1, 2, 3), keepdim=True)
    return digits.load()(y / y.amax((1, 2, 3), keepdim=True).clamp(min=1e-6)).logits.argmax(1)


def kept(run: Path) -> dict[str, float]:
    """Of each domain's first test pictures the share whose digit is still read after translation."""
    import torch

    import gansmith
    from gansmith.build import fields_of, load_split
    from gansmith.inference import open_run

    recipe = open_run(run).recipe
    sets = {next(iter(s.pictures)): s for s in load_split(recipe, "test", say=lambda text: None, progress=False)}
    found = {}
    for name in ("a2b", "b2a"):
        sampler = gansmith.load(run, maker=name, device="cpu", say=lambda text: None)
        own, n = sets[name[0]], 1000 if SAMPLES is None else SAMPLES
        fields = fields_of(recipe, [own], slice(n), torch.device("cpu"))
        read = read_digits(sampler.translated(fields, range(n))).numpy()
        found[f"kept_{name}"] = round(float((read == own.columns["y"][:n]).mean()), 4)
    return found


def agree(run: Path) -> dict[str, float]:
    """The share of pairs in which one digit is read on both sides, and the rarest digit's share on the first side."""
    import torch

    import gansmith

    n = 1000 if SAMPLES is None else SAMPLES
    makers = [gansmith.load(run, maker=name, device="cpu", say=lambda text: None) for name in "ab"]
    a, b = (read_digits(sampler.pixels(sampler.latents(range(n)))) for sampler in makers)
    rarest = torch.bincount(a, minlength=10).min() / n
    return {"agree": round(float((a == b).double().mean()), 4), "rarest": round(float(rarest), 4)}


def bicubic(run: Path) -> dict[str, float]:
    """What bicubic enlargement reaches on the same pictures as the recipe's `psnr`."""
    import torch

    from gansmith.build import fields_of, load_split
    from gansmith.data.values import VALUES
    from gansmith.evaluation.measures import psnr
    from gansmith.inference import open_run

    recipe = open_run(run).recipe
    (found,) = load_split(recipe, "test", say=lambda text: None, progress=False)
    n = len(found) if SAMPLES is None else SAMPLES
    fields = fields_of(recipe, [found], slice(n), torch.device("cpu"))
    low, x = (VALUES[recipe.data.values].to_unit(fields[name].clone()) for name in ("low", "x"))
    made = torch.nn.functional.interpolate(low, x.shape[2:], mode="bicubic").clamp(0, 1)
    return {"psnr_bicubic": round(float(psnr(made, x).mean()), 4), "psnr_y_bicubic": round(on_luminance(made, x), 4)}


def on_luminance(made: Any, x: Any) -> float:
    from gansmith.evaluation.measures import luminance, psnr

    return float(psnr(luminance(made), luminance(x)).mean())


def enlarged(run: Path) -> dict[str, float]:
    """PSNR of Y, in dB, on the pictures of Set5 and Set14, which lie beside the run's own: the run's and bicubic's.

    Each picture is cropped to whole blocks, shrunk, rounded to 8 bits, and enlarged again.
    """
    import numpy as np
    import torch
    from PIL import Image

    import gansmith
    from gansmith.data.views import Draws, low
    from gansmith.inference import open_run

    none = Draws(0, 0, 1, slice(1), torch.device("cpu"))
    sampler = gansmith.load(run, device="cpu", say=lambda text: None)
    beside, found = Path(open_run(run).recipe.data.name).parent, {}
    for name in ("Set5", "Set14"):
        both = []
        for path in sorted((beside / name).glob("*.png")):
            x = torch.from_numpy(np.array(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None] / 255
            x = x[:, :, : x.shape[2] // 4 * 4, : x.shape[3] // 4 * 4]
            small = (low({"x": x}, none, scale=4)["low"].clamp(0, 1) * 255).round()
            cubic = torch.nn.functional.interpolate(small / 255, x.shape[2:], mode="bicubic").clamp(0, 1)
            (made,) = sampler.translate([small[0].byte().numpy()])
            pairs = [torch.from_numpy(made)[None] / 255, (cubic * 255).round() / 255]
            both.append([on_luminance(y, x) for y in pairs])
        for column, key in enumerate((f"psnr_y_{name}", f"bicubic_y_{name}")):
            found[key] = round(statistics.mean(row[column] for row in both), 3)
    return found


def edited(run: Path) -> dict[str, float]:
    """Of the first test digits the shares that are blue, unframed, and still read, once they are told to be so."""
    import torch

    import gansmith
    from gansmith.data.attributes import wished
    from gansmith.data.shipped import load_raw

    sampler = gansmith.load(run, device="cpu", say=lambda text: None)
    recipe = gansmith.inference.open_run(run).recipe
    (found,) = gansmith.build.load_split(recipe, "test", say=lambda text: None, progress=False)
    n, names = 1000 if SAMPLES is None else SAMPLES, found.classes
    fields = gansmith.build.fields_of(recipe, [found], slice(n), torch.device("cpu"))
    for i, bits in enumerate(fields["bits"].tolist()):
        wish = wished(names, wished(names, bits, "colour=blue", True), "framed", False)
        fields["bits"][i] = torch.tensor(wish)
    made = sampler.translated(fields, range(n))
    labels = load_raw("test", print).labels
    assert labels is not None
    border = torch.ones(made.shape[2:], dtype=torch.bool)
    border[3:-3, 3:-3] = False
    return {
        "turned_blue": round(float((made.sum((2, 3)).argmax(1) == 2).double().mean()), 4),
        "unframed": round(float((made.mean(1)[:, border].mean(1) < 0.2).double().mean()), 4),
        "kept": round(float((read_digits(made).numpy() == labels[:n]).mean()), 4),
    }


OWN: dict[str, Callable[[Path], dict[str, float]]] = {
    "kept": kept,
    "agree": agree,
    "bicubic": bicubic,
    "edited": edited,
    "enlarged": enlarged,
}
"""What is measured here and nowhere else."""


def face(run: Path, path: Path) -> None:
    """64 samples, or the last strip of a translator."""
    import gansmith
    from gansmith.run.pictures import grid, save_png

    sampler = gansmith.load(run, device="cpu")
    if sampler.maker.pictures or sampler.values == "raw":
        path.write_bytes(max((run / "growth").glob("*.png")).read_bytes())
        return
    save_png(grid(sampler.sample(range(60)), columns=10), path)


def processor() -> str:
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text("utf-8").splitlines() if cpu.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


# ---- the page ----------------------------------------------------------------------------------------------------

HEAD = """# The zoo

Every recipe on real MNIST (60,000 training images). The test images chose the length of `sgan`, which flatters it a
little, and nothing else. One script makes this page:

```sh
python benchmarks/zoo.py --next    # trains and scores one missing item; again until none is
python benchmarks/zoo.py --page    # writes this page
```

Each training runs on one thread for minutes, so this shows that a recipe works, not what it can reach. Scores are of
10,000 samples against the test images, mean ± standard deviation over the seeds. Below each score stands what the same
generator has after its first round. Real training images reach `fd` 3.1, `density` .94, `coverage` .94, `class_tv` .025
and `confident` .998. What the scores mean: [metrics.md](metrics.md).

Translators train on sets made from MNIST. `kept_a2b` is the share of 1,000 test pictures whose digit the shipped
classifier still reads after translation, `agree` that of 1,000 pairs in which it reads one digit on both sides.
`psnr_bicubic` is what bicubic enlargement reaches. Of test digits that are told to be blue and without a frame
`turned_blue` and `unframed` are the shares that are, `kept` the share whose digit is still read. The minutes of the
translators are those of a machine that was busy with other trainings.

Items with `--data` need a folder that is not in the repository, and `--pictures DIR` says where such folders lie:
`facades` holds the pairs of pix2pix; `daisy2sunflower` photos as `a/train`, `a/test`, `b/train`, `b/test`; `flowers`
photos in `train` and `test`, a subfolder per class; `emoji` Noto's people on white, of one skin tone each, with
`attributes.csv` (`skin`, `who`); `mnist2usps` digits of both sets as `a/train/CLASS` and so on; `Set5` and `Set14` lie
beside them. Photos and emoji are trained at 64x64, one seed, for 7 to 45 minutes of one thread of a busy machine; most
are not shown, for the photos' licences are unclear. `mmd` is the kernel distance in MobileNet's features
(`--feature-weights`): between the held-back daisies and sunflowers themselves, at 64x64, it is .37 (`gansmith evaluate
FOLDER --data FOLDER --metrics mmd`). `psnr_y` and `bicubic_y` are of Y, without a border.
"""


def write_page(docs: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    by_name = {name: found for name in ITEMS if (found := [line for line in lines if line["recipe"] == name])}
    if not by_name:
        sys.exit("there is nothing to write about yet: python benchmarks/zoo.py --next")
    path = docs / "zoo.md"
    text = path.read_text("utf-8") if path.exists() else ""
    kept = text[text.index("\n## Points") :] if "\n## Points" in text else ""  # which benchmarks/modes.py has made
    rows = [section(name, found) for name, found in by_name.items()]
    path.write_text(f"{HEAD}\n{table(by_name)}\n" + "\n".join(rows) + kept, "utf-8")
    gallery(docs, [name for name in by_name if ITEMS[name].shown and (ITEMS[name].folder or not ITEMS[name].recipe)])


def table(by_name: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    rows = ["| recipe | seeds | rounds | minutes | fd | coverage | class_tv |", "| --- |" + " --: |" * 6]
    for name, found in by_name.items():
        minutes = statistics.mean(line["seconds"] for line in found) / 60
        cells = [spread(found, f"{score}_mnist_10k") for score in ("fd", "coverage", "class_tv")]
        shown = [f"[{name}](#{name})", str(len(found)), f"{found[0]['rounds']:,}", f"{minutes:.1f}", *cells]
        rows.append(f"| {' | '.join(shown)} |")
    return "\n".join(rows) + "\n"


def section(name: str, found: Sequence[Mapping[str, Any]]) -> str:
    item = ITEMS[name]
    words = "".join(f" --{key} {shlex.quote(str(value))}" for key, value in item.flags.items())
    names = [key for key in found[0]["scores"] if key.rpartition("/")[2].startswith(SHOWN)]
    words = f" --data {item.folder}{words}" if item.folder else words
    out = f"## {name}\n\n```sh\ngansmith train {item.recipe or name} --steps {item.rounds}{words}\n```\n\n"
    out += f"![{name}](zoo/{name}.png)\n\n" if item.shown and (item.folder or not item.recipe) else ""
    out += f"{textwrap.fill(item.note, 140, break_on_hyphens=False)}\n\n" if item.note else ""
    if names:
        out += f"| | {' | '.join(f'`{key}`' for key in names)} |\n| --- |{' --: |' * len(names)}\n"
        out += f"| after {item.rounds:,} rounds | {' | '.join(spread(found, key) for key in names)} |\n"
        out += f"| after 1 round | {' | '.join(spread(found, key, 'after one round') for key in names)} |\n"
    return out


def spread(found: Sequence[Mapping[str, Any]], key: str, of: str = "scores") -> str:
    by_score = [{score.rpartition("/")[2]: value for score, value in reversed(line[of].items())} for line in found]
    values = [line[of].get(key, scores.get(key)) for line, scores in zip(found, by_score, strict=True)]
    values = [value for value in values if value is not None]
    if not values:
        return ""
    mean = statistics.mean(values)
    digits = 1 if abs(mean) >= 10 else 3
    return f"{mean:.{digits}f}" + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "")


def gallery(docs: Path, names: Sequence[str]) -> None:
    """A face of each recipe, with its name below."""
    from PIL import Image, ImageDraw, ImageFont

    from gansmith.run.pictures import save_png

    columns, label = 6, 18
    high = FACE + label
    page = Image.new("RGB", (columns * (FACE + 6) + 6, -(-len(names) // columns) * (high + 6) + 6), (255, 255, 255))
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(12)
    for i, name in enumerate(names):
        with Image.open(docs / "zoo" / f"{name}.png") as picture:
            whole = picture.convert("RGB")
        side = max(FACE, min(whole.size))  # of strips the left end; low ones as they are
        small = whole.crop((0, 0, side, side)).resize((FACE, FACE))
        left, top = 6 + i % columns * (FACE + 6), 6 + i // columns * (high + 6)
        page.paste(small, (left, top))
        draw.text((left + FACE // 2, top + FACE + label // 2), name, fill=(40, 40, 40), font=font, anchor="mm")
    save_png(page, docs / "pictures" / "zoo.png")


if __name__ == "__main__":
    main()

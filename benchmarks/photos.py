"""Own pictures: `gansmith train photos` beside the DCGAN example of PyTorch's examples repository, for the same time.

    python benchmarks/photos.py --next --data emoji=FOLDER --data daisy=FOLDER      # one item that is missing
    python benchmarks/photos.py --next --data emoji=FOLDER --methods photos --seeds 0
    python benchmarks/photos.py --next --data emoji=FOLDER --methods photos --minutes 7 --key optimizers.G.lr=1e-3
    python benchmarks/photos.py --page                                              # the tables, from what is there

A FOLDER has train/ and test/: the pictures of test/ are held back from both. An item is a set, a method and a seed. It
trains for `--minutes` of one thread's processor time, which other work on the machine changes little: 40 minutes are
what two cores do in 20. The example stands here as it is used: 64x64 pictures, batches of 64, its networks of width 64,
its loop, its loss and its rates; only reading is ours, from memory, which spares it the decoding. Both are then scored
alike, by MobileNetV2's features of pictures enlarged to 128x128, on the held-back pictures. Lines go to
docs/photos/results.jsonl, the grids of seed 0 to docs/photos/SET-METHOD.png unless --unshown names the set. With
--key the recipe is tried with other keys: these lines make a table of their own.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "photos"
SIDE, GRID, SAMPLES = 64, 48, 2000


def networks() -> tuple[Any, Any]:
    """The example's G, z (N, 100, 1, 1) -> (N, 3, 64, 64), and D, pictures -> probabilities (N,); first weights too."""
    from torch import nn

    def start(layer: nn.Module) -> None:
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.normal_(layer.weight, 0.0, 0.02)
        elif isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.weight, 1.0, 0.02)
            nn.init.zeros_(layer.bias)

    maps = [512, 256, 128, 64]
    up: list[nn.Module] = [nn.ConvTranspose2d(100, 512, 4, 1, 0, bias=False), nn.BatchNorm2d(512), nn.ReLU(True)]
    down: list[nn.Module] = [nn.Conv2d(3, 64, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True)]
    for before, after in zip(maps, maps[1:], strict=False):
        up += [nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(True)]
    for before, after in zip(maps[::-1], maps[-2::-1], strict=False):
        down += [nn.Conv2d(before, after, 4, 2, 1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2, True)]
    generator = nn.Sequential(*up, nn.ConvTranspose2d(64, 3, 4, 2, 1, bias=False), nn.Tanh())
    critic = nn.Sequential(*down, nn.Conv2d(512, 1, 4, 1, 0, bias=False), nn.Sigmoid(), nn.Flatten(0))
    return generator.apply(start), critic.apply(start)


def example(folder: Path, seed: int, seconds: float, out: Path, keys: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The example's training; SAMPLES pictures (N, 3, 64, 64) in [0, 1], and how far it came."""
    import torch
    from torch import nn

    torch.manual_seed(seed)
    pictures = torch.from_numpy(loaded(folder, "train").copy())
    generator, critic = networks()
    loss = nn.BCELoss()
    of_d, of_g = (torch.optim.Adam(net.parameters(), lr=0.0002, betas=(0.5, 0.999)) for net in (critic, generator))
    began, rounds, images, said = time.process_time(), 0, 0, 0.0
    while time.process_time() - began < seconds:
        for chosen in torch.split(torch.randperm(len(pictures)), 64):
            real = pictures[chosen].float() / 127.5 - 1
            ones, zeros = torch.ones(len(real)), torch.zeros(len(real))
            critic.zero_grad()
            loss_real = loss(critic(real), ones)
            loss_real.backward()
            fake = generator(torch.randn(len(real), 100, 1, 1))
            loss_fake = loss(critic(fake.detach()), zeros)
            loss_fake.backward()
            of_d.step()
            generator.zero_grad()
            loss_g = loss(critic(fake), ones)
            loss_g.backward()
            of_g.step()
            rounds, images = rounds + 1, images + len(real)
            if (spent := time.process_time() - began) > said + 60:
                said = spent
                print(
                    f"round {rounds}, {spent / 60:.0f} of {seconds / 60:.0f} min, D {loss_real + loss_fake:.3f}",
                    flush=True,
                )
            if spent > seconds:
                break
    torch.manual_seed(seed)
    with torch.no_grad():  # in training mode, as the example draws its own samples
        made = torch.cat([generator(torch.randn(64, 100, 1, 1)) for _ in range(-(-SAMPLES // 64))])[:SAMPLES]
    return (made + 1) / 2, {"rounds": rounds, "images": images}


def photos(folder: Path, seed: int, seconds: float, out: Path, keys: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """`gansmith train photos` for so long: rounds are timed first, so that the length is known as with --minutes."""
    import torch

    import gansmith
    from gansmith.run.folder import finished

    data, keys = folder / "train", {"seed": seed, "data.validation": 0, "channels": 3, **keys}
    if not (out / "recipe.yaml").is_file():
        times: list[float] = []

        def timed(record: Any) -> bool:
            times.append(time.process_time())
            return len(times) > 25

        probe = out.with_name(out.name + "-probe")
        gansmith.train("photos", data=data, out=probe, steps=30, device="cpu", quiet=True, enough=timed, overrides=keys)
        each = statistics.median(b - a for a, b in zip(times[5:], times[6:], strict=False))
        steps = round(seconds / each)
        print(f"{1000 * each:.0f} ms a round: {steps} rounds", flush=True)
        gansmith.train("photos", data=data, out=out, steps=steps, device="cpu", overrides=keys)
    elif not finished(out):  # it was interrupted
        gansmith.train(out, device="cpu")
    sampler, log = gansmith.load(out), gansmith.history(out)
    made = torch.from_numpy(enlarged(sampler.sample(range(SAMPLES))))
    return made.float() / 255, {"rounds": sampler.round, "images": int(log["images"][-1])}


def enlarged(pictures: Any) -> Any:
    """uint8 (N, 3, h, w) of the size that the recipe chose, as the pictures of `loaded` are made 64x64."""
    import numpy as np
    from PIL import Image

    from gansmith.data.pictures import to_array

    if pictures.shape[2:] == (SIDE, SIDE):
        return pictures
    return np.stack([to_array(Image.fromarray(np.moveaxis(x, 0, 2)), (SIDE, SIDE), 3, "crop") for x in pictures])


METHODS: dict[str, Callable[..., tuple[Any, dict[str, Any]]]] = {"example": example, "photos": photos}


def loaded(folder: Path, split: str) -> Any:
    """All pictures of a split, uint8 (N, 3, 64, 64)."""
    from gansmith.data import Wanted, load_sets

    (data,) = load_sets(Wanted(str(folder / split), (SIDE, SIDE), 3, needs=(("x",),), progress=False))
    return data.images


def scores(made: Any, folder: Path, weights: Path | None) -> dict[str, Any]:
    """What MobileNetV2's features say of the samples beside the held-back pictures, and of these beside the others."""
    import torch

    from gansmith.metrics.features import mobilenet
    from gansmith.metrics.kernel import mmd
    from gansmith.metrics.neighbours import nearest_of_parts, precision_recall, share, threshold

    extract = mobilenet(weights)
    real = {split: torch.from_numpy(loaded(folder, split).copy()).float() / 255 for split in ("train", "test")}
    train, test = (extract(real[split]).features for split in ("train", "test"))
    own = extract((made.clamp(0, 1) * 255).round() / 255).features

    def some(x: torch.Tensor, n: int) -> torch.Tensor:  # files of a set may be sorted by class
        return x[torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:n]] if len(x) > n else x

    found: dict[str, Any] = {"mmd": mmd(own, test), "mmd_real": mmd(some(train, SAMPLES), test)}
    if (n := min(len(test), len(own))) >= 1000:
        found |= precision_recall(some(test, n), some(own, n))
        found |= {f"{k}_real": v for k, v in precision_recall(some(test, n), some(train, n)).items()}
    near = threshold([train], test)
    found["memorised"], found["memorised_expected"] = (
        share(nearest_of_parts(own, [train])[0] < near.distance),
        near.expected,
    )
    return {**found, "features": f"mobilenet {extract.digest[:12]}", "held_back": len(test), "trained_on": len(train)}


def one(name: str, folder: Path, method: str, seed: int, options: argparse.Namespace) -> None:
    import torch
    import yaml
    from torchvision.utils import save_image

    from gansmith.run.folder import environment

    tried = "-".join(["", f"{options.minutes:g}", *options.key]) if options.key else ""
    out = options.runs / f"{name}-{method}-{seed}{tried}"
    out.parent.mkdir(parents=True, exist_ok=True)
    print(f"{name}, {method}, seed {seed}: {options.minutes:g} minutes of one thread", flush=True)
    keys = {k: yaml.safe_load(v) for k, v in (pair.split("=", 1) for pair in options.key)}
    if options.critic_weights and not any(key.startswith("networks.D") for key in keys):
        keys["networks.D.file"] = str(options.critic_weights)
    made, how = METHODS[method](folder, seed, 60 * options.minutes, out, keys)
    public = seed == 0 and name not in options.unshown and not options.key
    shown = (OUT if public else options.runs) / f"{out.name}.png"
    shown.parent.mkdir(parents=True, exist_ok=True)
    save_image(made[:GRID], shown, nrow=12)
    line = {"set": name, "method": method, "seed": seed, "minutes": options.minutes, "keys": options.key, **how}
    line |= scores(made, folder, options.feature_weights)
    line["environment"] = {k: v for k, v in environment(torch.device("cpu")).items() if k != "command"}
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / "results.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
    print(json.dumps(line), flush=True)


def done() -> list[dict[str, Any]]:
    path = OUT / "results.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.is_file() else []


def page(lines: list[dict[str, Any]]) -> str:
    """The table: means over seeds, with their range where there are several; of one seed the measure's own interval."""
    rows = ["| set | method | seeds | rounds | mmd x 1000 | precision | recall | memorised |", "| --- " * 8 + "|"]
    for name in dict.fromkeys(line["set"] for line in lines):
        of = [line for line in lines if line["set"] == name]
        for method in dict.fromkeys(map(called, of)):
            own = [line for line in of if called(line) == method]
            mean, low, high = ([1000 * line["mmd"][i] for line in own] for i in range(3))
            spread = f"{min(mean):.1f} to {max(mean):.1f}" if len(own) > 1 else f"{low[0]:.1f} to {high[0]:.1f}"
            cells = [f"{statistics.mean(mean):.1f} ({spread})"]
            for key, digits in (("precision", 2), ("recall", 2), ("memorised", 3)):
                values = [line[key] for line in own if key in line]
                cells.append(f"{statistics.mean(values):.{digits}f}" if values else "")
            seeds, rounds = len(own), statistics.mean(line["rounds"] for line in own)
            rows.append(f"| {name} | {method} | {seeds} | {rounds:,.0f} | {' | '.join(cells)} |")
        real = [f"{1000 * of[0]['mmd_real'][0]:.1f}", *(f"{of[0][k]:.2f}" if k in of[0] else "" for k in REAL), "0.01"]
        rows.append(f"| {name} | the training pictures themselves | | | {' | '.join(real)} |")
    return "\n".join(rows)


def called(line: dict[str, Any]) -> str:
    return " ".join([line["method"], *(f"--{pair.replace('=', ' ')}" for pair in line.get("keys", []))])


REAL = ("precision_real", "recall_real")


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, usage=argparse.SUPPRESS)
    parser.add_argument("--next", action="store_true", help="train and score one item that is missing")
    parser.add_argument("--page", action="store_true", help="print the table")
    parser.add_argument("--data", action="append", default=[], metavar="SET=FOLDER")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--minutes", type=float, default=40.0, help="of one thread's processor time")
    parser.add_argument("--unshown", default="", help="sets whose pictures are not for the docs")
    parser.add_argument("--key", action="append", default=[], metavar="KEY=VALUE", help="another key of the recipe")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "photos")
    parser.add_argument("--feature-weights", type=Path, help="MobileNet's, for the scores; else a download")
    parser.add_argument("--critic-weights", type=Path, help="SqueezeNet's, for the recipe's D; else a download")
    options = parser.parse_args()
    if options.key and options.methods != "photos":
        parser.error("--key is for --methods photos")
    if options.page:
        print(page([line for line in done() if line["minutes"] == options.minutes and not line.get("keys")]))
        tried = {line["minutes"] for line in done() if line.get("keys")}
        for minutes in sorted(tried):
            print(f"\n{minutes:g} minutes, other keys\n")
            print(page([line for line in done() if line["minutes"] == minutes and line["method"] == "photos"]))
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    import torch

    torch.set_num_threads(1)
    there = {(line["set"], called(line), line["seed"], line["minutes"]) for line in done()}
    sets = dict(pair.split("=", 1) for pair in options.data)
    for seed in map(int, options.seeds.split(",")):
        for name, folder in sets.items():
            for method in options.methods.split(","):
                wanted = called({"method": method, "keys": options.key})
                if (name, wanted, seed, options.minutes) not in there:
                    one(name, Path(folder), method, seed, options)
                    return
    sys.exit("nothing is missing")


if __name__ == "__main__":
    main()

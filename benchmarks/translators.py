"""Rounds of the popular scripts' pix2pix and CycleGAN: their loops as they stand against `gansmith train`.

    python benchmarks/translators.py --repeats 5
    python benchmarks/translators.py --only cyclegan --rounds 1

Colour pictures of 64x64, one a batch, as the scripts have it, on the scripts' networks; their U-Net is cut to six
levels, which 64 pixels allow. The loops are plain: a step of the translators, whose backward passes also take the
gradients of the critics' weights, then one of each critic. In gansmith a critic that serves the translators' move is
lent, so those gradients are not taken; one fused optimizer steps each player; nearest-neighbour doubling and the
convolution after it are one layer. Both get noise that lies in memory. Blocks of rounds in turns in one process, so
that other work on the machine slows all alike: milliseconds a round, and the ratio of neighbouring blocks, as median
and range.
"""

import argparse
import itertools
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))  # where the networks below are found by their names

from rounds import Bench, seconds_of

from gansmith import plan
from gansmith.engine import choose_device
from gansmith.errors import UserError
from gansmith.networks.blocks import UpConv
from gansmith.run.folder import environment
from gansmith.training import alone

SIDE = 64
PICTURES = 64
Nets = dict[str, nn.Module]


# ---- the scripts' networks -----------------------------------------------------------------------------------------


class UNet(nn.Module):
    """Six halvings by 4x4 convolutions and as many doublings, each beside what went into the halving across from it."""

    def __init__(self, shape: tuple[int, int, int], *, dropout: float = 0.5) -> None:
        super().__init__()
        maps = [shape[0], 64, 128, 256, 512, 512, 512]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, (before, after) in enumerate(itertools.pairwise(maps)):
            layers: list[nn.Module] = [nn.Conv2d(before, after, 4, 2, 1, bias=False)]
            layers += [nn.InstanceNorm2d(after)] if 0 < i < 5 else []
            self.down.append(nn.Sequential(*layers, nn.LeakyReLU(0.2), nn.Dropout(dropout if i > 2 else 0.0)))
        for i, after in enumerate((512, 512, 256, 128, 64)):
            up = nn.ConvTranspose2d(512 if i == 0 else 2 * maps[6 - i], after, 4, 2, 1, bias=False)
            self.up.append(
                nn.Sequential(up, nn.InstanceNorm2d(after), nn.ReLU(), nn.Dropout(dropout if i < 2 else 0.0))
            )
        last = nn.Conv2d(128, shape[0], 4, padding=1)
        self.last = nn.Sequential(nn.Upsample(scale_factor=2), nn.ZeroPad2d((1, 0, 1, 0)), last, nn.Tanh())

    def forward(self, a: Tensor) -> Tensor:
        maps = [a]
        for halve in self.down:
            maps.append(halve(maps[-1]))
        h = maps.pop()
        for double in self.up:
            h = torch.cat((double(h), maps.pop()), 1)
        return self.last(h)


def patches(channels: int) -> nn.Sequential:
    maps = (channels, 64, 128, 256, 512)
    layers: list[nn.Module] = []
    for i, (before, after) in enumerate(itertools.pairwise(maps)):
        layers.append(nn.Conv2d(before, after, 4, 2, 1))
        layers += [nn.InstanceNorm2d(after)] if i else []
        layers.append(nn.LeakyReLU(0.2, inplace=True))
    return nn.Sequential(*layers, nn.ZeroPad2d((1, 0, 1, 0)), nn.Conv2d(512, 1, 4, padding=1))


class PairCritic(nn.Module):
    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.model = patches(2 * shape[0])

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.model(torch.cat((b, a), 1)).squeeze(1)


class Critic(nn.Module):
    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.model = patches(shape[0])

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x).squeeze(1)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        pair = [[nn.ReflectionPad2d(1), nn.Conv2d(256, 256, 3), nn.InstanceNorm2d(256)] for _ in range(2)]
        self.model = nn.Sequential(*pair[0], nn.ReLU(inplace=True), *pair[1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.model(x)


class Translator(nn.Module):
    """7x7 convolution, two halvings, nine residual blocks, two doublings (`fused`: as gansmith's), 7x7 convolution."""

    def __init__(self, shape: tuple[int, int, int], *, fused: bool = True) -> None:
        super().__init__()
        c = shape[0]
        layers: list[nn.Module] = [nn.ReflectionPad2d(c), nn.Conv2d(c, 64, 7), nn.InstanceNorm2d(64), nn.ReLU(True)]
        for before, after in ((64, 128), (128, 256)):
            layers += [nn.Conv2d(before, after, 3, 2, 1), nn.InstanceNorm2d(after), nn.ReLU(True)]
        layers += [Block() for _ in range(9)]
        for before, after in ((256, 128), (128, 64)):
            plain = [nn.Upsample(scale_factor=2), nn.Conv2d(before, after, 3, 1, 1)]
            layers += [UpConv(before, after)] if fused else plain
            layers += [nn.InstanceNorm2d(after), nn.ReLU(True)]
        self.model = nn.Sequential(*layers, nn.ReflectionPad2d(c), nn.Conv2d(64, c, 7), nn.Tanh())

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


# ---- the scripts' loops --------------------------------------------------------------------------------------------


def adam(*nets: nn.Module, eps: float = 1e-8) -> torch.optim.Adam:
    return torch.optim.Adam([p for net in nets for p in net.parameters()], lr=0.0002, betas=(0.5, 0.999), eps=eps)


def pix2pix(nets: Nets, batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """A step of G along squares and 100 L1, then one of D."""
    G, D = nets["G"], nets["D"]
    mse, l1 = nn.MSELoss(), nn.L1Loss()
    optimizer_g, optimizer_d = adam(G), adam(D)
    for a, b in batches:
        optimizer_g.zero_grad()
        made = G(a)
        judged = D(a, made)
        valid, fake = torch.ones_like(judged), torch.zeros_like(judged)
        (mse(judged, valid) + 100 * l1(made, b)).backward()
        optimizer_g.step()
        optimizer_d.zero_grad()
        (0.5 * (mse(D(a, b), valid) + mse(D(a, made.detach()), fake))).backward()
        optimizer_d.step()
        yield


def cyclegan(nets: Nets, batches: Iterator[tuple[Tensor, Tensor]], pool: int = 50, eps: float = 1e-8) -> Iterator[None]:
    """A step of both translators, then one of each critic on fakes out of a buffer."""
    AB, BA, DA, DB = (nets[name] for name in ("AB", "BA", "DA", "DB"))
    mse, l1 = nn.MSELoss(), nn.L1Loss()
    optimizer_g, optimizer_a, optimizer_b = adam(AB, BA, eps=eps), adam(DA, eps=eps), adam(DB, eps=eps)
    past: tuple[list[Tensor], list[Tensor]] = ([], [])

    def from_pool(kept: list[Tensor], made: Tensor) -> Tensor:
        out = []
        for one in made.detach():
            if not pool:
                out.append(one)
            elif len(kept) < pool:
                kept.append(one)
                out.append(one)
            elif random.random() < 0.5:
                at = random.randrange(pool)
                out.append(kept[at].clone())
                kept[at] = one
            else:
                out.append(one)
        return torch.stack(out)

    for a, b in batches:
        optimizer_g.zero_grad()
        identity = (l1(BA(a), a) + l1(AB(b), b)) / 2
        fake_b, fake_a = AB(a), BA(b)
        judged_b, judged_a = DB(fake_b), DA(fake_a)
        valid, fake = torch.ones_like(judged_b), torch.zeros_like(judged_b)
        adversarial = (mse(judged_b, valid) + mse(judged_a, valid)) / 2
        cycle = (l1(BA(fake_b), a) + l1(AB(fake_a), b)) / 2
        (adversarial + 10 * cycle + 5 * identity).backward()
        optimizer_g.step()
        for optimizer, critic, real, kept, made in (
            (optimizer_a, DA, a, past[0], fake_a),
            (optimizer_b, DB, b, past[1], fake_b),
        ):
            optimizer.zero_grad()
            ((mse(critic(real), valid) + mse(critic(from_pool(kept, made)), fake)) / 2).backward()
            optimizer.step()
        yield


# ---- both in turns -------------------------------------------------------------------------------------------------

Loop = Callable[[Nets, Iterator[tuple[Tensor, Tensor]]], Iterator[None]]
LOOPS: dict[str, Loop] = {"pix2pix": pix2pix, "cyclegan": cyclegan}
COMMON: dict[str, Any] = {"img_size": SIDE, "channels": 3, "batch_size": 1, "views": [], "data.validation": 0}
FLAGS: dict[str, dict[str, Any]] = {
    "pix2pix": {
        **COMMON,
        **{"networks.G": "translators:UNet", "networks.D": "translators:PairCritic", "objective": "least_squares"},
    },
    "cyclegan": {
        **COMMON,
        **{f"networks.{name}": "translators:Translator" for name in ("AB", "BA")},
        **{f"networks.{name}": "translators:Critic" for name in ("DA", "DB")},
    },
}


def networks(name: str) -> Nets:
    shape = (3, SIDE, SIDE)
    if name == "pix2pix":
        return {"G": UNet(shape), "D": PairCritic(shape)}
    both: Nets = {player: Translator(shape, fused=False) for player in ("AB", "BA")}
    return both | {player: Critic(shape) for player in ("DA", "DB")}


def save_noise(folder: Path) -> None:
    """Pictures side by side, which are pairs for one recipe; and the same in two folders for the other."""
    rng = np.random.default_rng(0)
    for part, wide in (("pairs", 2 * SIDE), ("domains/a", SIDE), ("domains/b", SIDE)):
        (folder / part).mkdir(parents=True)
        for i in range(PICTURES):
            Image.fromarray(rng.integers(0, 256, (SIDE, wide, 3), np.uint8)).save(folder / part / f"{i}.png")


def noise(device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    x = torch.randint(0, 256, (2, PICTURES, 3, SIDE, SIDE), device=device)
    for i in itertools.count():
        at = slice(i % PICTURES, i % PICTURES + 1)
        yield x[0, at].float() / 127.5 - 1, x[1, at].float() / 127.5 - 1


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, usage=argparse.SUPPRESS)
    parser.add_argument("--only", default="pix2pix,cyclegan")
    parser.add_argument("--repeats", type=int, default=5, help="blocks of each")
    parser.add_argument("--rounds", type=int, default=3, help="of a block")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda (cuda:0, ...)")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := [name for name in names if name not in LOOPS]:
        parser.error(f"--only {unknown[0]}: the recipes are {', '.join(LOOPS)}")
    for name in ("repeats", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; it must be at least 1")
    try:
        device = choose_device(options.device)
    except UserError as error:
        parser.error(str(error))
    print(f"{'':28s} {'ms a round':>30s}   {'times the script':>28s}")
    with alone(device, tf32=False), tempfile.TemporaryDirectory() as held:
        save_noise(Path(held))
        for name in names:
            measure(name, Path(held), options.repeats, options.rounds, device)
    print(
        "on " + ", ".join(f"{key} {value}" for key, value in environment(device).items() if key != "command" and value)
    )


def measure(name: str, folder: Path, repeats: int, rounds: int, device: torch.device) -> None:
    torch.manual_seed(0)
    played = LOOPS[name]({player: net.to(device) for player, net in networks(name).items()}, noise(device))
    data = folder / ("pairs" if name == "pix2pix" else "domains")
    recipe = plan(name, flags={**FLAGS[name], "data.name": str(data)}).recipe
    run = folder / name
    run.mkdir()
    with ExitStack() as stack:
        bench = stack.enter_context(closing(Bench(recipe, device, run, lambda text: None)))

        def script(n: int) -> float:
            return seconds_of(lambda: [next(played) for _ in range(n)], device)

        plays = {f"{name}: the script's loop": script, f"{name}: gansmith train": bench.play}
        for play in plays.values():
            play(2)
        found: dict[str, list[float]] = {label: [] for label in plays}
        for _ in range(repeats):
            for label, play in plays.items():
                found[label].append(play(rounds) / rounds)
    theirs = next(iter(found.values()))
    for label, seconds in found.items():
        ratios = [b / s for b, s in zip(theirs, seconds, strict=True)]
        spreads = [
            f"{scale * statistics.median(of):9.2f} {f'({scale * min(of):.2f} to {scale * max(of):.2f})':>20s}"
            for scale, of in ((1000, seconds), (1, ratios))
        ]
        print(f"{label:28s} {spreads[0]}   {spreads[1]}".rstrip())


if __name__ == "__main__":
    main()

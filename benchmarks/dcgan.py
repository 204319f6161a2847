"""Rounds of the popular script's DCGAN: its loop as it stands against `gansmith train dcgan` with its networks.

    python benchmarks/dcgan.py --repeats 9

32x32 digits in batches of 64. The loop is plain: nearest-neighbour `Upsample` and `Conv2d`, sigmoid and BCELoss, a step
of G, then one of D on the same, detached fakes, three passes of D in all. In gansmith doubling and convolution are one
layer, one pass of D over the fakes serves both losses, and gradients are those of who moves alone. Both read digits
that lie in memory. Blocks of rounds in turns in one process, so that other work on the machine slows all alike:
milliseconds a round, and the ratio of neighbouring blocks, as median and range. Where the time goes:
rounds.py dcgan, with the flags that this prints.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import torch
from rounds import Bench, seconds_of
from torch import Tensor, nn

from gansmith import plan
from gansmith.data import Wanted, load_sets
from gansmith.engine import choose_device
from gansmith.errors import UserError
from gansmith.run.folder import environment
from gansmith.training import alone

FLAGS: dict[str, Any] = {"networks.G": "upsampling_generator", "networks.D": "dropout_critic"}
FLAGS |= {"prior": "normal", "img_size": 32, "batch_size": 64}
CASES = {"gansmith train dcgan": {}, "... --engine.channels_last true": {"engine.channels_last": True}}


def networks(dropout: float = 0.25) -> tuple[nn.Module, nn.Module]:
    """G: z (N, 100) -> (N, 1, 32, 32), and D: images -> probabilities (N, 1); BatchNorm's eps is torch's own."""
    generator = nn.Sequential(
        *(nn.Linear(100, 128 * 64), nn.Unflatten(1, (128, 8, 8)), nn.BatchNorm2d(128)),
        *(nn.Upsample(scale_factor=2), nn.Conv2d(128, 128, 3, 1, 1), nn.BatchNorm2d(128), nn.LeakyReLU(0.2, True)),
        *(nn.Upsample(scale_factor=2), nn.Conv2d(128, 64, 3, 1, 1), nn.BatchNorm2d(64), nn.LeakyReLU(0.2, True)),
        *(nn.Conv2d(64, 1, 3, 1, 1), nn.Tanh()),
    )
    layers: list[nn.Module] = []
    for before, after in ((1, 16), (16, 32), (32, 64), (64, 128)):
        layers += [nn.Conv2d(before, after, 3, 2, 1), nn.LeakyReLU(0.2, True), nn.Dropout2d(dropout)]
        layers += [nn.BatchNorm2d(after)] if before > 1 else []
    return generator, nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 4, 1), nn.Sigmoid())


def loop(
    generator: nn.Module, discriminator: nn.Module, batches: Iterator[tuple[Tensor, Tensor]], eps: float = 1e-8
) -> Iterator[None]:
    """The script's training, a round for each x and z that it is given."""
    adversarial_loss = nn.BCELoss()
    optimizer_g, optimizer_d = (
        torch.optim.Adam(net.parameters(), lr=0.0002, betas=(0.5, 0.999), eps=eps) for net in (generator, discriminator)
    )
    for real, z in batches:
        valid, fake = real.new_ones(len(real), 1), real.new_zeros(len(real), 1)
        optimizer_g.zero_grad()
        generated = generator(z)
        loss_g = adversarial_loss(discriminator(generated), valid)
        loss_g.backward()
        optimizer_g.step()
        optimizer_d.zero_grad()
        loss_real = adversarial_loss(discriminator(real), valid)
        loss_fake = adversarial_loss(discriminator(generated.detach()), fake)
        ((loss_real + loss_fake) / 2).backward()
        optimizer_d.step()
        yield


def digits(device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    (data,) = load_sets(Wanted("mnist", (32, 32), 1, needs=(("x",),)))
    images = torch.from_numpy(data.images[:8192].copy()).to(device)
    while True:
        chosen = torch.randint(len(images), (64,), device=device)
        yield images[chosen].float() / 127.5 - 1, torch.randn(64, 100, device=device)


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw, usage=argparse.SUPPRESS)
    parser.add_argument("--repeats", type=int, default=9, help="blocks of each")
    parser.add_argument("--rounds", type=int, default=10, help="of a block")
    parser.add_argument("--device", default="cpu", help="cpu, or cuda (cuda:0, ...)")
    options = parser.parse_args()
    for name in ("repeats", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} is {getattr(options, name)}; it must be at least 1")
    try:
        device = choose_device(options.device)
    except UserError as error:
        parser.error(str(error))
    with alone(device, tf32=False), ExitStack() as held:
        torch.manual_seed(0)
        generator, discriminator = (net.to(device) for net in networks())
        played = loop(generator, discriminator, digits(device))

        def script(rounds: int) -> float:
            return seconds_of(lambda: [next(played) for _ in range(rounds)], device)

        plays: dict[str, Callable[[int], float]] = {"the script's loop": script}
        for name, more in CASES.items():
            folder = Path(held.enter_context(tempfile.TemporaryDirectory()))
            recipe = plan("dcgan", flags={**FLAGS, **more}).recipe
            plays[name] = held.enter_context(closing(Bench(recipe, device, folder, lambda text: None))).play
        for play in plays.values():
            play(3)
        found: dict[str, list[float]] = {name: [] for name in plays}
        for _ in range(options.repeats):
            for name, play in plays.items():
                found[name].append(play(options.rounds) / options.rounds)
    print(f"{'':32s} {'ms a round':>30s}   {'times the script':>28s}")
    for name, seconds in found.items():
        ratios = [b / s for b, s in zip(found["the script's loop"], seconds, strict=True)]
        spreads = [
            f"{scale * statistics.median(of):9.2f} {f'({scale * min(of):.2f} to {scale * max(of):.2f})':>20s}"
            for scale, of in ((1000, seconds), (1, ratios))
        ]
        print(f"{name:32s} {spreads[0]}   {spreads[1]}".rstrip())
    print("with " + " ".join(f"--{key} {value}" for key, value in FLAGS.items()))
    print(
        "on " + ", ".join(f"{key} {value}" for key, value in environment(device).items() if key != "command" and value)
    )


if __name__ == "__main__":
    main()

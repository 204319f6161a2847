"""Load a run and make pictures: samples by seed, paths between them, code traversals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gansmith import checkpoint
from gansmith.build import build_network, build_prior, choose_device
from gansmith.errors import UserError
from gansmith.priors import Codes, Prior
from gansmith.recipe import is_run, plan
from gansmith.report.pictures import to_uint8

CHUNK = 64
"""Every forward pass has this many rows, so that a sample does not depend on how many are asked for."""

Pictures = NDArray[np.uint8]


class Sampler:
    """A trained generator in eval mode. The same seed gives the same picture, whatever else is asked for with it."""

    def __init__(self, net: nn.Module, prior: Prior, *, round: int = 0) -> None:
        self.net = net
        self.prior = prior
        self.round = round
        """The round after which the weights were saved."""
        parameter = next(net.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

    def latents(self, seeds: Sequence[int]) -> Tensor:
        """z (N, Z): each seed has a random stream of its own, drawn on the CPU so that it is the same everywhere."""
        draws = [self.prior.sample(1, torch.Generator().manual_seed(seed), self.dtype) for seed in seeds]
        return torch.cat(draws).to(self.device)

    @torch.no_grad()
    def generate(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) in [-1, 1] from z (N, Z); leaves the network in the mode that it was in."""
        was_training = self.net.training
        self.net.eval()
        try:
            images = [self._chunk(part) for part in torch.split(z.to(self.device, self.dtype), CHUNK)]
        finally:
            self.net.train(was_training)
        return torch.cat(images)

    def _chunk(self, z: Tensor) -> Tensor:
        padded = torch.cat([z, z[-1:].expand(CHUNK - len(z), -1)])
        images: Tensor = self.net(padded)
        if images.dim() != 4 or len(images) != CHUNK:
            raise UserError(f"G returned {tuple(images.shape)} for {CHUNK} latents; it must be ({CHUNK}, C, H, W)")
        return images[: len(z)]

    def sample(self, seeds: Sequence[int] = range(64)) -> Pictures:
        """Pictures (N, C, H, W), uint8, one per seed."""
        if len(seeds) == 0:
            raise UserError("no seeds were given; ask for at least one, such as 0-63")
        return to_uint8(self.generate(self.latents(seeds)))

    def interpolate(self, seeds: Sequence[int], frames: int = 10) -> Pictures:
        """The paths from each seed to the next, ends included: (len(seeds) - 1, frames, C, H, W), uint8."""
        if len(seeds) < 2 or frames < 2:
            raise UserError(f"{len(seeds)} seed(s), {frames} frame(s): a path needs two seeds and two frames")
        z = self.latents(seeds)
        t = torch.linspace(0, 1, frames, device=self.device, dtype=self.dtype)
        paths = torch.cat([self.prior.between(a, b, t) for a, b in zip(z, z[1:], strict=False)])
        return to_uint8(self.generate(paths)).reshape(len(seeds) - 1, frames, *self._shape())

    def traverse(self, name: str, seeds: Sequence[int] = range(10), columns: int = 10) -> Pictures:
        """For each seed one part of z through its values, all else as it is: (len(seeds), columns, C, H, W), uint8."""
        names = self.prior.traversals()
        if not isinstance(self.prior, Codes) or name not in names:
            have = f"it has {', '.join(names)}" if names else "its z is plain noise (infogan has codes)"
            raise UserError(f"this generator has no code {name!r}: {have}")
        z = self.prior.traverse(self.latents(seeds), name, columns)
        return to_uint8(self.generate(z.flatten(0, 1))).reshape(*z.shape[:2], *self._shape())

    def _shape(self) -> tuple[int, ...]:
        return tuple(self.generate(self.latents([0])).shape[1:])


def load(
    run: str | Path,
    *,
    round: int | None = None,
    ema: bool = True,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> Sampler:
    """The generator of a run: from its newest checkpoint that verifies, or of the given round.

    `ema` takes the moving average where the run has one. UserError where there is no such run or checkpoint.
    """
    run = Path(run)
    if not is_run(run):
        raise UserError(f"{run} is not a run: there is no {run / 'recipe.yaml'}")
    recipe = plan(run).recipe
    folder = run / "checkpoints"
    path = folder / f"{round:08d}" if round is not None else checkpoint.newest_good(folder, say)
    if not path.is_dir():
        have = ", ".join(str(int(p.name)) for p in checkpoint.everything(folder)) or "none"
        raise UserError(f"{run} has no checkpoint of round {round} (it has: {have})")
    try:
        tree, info = checkpoint.read(path)
    except checkpoint.Broken as error:
        raise UserError(f"the checkpoint {path} is broken: {error}") from None
    name = next((n for n in recipe.networks if n.startswith("G")), None)
    if name is None:
        raise UserError(f"{run}: the game {recipe.game.name} has no generator G to sample from")
    prior = build_prior(recipe)
    with torch.random.fork_rng(devices=[]):  # making a network draws weights that are replaced at once
        net = build_network(recipe, name, prior)
    try:
        weights = tree["players"][name]
        if not ema and "ema" not in weights:
            say(f"{run} keeps no moving average: there are only the weights themselves")
        net.load_state_dict(weights["ema"] if ema and "ema" in weights else weights["net"])
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{path} does not fit {run / 'recipe.yaml'}: {str(error).splitlines()[0]}") from None
    return Sampler(net.to(choose_device(device)).eval(), prior, round=info["round"])

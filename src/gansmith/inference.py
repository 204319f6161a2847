"""Load a run and make pictures: samples by seed, paths between them, code traversals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gansmith import checkpoint
from gansmith.build import build_network, build_prior, choose_device, derive_seed
from gansmith.data.values import VALUES
from gansmith.errors import UserError
from gansmith.priors import Codes, Prior
from gansmith.recipe import Recipe, is_run, plan
from gansmith.report.pictures import to_uint8

CHUNK = 64
"""Every forward pass has this many rows, so that a sample does not depend on how many are asked for."""

BLOCK = 1000
"""Latents that `draw` takes from one random stream, all of them or not."""

Pictures = NDArray[np.uint8]


class Sampler:
    """A trained generator in eval mode. The same seed gives the same picture, whatever else is asked for with it."""

    def __init__(
        self,
        net: nn.Module,
        prior: Prior,
        *,
        values: str = "signed",
        round: int = 0,
        averaged: bool = False,
        digest: str = "",
    ) -> None:
        self.net = net
        self.prior = prior
        self.values = values
        """What the network's output means: a row of `data.values.VALUES`."""
        self.round = round
        """The round after which the weights were saved."""
        self.averaged = averaged
        """Whether these are the moving average of the weights."""
        self.digest = digest
        """The beginning of the sha256 of the checkpoint's tensors, if they come from one."""
        parameter = next(net.parameters())
        self.device, self.dtype = parameter.device, parameter.dtype

    def latents(self, seeds: Sequence[int]) -> Tensor:
        """z (N, Z): each seed has a random stream of its own, drawn on the CPU so that it is the same everywhere."""
        draws = [self.prior.sample(1, torch.Generator().manual_seed(seed), self.dtype) for seed in seeds]
        return torch.cat(draws).to(self.device)

    @torch.no_grad()
    def generate(self, z: Tensor) -> Tensor:
        """G(z) (N, C, H, W), as networks see images, from z (N, Z); leaves the network in the mode that it was in."""
        was_training = self.net.training
        self.net.eval()
        try:
            images = [self._chunk(part) for part in torch.split(z.to(self.device, self.dtype), CHUNK)]
        finally:
            self.net.train(was_training)
        return torch.cat(images)

    def draw(self, n: int, seed: int) -> Tensor:
        """n fair draws (n, C, H, W) in [0, 1], not rounded, on the CPU; fewer of one seed are the first of these."""
        streams = (torch.Generator().manual_seed(derive_seed(seed, 3, i)) for i in range(0, n, BLOCK))
        blocks = [self.prior.sample(BLOCK, stream, self.dtype) for stream in streams]
        return torch.cat([self.pixels(z).cpu() for z in torch.split(torch.cat(blocks)[:n], BLOCK)])

    def pixels(self, z: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1], not rounded, from z (N, Z)."""
        images = self.generate(z)
        if images.dtype != torch.float64:
            images = images.float()  # half precision has too few digits for 256 levels
        return VALUES[self.values].to_unit(images)

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
        return to_uint8(self.pixels(self.latents(seeds)))

    def interpolate(self, seeds: Sequence[int], frames: int = 10) -> Pictures:
        """The paths from each seed to the next, ends included: (len(seeds) - 1, frames, C, H, W), uint8."""
        if len(seeds) < 2 or frames < 2:
            raise UserError(f"{len(seeds)} seed(s), {frames} frame(s): a path needs two seeds and two frames")
        z = self.latents(seeds)
        t = torch.linspace(0, 1, frames, device=self.device, dtype=self.dtype)
        paths = torch.cat([self.prior.between(a, b, t) for a, b in zip(z, z[1:], strict=False)])
        return to_uint8(self.pixels(paths)).reshape(len(seeds) - 1, frames, *self._shape())

    def traverse(self, name: str, seeds: Sequence[int] = range(10), columns: int = 10) -> Pictures:
        """For each seed one part of z through its values, all else as it is: (len(seeds), columns, C, H, W), uint8."""
        names = self.prior.traversals()
        if not isinstance(self.prior, Codes) or name not in names:
            have = f"it has {', '.join(names)}" if names else "its z is plain noise (infogan has codes)"
            raise UserError(f"this generator has no code {name!r}: {have}")
        z = self.prior.traverse(self.latents(seeds), name, columns)
        return to_uint8(self.pixels(z.flatten(0, 1))).reshape(*z.shape[:2], *self._shape())

    def _shape(self) -> tuple[int, ...]:
        return tuple(self.generate(self.latents([0])).shape[1:])


def load(
    run: str | Path,
    *,
    round: int | Literal["best"] | None = None,
    ema: bool = True,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> Sampler:
    """The generator of a run: of its newest checkpoint that verifies, of the given round, or of the best one kept.

    `ema` takes the moving average where the run has one. UserError where there is no such run or checkpoint.
    """
    found = load_network(run, "G", round=round, ema=ema, device=device, say=say)
    prior = build_prior(found.recipe)
    return Sampler(
        found.net,
        prior,
        values=found.recipe.data.values,
        round=found.round,
        averaged=found.averaged,
        digest=found.digest,
    )


class Loaded(NamedTuple):
    """A player's network out of a run."""

    net: nn.Module
    """In eval mode."""
    recipe: Recipe
    round: int
    """The round after which it was saved."""
    averaged: bool
    """Whether the weights are the moving average."""
    digest: str
    """The beginning of the sha256 of the checkpoint's tensors."""


def load_network(
    run: str | Path,
    player: str,
    *,
    round: int | Literal["best"] | None = None,
    ema: bool = True,
    device: str = "auto",
    say: Callable[[str], None] = print,
) -> Loaded:
    """The network of the first player of a run whose name begins with `player`, such as "D"; the rest as in `load`."""
    run = Path(run)
    if not is_run(run):
        raise UserError(f"{run} is not a run: there is no {run / 'recipe.yaml'}")
    recipe = plan(run).recipe
    folder = run / "checkpoints"
    if round == "best":
        folder = run / "best"
        if not checkpoint.everything(folder):
            raise UserError(f"{run} keeps no best checkpoint: that takes evaluation.every and evaluation.best")
    path = folder / f"{round:08d}" if isinstance(round, int) else checkpoint.newest_good(folder, say)
    if isinstance(round, int) and not path.is_dir():
        have = ", ".join(str(int(p.name)) for p in checkpoint.everything(folder)) or "none"
        raise UserError(f"{run} has no checkpoint of round {round} (it has: {have})")
    try:
        tree, info = checkpoint.read(path)
    except checkpoint.Broken as error:
        if not isinstance(round, int) and not path.exists():  # pruned by a training that goes on beside
            return load_network(run, player, round=round, ema=ema, device=device, say=say)
        raise UserError(f"the checkpoint {path} is broken: {error}") from None
    name = next((n for n in recipe.networks if n.startswith(player)), None)
    if name is None:
        raise UserError(
            f"{run}: the game {recipe.game.name} has no player {player} (it has: {', '.join(recipe.networks)})"
        )
    with torch.random.fork_rng(devices=[]):  # making a network draws weights that are replaced at once
        net = build_network(recipe, name, build_prior(recipe))
    try:
        weights = tree["players"][name]
        if not ema and "ema" not in weights:
            say(f"{run} keeps no moving average: there are only the weights themselves")
        averaged = ema and "ema" in weights
        net.load_state_dict(weights["ema"] if averaged else weights["net"])
    except (KeyError, RuntimeError) as error:
        raise UserError(f"{path} does not fit {run / 'recipe.yaml'}: {str(error).splitlines()[0]}") from None
    digest = info["sha256"][checkpoint.TENSORS][:12]
    return Loaded(net.to(choose_device(device)).eval(), recipe, info["round"], averaged, digest)

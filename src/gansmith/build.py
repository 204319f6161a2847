"""The only place where the names of a recipe become objects."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from gansmith.data import ImageSet, Stream, load_images
from gansmith.errors import UserError
from gansmith.games.game import Game
from gansmith.objectives import OBJECTIVES, Objective
from gansmith.penalties import PENALTIES, PenaltySum
from gansmith.players import OPTIMIZERS, Player
from gansmith.priors import PRIORS, Prior
from gansmith.recipe import Component, Recipe, component_targets
from gansmith.report.log import Meters
from gansmith.state import State


@dataclass
class Experiment:
    """A recipe brought to life: what the loop needs, and nothing of the recipe itself."""

    game: Game
    stream: Stream
    state: State
    meters: Meters
    generator: Player
    prior: Prior


def choose_device(name: str) -> torch.device:
    """The device of a name; "auto" is CUDA, else Apple's MPS, else the CPU. UserError for one that is not there."""
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device is {name!r}; it must be auto, cpu, cuda (or cuda:0, ...) or mps") from None
    if not available.get(device.type, False):
        there = ", ".join(kind for kind, ok in available.items() if ok)
        raise UserError(f"--device {name}: PyTorch finds none here (there is: {there})")
    return device


def derive_seed(*parts: int) -> int:
    """A seed of its own for each purpose, from whole numbers below 2^32."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1


def build(recipe: Recipe, device: torch.device, *, say: Callable[[str], None], progress: bool = True) -> Experiment:
    """Make players and game, load the data; the same recipe and seed make the same weights."""
    torch.manual_seed(derive_seed(recipe.seed, 0))  # weights, and whatever a network draws in training (dropout)
    prior = build_prior(recipe)
    networks = {name: build_network(recipe, name, prior).to(device) for name in recipe.networks}
    players = {name: _player(recipe, name, network) for name, network in networks.items()}
    noise = torch.Generator(device).manual_seed(derive_seed(recipe.seed, 1))
    game = _game(recipe, players, prior, noise)
    data = load_images(
        recipe.data.name,
        img_size=recipe.data.img_size,
        channels=recipe.data.channels,
        fit=recipe.data.fit,
        root=Path(recipe.data.root) if recipe.data.root else None,
        max_broken=recipe.data.max_broken,
        n_cpu=recipe.data.n_cpu,
        say=say,
        progress=progress,
    )
    _check_last_batch(data, recipe.batch_size, networks)
    stream = Stream(
        data,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        device=device,
        memory=recipe.data.memory,
        n_cpu=recipe.data.n_cpu,
    )
    meters = Meters()
    state = State(game, noise, {"data": stream, "meters": meters})
    generator = next((p for p in game.players if p.name.startswith("G")), game.players[0])
    return Experiment(game, stream, state, meters, generator, prior)


def build_prior(recipe: Recipe) -> Prior:
    if recipe.prior is None:
        return Prior()
    cls = PRIORS.get(recipe.prior.name) or find(recipe.prior.name)
    return _construct(cls, {}, recipe.prior.args, "prior")


def build_network(recipe: Recipe, player: str, prior: Prior) -> nn.Module:
    """One player's network, on the CPU; its positional parameters are latent_dim and shape, those that it names."""
    side = recipe.data.img_size
    handed = {"latent_dim": getattr(prior, "width", None), "shape": (recipe.data.channels, side, side)}
    component = recipe.networks[player]
    cls = find(component_targets("networks", component.name)[0])
    return _construct(cls, handed, component.args, f"networks.{player}")


def find(target: str) -> Any:
    """The object that "module:attribute" names."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _player(recipe: Recipe, name: str, network: nn.Module) -> Player:
    component = recipe.optimizers[name]
    function = OPTIMIZERS.get(component.name) or find(component.name)
    halflife = recipe.ema.halflife_kimg if name.startswith("G") else None
    return Player(name, network, partial(function, **component.args), ema_halflife_kimg=halflife)


def _game(recipe: Recipe, players: Mapping[str, Player], prior: Prior, noise: torch.Generator) -> Game:
    terms = []
    for component in recipe.penalties:
        args = dict(component.args)
        weight = args.pop("weight")
        row = PENALTIES.get(component.name)
        terms.append((weight, partial(row.function if row else find(component.name), **args)))
    handed = {**players, "prior": prior, "penalty": PenaltySum(terms), "noise": noise}
    if recipe.objective is not None:
        handed["objective"] = _objective(recipe.objective)
    cls = find(component_targets("game", recipe.game.name)[0])
    return _construct(cls, handed, recipe.game.args, "game")


def _objective(component: Component) -> Objective:
    row = OBJECTIVES.get(component.name) or find(component.name)
    if not isinstance(row, Objective) or component.args:
        raise UserError(f"objective: {component.name} must be an Objective(d, g, ...), which takes no further keys")
    return row


def _construct(cls: Any, handed: Mapping[str, Any], args: Mapping[str, Any], key: str) -> Any:
    """cls(what it asks for by name, **args); its ValueErrors become errors of the recipe's key."""
    kinds = inspect.Parameter
    names = [
        p.name
        for p in inspect.signature(cls).parameters.values()
        if p.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.POSITIONAL_ONLY)
    ]
    missing = [name for name in names if name not in handed]
    if missing:
        raise UserError(f"{key}: {cls.__name__} asks for {missing[0]}; gansmith can hand over {', '.join(handed)}")
    try:
        return cls(*(handed[name] for name in names), **args)
    except ValueError as error:
        raise UserError(f"{key}: {error}") from None
    except (RuntimeError, MemoryError) as error:
        if "memory" in str(error) or isinstance(error, MemoryError):
            raise UserError(f"{key}: there is not enough memory for a network of this size") from None
        raise


def _check_last_batch(data: ImageSet, batch_size: int, networks: Mapping[str, nn.Module]) -> None:
    """BatchNorm over features has no statistics of a single image."""
    if not any(isinstance(m, nn.BatchNorm1d) for net in networks.values() for m in net.modules()):
        return
    if batch_size == 1:
        raise UserError("batch_size is 1; BatchNorm needs at least 2 images in a batch; the nearest is 2")
    if len(data) == 1:
        raise UserError(f"{data.name} has a single image, and BatchNorm needs at least 2")
    if len(data) % batch_size == 1:
        near = next(
            b for d in range(1, batch_size) for b in (batch_size + d, batch_size - d) if b > 1 and len(data) % b != 1
        )
        raise UserError(
            f"batch_size is {batch_size}: the last batch of {len(data)} images has a single one, and BatchNorm needs"
            f" at least 2; the nearest is {near}"
        )

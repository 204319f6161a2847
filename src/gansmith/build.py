"""The only place where the names of a recipe become objects."""

from __future__ import annotations

import importlib.util
import inspect
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gansmith import checkpoint, schema
from gansmith.data import ImageSet, Stream, load_images
from gansmith.errors import UserError
from gansmith.games.game import Game
from gansmith.launch import launch
from gansmith.objectives import OBJECTIVES, Objective
from gansmith.penalties import PENALTIES, PenaltySum, Term
from gansmith.players import OPTIMIZERS, Player
from gansmith.priors import PRIORS, Prior
from gansmith.recipe import Component, Data, Engine, Recipe, component_targets, is_run
from gansmith.report.log import Meters
from gansmith.schedules import SCHEDULES, Schedules
from gansmith.state import State
from gansmith.world import World


@dataclass
class Experiment:
    """A recipe brought to life: what the loop needs, and nothing of the recipe itself."""

    game: Game
    stream: Stream
    state: State
    meters: Meters
    generator: Player
    prior: Prior
    schedules: Schedules
    engine: Callable[[], AbstractContextManager[Any]]
    """What a round is played in: lower precision, what torch.compile has to know, or nothing."""


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
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        raise UserError(f"--device {name}: PyTorch finds {count} CUDA device(s) here, and the first is cuda:0")
    return device


def derive_seed(*parts: int) -> int:
    """A seed of its own for each purpose, from whole numbers below 2^32."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1


def build(
    recipe: Recipe,
    device: torch.device,
    *,
    say: Callable[[str], None],
    progress: bool = True,
    resume: bool = False,
    world: World | None = None,
) -> Experiment:
    """Make players and game, load the data; the same recipe and seed make the same weights.

    To `resume`, no other run is asked for first weights: those of the checkpoint follow. `world`: the processes that
    train together, each with its share of every batch and its own random streams; rank 0 has those of a single one.
    """
    world = world or World(device)
    _check_engine(recipe.engine, device)
    prior = build_prior(recipe)
    # A network of an impossible size is told before a large set is read, unless it starts from the mean of that set.
    load = partial(load_split, recipe.data, "train", say=say, progress=progress)
    data = load() if _asks_for_data(recipe) else None
    mean_image = None if data is None else _mean_image(data)
    torch.manual_seed(derive_seed(recipe.seed, 0))  # weights, and whatever a network draws in training (dropout)
    networks = {name: build_network(recipe, name, prior, mean_image).to(device) for name in recipe.networks}
    _check_values(recipe, networks)
    for name, network in networks.items():
        if not resume and (run := recipe.networks[name].args.get("weights")) is not None:
            _start_from(Path(run), name, network, say)
    if recipe.engine.channels_last:
        for network in networks.values():
            network.to(memory_format=torch.channels_last)
    if world.size > 1 and recipe.sync_batchnorm:
        from gansmith.distributed import synchronise

        for network in networks.values():
            synchronise(network)
    players = {name: _player(recipe, name, network) for name, network in networks.items()}
    noise = torch.Generator(device).manual_seed(derive_seed(recipe.seed, 1))
    for player in players.values():
        player.reduce = world.reduce
    if world.rank > 0:
        own_streams(noise, recipe.seed, world.rank)
    game = _game(recipe, players, prior, noise)
    _warn(recipe, networks, say)
    schedules = _schedules(recipe, game)
    data = data or load()
    if recipe.batch_size > len(data):
        say(f"batch_size is {recipe.batch_size:,}, and there are {len(data):,} images: each batch is all of them")
    _check_parts(data, recipe, networks, world.size)
    stream = Stream(
        data,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        device=device,
        memory=recipe.data.memory,
        n_cpu=recipe.data.n_cpu,
        values=recipe.data.values,
        rank=world.rank,
        ranks=world.size,
        copies=launch().local_size if device.type == "cpu" else 1,
    )
    meters = Meters()
    state = State(game, noise, {"data": stream, "meters": meters})
    generator = next((p for p in game.players if p.name.startswith("G")), game.players[0])
    autocast = _autocast(recipe.engine.precision, device)
    experiment = Experiment(game, stream, state, meters, generator, prior, schedules, autocast)
    if recipe.engine.compile is True:
        compile_networks(recipe, experiment, say)
    return experiment


def own_streams(noise: torch.Generator, seed: int, rank: int, round: int = 0) -> None:
    """Random streams that no other rank has, from `round` on: torch's own, for dropout, and the noise."""
    torch.manual_seed(derive_seed(seed, 5, rank, round))
    noise.manual_seed(derive_seed(seed, 6, rank, round))


def load_split(
    data: Data, split: str, *, fold: int = 1, say: Callable[[str], None] = print, progress: bool = True
) -> ImageSet:
    """The training, validation or test images of a recipe, as it prepares them."""
    return load_images(
        data.name,
        img_size=data.img_size,
        channels=data.channels,
        split=split,
        validation=data.validation,
        fit=data.fit,
        root=Path(data.root) if data.root else None,
        fold=fold,
        max_broken=data.max_broken,
        n_cpu=data.n_cpu,
        say=say,
        progress=progress,
    )


def build_prior(recipe: Recipe) -> Prior:
    if recipe.prior is None:
        return Prior()
    cls = PRIORS.get(recipe.prior.name) or find(recipe.prior.name)
    prior = _construct(cls, {}, recipe.prior.args, "prior")
    if not isinstance(prior, Prior) or not isinstance(getattr(prior, "width", None), int):
        raise UserError(
            f"prior: {recipe.prior.name} must be a gansmith.priors.Prior whose `width` is the length of its z"
        )
    return prior


def build_network(recipe: Recipe, player: str, prior: Prior, mean_image: Tensor | None = None) -> nn.Module:
    """One player's network, on the CPU. It is handed by name those that its positional parameters ask for:

    latent_dim, shape (C, H, W), and mean_image (C, H, W), the mean of the training images in [0, 1], or None where
    trained weights follow.
    """
    side = recipe.data.img_size
    handed = {
        "latent_dim": getattr(prior, "width", None),
        "shape": (recipe.data.channels, side, side),
        "mean_image": mean_image,
    }
    component = recipe.networks[player]
    cls = find(component_targets("networks", component.name)[0])
    args = {key: value for key, value in component.args.items() if key != "weights"}
    return _construct(cls, handed, args, f"networks.{player}")


def _check_engine(engine: Engine, device: torch.device) -> None:
    if engine.precision == "tf32" and device.type != "cuda":
        raise UserError(
            f"engine.precision is tf32, which only CUDA has; on {device.type} it must be float32 or bfloat16"
        )
    if engine.precision != "float32" and device.type == "cuda":
        with torch.cuda.device(device):
            bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
            there = {"tf32": torch.cuda.is_tf32_supported(), "bfloat16": bf16}
        if not there[engine.precision]:
            raise UserError(f"engine.precision is {engine.precision}, which this card has not; it must be float32")
    if engine.compile is True and (lacks := _no_compiler(device) or _tried(device)):
        raise UserError(f"engine.compile is true and {lacks}; it must be false")


def _no_compiler(device: torch.device) -> str:
    """What torch.compile needs on this device and does not find, or ""."""

    def found(*names: str | None) -> bool:
        return any(name and shutil.which(name) for name in names)

    if device.type == "cpu" and not found(os.environ.get("CXX"), "g++", "clang++"):
        return "there is no C++ compiler (g++ or clang++) here"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python's headers (python3-dev) are not installed here"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "Triton is not installed here"
    if device.type == "cuda" and not found(os.environ.get("CC"), "gcc", "clang"):
        return "there is no C compiler (gcc or clang) here, which Triton needs"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (7, 0):
        return "Triton needs a card of compute capability 7.0 or more"
    return ""


def _tried(device: torch.device) -> str:
    """Why torch.compile fails on a first small program, or ""."""
    x = torch.zeros(8, device=device, requires_grad=True)
    try:
        torch.compile(lambda x: x.sin().sum(), dynamic=False)(x).backward()
    except Exception as error:  # of the compiler, of Triton, of the folder where programs are kept
        first = next(iter(str(error).strip().splitlines()), "")
        return f"torch.compile fails here ({type(error).__name__}: {first})"
    return ""


def _autocast(precision: str, device: torch.device) -> Callable[[], AbstractContextManager[Any]]:
    """No cache of cast weights: it would outlive a player's step within a round."""
    if precision != "bfloat16":
        return nullcontext
    return lambda: torch.autocast(device.type, dtype=torch.bfloat16, cache_enabled=False)


def compile_networks(recipe: Recipe, experiment: Experiment, say: Callable[[str], None]) -> None:
    """Let torch.compile have each player's network whose gradients it gives as eager mode does, and name the others.

    It compiles in the first round that is played, and again where shapes change; what it must know then is set for the
    length of each round.
    """
    import torch._functorch.config as functorch

    within = experiment.engine

    @contextmanager
    def engine() -> Iterator[None]:
        # Two losses may share a graph; the first pass must not use up its tensors.
        with functorch.patch(donated_buffer=False), within():
            yield

    experiment.engine = engine
    eager = _eager(recipe, experiment.game)
    for player in experiment.game.players:
        if player.name in eager:
            say(f"engine.compile: {player.name} is not compiled, for {eager[player.name]}")
        else:
            # Dropout draws what it draws in eager mode; no kernel is chosen by a race, which a resume could lose.
            player.net.compile(dynamic=False, options={"fallback_random": True, "deterministic": True})


def _eager(recipe: Recipe, game: Game) -> dict[str, str]:
    """The players that torch.compile must leave alone, each with the reason."""
    eager = dict(game.eager)
    if recipe.penalties:
        eager["D"] = "penalties take gradients of gradients, which it lacks"
    if recipe.sync_batchnorm:
        eager |= dict.fromkeys((p.name for p in game.players), "its BatchNorm speaks with other processes")
    return eager


COMPILE_ROUNDS = 20_000
"""So long a run engine.compile auto compiles on CUDA: a minute for it is 3 ms of each round. Never measured there."""


def decide_compile(device: str, total: int, lacks: str) -> tuple[bool, str]:
    """What engine.compile auto means on a type of device, for a run of `total` rounds.

    It goes by the whole length, so that a run that is resumed goes on as it began. Also one line that says so, "" where
    nobody would expect a compiler: on other devices than CUDA, where it slows or was not tried, and in short runs.
    `lacks`: what it needs and has not, or "".
    """
    if device != "cuda" or total < COMPILE_ROUNDS:
        return False, ""
    if lacks:
        return False, f"engine.compile auto: off, for {lacks}"
    return True, (
        f"engine.compile auto: on in a run of {total:,} rounds, for it may pay from {COMPILE_ROUNDS:,} on"
        " (--no-compile overrides)"
    )


def resolve_compile(
    recipe: Recipe, experiment: Experiment, device: torch.device, total: int, say: Callable[[str], None]
) -> None:
    """Compile, or do not, where the recipe leaves it to the device and to the length of the run, `total` rounds."""
    if recipe.engine.compile != "auto":
        return
    lacks = _no_compiler(device)
    if not lacks and {p.name for p in experiment.game.players} <= _eager(recipe, experiment.game).keys():
        lacks = "none of the networks can be compiled"
    on, line = decide_compile(device.type, total, lacks)
    if on and (fails := _tried(device)):
        on, line = decide_compile(device.type, total, fails)
    if line:
        say(line)
    if on:
        compile_networks(recipe, experiment, say)


def _asks_for_data(recipe: Recipe) -> bool:
    targets = [component_targets("networks", network.name)[0] for network in recipe.networks.values()]
    return any("mean_image" in schema.handed(target) for target in targets)


def _mean_image(data: ImageSet) -> Tensor:
    """The mean of the training images (C, H, W) in [0, 1], summed exactly in whole numbers."""
    if data.images.dtype != np.uint8:
        raise UserError(f"a network starts from the mean image of its data, and {data.name} is no set of images")
    total = np.zeros(data.images.shape[1:], np.int64)
    for start in range(0, len(data), 1000):
        total += data.images[start : start + 1000].sum(0, dtype=np.int64)
    return torch.from_numpy(total / (255 * len(data)))


def _start_from(run: Path, name: str, network: nn.Module, say: Callable[[str], None]) -> None:
    """Load the weights that the player of this name has in a run: all of them, into places of the same names."""
    key = f"networks.{name}.weights"
    if not is_run(run):
        raise UserError(f"{key}: {run} is not a run, so there are no weights to start from")
    path = checkpoint.newest_good(run / "checkpoints", say)
    tree, info = checkpoint.read(path)
    if name not in tree["players"]:
        raise UserError(f"{key}: {run} has no player {name} (it has: {', '.join(tree['players'])})")
    weights, here = tree["players"][name]["net"], network.state_dict()
    for place, tensor in weights.items():
        if place not in here or here[place].shape != tensor.shape:
            raise UserError(
                f"{key}: {path} has {place} {tuple(tensor.shape)}, and the network here has"
                f" {tuple(here[place].shape) if place in here else 'nothing of that name'}"
            )
    network.load_state_dict(weights, strict=False)
    fresh = len(here) - len(weights)
    say(f"{name} starts from round {info['round']} of {run}" + (f"; {fresh} of its tensors are new" if fresh else ""))


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
        weight, every = args.pop("weight"), args.pop("every")
        row = PENALTIES.get(component.name)
        terms.append(Term(weight, partial(row.function if row else find(component.name), **args), every))
    handed = {**players, "prior": prior, "penalty": PenaltySum(terms), "noise": noise, "accumulate": recipe.accumulate}
    if recipe.objective is not None:
        handed["objective"] = _objective(recipe.objective)
    cls = find(component_targets("game", recipe.game.name)[0])
    game = _construct(cls, handed, recipe.game.args, "game")
    if not isinstance(game, Game) or not getattr(game, "players", None):
        raise UserError(f"game: {recipe.game.name} must be a gansmith.games.game.Game that sets self.players")
    return game


def _warn(recipe: Recipe, networks: Mapping[str, nn.Module], say: Callable[[str], None]) -> None:
    """What trains, and hardly to what was meant."""
    if recipe.objective is None:
        return
    objective = _objective(recipe.objective)
    if objective.lipschitz and not _bounded(recipe, networks):
        say(
            f"warning: objective.name is {recipe.objective.name} and nothing keeps D Lipschitz: its scores may grow"
            " without bound, and its loss is no distance; it needs penalties: [{name: wgan_gp, weight: 10}], or a"
            " network that bounds its weights (constrain)"
        )
    for name, network in networks.items():
        if objective.probability and name.startswith("D") and isinstance([*network.modules()][-1], nn.Sigmoid):
            say(
                f"warning: the network of {name} seems to end in a sigmoid, and the objective {recipe.objective.name}"
                " takes that of the scores itself: leave it away, or D(x) is 0.5 at least"
            )


def _bounded(recipe: Recipe, networks: Mapping[str, nn.Module]) -> bool:
    """Whether a penalty, a limit on weights, or spectral norm, in either form that torch has, bounds the critic."""

    def normalised(module: nn.Module) -> bool:
        parametrized = [p for ps in getattr(module, "parametrizations", {}).values() for p in ps]
        return any("SpectralNorm" in type(x).__name__ for x in (*parametrized, *module._forward_pre_hooks.values()))

    critics = [net for name, net in networks.items() if name.startswith("D")]
    return any(p.args["weight"] > 0 for p in recipe.penalties) or all(
        hasattr(net, "constrain") or any(map(normalised, net.modules())) for net in critics
    )


def _schedules(recipe: Recipe, game: Game) -> Schedules:
    terms = []
    for component in recipe.schedules:
        args = dict(component.args)
        key = args.pop("of")
        terms.append((key, partial(SCHEDULES.get(component.name) or find(component.name), **args)))
    return Schedules(game.players, terms)


def _objective(component: Component) -> Objective:
    row = OBJECTIVES.get(component.name) or find(component.name)
    if not isinstance(row, Objective) or component.args:
        raise UserError(f"objective: {component.name} must be an Objective(d, g, ...), which takes no further keys")
    for player, loss in (("d", row.d), ("g", row.g)):
        try:
            with suppress(ValueError):  # a function of C's has no signature to look at
                inspect.signature(loss).bind("real", "fake")
        except TypeError as error:
            raise UserError(
                f"objective: the loss {player} of {component.name} must take the scores of real and of generated"
                f" images, (real, fake): {error}"
            ) from None
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


def _check_values(recipe: Recipe, networks: Mapping[str, nn.Module]) -> None:
    """A G that ends in tanh never makes the pixels of [0, 1] data, and D would tell by the range alone."""
    for name, network in networks.items():
        made = getattr(network, "values", None)
        if isinstance(made, str) and made != recipe.data.values:
            raise UserError(
                f"data.values is {recipe.data.values}, and the network of {name} makes images in the range of {made};"
                f" it must be {made}, or {name} another network"
            )


def _check_parts(data: ImageSet, recipe: Recipe, networks: Mapping[str, nn.Module], ranks: int) -> None:
    """No part of a batch may be empty; and BatchNorm over features has no statistics of a single image."""
    size, parts, total = recipe.batch_size, ranks * recipe.accumulate, len(data)
    norm = any(isinstance(m, nn.BatchNorm1d) for net in networks.values() for m in net.modules())
    least = parts * (2 if norm else 1)

    def smallest(size: int) -> int:
        return total % size or min(size, total)

    if smallest(size) >= least:
        return
    cuts = ((ranks, "processes"), (recipe.accumulate, "accumulated parts"))
    need = f"{'BatchNorm needs' if norm else 'there must be'} at least {least}"
    if parts > 1:
        need += f" for {' x '.join(f'{n} {what}' for n, what in cuts if n > 1)}"
    fitting = (b for b in range(total, 0, -1) if smallest(b) >= least)
    near = min(fitting, key=lambda b: abs(b - size), default=None)  # of two the larger
    if near is None:
        raise UserError(f"{data.name} has {total} image{'s' * (total > 1)} to train on, and {need}")
    raise UserError(
        f"batch_size is {size}: the smallest batch of {total} images has {smallest(size)}, and {need};"
        f" the nearest is {near}"
    )

"""The only place where the names of a recipe become objects."""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gansmith import checkpoint, engine, schema
from gansmith.augment import Augment, beside_unseen, sign_of_real
from gansmith.data import ImageSet, load_sets
from gansmith.data.addresses import is_shards
from gansmith.data.choose import FEWEST, choose
from gansmith.data.load import mixed, row_of
from gansmith.data.prepare import Needs, Wanted, kind
from gansmith.data.stream import Stream
from gansmith.data.values import VALUES
from gansmith.data.views import Draws, View, keys_of, to_load
from gansmith.errors import UserError
from gansmith.games.game import Game
from gansmith.launch import launch
from gansmith.objectives import Objective
from gansmith.penalties import PenaltySum, Term
from gansmith.players import Player
from gansmith.priors import Prior
from gansmith.recipe import Component, Recipe, is_run, resolve
from gansmith.run.log import Meters
from gansmith.schedules import Dial, Schedules, check_times
from gansmith.sections import Data
from gansmith.state import Frozen, State
from gansmith.world import World

Say = Callable[[str], None]


@dataclass(frozen=True)
class Classes:
    """The names of the classes, or attributes, and how many training pictures each has; empty where there are none."""

    names: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()


@dataclass
class Experiment:
    """A recipe brought to life: what the loop needs, and nothing of the recipe itself."""

    game: Game
    stream: Stream
    state: State
    meters: Meters
    prior: Prior
    schedules: Schedules
    engine: engine.Around  # what a round is played in: lower precision, what torch.compile has to know, or nothing
    classes: Classes  # of labelled data
    augment: Augment | None = None
    total: int | None = None  # rounds of the whole training, once that is known: schedules may count its shares

    @property
    def rounds_per_epoch(self) -> float:
        return self.stream.batches_per_epoch / self.game.batches_per_round


def derive_seed(*parts: int) -> int:
    """A seed of its own for each purpose, from whole numbers below 2^32."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0]) >> 1


def settled(recipe: Recipe, device: torch.device, say: Say) -> Recipe:
    """The same with what it leaves to its data and the device: the pictures' size and channels, how many are held back,
    the precision.
    """
    data, around, needs = recipe.data, recipe.engine, needs_of(recipe)
    if (data.attributes or data.columns) and not any("bits" in fields for fields in needs):
        raise UserError("data.attributes and data.columns are for games with attributes, and this has none: drop them")
    if data.pairs != "auto" and kind(needs) == "plain":
        raise UserError(f"data.pairs is {data.pairs}, and the game takes single pictures: it must be auto")
    if (best := recipe.evaluation.best) and not recipe.evaluation.every:
        raise UserError(
            f"evaluation.best is {best}, and evaluation.every is 0, so that nothing is scored: set both, or"
            " --evaluation.best null"
        )
    if not data.img_size or not data.channels or data.validation < 0:
        if is_shards(data.name):
            lacking = {"--img_size": data.img_size == 0, "--channels": not data.channels}
            lacking["--data.validation 0" if data.per_shard else "--data.validation"] = data.validation < 0
            raise UserError(
                f"nothing is chosen by looking at shards: give {', '.join(k for k, lacks in lacking.items() if lacks)}"
            )
        row_of(data.name)  # or an error, before anything is chosen
        if len(needs) > 1 or "x" not in needs[0]:
            raise UserError(
                f"data.img_size, data.channels and data.validation are chosen for single pictures, and"
                f" {recipe.game.name} takes others: give all three"
            )
        if data.name == "mnist":
            say("warning: these are MNIST's digits; for your own pictures: --data FOLDER")
        size, channels, held = choose(data.name, 64 if device.type == "cpu" else 128)
        own = size if data.img_size == 0 else data.img_size
        data = replace(
            data,
            img_size=own[0] if isinstance(own, tuple) and own[0] == own[1] else own,
            channels=data.channels or channels,
            validation=held if data.validation < 0 else data.validation,
        )
        (h, w), few = data.size, recipe.data.validation < 0 < data.validation < FEWEST
        say(
            f"chosen for {data.name}: --img_size {h if h == w else f'{h},{w}'} --channels {data.channels}"
            f" --data.validation {data.validation}" + few * f" (too few to tell memorisation, which takes {FEWEST})"
        )
    if around.precision == "auto":
        around = replace(around, precision=engine.best_precision(device))
        say(f"chosen for this {device.type}: --engine.precision {around.precision}")
    return replace(recipe, data=data, engine=around)


def build(
    recipe: Recipe,
    device: torch.device,
    *,
    say: Say,
    progress: bool = True,
    resume: bool = False,
    world: World | None = None,
) -> Experiment:
    """Make players and game, load the data; the same recipe and seed make the same weights.

    To `resume`, no other run is asked for first weights: those of the checkpoint follow. `world`: the processes that
    train together, each with its share of every batch and its own random streams; rank 0 has those of a single one.
    """
    world = world or World(device)
    engine.check(recipe.engine.precision, device)
    game_class, prior = game_of(recipe), build_prior(recipe)
    check_memory(parameters(recipe), device, say)  # before a large set is read
    load = partial(load_split, recipe, "train", say=say, progress=progress)
    asked = {what for network in recipe.networks.values() for what in schema.handed(_find("networks", network))}
    sets = load() if asked & {"mean_image", "classes"} else ()
    torch.manual_seed(derive_seed(recipe.seed, 0))  # weights, and whatever a network draws in training (dropout)
    classes, mean_image = len(_classes(sets).names), _mean_image(sets[0]) if "mean_image" in asked else None
    networks = {
        name: build_network(recipe, name, prior, classes=classes, mean_image=mean_image).to(device)
        for name in recipe.networks
    }
    _check_values(recipe, networks)
    frozen = {name: networks.pop(name).eval().requires_grad_(False) for name in game_class.frozen}
    _start(recipe, frozen if resume else {**frozen, **networks}, frozen, say)
    players = {name: _player(recipe, game_class, name, network, world) for name, network in networks.items()}
    noise = torch.Generator(device).manual_seed(derive_seed(recipe.seed, 1))
    if world.rank > 0:
        own_streams(noise, recipe.seed, world.rank)
    penalty = _penalties(recipe, world)
    parts = {**players, **frozen, "prior": prior, "penalty": penalty, "noise": noise}
    parts |= {"accumulate": recipe.accumulate, "everywhere": world.everywhere}
    if recipe.objective is not None:
        parts["objective"] = objective_of(recipe, world)
    game: Game = _construct(game_class, parts, recipe.game.args, "game")
    _warn(recipe, game, say)
    augment = _augment(recipe, game, noise, world, say) if recipe.augment else None
    schedules = _schedules(recipe, game, penalty, say)
    sets = sets or load()
    _check_parts(sets, recipe, networks, world.size, say)
    stream = _stream(recipe, game, sets, world)
    meters = Meters()
    kept: dict[str, Any] = {"data": stream, "meters": meters}
    if frozen:
        kept["frozen"] = Frozen(frozen)
    if augment is not None and augment.target is not None:
        kept["augment"] = augment
    around = engine.autocast(recipe.engine.precision, device)
    if recipe.engine.compile:
        around = engine.compiled(recipe, game, around, say)
    state = State(game, noise, kept)
    return Experiment(game, stream, state, meters, prior, schedules, around, _classes(sets), augment)


def _stream(recipe: Recipe, game: Game, sets: Sequence[ImageSet], world: World) -> Stream:
    return Stream(
        sets,
        needs=game.needs,
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        device=world.device,
        memory=recipe.data.memory,
        n_cpu=recipe.data.n_cpu,
        values=recipe.data.values,
        views=[partial(view.function, **args) for view, args in _views(recipe)],
        rank=world.rank,
        ranks=world.size,
        copies=launch().local_size if world.device.type == "cpu" else 1,
        free=engine.free_memory(world.device),
    )


def own_streams(noise: torch.Generator, seed: int, rank: int, round: int = 0) -> None:
    """Random streams that no other rank has, from `round` on: torch's own, for dropout, and the noise."""
    torch.manual_seed(derive_seed(seed, 5, rank, round))
    noise.manual_seed(derive_seed(seed, 6, rank, round))


# ---- what a recipe's names stand for -----------------------------------------------------------------------------


def game_of(recipe: Recipe) -> type[Game]:
    """The recipe's game, as a class: who is who, what it needs, what it can make."""
    cls = _find("game", recipe.game)
    if not (isinstance(cls, type) and issubclass(cls, Game)):
        raise UserError(f"game: {recipe.game.name} must be a subclass of gansmith.games.game.Game")
    if not getattr(cls, "makers", None):
        raise UserError(f"game: {recipe.game.name} must say in `makers` what it can make")
    return cls


def load_split(
    recipe: Recipe | Data,
    split: str,
    *,
    needs: Needs | None = None,
    fold: int = 1,
    say: Say = print,
    progress: bool = True,
) -> tuple[ImageSet, ...]:
    """The training, validation or test images as a recipe prepares them: a set for each stream that its game needs."""
    if isinstance(recipe, Recipe):
        data, needs = recipe.data, needs or needs_of(recipe)
    else:
        data, needs = replace(recipe, labelled=None), needs or (("x",),)  # labels are for a game to see
    return load_sets(Wanted(**vars(data), needs=needs, split=split, fold=fold, say=say, progress=progress))


def fields_of(
    recipe: Recipe, sets: Sequence[ImageSet], rows: slice | NDArray[np.int64], device: torch.device
) -> dict[str, Tensor]:
    """The fields of some rows of sets as networks see them, the recipe's views applied but for those that augment."""
    to_network = VALUES[recipe.data.values].to_network
    fields: dict[str, Tensor] = {}
    for found in sets:
        for name, column in found.columns.items():
            there = torch.from_numpy(np.array(column[rows])).to(device)
            fields[name] = to_network(there.float()) if there.dim() == 4 else there
    n = len(next(iter(fields.values())))
    for view, args in _views(recipe):
        if not view.augments and keys_of(view, args).get("of", "") in {"", *fields}:  # of one stream of several
            fields = view.function(fields, Draws(recipe.seed, 0, n, slice(0, n), device), **args)
    return fields


def input_view(recipe: Recipe, field: str) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """The fields that follow from those a user gives, a picture for `field` among them: grey of colour, a hole cut."""
    for view, args in _views(recipe):
        keys = keys_of(view, args)
        if view.given and field in [keys[key] for key in view.makes]:
            draws = Draws(0, 0, 1, slice(0, 1), torch.device("cpu"))
            return lambda given: view.function({**given, keys["of"]: given[field]}, draws, **args)
    return lambda given: given


def build_prior(recipe: Recipe) -> Prior:
    if recipe.prior is None:
        return Prior()
    cls = _find("prior", recipe.prior)
    prior = _construct(cls, {}, recipe.prior.args, "prior")
    if not isinstance(prior, Prior) or not isinstance(getattr(prior, "width", None), int):
        raise UserError(f"prior: {recipe.prior.name} must be a gansmith.priors.Prior; `width` is the length of its z")
    return prior


def build_network(
    recipe: Recipe, player: str, prior: Prior, *, classes: int = 0, mean_image: Tensor | None = None
) -> nn.Module:
    """One player's network, on the CPU. It is handed by name what its positional parameters ask for:

    latent_dim, shape (C, H, W), values, the range of the pictures, classes, how many the data has, and mean_image
    (C, H, W), the mean of the training images in [0, 1], or None where trained weights follow.
    """
    handed = {
        "latent_dim": getattr(prior, "width", None),
        "shape": (recipe.data.channels, *recipe.data.size),
        "values": recipe.data.values,
        "classes": classes,
        "mean_image": mean_image,
    }
    component = recipe.networks[player]
    args = {key: value for key, value in component.args.items() if key != "weights"}
    network = _construct(_find("networks", component), handed, args, f"networks.{player}")
    if not isinstance(network, nn.Module):
        raise UserError(f"networks.{player}: {component.name} must be a torch.nn.Module")
    return network


def parameters(recipe: Recipe) -> dict[str, int]:
    """How many parameters each trained network will have; UserError where a size is impossible.

    Nothing is allocated, and one's own networks, which may ask for more, are left out. Ten classes stand for those that
    the data will have.
    """
    prior, counts = build_prior(recipe), dict[str, int]()
    for name, component in recipe.networks.items():
        if name not in game_of(recipe).frozen and ":" not in component.name:
            with torch.device("meta"):
                network = build_network(recipe, name, prior, classes=10)
            counts[name] = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return counts


def check_memory(counts: Mapping[str, int], device: torch.device, say: Say) -> None:
    """UserError where networks of so many parameters cannot be trained in the memory there is; a warning if hardly."""
    size, there = 4 * sum(counts.values()), engine.free_memory(device)
    # Copies of all weights: themselves and gradients; with Adam also two moments, and what a step computes with.
    least, usual = 2 * size, 6 * size
    if usual > 0.8 * there:
        named = ", ".join(f"{name} {n / 1e6:,.0f} M" for name, n in counts.items())
        text = (
            f"{named} parameters take {least / 1e9:,.0f} GB in training, {usual / 1e9:,.0f} GB with Adam,"
            f" and {there / 1e9:,.0f} GB are free on this {device.type}: give a smaller --img_size, or smaller networks"
        )
        if least > there:
            raise UserError(text)
        say(f"warning: {text}")


def _find(kind: str, component: Component) -> Any:
    return resolve(kind, component.name, component.trusted)


def _views(recipe: Recipe) -> list[tuple[View, Mapping[str, Any]]]:
    """A function of one's own counts as one that augments."""
    rows = [(_find("views", component), component.args) for component in recipe.views]
    return [(row if isinstance(row, View) else View(row, augments=True), args) for row, args in rows]


def needs_of(recipe: Recipe) -> Needs:
    """The fields that the data itself must give: those the game needs and no view makes."""
    return to_load(game_of(recipe).needs, _views(recipe))


def _classes(sets: Sequence[ImageSet]) -> Classes:
    """Of shards that nobody has counted, every class as often as any other."""
    for found in sets:
        if not found.counted and found.classes:
            return Classes(found.classes, (1,) * len(found.classes))
        if (bits := found.columns.get("bits")) is not None:
            return Classes(found.classes, tuple(int(n) for n in np.asarray(bits).sum(0)))
        if found.labels is not None:
            counts = np.bincount(found.labels, minlength=len(found.classes))
            return Classes(found.classes, tuple(int(n) for n in counts))
    return Classes()


def _mean_image(data: ImageSet) -> Tensor:
    """The mean of the training images (C, H, W) in [0, 1], summed exactly in whole numbers."""
    if data.images.dtype != np.uint8:
        raise UserError(f"a network starts from the mean image of its data, and {data.name} is no set of images")
    total = np.zeros(data.images.shape[1:], np.int64)
    for start in range(0, len(data), 1000):
        total += data.images[start : start + 1000].sum(0, dtype=np.int64)
    return torch.from_numpy(total / (255 * len(data)))


# ---- first weights ------------------------------------------------------------------------------------------------


def start_digest(recipe: Recipe, say: Say) -> str | None:
    """The digest of the weights that all players start from, None where they start as their networks make them."""
    if recipe.start.run is None:
        return None
    info = _weights(recipe.start.run, "start.run", say).info
    digest = str(info["sha256"][checkpoint.TENSORS][:12])
    if recipe.start.digest not in (None, digest):
        raise UserError(
            f"start.digest is {recipe.start.digest}, and the newest checkpoint of {recipe.start.run} has {digest}: it"
            " is not the one that this recipe started from"
        )
    return digest


def _start(recipe: Recipe, networks: Mapping[str, nn.Module], frozen: Collection[str], say: Say) -> None:
    """Give networks the weights that the recipe asks for: of one run for all players, or of a run for each.

    Frozen networks get theirs at a resume, too: no checkpoint holds them.
    """
    players = networks.keys() - frozen
    run = recipe.start.run if players else None
    newest = None if run is None else _weights(run, "start.run", say)
    there = {} if newest is None else newest.tree["players"]
    for name, network in networks.items():
        if (own := recipe.networks[name].args.get("weights")) is not None:
            key = f"networks.{name}.weights"
            _start_from(_weights(own, key, say), name, network, key, raw=name not in frozen, say=say)
        elif newest is None or name in frozen:
            continue
        elif name in there or not there.keys() & players:
            _start_from(newest, name, network, "start.run", raw=recipe.start.raw, say=say)
        else:
            say(f"{name} starts anew: {run} has no such player")


def _weights(run: str, key: str, say: Say) -> checkpoint.Read:
    if not is_run(Path(run)):
        raise UserError(f"{key}: {run} is not a run, so there are no weights to start from")
    return checkpoint.newest_good(Path(run, "checkpoints"), say)


def _start_from(newest: checkpoint.Read, name: str, network: nn.Module, key: str, *, raw: bool, say: Say) -> None:
    """Load the weights that the player of this name has in a run: all of them, into places of the same names."""
    path, tree, info = newest
    run = path.parents[1]
    if name not in tree["players"]:
        raise UserError(f"{key}: {run} has no player {name} (it has: {', '.join(tree['players'])})")
    saved, here = tree["players"][name], network.state_dict()
    averaged = not raw and "ema" in saved
    weights = saved["ema"] if averaged else saved["net"]
    for place, tensor in weights.items():
        if place not in here or here[place].shape != tensor.shape:
            raise UserError(
                f"{key}: {name} of {run} has {place} {tuple(tensor.shape)}, and the network here has"
                f" {tuple(here[place].shape) if place in here else 'nothing of that name'}"
            )
    network.load_state_dict(weights, strict=False)
    fresh = len(here) - len(weights)
    what = f"the moving average of round {info['round']}" if averaged else f"round {info['round']}"
    say(f"{name} starts from {what} of {run}" + (f"; {fresh} of its tensors are new" if fresh else ""))


# ---- players, game, schedules -------------------------------------------------------------------------------------


def averaged(game: type[Game]) -> set[str]:
    """The players whose weights are averaged: those that make something."""
    return {name for maker in game.makers.values() for name in maker.players}


def _player(recipe: Recipe, game: type[Game], name: str, network: nn.Module, world: World) -> Player:
    if recipe.engine.channels_last:
        network.to(memory_format=torch.channels_last)
    if world.size > 1 and recipe.sync_batchnorm:
        from gansmith.distributed import synchronise

        synchronise(network)
    component = recipe.optimizers[name]
    make = partial(_find("optimizers", component), **component.args)
    player = Player(name, network, make, ema_halflife_kimg=recipe.ema.halflife_kimg if name in averaged(game) else None)
    player.reduce = world.reduce
    return player


def _penalties(recipe: Recipe, world: World) -> PenaltySum:
    terms = []
    for component in recipe.penalties:
        args = dict(component.args)
        weight, every = args.pop("weight"), args.pop("every")
        row = _find("penalties", component)
        if getattr(row, "batch", False):
            _check_whole(recipe, component)
            args["everywhere"] = world.everywhere
        terms.append(Term(weight, partial(getattr(row, "function", row), **args), every))
    return PenaltySum(terms)


def objective_of(recipe: Recipe, world: World | None = None) -> Objective:
    """The recipe's objective, its keys set; where its losses look at the batch, at that of all processes."""
    component = recipe.objective
    assert component is not None
    row = _find("objective", component)
    if not isinstance(row, Objective):
        raise UserError(f"objective: {component.name} must be an Objective(d, g, ...)")
    losses: dict[str, Any] = {}
    for player, loss in (("d", row.d), ("g", row.g)):
        try:
            keys = {k: v for k, v in component.args.items() if k in schema.parameters(loss)}
            losses[player] = partial(loss, **keys) if keys else loss
            inspect.signature(losses[player]).bind("real", "fake")
        except ValueError:  # a function of C's has no signature to look at
            losses[player] = loss
        except TypeError as error:
            raise UserError(
                f"objective: the loss {player} of {component.name} must take the scores of real and of generated"
                f" images, (real, fake): {error}"
            ) from None
    if row.batch:
        _check_whole(recipe, component)
        if world is not None:
            losses = {player: partial(_over_all, loss, world) for player, loss in losses.items()}
    return replace(row, **losses)


def _check_whole(recipe: Recipe, component: Component) -> None:
    if recipe.accumulate > 1:
        raise UserError(f"accumulate is {recipe.accumulate}: {component.name} looks at whole batches; it must be 1")


def _over_all(loss: Callable[[Tensor, Tensor], Tensor], world: World, real: Tensor, fake: Tensor) -> Tensor:
    both = world.everywhere(torch.stack((real, fake), 1))
    return loss(both[:, 0], both[:, 1])


def _augment(recipe: Recipe, game: Game, noise: torch.Generator, world: World, say: Say) -> Augment:
    """Let the game's critics see augmented pictures."""
    seeing = game.critics if game.sees is None else game.sees
    if not seeing or recipe.data.values != "signed":
        why = f"data.values is {recipe.data.values}" if seeing else "its critic does not just judge pictures"
        raise UserError(f"augment: {recipe.game.name} takes none, for {why}")
    critics = [player for player in game.players if player.name in seeing]
    changes = [partial(_find("augment", component), **component.args) for component in recipe.augment]
    overfitting = None
    if recipe.ada.target is not None:
        if len(critics) > 1 or recipe.objective is None:
            raise UserError(f"ada.target: {recipe.game.name} must have one critic and an objective for that")
        objective = objective_of(recipe)
        if objective.probability or objective.zero:
            overfitting = sign_of_real
        elif game.needs == (("x",),) and recipe.data.validation:
            (unseen,) = load_split(recipe, "validation", say=say)
            some = mixed(len(unseen))[: recipe.batch_size]  # the first of a folder may be of one class
            pictures = fields_of(recipe, [unseen], some, noise.device)["x"].to(critics[0].dtype)
            overfitting = partial(beside_unseen, critics[0].probe, pictures, world)
        else:
            raise UserError(
                f"ada.target: with the objective {recipe.objective.name} no score separates real from fake, so D's"
                " overfitting shows on held-back pictures alone: give --data.validation 100, or more (if 0 does"
                " in an objective of your own, say zero=True there)"
            )
    nets = [critic.net for critic in critics]
    return Augment(nets, changes, noise, target=recipe.ada.target, kimg=recipe.ada.kimg, overfitting=overfitting)


def _warn(recipe: Recipe, game: Game, say: Say) -> None:
    """What trains, but hardly as it was meant."""
    if recipe.ada.target is not None and not recipe.augment:
        say("nothing is augmented, so that ada.target does nothing")
    if recipe.objective is None:
        return
    objective = objective_of(recipe)
    critics = {player.name: player.net for player in game.players if player.name in game.critics}
    if objective.lipschitz and not _bounded(recipe, critics.values()):
        say(
            f"warning: objective.name is {recipe.objective.name} and nothing keeps the critic Lipschitz: its scores may"
            " grow without bound, and its loss is no distance; it needs penalties: [{name: wgan_gp, weight: 10}], or a"
            " network that bounds its weights (constrain)"
        )
    for name, network in critics.items():
        if objective.probability and isinstance([*network.modules()][-1], nn.Sigmoid):
            say(
                f"warning: the network of {name} seems to end in a sigmoid, and the objective {recipe.objective.name}"
                " takes the sigmoid of the scores itself: drop it, or D(x) is 0.5 at least"
            )


def _bounded(recipe: Recipe, critics: Any) -> bool:
    """Whether a penalty, a limit on weights, or spectral norm, in either form that torch has, bounds the critics."""

    def normalised(module: nn.Module) -> bool:
        parametrized = [p for ps in getattr(module, "parametrizations", {}).values() for p in ps]
        return any("SpectralNorm" in type(x).__name__ for x in (*parametrized, *module._forward_pre_hooks.values()))

    return any(p.args["weight"] > 0 for p in recipe.penalties) or all(
        hasattr(net, "constrain") or any(map(normalised, net.modules())) for net in critics
    )


def _schedules(recipe: Recipe, game: Game, penalty: PenaltySum, say: Say) -> Schedules:
    terms = []
    for component in recipe.schedules:
        args = dict(component.args)
        key = args.pop("of")
        check_times(component.name, args)
        terms.append((key, partial(_find("schedules", component), **args)))
    dials: dict[str, list[Dial]] = {}
    for player in game.players:
        for key, value in _numbers(player.optimizer.param_groups[0]).items():
            dials.setdefault(key, []).append(Dial(f"{key}/{player.name}", value, partial(_set_option, player, key)))
        if player.ema_halflife_kimg is not None:
            key, name = "ema.halflife_kimg", f"ema_halflife_kimg/{player.name}"
            set_it = partial(setattr, player, "ema_halflife_kimg")
            dials.setdefault(key, []).append(Dial(name, player.ema_halflife_kimg, set_it))
    for i, term in enumerate(penalty.terms):
        dials[f"penalties.{i}.weight"] = [Dial(f"penalty_weight/{i}", term.weight, partial(setattr, term, "weight"))]
    made = Schedules(dials, terms)
    for key in (key for key, _ in terms if "." not in key and len(dials[key]) < len(game.players)):
        have = ", ".join(dial.name.partition("/")[2] for dial in dials[key])
        say(f"the schedule of {key} sets it for {have} alone: the other optimizers have none")
    return made


def _numbers(options: Mapping[str, Any]) -> dict[str, float]:
    """An optimizer's options that a schedule may set; its betas are called b1 and b2."""
    found = dict[str, float]()
    for key, value in options.items():
        if key == "betas":
            found |= {f"b{i}": float(beta) for i, beta in enumerate(value, 1)}
        elif isinstance(value, float):
            found[key] = value
    return found


def _set_option(player: Player, key: str, value: float) -> None:
    for group in player.optimizer.param_groups:  # asked for anew each time: a resume replaces the optimizer's groups
        if key in group:
            group[key] = value
        else:
            i, betas = int(key[1:]) - 1, group["betas"]
            group["betas"] = (*betas[:i], value, *betas[i + 1 :])


def _construct(cls: Any, handed: Mapping[str, Any], args: Mapping[str, Any], key: str) -> Any:
    """cls(what it asks for by name, **args); its ValueErrors become errors of the recipe's key."""
    asked = schema.handed(cls)
    missing = [name for name in asked if name not in handed]
    if missing:
        raise UserError(f"{key}: {cls.__name__} asks for {missing[0]}; gansmith can hand over {', '.join(handed)}")
    try:
        return cls(*(handed[name] for name in asked), **args)
    except ValueError as error:
        raise UserError(f"{key}: {error}") from None
    except (RuntimeError, MemoryError) as error:
        if "memory" in str(error) or isinstance(error, MemoryError):
            raise UserError(f"{key}: there is not enough memory for a network of this size") from None
        raise


# ---- checks ---------------------------------------------------------------------------------------------------


def _check_values(recipe: Recipe, networks: Mapping[str, nn.Module]) -> None:
    """A G that ends in tanh never makes the pixels of [0, 1] data, and D would tell by the range alone."""
    for name, network in networks.items():
        made = getattr(network, "values", None)
        if isinstance(made, str) and made != recipe.data.values:
            raise UserError(
                f"data.values is {recipe.data.values}, and the network of {name} makes images in the range of {made};"
                f" it must be {made}, or {name} another network"
            )


def _check_parts(
    sets: Sequence[ImageSet], recipe: Recipe, networks: Mapping[str, nn.Module], ranks: int, say: Say
) -> None:
    """No part of a batch may be empty; and BatchNorm over features has no statistics of a single image."""
    size, parts, total = recipe.batch_size, ranks * recipe.accumulate, max(map(len, sets))
    if size > total and len(sets) == 1:
        say(f"batch_size is {size:,}, and there are {total:,} images: each batch is all of them")
    norm = any(isinstance(m, nn.BatchNorm1d) for net in networks.values() for m in net.modules())
    least = parts * (2 if norm else 1)

    def smallest(size: int) -> int:
        return size if len(sets) > 1 else total % size or min(size, total)

    if smallest(size) >= least:
        return
    cuts = ((ranks, "processes"), (recipe.accumulate, "accumulated parts"))
    need = f"{'BatchNorm needs' if norm else 'there must be'} at least {least}"
    if parts > 1:
        need += f" for {' x '.join(f'{n} {what}' for n, what in cuts if n > 1)}"
    fitting = (b for b in range(total, 0, -1) if smallest(b) >= least)
    near = min(fitting, key=lambda b: abs(b - size), default=None)  # of two the larger
    if near is None:
        raise UserError(f"{sets[0].name} has {total} image{'s' * (total > 1)} to train on, and {need}")
    raise UserError(
        f"batch_size is {size}: the smallest batch of {total} images has {smallest(size)}, and {need};"
        f" the nearest is {near}"
    )

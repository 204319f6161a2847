"""A recipe: one experiment as frozen data. Layers of YAML and flags become one, every key checked, with its origin.

Sections and plain values are checked first, without torch. Then what the recipe names is imported, the game before all
else, and its keys are checked too. Nothing below `build.py` sees a recipe.
"""

import dataclasses
import difflib
import importlib
import os
import pkgutil
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from gansmith import schema
from gansmith.errors import UserError
from gansmith.schema import NonNegativeFloat, Parameter, PositiveFloat, PositiveInt, Seed
from gansmith.sections import Ada, Checkpoints, Data, Ema, Engine, Evaluation, Start
from gansmith.trust import files, from_here, remembered, run_around

_SHIPPED = resources.files("gansmith") / "recipes"


@dataclass(frozen=True)
class Component:
    """A named part and its parameters: a row of a table, or any importable "module:attribute" that is trusted."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)
    trusted: bool = field(default=False, compare=False)  # may be imported; decided at every start, never written down


@dataclass(frozen=True)
class Recipe:
    """The whole configuration of one training."""

    data: Data
    prior: Component | None
    networks: Mapping[str, Component]
    game: Component
    objective: Component | None
    penalties: Sequence[Component]
    optimizers: Mapping[str, Component]
    schedules: Sequence[Component]
    views: Sequence[Component]
    augment: Sequence[Component]
    ada: Ada
    ema: Ema
    n_epochs: PositiveInt = 200  # passes over the training images
    steps: PositiveInt | None = None  # length in rounds, in place of n_epochs
    minutes: PositiveFloat | None = None  # length in minutes, in place of n_epochs; becomes steps at the start
    batch_size: PositiveInt = 64  # images of one batch, over all processes and parts
    accumulate: PositiveInt = 1  # parts of a batch that go one after the other; BatchNorm: statistics of a part
    sync_batchnorm: bool = False  # BatchNorm over the batch of all processes of torchrun, not of each
    seed: Seed = 0  # seed of the weights, the noise and the order of the images
    sample_interval: PositiveInt = 400  # rounds between two pictures of samples
    log_interval: PositiveInt = 50  # rounds between two lines of metrics.jsonl
    checkpoint: Checkpoints = Checkpoints()
    evaluation: Evaluation = Evaluation()
    engine: Engine = Engine()
    start: Start = Start()


SECTIONS = {
    k: t for k, t in Recipe.__annotations__.items() if t in (Data, Ada, Ema, Checkpoints, Evaluation, Engine, Start)
}
TABLES = {  # kind of component -> the table that has its names: name -> its object, or "module:attribute" of it
    **{"prior": "gansmith.priors:PRIORS", "networks": "gansmith.networks:NETWORKS", "game": "gansmith.games:GAMES"},
    **{"objective": "gansmith.objectives:OBJECTIVES", "penalties": "gansmith.penalties:PENALTIES"},
    **{"optimizers": "gansmith.players:OPTIMIZERS", "schedules": "gansmith.schedules:SCHEDULES"},
    **{"views": "gansmith.data.views:VIEWS", "augment": "gansmith.augment:CHANGES"},
}
EXTRA = {  # keys that every row of a table has: every how many moves a penalty counts, from which run weights start
    "penalties": {"weight": Parameter(NonNegativeFloat, 1.0), "every": Parameter(PositiveInt, 1)},
    "networks": {"weights": Parameter(str | None, None)},
    "schedules": {"of": Parameter(str, "lr")},
}
FILES = ("weights", "file")  # keys of networks that name a file or a run
PLAYERS = ("networks", "optimizers")  # kinds of which each player has one
LISTS = {  # kinds of which a recipe has a list, with an example
    "penalties": "{name: wgan_gp, weight: 10}",
    "schedules": "{name: linear, of: lr, to: 0, over: 100}",
    "views": "{name: flip, of: [x]}",
    "augment": "{name: translation, ratio: 0.125}",
}
# What a game may be handed besides its players.
PARTS = ("prior", "objective", "penalty", "noise", "accumulate", "everywhere")
# What a run may be given anew when it goes on: how long, how watched, how computed, where images and weights lie.
FREE = (
    *("n_epochs", "steps", "minutes", "sample_interval", "log_interval"),
    *("data.name", "data.root", "data.n_cpu", "data.memory", "data.keep_mb", "data.max_broken", "networks.*.file"),
    *(f"{at}.{key}" for at in ("checkpoint", "evaluation", "engine") for key in SECTIONS[at].__annotations__),
)
SHORT_NAMES = {  # of what lies deeper in a recipe, the post's own first; a star stands for every player
    **{"lr": "optimizers.*.lr", "b1": "optimizers.*.b1", "b2": "optimizers.*.b2", "latent_dim": "prior.dim"},
    **{"n_cpu": "data.n_cpu", "img_size": "data.img_size", "channels": "data.channels", "compile": "engine.compile"},
    **{"from": "start.run", "raw": "start.raw", "learning_rate": "optimizers.*.lr", "loss": "objective"},
}
# What stands under a recipe, as far as its game has such players and parts: the vanilla GAN, as in recipes/gan.yaml.
_BASE = {
    **{"game": "simultaneous", "prior": "normal", "objective": "non_saturating"},
    **{"networks.G": "mlp_generator", "networks.D": "mlp_discriminator"},
    **{"optimizers.G": "adam", "optimizers.D": "adam"},
}


@dataclass(frozen=True)
class Layer:
    """Some keys of a recipe, nested or dotted, and where they come from: a file's name, "flag", ..."""

    origin: str
    keys: Mapping[str, Any]
    typed: bool = False  # by the user: what they name may be imported


@dataclass(frozen=True)
class Resolved:
    """A checked recipe, and for every key of it (dotted) where its value came from."""

    recipe: Recipe
    origins: Mapping[str, str]
    label: str
    modules: Sequence[str] = ()  # those from outside that the recipe names, for `trust.remember`
    run: Path | None = None  # its folder, where a run was asked for

    def lines(self) -> Iterator[tuple[str, Any, str]]:
        """(dotted key, value, origin) of every value, in the recipe's order."""
        return ((key, value, self.origins.get(key, "default")) for key, value in flatten(to_dict(self.recipe)))


def recipe_names() -> list[str]:
    """The recipes that gansmith ships."""
    return sorted(p.name.removesuffix(".yaml") for p in _SHIPPED.iterdir() if p.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """The YAML of a shipped recipe, header included."""
    if name not in (names := recipe_names()):
        known = f"recipes: {', '.join(names)}; or give the path of a YAML file or of a run folder"
        raise UserError(f"there is no recipe {name!r}{schema.did_you_mean(name, names)} ({known})")
    return (_SHIPPED / f"{name}.yaml").read_text(encoding="utf-8")


def is_run(what: str | Path) -> bool:
    """Whether this is the folder of a run; a recipe's bare name is that recipe (./gan is a folder called gan)."""
    return what not in recipe_names() and (Path(what) / "recipe.yaml").is_file()


def read_layer(what: str | Path) -> Layer:
    """A recipe's own keys, by the name of a shipped recipe or the path of a YAML file."""
    path, origin = Path(what), str(what)
    a_path = isinstance(what, Path) or path.suffix in (".yaml", ".yml") or "/" in origin or path.is_dir()
    if what in recipe_names() or not a_path:
        text, origin = recipe_text(origin), f"recipe {origin}"
    elif path.is_dir():
        advice = f"to train on the pictures in it: gansmith train photos --data {path}"
        raise UserError(f"{path} is a folder without recipe.yaml, so neither a recipe nor a run; {advice}")
    else:
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:  # ValueError: bytes that are no text, or a NUL in the name
            reason = getattr(error, "strerror", None) or "it is not a text file"
            raise UserError(f"cannot read the recipe or run {origin!r}: {reason}") from None
    if not isinstance(keys := parsed(text, origin), dict | None):
        raise UserError(f"{origin} must hold keys and values, such as 'n_epochs: 20'")
    return Layer(origin, keys or {})


def parsed(text: str, origin: str) -> Any:
    """A YAML text as plain data; a UserError that names the origin where it is none, or a key stands twice."""
    try:
        loader = yaml.SafeLoader(text)
        # Aliases count as written out: a few hundred bytes of them can stand for gigabytes.
        nodes, seen = [(root := loader.get_single_node(), 0)], 0
        while nodes:
            (node, depth), seen = nodes.pop(), seen + 1
            if seen > 10_000 or depth > 50:
                raise ValueError("it holds more than 10,000 values or 50 levels, with its aliases written out")
            if isinstance(node, yaml.SequenceNode):
                nodes += [(inner, depth + 1) for inner in node.value]
            elif isinstance(node, yaml.MappingNode):
                nodes += [(inner, depth + 1) for pair in node.value for inner in pair]
                names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
                if twice := [name for name, count in names.items() if count > 1 and name != "<<"]:
                    raise ValueError(f"the key {twice[0]} stands twice")
        return None if root is None else loader.construct_document(root)
    except Exception as error:  # no YAML, !!int of no number, a month 13, too many brackets: each fails in its own way
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}, column {mark.column + 1} is not YAML" if mark else "cannot be read"
        reason = getattr(error, "problem", None) or re.split("[;\n]", str(error))[0] or type(error).__name__
        raise UserError(f"{origin}: {where}: {reason}") from None


def plan(what: str | Path = "gan", *, flags: Mapping[str, Any] | None = None, trust: bool = False) -> Resolved:
    """The checked recipe of a name, a YAML file or a run, with flags (dotted keys or the post's names) on top.

    A "module:attribute" is imported where it is a flag, where the user has trained this run here, or with `trust`.
    """
    path, a_run = Path(what), is_run(what)
    run = path if a_run else path.parent if path.name == "recipe.yaml" else None
    layers = [read_layer(path / "recipe.yaml" if a_run else what), Layer("flag", flags or {}, typed=True)]
    asked = os.environ.get("GANSMITH_TRUST") == "1"  # by --trust, which ranks and children inherit
    trust = trust or asked or (run is not None and remembered(run))
    resolved = combine(*layers, label=path.stem if run is None else run.resolve().name, trust=trust)
    return replace(resolved, run=path if a_run else None)


def without_flip(recipe: Recipe) -> list[Any]:
    """The recipe's views without flips, as a flag takes them."""
    return [{"name": view.name, **view.args} for view in recipe.views if view.name != "flip"]


def table(kind: str) -> Mapping[str, Any]:
    """The rows of the table of a kind of component, which is imported for it."""
    return pkgutil.resolve_name(TABLES[kind])


def resolve(kind: str, name: str, trusted: bool, at: str = "") -> Any:
    """What a component's name stands for: a table's row, or "module:attribute", if it is `trusted` and in no run."""
    if row := table(kind).get(name):
        return pkgutil.resolve_name(row) if isinstance(row, str) else row
    module, _, attribute = name.partition(":")
    at, run_by_it = f"{at or kind} is {name!r}", files(module)
    if not trusted:
        imports = ", ".join(map(str, run_by_it)) or module
        raise UserError(f"{at}, which imports {imports}; if you trust that code, add --trust (in Python: trust=True)")
    if run := next(filter(None, map(run_around, run_by_it)), None):
        raise UserError(f"{at}, and that module lies in the run {run}: nothing is imported from inside a run")
    try:
        with from_here():
            found = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever a module's own lines raise
        reason = next(iter(str(error).splitlines()), "")
        raise UserError(f"{at}: cannot import {module}: {type(error).__name__}: {reason}") from None
    if not hasattr(found, attribute):
        raise UserError(f"{at}: {module} has no {attribute!r}{schema.did_you_mean(attribute, vars(found))}")
    return getattr(found, attribute)


def combine(*layers: Layer, label: str = "gan", trust: bool = False) -> Resolved:
    """The recipe that the layers say together, later ones winning; a UserError for the first thing that is wrong."""
    check = _Checker(_merged(Layer("default", _BASE), *layers), trust)
    top = {k: value for k, (value, _) in check.flat.items() if k.partition(".")[0] not in (*SECTIONS, *TABLES)}
    plain = check.converted(top, Recipe.__annotations__)  # before anything is imported
    plain |= {
        key: kind(**check.converted(check.below(key), kind.__annotations__, key)) for key, kind in SECTIONS.items()
    }
    if "://" in (name := plain["data"].name) or name.endswith(".txt"):  # an address, or a list of such
        if trust or check.flat["data.name"][1].typed:
            check.modules.append("fsspec")  # so that the run goes on without being asked again
        else:
            from gansmith.data.addresses import Untrusted

            plain["data"] = replace(plain["data"], name=Untrusted(name))
    game = check.component("game", "game")
    game_class = resolve("game", game.name, game.trusted)
    wanted, frozen = schema.handed(game_class), getattr(game_class, "frozen", ())
    base = {key: name for key, name in _BASE.items() if key == "game" or key.split(".")[-1] in wanted}
    check.flat = _merged(Layer("default", base), *layers)
    recipe = Recipe(**plain, game=game, **check.components(game.name, wanted, frozen))
    if recipe.penalties and "penalty" not in wanted:
        raise UserError(f"the game {game.name} takes no penalties: say penalties: []")
    if recipe.accumulate > 1 and "accumulate" not in wanted:
        raise UserError(f"the game {game.name} takes no accumulate, so it must be 1")
    if recipe.accumulate > recipe.batch_size:
        raise UserError(f"accumulate is {recipe.accumulate}; it must be at most batch_size, {recipe.batch_size}")
    origins = {key: layer.origin for key, (_, layer) in check.flat.items()}
    return Resolved(recipe, origins, label, tuple(dict.fromkeys(check.modules)))


def _is_component(key: str) -> bool:
    first, *rest = key.split(".")
    return first in TABLES and len(rest) == (first in PLAYERS or first in LISTS)


def _merged(*layers: Layer) -> dict[str, tuple[Any, Layer]]:
    """Full dotted key -> value, and the layer that it comes from; a component that gets another name loses its keys."""
    flat: dict[str, tuple[Any, Layer]] = {}
    for layer in layers:
        leaves = {re.sub(r"\[(\d+)\]", r".\1", key): value for key, value in flatten(layer.keys)}
        given = []
        for key, value in leaves.items():
            first, dot, rest = key.partition(".")
            section, star, last = SHORT_NAMES.get(first, first).partition(".*.")
            players = dict.fromkeys(k.split(".")[1] for k in (*flat, *leaves) if k.startswith(f"{section}."))
            for full in [f"{section}.{player}.{last}" for player in players] if star else [section]:
                full += dot + rest
                if isinstance(value, str) and (full == "data" or _is_component(full)):
                    full += ".name"  # `game: alternating` is short for `game: {name: alternating}`
                if full == "engine.compile" and value == "auto" and not layer.typed:
                    value = False  # in recipes of before; it was off but in long runs on CUDA
                # Names first: they clear what is below. A short name gives way to the long one beside it.
                order = 0 if full.endswith(".name") else 1 if first in SHORT_NAMES else 2
                given.append((order, full, value))
        cleared = {kind for kind in LISTS if isinstance(layer.keys.get(kind), (list, tuple))}
        lengths = [key for key in ("steps", "minutes", "n_epochs") if leaves.get(key) is not None]
        if lengths[:2] == ["steps", "minutes"]:
            raise UserError(f"{layer.origin}: steps and minutes are both given; give one of them")
        if lengths:  # the length that was asked for last counts
            cleared |= {"steps", "minutes"}
            given = [leaf for leaf in given if leaf[1] not in {"steps", "minutes"} - {lengths[0]}]
        flat = {key: leaf for key, leaf in flat.items() if key.partition(".")[0] not in cleared}
        if any(full == "start.run" for _, full, _ in given):  # the digest was that of another one
            flat.pop("start.digest", None)
        for _, key, value in sorted(given, key=lambda leaf: leaf[0]):
            around = key.removesuffix(".name")
            if not _is_component(around) or (key in flat and flat[key][0] == value):
                around = key
            for old in [k for k in flat if k.startswith(f"{around}.") or key.startswith(f"{k}.")]:
                del flat[old]
            flat[key] = value, layer
    return flat


class _Checker:
    """Turns merged keys into the parts of a Recipe; knows for every key which file or flag to name in an error."""

    def __init__(self, flat: dict[str, tuple[Any, Layer]], trust: bool) -> None:
        self.flat, self.trust, self.modules = flat, trust, list[str]()

    def where(self, key: str) -> str:
        origin = next((layer.origin for k, (_, layer) in self.flat.items() if f"{k}.".startswith(f"{key}.")), "default")
        return ("" if origin == "default" else f"{origin}: ") + (key if key.isprintable() else repr(key))

    def below(self, at: str) -> dict[str, Any]:
        """What stands below a key that holds keys and values; nothing where it is null."""
        if self.flat.get(at, (None, None))[0] is not None:
            raise UserError(
                f"{self.where(at)} is {schema.shown(self.flat[at][0])}; it must be a name or keys and values"
            )
        return {key[len(at) + 1 :]: value for key, (value, _) in self.flat.items() if key.startswith(f"{at}.")}

    def components(self, game: str, wanted: Sequence[str], frozen: Sequence[str]) -> dict[str, Any]:
        """Every component but the game, whose signature says which players and parts there are."""
        values: dict[str, Any] = {}
        for kind in (*PLAYERS, "prior", "objective"):
            each = kind in PLAYERS
            players = [x for x in wanted if x not in PARTS and (kind == "networks" or x not in frozen)]
            places = [f"{kind}.{player}" for player in players] if each else [kind] * (kind in wanted)
            keys = [key for key, value in self.below(kind).items() if value is not None]
            there = dict.fromkeys(f"{kind}.{key.partition('.')[0]}" if each else kind for key in keys)
            if missing := [place for place in places if place not in there]:
                raise UserError(f"the game {game} needs {missing[0]}: one of {', '.join(table(kind))}")
            if extra := [place for place in there if place not in places]:
                wish = f"say {extra[0]}: null" + (f"; its players are {', '.join(players)}" if each else "")
                raise UserError(f"{self.where(extra[0])}: the game {game} takes no {extra[0]}: {wish}")
            made = [self.component(kind, place) for place in places]
            values[kind] = dict(zip(players, made, strict=True)) if each else next(iter(made), None)
        for kind, example in LISTS.items():
            items = {key.split(".")[1] for key in self.flat if key.startswith(f"{kind}.")}
            leaf, _ = self.flat.get(kind, ((), None))
            if leaf not in ([], ()) or not all(map(str.isdecimal, items)):
                raise UserError(f"{self.where(kind)} must be a list, such as [{example}]")
            values[kind] = tuple(self.component(kind, f"{kind}.{i}") for i in sorted(items, key=int))
        return values

    def component(self, kind: str, at: str) -> Component:
        given, rows, where = self.below(at), table(kind), self.where(f"{at}.name")
        name = given.get("name")
        if not isinstance(name, str):
            raise UserError(f"{self.where(at)} needs a name: one of {', '.join(rows)}")
        aliases = pkgutil.resolve_name("gansmith.objectives:ALIASES") if kind == "objective" else {}
        name = aliases.get(name, name)
        if name not in rows and ":" not in name:
            near = schema.did_you_mean(name, [*rows, *aliases])
            right = f"one of {', '.join(rows)}, or module:attribute{near}"
            raise UserError(f"{where} is {schema.shown(name)}; it must be {right}")
        trusted = name not in rows and (self.trust or self.flat[f"{at}.name"][1].typed)
        known = dict(EXTRA.get(kind, {}))
        found = resolve(kind, name, trusted, where)
        # The functions, or the class, whose keyword-only parameters are the component's keys.
        losses = [getattr(found, "g", None), getattr(found, "d", None)]
        for function in losses if kind == "objective" else [getattr(found, "function", found)]:
            if not callable(function):
                right = "an Objective(d, g, ...)" if kind == "objective" else "a function or a class"
                raise UserError(f"{where} is {name!r}; it must be {right}")
            known |= schema.parameters(function)
        given = self.converted(given, {"name": str} | {key: of.annotation for key, of in known.items()}, at)
        self.modules += [name.partition(":")[0]] * trusted
        return Component(name, {key: given.get(key, of.default) for key, of in known.items()}, trusted)

    def converted(self, given: Mapping[str, Any], known: Mapping[str, Any], at: str = "") -> dict[str, Any]:
        """The values given below `at`, each as the type of its key."""
        full = {key: f"{at}.{key}" if at else key for key in given}
        if unknown := [key for key in given if key not in known]:
            names = [*known] if at else [*known, *SHORT_NAMES]
            hint = schema.did_you_mean(unknown[0].partition(".")[0], names)
            if not at and not hint:  # a key of a section
                inner = {key: f"{name}.{key}" for name, kind in SECTIONS.items() for key in kind.__annotations__}
                near = difflib.get_close_matches(unknown[0], inner, n=1, cutoff=0.8)
                hint = "".join(f"; did you mean {inner[key]}?" for key in near)
            listed = f"{'known here' if at else 'known'}: {', '.join(names)}"
            raise UserError(f"{self.where(full[unknown[0]])}: there is no such key{hint} ({listed})")
        return {key: schema.convert(value, known[key], self.where(full[key])) for key, value in given.items()}


def _is_free(key: str) -> bool:
    return any(fnmatchcase(key, free) for free in FREE)


def check_resumable(run: Path, flags: Mapping[str, Any]) -> None:
    """UserError for a flag that would change what a run trains."""
    for key in flags:
        if not _is_free(SHORT_NAMES.get(key, "data.name" if key == "data" else key)):
            new = f"gansmith train {run / 'recipe.yaml'} --{key} ..."
            raise UserError(f"{key}: a run keeps its recipe, all but {', '.join(FREE)}; to start a new run: {new}")


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The first key that a resumed run must keep and in which two recipes, as plain data, differ."""
    before, now = dict(flatten(one)), dict(flatten(other))
    for key in {**before, **now}:
        lacks = not (key in before and key in now)  # an older gansmith may have lacked it; only components count
        if not _is_free(key) and (key.endswith(".name") if lacks else before[key] != now[key]):
            return f"{key} was {before.get(key)} and is {now.get(key)}"
    return None


def with_full_paths(resolved: Resolved) -> Resolved:
    """The same with data, first weights and the run to start from by their full paths: it goes on from any folder."""
    from gansmith.data import data_names

    def full(key: str, path: str | None) -> Any:
        try:
            return path and str(Path(path).expanduser().resolve())
        except (OSError, RuntimeError) as error:  # no such home folder, or a link to itself
            raise UserError(f"{key} is {path!r}: {error}") from None

    recipe, data, networks = resolved.recipe, resolved.recipe.data, dict[str, Component]()
    if data.name not in data_names() and "://" not in data.name:
        name = full("data.name", data.name)
        if Path(name).is_dir() or name.endswith((".tar", ".tar}", ".txt")):  # shards, or a list of them
            data = replace(data, name=type(data.name)(name), attributes=full("data.attributes", data.attributes))
    elif data.name in data_names() and data.name != "mnist":  # which ships in the package
        data = replace(data, root=full("data.root", data.root or os.environ.get("GANSMITH_DATA") or "data"))
    start = replace(recipe.start, run=full("start.run", recipe.start.run))
    for player, network in recipe.networks.items():
        given = {key: full(f"networks.{player}.{key}", network.args[key]) for key in FILES if key in network.args}
        networks[player] = replace(network, args={**network.args, **given})
    return replace(resolved, recipe=replace(recipe, data=data, networks=networks, start=start))


def without_paths(recipe: Recipe) -> Recipe:
    """The same for others: a folder of data by its last name alone, no first weights, no file of this machine.

    UserError for a path in a key of one's own parts, which only they can read.
    """
    from gansmith.data import data_names

    data, own = recipe.data, recipe.data.name in data_names()
    data = replace(data, name=data.name if own else Path(data.name).name or "data", root=None, attributes=None)
    networks = {
        player: replace(network, args={key: None if key in FILES else x for key, x in network.args.items()})
        for player, network in recipe.networks.items()
    }
    left = replace(recipe, data=data, networks=networks, start=replace(recipe.start, run=None))
    for key, value in flatten(to_dict(left)):
        if isinstance(value, str) and (value.startswith("~") or Path(value).is_absolute()):
            raise UserError(f"{key} is {value!r}, a path of this machine: it cannot leave it")
    return left


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data with all defaults: resolving it again gives the same recipe."""

    def plain(value: Any) -> Any:
        if isinstance(value, Component):
            return plain({"name": value.name, **value.args})
        if dataclasses.is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, str):
            return str(value)  # an address that is not trusted is one, too
        return [plain(v) for v in value] if isinstance(value, (tuple, list)) else value

    return plain(recipe)


def flatten(tree: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf; a list is a leaf, but for lists of components: penalties.0.weight."""
    if at in LISTS and isinstance(tree, (list, tuple)) and tree:
        tree = dict(enumerate(tree))
    if isinstance(tree, Mapping) and (tree or at.partition(".")[0] not in LISTS):
        for key, value in tree.items():
            yield from flatten(value, f"{at}.{key}" if at else str(key))
    else:
        yield at, tree


def to_yaml(recipe: Recipe, header: str = "") -> str:
    """The recipe as a YAML file that trains again by itself."""
    body = yaml.safe_dump(to_dict(recipe), sort_keys=False, default_flow_style=None, width=100)
    return "".join(f"# {line}\n" for line in header.splitlines()) + body

"""A recipe: one experiment as frozen data. Layers of YAML and flags become one, every key checked, with its origin.

Nothing here imports torch, and nothing below `build.py` sees a recipe.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import yaml

from gansmith import schema
from gansmith.errors import UserError
from gansmith.games import GAMES
from gansmith.networks import NETWORKS
from gansmith.schema import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Seed, did_you_mean


def _field(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Component:
    """A named part and its parameters: a row of a table, or any importable "module:attribute"."""

    name: str
    args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """Which images, and what is done to them before training."""

    name: str = _field("mnist", "a data set by name, or a folder of pictures")
    img_size: PositiveInt = _field(28, "side of the square images, in pixels")
    channels: Literal[1, 3, 4] = _field(1, "1 grey, 3 RGB, 4 RGBA")
    fit: Literal["crop", "pad", "stretch"] = _field("crop", "how a picture that is not square becomes square")
    values: Literal["signed", "unit", "gcn", "raw"] = _field("signed", "[-1, 1], [0, 1], unit contrast; raw: toy sets")
    validation: NonNegativeInt = _field(0, "training images that are held back, to choose by")
    max_broken: Fraction = _field(0.01, "share of unreadable files of a folder that is tolerated")
    root: str | None = _field(None, "where named sets lie or are downloaded to; null: $GANSMITH_DATA or ./data")
    memory: Literal["auto", "device", "map"] = _field("auto", "images on the device, or read from a memory map")
    n_cpu: PositiveInt = _field(8, "threads that decode pictures, and that read batches from the memory map")


@dataclass(frozen=True)
class Ema:
    """An exponential moving average of G's weights, used for sampling when it is on."""

    halflife_kimg: PositiveFloat | None = _field(None, "half-life in thousands of images; null: no average")


@dataclass(frozen=True)
class Checkpoints:
    """When the whole state is written, and which of the written ones stay."""

    interval: PositiveInt = _field(1000, "rounds between two checkpoints")
    keep: PositiveInt = _field(2, "how many of the newest stay")
    keep_every: NonNegativeInt = _field(
        0, "at multiples of this round a checkpoint is written, too, and stays for good; 0: none"
    )

    def due(self, round: int) -> bool:
        """Whether this round ends with a checkpoint."""
        return round % self.interval == 0 or (self.keep_every > 0 and round % self.keep_every == 0)


@dataclass(frozen=True)
class Evaluation:
    """Scores on the images that were held back, while training goes on."""

    every: NonNegativeInt = _field(0, "rounds between two evaluations; 0: none")
    metrics: Sequence[str] = _field(("parzen_ll",), "names of metrics, as in gansmith evaluate")
    n: PositiveInt = _field(10_000, "samples that are drawn for it")
    best: str | None = _field(None, "the value by which the best checkpoint is kept, such as parzen_ll; null: none")


@dataclass(frozen=True)
class Engine:
    """How the same mathematics is computed: what may change its speed and its rounding, and nothing else."""

    precision: Literal["float32", "tf32", "bfloat16"] = _field(
        "float32", "of matrix products and convolutions: tf32 on CUDA only, bfloat16 by autocast; weights stay float32"
    )
    compile: Literal["auto", True, False] = _field(
        "auto",
        "networks through torch.compile; auto: on CUDA, in runs of 20,000 rounds or more (never measured there);"
        " never on a CPU, which it slows (docs/performance.md)",
    )
    channels_last: bool = _field(False, "memory format of convolutional weights, which what they make takes over")


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
    ema: Ema
    n_epochs: PositiveInt = _field(200, "passes over the training images")
    steps: PositiveInt | None = _field(None, "length in rounds, in place of n_epochs")
    batch_size: PositiveInt = _field(64, "images of one batch, over all processes and parts")
    accumulate: PositiveInt = _field(1, "parts of a batch that go one after the other; BatchNorm: statistics of a part")
    sync_batchnorm: bool = _field(False, "BatchNorm over the batch of all processes of torchrun, not of each")
    seed: Seed = _field(0, "seed of the weights, the noise and the order of the images")
    sample_interval: PositiveInt = _field(400, "rounds between two pictures of samples")
    log_interval: PositiveInt = _field(50, "rounds between two lines of metrics.jsonl")
    checkpoint: Checkpoints = dataclasses.field(default_factory=Checkpoints)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    engine: Engine = dataclasses.field(default_factory=Engine)


_OPTIMIZERS = schema.table("gansmith.players", "OPTIMIZERS")
# Where the names of each kind of component come from: row name -> the objects whose parameters it takes.
TABLES: dict[str, Mapping[str, tuple[str, ...]]] = {
    "prior": schema.table("gansmith.priors", "PRIORS"),
    "networks": {name: (target,) for name, target in NETWORKS.items()},
    "game": {name: (target,) for name, target in GAMES.items()},
    "objective": schema.table("gansmith.objectives", "OBJECTIVES"),
    "penalties": schema.table("gansmith.penalties", "PENALTIES"),
    "optimizers": _OPTIMIZERS,
    "schedules": schema.table("gansmith.schedules", "SCHEDULES"),
}
# The same for every row of a table: a penalty's weight and how many moves there are to one with it, whose weights a
# network starts from, what a schedule sets.
EXTRA: dict[str, dict[str, schema.Parameter]] = {
    "penalties": {
        "weight": schema.Parameter("NonNegativeFloat", 1.0),
        "every": schema.Parameter("PositiveInt", 1),
    },
    "networks": {"weights": schema.Parameter("str | None", None)},
    "schedules": {"of": schema.Parameter("str", "lr")},
}
# Lists of components, each with an example.
LISTS = {"penalties": "{name: wgan_gp, weight: 10}", "schedules": "{name: linear, of: lr, to: 0, over: 100}"}
# What a game may be handed besides its players.
PARTS = ("prior", "objective", "penalty", "noise", "accumulate")
SECTIONS: dict[str, type[Any]] = {
    **{"data": Data, "ema": Ema, "checkpoint": Checkpoints, "evaluation": Evaluation, "engine": Engine},
}

# What a run may be given anew when it goes on: how long, how watched, how computed, where its images lie; not what is
# trained.
FREE = (
    *("n_epochs", "steps", "sample_interval", "log_interval"),
    *("checkpoint.interval", "checkpoint.keep", "checkpoint.keep_every"),
    *("evaluation.every", "evaluation.metrics", "evaluation.n", "evaluation.best"),
    *("data.name", "data.root", "data.n_cpu", "data.memory", "data.max_broken"),
    *("engine.precision", "engine.compile", "engine.channels_last"),
)

# The post's own names for what lies deeper in a recipe, and compile; a star stands for every player.
SHORT_NAMES: dict[str, str] = {
    "lr": "optimizers.*.lr",
    "b1": "optimizers.*.b1",
    "b2": "optimizers.*.b2",
    "n_cpu": "data.n_cpu",
    "latent_dim": "prior.dim",
    "img_size": "data.img_size",
    "channels": "data.channels",
    "compile": "engine.compile",
}

# What a recipe that says nothing is: the vanilla GAN. `recipes/gan.yaml` spells the same out, and a test compares.
_BASE: dict[str, Any] = {
    "prior": {"name": "normal"},
    "networks": {"G": {"name": "mlp_generator"}, "D": {"name": "mlp_discriminator"}},
    "game": {"name": "simultaneous"},
    "objective": {"name": "non_saturating"},
    "penalties": [],
    "optimizers": {"G": {"name": "adam"}, "D": {"name": "adam"}},
    "schedules": [],
}


@dataclass(frozen=True)
class Layer:
    """Some keys of a recipe and where they come from: a file's name, "flags", ..."""

    origin: str
    keys: Mapping[str, Any]


@dataclass(frozen=True)
class Resolved:
    """A checked recipe, and for every key of it (dotted) where its value came from."""

    recipe: Recipe
    origins: Mapping[str, str]
    label: str

    def lines(self) -> Iterator[tuple[str, Any, str]]:
        """(dotted key, value, origin) of every value, in the recipe's order."""
        for key, value in flatten(to_dict(self.recipe)):
            yield key, value, self.origins.get(key, "default")


class _Loader(yaml.SafeLoader):
    """Safe YAML in which a key that stands twice is an error, not silently the later one."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = getattr(key_node, "value", None)
            if isinstance(key, str) and key in seen and key != "<<":
                raise yaml.constructor.ConstructorError(None, None, f"the key {key} stands twice", key_node.start_mark)
            if isinstance(key, str):
                seen.add(key)
        return super().construct_mapping(node, deep)


# ---- reading ---------------------------------------------------------------------------------------------------


def recipe_names() -> list[str]:
    """The recipes that gansmith ships."""
    folder = resources.files("gansmith") / "recipes"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def recipe_text(name: str) -> str:
    """The YAML of a shipped recipe, header included."""
    if name not in recipe_names():
        raise UserError(
            f"there is no recipe {name!r}{did_you_mean(name, recipe_names())}"
            f" (recipes: {', '.join(recipe_names())}; or give the path of a YAML file or of a run folder)"
        )
    return (resources.files("gansmith") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")


def read_layer(what: str | Path) -> Layer:
    """A recipe's own keys, by the name of a shipped recipe or the path of a YAML file."""
    path = Path(what)
    a_folder = path.is_dir() and str(what) not in recipe_names()
    if isinstance(what, Path) or path.suffix in (".yaml", ".yml") or "/" in str(what) or a_folder:
        if path.is_dir():
            raise UserError(
                f"{path} is a folder without recipe.yaml: neither a recipe nor a run; to train on the pictures in it:"
                f" gansmith train fast_mnist --data {path}"
            )
        try:
            text, origin = path.read_text(encoding="utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not a text file"
            if isinstance(error, FileNotFoundError):
                raise UserError(f"there is no recipe file or run {path}") from None
            raise UserError(f"cannot read the recipe {path}: {reason}") from None
    else:
        text, origin = recipe_text(str(what)), f"recipe {what}"
    try:
        keys = _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UserError(f"{origin}:{where} is not YAML: {_one_line(error)}") from None
    if keys is None:
        keys = {}
    if not isinstance(keys, dict) or not all(isinstance(key, str) for key in keys):
        raise UserError(f"{origin} must hold keys and values, such as 'n_epochs: 20'")
    return Layer(origin, keys)


def _one_line(error: yaml.YAMLError) -> str:
    return str(getattr(error, "problem", None) or getattr(error, "reason", None) or error).splitlines()[0]


def flags_layer(flags: Mapping[str, Any], origin: str = "flag") -> Layer:
    """Dotted keys and values, as given on the command line, as a layer."""
    keys: dict[str, Any] = {}
    for dotted, value in flags.items():
        *path, last = re.sub(r"\[(\d+)\]", r".\1", dotted).split(".")
        place = keys
        for part in path:
            inner = place.setdefault(part, {})
            if not isinstance(inner, dict):  # `--data cifar10 --data.n_cpu 2`: a bare value is the name
                inner = place[part] = {"name": inner}
            place = inner
        if isinstance(place.get(last), dict):
            place[last]["name"] = value
        else:
            place[last] = value
    return Layer(origin, keys)


def is_run(what: str | Path) -> bool:
    """Whether this is the folder of a run; a recipe's bare name is that recipe (./gan is a folder called gan)."""
    named = isinstance(what, str) and what in recipe_names()
    return not named and (Path(what) / "recipe.yaml").is_file()


def plan(what: str | Path = "gan", *, flags: Mapping[str, Any] | None = None) -> Resolved:
    """The checked recipe of a name, a YAML file or a run, with flags (dotted keys or the post's names) on top."""
    source = Path(what) / "recipe.yaml" if is_run(what) else what
    layers = [read_layer(source)]
    if flags:
        layers.append(flags_layer(flags))
    path = Path(what)
    label = path.name if is_run(what) else path.parent.name if path.name == "recipe.yaml" else path.stem
    return resolve(*layers, label=label)


# ---- resolving -------------------------------------------------------------------------------------------------


def resolve(*layers: Layer, label: str = "gan") -> Resolved:
    """The recipe that the layers say together, later ones winning; a UserError for the first thing that is wrong."""
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in (Layer("default", _BASE), *layers):
        keys = _long_names(layer, merged)
        if "n_epochs" in keys and "steps" not in keys:  # the length that is asked for last is meant
            merged.pop("steps", None)
            origins.pop("steps", None)
        _merge(merged, keys, layer.origin, origins, "")
    check = _Checker(origins)
    recipe = check.recipe(merged)
    _check_together(recipe)
    return Resolved(recipe, origins, label)


def _long_names(layer: Layer, merged: Mapping[str, Any]) -> dict[str, Any]:
    """The layer's keys with the post's short names replaced by the places they stand for."""
    keys = {key: value for key, value in layer.keys.items() if key not in SHORT_NAMES}
    for short, value in layer.keys.items():
        if short not in SHORT_NAMES:
            continue
        section, *star, last = SHORT_NAMES[short].split(".")
        place = _opened(keys, section)
        players = {**(merged.get(section) or {}), **place} if star else {}
        for target in [_opened(place, player) for player in players] if star else [place]:
            target.setdefault(last, value)
    return keys


def _opened(place: dict[str, Any], key: str) -> dict[str, Any]:
    """place[key] as a mapping of its own; a bare value there is a name."""
    old = place.get(key, {})
    place[key] = dict(old) if isinstance(old, Mapping) else {"name": old}
    return place[key]


def _is_component(key: str) -> bool:
    first, *rest = key.split(".")
    return first in TABLES and len(rest) == (1 if first in ("networks", "optimizers") else 0)


def _merge(base: dict[str, Any], keys: Mapping[str, Any], origin: str, origins: dict[str, str], at: str) -> None:
    for key, value in keys.items():
        here = f"{at}.{key}" if at else str(key)
        if (_is_component(here) or here == "data") and isinstance(value, str):
            value = {"name": value}  # `game: alternating` is short for `game: {name: alternating}`
        if here in LISTS and isinstance(value, Mapping):  # from flags: penalties.0.weight
            value = _changed(base.get(key), value, here)
        if isinstance(value, Mapping):
            old = base.get(key)
            if not isinstance(old, dict):
                base[key] = old = {}
            if _is_component(here) and "name" in value and value["name"] != old.get("name"):
                old.clear()  # another component: the parameters of the earlier one are not its own
                for gone in [k for k in origins if k.startswith(f"{here}.")]:
                    del origins[gone]
            _merge(old, value, origin, origins, here)
        else:
            base[key] = value
            origins[here] = origin


def _changed(items: Any, changes: Mapping[str, Any], at: str) -> list[Any]:
    """The list with single keys of its items changed: {"0": {"weight": 5}}."""
    changed = [dict(item) if isinstance(item, Mapping) else {"name": item} for item in items or ()]
    for index, change in changes.items():
        if not str(index).isdecimal():
            raise UserError(f"{at} must be a list, such as [{LISTS[at]}]")
        if not changed:
            raise UserError(f"{at}.{index}: there are no {at} to change; give the list: --{at} '[{LISTS[at]}]'")
        if int(index) >= len(changed) or not isinstance(change, Mapping):
            raise UserError(f"{at}.{index}: there are {len(changed)} {at}; the first one's name is {at}.0.name")
        changed[int(index)] = {**changed[int(index)], **change}
    return changed


class _Checker:
    """Turns merged keys into a Recipe; knows for every key which file or flag to name in an error."""

    def __init__(self, origins: dict[str, str]) -> None:
        self.origins = origins

    def where(self, key: str) -> str:
        listed = key.partition("[")[0]  # a list is one leaf
        below = [origin for place, origin in self.origins.items() if place.startswith(f"{key}.")]
        origin = self.origins.get(key) or self.origins.get(listed) or next(iter(below), "")
        return f"{origin}: {key}" if origin and origin != "default" else key

    def recipe(self, merged: Mapping[str, Any]) -> Recipe:
        known = [f.name for f in dataclasses.fields(Recipe)]
        self.no_unknown(merged, known, "")
        values: dict[str, Any] = {}
        for f in dataclasses.fields(Recipe):
            given = merged.get(f.name)
            if f.name in SECTIONS:
                values[f.name] = self.section(SECTIONS[f.name], given or {}, f.name)
            elif f.name in ("networks", "optimizers"):
                players = self.mapping(given, f.name)
                values[f.name] = {p: self.component(f.name, c, f"{f.name}.{p}") for p, c in players.items()}
            elif f.name in LISTS:
                if not isinstance(given, (list, tuple)):
                    raise UserError(f"{self.where(f.name)} must be a list, such as [{LISTS[f.name]}]")
                values[f.name] = tuple(
                    self.component(f.name, {"name": c} if isinstance(c, str) else c, f"{f.name}[{i}]")
                    for i, c in enumerate(given)
                )
            elif f.name in TABLES:
                optional = given is None and f.name != "game"
                values[f.name] = None if optional else self.component(f.name, given, f.name)
            elif f.name in merged:
                values[f.name] = schema.convert(given, str(f.type), self.where(f.name))
        return Recipe(**values)

    def mapping(self, given: Any, key: str) -> Mapping[str, Any]:
        if not isinstance(given, Mapping):
            raise UserError(f"{self.where(key)} is {given!r}; it must hold keys and values")
        return given

    def section(self, cls: type[Any], given: Any, at: str) -> Any:
        given = self.mapping(given, at)
        fields = {f.name: f for f in dataclasses.fields(cls)}
        self.no_unknown(given, list(fields), at)
        return cls(**{k: schema.convert(v, str(fields[k].type), self.where(f"{at}.{k}")) for k, v in given.items()})

    def component(self, kind: str, given: Any, at: str) -> Component:
        given = self.mapping(given, at)
        name = given.get("name")
        if not isinstance(name, str):
            raise UserError(f"{self.where(at)} needs a name: one of {', '.join(TABLES[kind])}")
        if name in TABLES[kind]:
            targets = TABLES[kind][name]
        elif ":" in name:
            targets = (name,)
        else:
            near = did_you_mean(name, TABLES[kind])
            raise UserError(
                f"{self.where(f'{at}.name')} is {name!r}; it must be one of {', '.join(TABLES[kind])},"
                f" or module:attribute{near}"
            )
        known = dict(EXTRA.get(kind, {}))
        for target in targets:
            known |= schema.parameters(target)
        self.no_unknown(given, ["name", *known], at)
        args = {}
        for key, parameter in known.items():
            place = f"{at}.{key}"
            if key in given:
                args[key] = schema.convert(given[key], parameter.annotation, self.where(place))
            else:
                args[key] = parameter.default
        return Component(name, args)

    def no_unknown(self, given: Mapping[str, Any], known: Sequence[str], at: str) -> None:
        for key in given:
            if key not in known:
                place = f"{at}.{key}" if at else str(key)
                names = known if at else [*known, *SHORT_NAMES]
                raise UserError(
                    f"{self.where(place)}: there is no such key{self.suggest(str(key), known, at)}"
                    f" ({'known here' if at else 'known'}: {', '.join(names)})"
                )

    def suggest(self, key: str, known: Sequence[str], at: str) -> str:
        everywhere = {k: k for k in known}
        if not at:
            everywhere |= {k: k for k in SHORT_NAMES}
            for section, cls in SECTIONS.items():
                for f in dataclasses.fields(cls):
                    everywhere.setdefault(f.name, f"{section}.{f.name}")
            everywhere |= {"learning_rate": "lr", "image_size": "img_size"}  # what others say
        near = difflib.get_close_matches(key, everywhere, n=1, cutoff=0.5)
        return f"; did you mean {everywhere[near[0]]}?" if near else ""


def component_targets(kind: str, name: str) -> tuple[str, ...]:
    """What a component's name stands for: the "module:attribute"s of its row, or itself."""
    return TABLES[kind].get(name, (name,))


def _check_together(recipe: Recipe) -> None:
    """What no single key can say: the game's signature says which players and parts it is played with."""
    game = recipe.game.name
    wanted = schema.handed(component_targets("game", game)[0])
    players = [name for name in wanted if name not in PARTS]
    for kind, given in (("networks", recipe.networks), ("optimizers", recipe.optimizers)):
        for name in players:
            if name not in given:
                raise UserError(f"the game {game} needs {kind}.{name} (its players: {', '.join(players)})")
        for name in given:
            if name not in players:
                raise UserError(
                    f"{kind}.{name}: the game {game} has no such player (its players: {', '.join(players)})"
                )
    for part, component in (("prior", recipe.prior), ("objective", recipe.objective)):
        if part in wanted and component is None:
            raise UserError(f"the game {game} needs {part}: one of {', '.join(TABLES[part])}")
        if part not in wanted and component is not None:
            raise UserError(f"the game {game} takes no {part}: say {part}: null")
    if recipe.penalties and "penalty" not in wanted:
        raise UserError(f"the game {game} takes no penalties: say penalties: []")
    if recipe.accumulate > 1 and "accumulate" not in wanted:
        raise UserError(
            f"the game {game} takes no accumulate, so it must be 1; a game that has the parameter cuts its batches"
        )
    if recipe.accumulate > recipe.batch_size:
        raise UserError(f"accumulate is {recipe.accumulate}; it must be at most batch_size, {recipe.batch_size}")


def check_resumable(run: Path, flags: Mapping[str, Any]) -> None:
    """UserError for a flag that would change what a run trains."""
    for key in flags:
        if SHORT_NAMES.get(key, "data.name" if key == "data" else key) not in FREE:
            raise UserError(
                f"{key}: a run keeps its recipe; when it goes on, only {', '.join(FREE)} may change. For another"
                f" training start a new run: gansmith train {run / 'recipe.yaml'} --{key} ..."
            )


def difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> str | None:
    """The first key that a resumed run must keep and that two recipes, as plain data, both have and differ in."""
    values = dict(flatten(other))
    for key, value in flatten(one):
        if key not in FREE and key in values and values[key] != value:
            return f"{key} was {value} and is {values[key]}"
    return None


# ---- writing ---------------------------------------------------------------------------------------------------


def to_dict(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain data with all defaults: resolving it again gives the same recipe."""

    def plain(value: Any) -> Any:
        if isinstance(value, Component):
            return {"name": value.name, **{k: plain(v) for k, v in value.args.items()}}
        if dataclasses.is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in value.items()}
        return [plain(v) for v in value] if isinstance(value, (tuple, list)) else value

    return dict(plain(recipe))


def completed(tree: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as plain data, with the defaults of what the gansmith that wrote it did not know yet."""
    return to_dict(resolve(Layer("an older recipe", tree)).recipe)


def flatten(tree: Mapping[str, Any], at: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of every leaf; lists are leaves."""
    for key, value in tree.items():
        here = f"{at}.{key}" if at else key
        if isinstance(value, Mapping):
            yield from flatten(value, here)
        else:
            yield here, value


def to_yaml(recipe: Recipe, header: str = "") -> str:
    """The recipe as a YAML file that trains again by itself."""
    body = yaml.safe_dump(to_dict(recipe), sort_keys=False, default_flow_style=None, width=100)
    return "".join(f"# {line}\n" for line in header.splitlines()) + body

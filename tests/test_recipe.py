"""Recipes: what ships, the post's options under their own names, layers and their origins, wrong keys, and trust."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gansmith import recipe as recipes
from gansmith import trust
from gansmith.errors import UserError
from gansmith.recipe import Component, Layer, Recipe, combine, plan, table, to_dict, to_yaml
from gansmith.schema import handed

SHIPPED = recipes.recipe_names()
# Keys of networks that are off by default; where all of a layer's weights are sparse, it has no range.
OFF = {
    "weights",
    "penalties",
    "schedules",
    "views",
    "augment",
    "sparse_out",
    "sigmoid_bias",
    "max_col_norm",
    "irange_out",
    "batchnorm",
    "dropout",
    "labelled",
}


@pytest.fixture(autouse=True)
def own_store(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
    monkeypatch.delenv("GANSMITH_TRUST", raising=False)


def refused(flags: dict[str, Any], what: str | Path = "gan", **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        plan(what, flags=flags, **options)
    text = str(caught.value)
    assert "\n" not in text and text
    return text


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_recipe_loads_says_everything_that_matters_and_is_written_as_itself(name: str) -> None:
    resolved = plan(name)
    assert resolved.label == name and resolved.run is None and resolved.modules == ()
    header = [line for line in recipes.recipe_text(name).splitlines() if line.startswith("#")]
    for part in ("# paper:", f"# run:      gansmith train {name}", "# expect:", "# differs:"):
        assert any(line.startswith(part) for line in header), part
    assert "arXiv" in recipes.recipe_text(name)
    # Whoever reads the file sees each parameter of the mathematics; only these are left to defaults.
    left = {key.rpartition(".")[2] for key, _, origin in resolved.lines() if origin == "default"}
    assert left <= {
        *(f.name for cls in recipes.SECTIONS.values() for f in dataclasses.fields(cls)),
        *("seed", "log_interval", "eps", "weight_decay", "accumulate", "sync_batchnorm", "after", "unit", "minutes"),
        *(("steps", "n_epochs") if resolved.recipe.minutes else ()),  # a length is given in one of them
        "steps" if resolved.recipe.steps is None else "n_epochs",
        *({"prior", "objective"} - {k for k in ("prior", "objective") if getattr(resolved.recipe, k)}),
        *OFF,
    }
    again = yaml.safe_load(to_yaml(resolved.recipe, "two lines\nof header"))
    assert combine(Layer("again", again)).recipe == resolved.recipe
    rates = {c.args["lr"] for c in plan(name, flags={"lr": 0.125}).recipe.optimizers.values()}
    assert rates == {0.125}  # a short name reaches every player


def test_an_empty_file_is_the_recipe_gan_and_a_run_folder_is_its_own(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty.yaml", "# nothing yet\n")
    assert combine().recipe == plan().recipe == plan("gan").recipe == plan(empty).recipe
    recipe = plan("wgan_gp", flags={"lr": 0.5}).recipe
    file = plan(write(tmp_path / "recipe.yaml", to_yaml(recipe)))
    folder = plan(tmp_path)
    assert folder.recipe == file.recipe == recipe and folder.label == file.label == tmp_path.name
    assert folder.run == tmp_path and file.run is None


# What the post's options are here: the post's default, and another value.
POST: dict[str, tuple[Any, Any]] = {
    **{"n_epochs": (200, 3), "batch_size": (64, 32), "sample_interval": (400, 11), "prior.dim": (100, 17)},
    **{"data.n_cpu": (8, 2), "data.img_size": (28, 64), "data.channels": (1, 3)},
    **{"optimizers.G.lr": (0.0002, 0.5), "optimizers.G.b1": (0.5, 0.25), "optimizers.G.b2": (0.999, 0.75)},
    **{"optimizers.D.lr": (0.0002, 0.5), "optimizers.D.b1": (0.5, 0.25), "optimizers.D.b2": (0.999, 0.75)},
}


def test_the_options_of_the_post_have_its_names_and_its_defaults(tmp_path: Path) -> None:
    gan = {key: value for key, value, _ in plan("gan").lines()}
    assert all(gan[key] == value and type(gan[key]) is type(value) for key, (value, _) in POST.items())
    changed = {key: other for key, (_, other) in POST.items()}
    options = {key.split(".")[-1].replace("dim", "latent_dim"): other for key, other in changed.items()}
    path = write(tmp_path / "own.yaml", yaml.safe_dump(options))
    for found, by in ((plan("gan", flags=options), "flag"), (plan(path), str(path))):
        assert {key: value for key, value, _ in found.lines()} == {**gan, **changed}
        assert {key for key, _, origin in found.lines() if origin == by} == changed.keys()


ADAM_OR_SGD = "optimizers: {G: sgd, D: {lr: 0.3, b1: 0.1}}"


@pytest.mark.parametrize(
    ("file", "flags", "found"),
    [
        # Flags win over the file, and the file over the defaults.
        ("batch_size: 16", {"batch_size": 8}, {"batch_size": (8, "flag"), "n_epochs": (200, "default")}),
        ("lr: 0.1", {"b1": 0.3}, {"optimizers.D.lr": (0.1, "file"), "optimizers.D.b1": (0.3, "flag")}),
        # A short name gives way to the long one beside it, and wins over one in the file.
        ("", {"lr": 0.1, "optimizers.D.lr": 0.2}, {"optimizers.G.lr": (0.1, "flag"), "optimizers.D.lr": (0.2, "flag")}),
        ("", {"optimizers.D.lr": 0.2, "lr": 0.1}, {"optimizers.G.lr": (0.1, "flag"), "optimizers.D.lr": (0.2, "flag")}),
        (ADAM_OR_SGD, {"lr": 0.1}, {"optimizers.G.lr": (0.1, "flag"), "optimizers.D.lr": (0.1, "flag")}),
        # Another component drops the parameters of the earlier one, and the same keeps them.
        (ADAM_OR_SGD, {"optimizers.D.name": "sgd"}, {"optimizers.D.lr": (0.1, "default"), "optimizers.D.b1": None}),
        (ADAM_OR_SGD, {"optimizers.D": "adam"}, {"optimizers.D.lr": (0.3, "file"), "optimizers.D.b1": (0.1, "file")}),
        ("{game: alternating, game.n_critic: 3}", {}, {"game.n_critic": (3, "file")}),
        ("game: {name: alternating, n_critic: 3}", {"game": "simultaneous"}, {"game.n_critic": None}),
        # Short forms, and names that people type.
        ("", {"data.n_cpu": 2, "data": "cifar10"}, {"data.name": ("cifar10", "flag"), "data.n_cpu": (2, "flag")}),
        ("", {"loss": "least_squares", "loss.a": -1}, {"objective.a": (-1.0, "flag"), "objective.c": (1.0, "default")}),
        ("learning_rate: 0.5", {"from": "x"}, {"optimizers.D.lr": (0.5, "file"), "start.run": ("x", "flag")}),
        ("networks: {E: null}", {}, {"networks.E": None, "networks.G.name": ("mlp_generator", "default")}),
        # Items of lists.
        ("penalties: [wgan_gp]", {}, {"penalties.0.name": ("wgan_gp", "file"), "penalties.0.weight": (1.0, "default")}),
        ("penalties: [wgan_gp]", {"penalties[0].every": 16}, {"penalties.0.every": (16, "flag")}),
        ("penalties: [wgan_gp]", {"penalties.1.name": "wgan_gp"}, {"penalties.1.target": (1.0, "default")}),
        ("penalties: [wgan_gp]", {"penalties": []}, {"penalties.0.name": None}),
        # The length that is asked for last counts.
        ("steps: 7", {"n_epochs": 2}, {"n_epochs": (2, "flag"), "steps": (None, "default")}),
        ("steps: 7", {"minutes": 5}, {"minutes": (5.0, "flag"), "steps": (None, "default")}),
        ("steps: 7", {"n_epochs": 2, "steps": 9}, {"n_epochs": (2, "flag"), "steps": (9, "flag")}),
        ("steps: 7", {"minutes": 5, "n_epochs": 2}, {"n_epochs": (2, "flag"), "minutes": (5.0, "flag")}),
        # Recipes of before could say that the compiler is chosen.
        ("engine: {compile: auto}", {}, {"engine.compile": (False, "file")}),
    ],
)
def test_layers_become_one(file: str, flags: dict[str, Any], found: dict[str, Any], tmp_path: Path) -> None:
    path = write(tmp_path / "own.yaml", file)
    values = {key: (value, origin.replace(str(path), "file")) for key, value, origin in plan(path, flags=flags).lines()}
    assert {key: values.get(key) for key in found} == found


def test_sizes_are_one_number_or_two_and_the_examples_of_lists_are_right() -> None:
    assert plan("gan").recipe.data.size == (28, 28)
    assert plan("gan", flags={"img_size": [48, 64]}).recipe.data.size == (48, 64)
    for kind, text in recipes.LISTS.items():
        assert plan("gan", flags={kind: [yaml.safe_load(text)]})


@pytest.mark.parametrize("kind", recipes.TABLES)
def test_every_row_of_every_table_has_a_schema(kind: str) -> None:
    check = recipes._Checker({}, trust=False)
    for name in table(kind):
        check.flat = {"at.name": (name, Layer("own", {}))}
        check.component(kind, "at")  # UserError for a key without a type, or with a default of another type


@pytest.mark.parametrize("name", table("game"))
def test_a_game_has_under_it_what_it_has_players_and_parts_for(name: str) -> None:
    game = recipes.resolve("game", name, trusted=False)
    wanted = handed(game)
    players = [part for part in wanted if part not in (*recipes.PARTS, *game.frozen)]
    flags = {f"networks.{p}": "mlp_generator" if p != "D" else "mlp_discriminator" for p in reversed(players)}
    flags |= {f"optimizers.{p}": "adam" for p in reversed(players)} | {"game": name}
    flags |= dict.fromkeys((f"networks.{part}" for part in game.frozen), "digit_features")
    recipe = combine(Layer("own", flags)).recipe
    assert [*recipe.networks] == [*players, *game.frozen] and [
        *recipe.optimizers
    ] == players  # weights are drawn in the game's order
    assert (recipe.prior is not None, recipe.objective is not None) == ("prior" in wanted, "objective" in wanted)


def test_what_a_game_does_not_take_what_it_needs_and_two_lengths_are_said() -> None:
    assert "the game began takes no objective: say objective: null" in refused({"objective": "wasserstein"}, "began")
    assert "the game began takes no penalties: say penalties: []" in refused({"penalties": ["wgan_gp"]}, "began")
    assert "flag: steps and minutes are both given; give one of them" in refused({"steps": 9, "minutes": 5})
    assert "the game simultaneous needs prior: one of normal" in refused({"prior": None})
    assert "the game simultaneous needs objective: one of non_saturating" in refused({"objective": None})
    text = "flag: networks.E: the game simultaneous takes no networks.E: say networks.E: null; its players are G, D"
    assert text in refused({"networks.E": "mlp_generator"})
    assert "the game cyclegan needs networks.AB: one of mlp_generator" in refused({"game": "cyclegan"}, "began")


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ({"n_epoch": 5}, ["flag: n_epoch: there is no such key; did you mean n_epochs?", "known: data, prior"]),
        ({"latentdim": 5}, ["did you mean latent_dim?"]),
        ({"keep_evry": 5}, ["did you mean checkpoint.keep_every?"]),
        ({"dropout": 0.5}, ["flag: dropout: there is no such key (known"]),
        ({"lr": {"a": 1}}, ["flag: optimizers.G.lr.a: there is no such key", "known here: name, lr"]),
        ({"data.img_siz": 5}, ["flag: data.img_siz", "did you mean img_size?", "known here: name, img_size"]),
        ({"loss": "least_squares", "loss.m": 1}, ["objective.m: there is no such key (known here: name, c, a, b)"]),
        ({"batch_size": 0}, ["flag: batch_size is 0", "at least 1", "the nearest is 1"]),
        ({"accumulate": 100}, ["accumulate is 100; it must be at most batch_size, 64"]),
        ({"optimizers.G": "adamw"}, ["optimizers.G.name is 'adamw'", "did you mean adam?", "module:attribute"]),
        ({"objective": "math:sqrt"}, ["flag: objective.name is 'math:sqrt'; it must be an Objective(d, g, ...)"]),
        ({"networks.G": "math:pi"}, ["networks.G.name is 'math:pi'; it must be a function or a class"]),
        ({"networks.G": "no_such:X"}, ["there is no Python module 'no_such'"]),
        ({"networks.G": "math.no_such:X"}, ["there is no Python module 'math.no_such'"]),
        ({"networks.G": "gansmith.networks.mlp:Generater"}, ["has no 'Generater'; did you mean Generator?"]),
        ({"penalties": "wgan_gp"}, ["penalties must be a list, such as [{name: wgan_gp"]),
        ({"penalties": [{}]}, ["penalties.0 is {}", "keys and values"]),
        ({"penalties.0.weight": 5}, ["penalties.0 needs a name: one of wgan_gp"]),
        ({"data": False}, ["data is False", "keys and values"]),
        ({"game": None}, ["flag: game needs a name: one of simultaneous"]),
        ({"compile": "auto"}, ["flag: engine.compile is 'auto'; it must be true or false"]),
        ({"a\nb": 0}, ["flag: 'a\\nb': there is no such key"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_flag_is_answered_with_what_is_right(flags: dict[str, Any], parts: list[str]) -> None:
    text = refused(flags)
    assert all(part in text for part in parts), text


NINES = [(f"a{i}: &a{i}", ", ".join([f"*a{i - 1}"] * 9)) for i in range(1, 9)]  # in each line nine of the line before
BOMBS = (
    *(f"seed: {'[' * 60}{']' * 60}", "a: &a [*a]", "a: &a {b: *a}"),
    "\n".join(["a0: &a0 [1]", *(f"{name} [{nine}]" for name, nine in NINES)]),
    "\n".join(["a0: &a0 {b: 1}", *(f"{name} {{<<: [{nine}]}}" for name, nine in NINES)]),
)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        *(("lr: fast", ": optimizers.G.lr is 'fast'"), ("{1: 2}\n", ": 1: there is no such key")),
        *(("- a\n- b\n", " must hold keys and values"), ("a: [1, 2\nb: 3\n", ": line 2, column 2 is not YAML: ")),
        ("n_epochs: 3\nlr: 0.1\nlr: 0.2\n", ": cannot be read: the key lr stands twice"),
        ("seed: !!python/object/apply:os.mkdir [made]\n", ": line 1, column 7 is not YAML: "),
        ("seed: 2020-13-01\n", ": cannot be read: month must be in 1..12"),
        *(("seed: !!int ''\n", ": cannot be read: "), ("a: !!bool maybe", ": cannot be read: ")),
        (f"seed: {'9' * 5000}\n", ": cannot be read: Exceeds the limit (4300 digits)"),
        (f"seed: {'[' * 5000}\n", ": cannot be read: "),
        *((text, ": cannot be read: it holds more than 10,000 values or 50 levels") for text in BOMBS),
    ],
    ids=lambda text: text[:20],
)
def test_a_wrong_file_is_named(text: str, answer: str, tmp_path: Path) -> None:
    path = write(tmp_path / "own.yaml", text)
    assert refused({}, path).startswith(f"{path}{answer}")


def test_what_is_not_there_or_no_recipe_is_said(tmp_path: Path) -> None:
    assert "there is no recipe 'gann'; did you mean gan?" in refused({}, "gann")
    assert f"(recipes: {', '.join(SHIPPED)};" in refused({}, "nothing like it")
    missing = tmp_path / "no.yaml"
    assert f"cannot read the recipe or run '{missing}': No such file" in refused({}, missing)
    assert "is a folder without recipe.yaml" in refused({}, tmp_path)
    assert "cannot read the recipe or run 'a\\x00.yaml'" in refused({}, "a\0.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00lr")
    assert "not a text file" in refused({}, tmp_path / "bytes.yaml")


EARLY = """
import sys
from gansmith.recipe import plan
for what, flags in [("gann", {}), ("gan", {"n_epoch": 1}), ("gan", {"data.img_siz": 1}), ("gan", {"batch_size": 0}),
                    ("gan", {"networks.G.wdth": 1, "seed": -1}), ("gan", {"networks.G.wdths": [1]})]:
    assert "torch" not in sys.modules, flags
    try:
        plan(what, flags=flags)
    except ValueError as error:
        found = str(error)
    assert "there is no" in found or "it must be" in found
assert "did you mean widths?" in found
assert "gansmith.games.two_player" in sys.modules and "gansmith.networks.began" not in sys.modules
"""


def test_what_needs_no_torch_is_answered_without_it() -> None:
    subprocess.run([sys.executable, "-c", EARLY], check=True)


NAMES = (name for kind in recipes.TABLES for name in table(kind))
WORDS = ("name", "G", "D", "lr", "widths", "dim", "interval", "weight", "fit", "*", "", "0")
KEYS = st.sampled_from([*Recipe.__annotations__, *recipes.SHORT_NAMES, *NAMES, *WORDS]) | st.text(max_size=3)
PLAIN = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3)
LIKELY = ["adam", "normal", "codes", "alternating", "mlp_generator", "wgan_gp", "a:b", "math:x", "1e-3"]
TREES = st.recursive(
    PLAIN | st.sampled_from(LIKELY) | st.dates() | st.binary(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.integers(), inner, max_size=3),
    max_leaves=8,
)
DOTTED = st.lists(KEYS, min_size=1, max_size=3).map(".".join)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(KEYS, TREES, max_size=3), st.dictionaries(DOTTED, TREES, max_size=3))
@example({"optimizers": [], "lr": 1}, {})
@example({"optimizers": {1: {}, "G": {}}, "lr": 1}, {})
@example({"prior": None, "latent_dim": 1}, {})
@example({"networks": {"G": None}}, {"networks": {"G": {"name": "mlp_generator"}}})
@example({"data": {"fit": {}}}, {"data": "mnist", "data.name.x": 1})
@example({"game": {"name": []}}, {"lr.x": 1})
@example({"penalties": [[]]}, {"penalties": {"0": {"name": "wgan_gp"}}})
@example({"n_epochs": 10**5000}, {"lr": 10**5000})
@example({}, {"optimizers.*.lr": 1, ".": 1})
@example({}, {"networks.G": ":"})
@example({}, {"networks.G": "..:x"})
@example({}, {"networks.G": "os.:x"})
@example({}, {"networks.G": "a b:c:d"})
def test_any_tree_is_a_recipe_or_a_user_error(tree: dict[str, Any], flags: dict[str, Any]) -> None:
    try:
        resolved = combine(Layer("own.yaml", tree), Layer("flag", flags, typed=True))
    except UserError as error:
        assert str(error)
        return
    # And what is accepted is written so that it can be read again.
    again = yaml.safe_load(to_yaml(resolved.recipe))
    assert combine(Layer("again", again)).recipe == resolved.recipe


NET = "from torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self, shape, *, width: int = 3): ...\n"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder where Python finds modules, as it does in the current one; what is imported from it is forgotten."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "modules", dict(sys.modules))
    return tmp_path


def test_a_name_from_outside_is_imported_where_it_is_typed_or_trusted(here: Path, monkeypatch: Any) -> None:
    write(here / "ournet.py", NET)
    resolved = plan("gan", flags={"networks.D": "ournet:Net", "networks.D.width": 5})
    assert resolved.recipe.networks["D"] == Component("ournet:Net", {"weights": None, "width": 5})
    assert resolved.modules == ("ournet",) and "trusted" not in to_yaml(resolved.recipe)
    path = write(here / "own.yaml", "networks: {D: ournet:Net}\n")
    assert plan(path, trust=True).recipe.networks["D"].trusted
    for part in ("evil", "evil/inner"):
        write(here / part / "__init__.py", "raise SystemExit('imported')\n")
    for at in ("networks.G", "game", "objective", "prior", "optimizers.D", "penalties.0", "views.0"):
        evil = write(here / "evil.yaml", f"{at}.name: evil.inner:Net\n")
        text = refused({f"{at}.weight": 1} if at == "penalties.0" else {}, evil)
        named, imports = f"{evil}: {at}.name is 'evil.inner:Net'", f"which imports {here / 'evil' / '__init__.py'}, "
        assert text.startswith(f"{named}, {imports}") and "--trust" in text
        assert not {"evil", "evil.inner"} & sys.modules.keys()
    monkeypatch.setenv("GANSMITH_TRUST", "1")  # what ranks and children inherit
    assert plan(path).modules == ("ournet",)
    assert "cannot import evil.inner: SystemExit: imported" in refused({}, evil)


@pytest.mark.parametrize("mark", ["environment.json", "checkpoints/00000001"])
@pytest.mark.parametrize("inside", ["stranger/evil.py", "stranger/evil/__init__.py", "stranger/deep/evil.py"])
def test_nothing_is_imported_from_inside_a_run(inside: str, mark: str, here: Path) -> None:
    write(here / "stranger" / "recipe.yaml", "")
    file = write(here / inside, "raise SystemExit('imported')\n")
    assert trust.run_around(file) is None  # a recipe alone makes no run of its folder
    write(here / "stranger" / mark, "")
    (here / "link.py").symlink_to(file)
    module = inside.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    for name in (module, "link"):
        assert f"lies in the run {here / 'stranger'}" in refused({"networks.D": f"{name}:Net"}, trust=True)
    assert not {module, "stranger", "link"} & sys.modules.keys()


def test_ones_own_run_is_remembered_until_it_or_its_modules_change(here: Path) -> None:
    package = write(here / "pack" / "__init__.py", "")
    module = write(here / "pack" / "mynet.py", NET)
    resolved = plan("gan", flags={"networks.D": "pack.mynet:Net"})
    run = here / "elsewhere" / "run"
    recipe = write(run / "recipe.yaml", to_yaml(resolved.recipe))
    assert "--trust" in refused({}, run)
    trust.remember(run, resolved.modules)
    assert plan(run).recipe == plan(recipe).recipe == resolved.recipe and plan(run).modules
    for changed in (module, package, recipe):
        before = changed.read_text(encoding="utf-8")
        write(changed, before + "#\n")
        assert "--trust" in refused({}, run)
        write(changed, before)
    assert "--trust" in refused({}, run.rename(here / "elsewhere" / "other"))


def test_a_memory_that_is_damaged_or_cannot_be_written_is_none(tmp_path: Path, monkeypatch: Any) -> None:
    run = write(tmp_path / "run" / "recipe.yaml", "").parent
    for text in ("", "[]", "{", '{"RUN": 3}', '{"RUN": {"recipe": 1}}'):
        write(Path(os.environ["XDG_STATE_HOME"], "gansmith", "trusted.json"), text.replace("RUN", str(run.resolve())))
        assert not trust.remembered(run)
    trust.remember(run, [__name__])
    assert trust.remembered(run)
    monkeypatch.setenv("XDG_STATE_HOME", str(write(tmp_path / "file", "")))
    trust.remember(run, ["no_such_module"])
    trust.remember(run, [__name__])
    assert not trust.remembered(run)


def test_a_run_keeps_its_recipe(tmp_path: Path) -> None:
    recipes.check_resumable(tmp_path, {"steps": 5, "minutes": 3, "data": "here", "compile": True, "n_cpu": 2})
    for key in ("lr", "batch_size", "from", "loss"):
        with pytest.raises(UserError, match=f"^{key}: a run keeps its recipe"):
            recipes.check_resumable(tmp_path, {key: 1})


def test_recipes_differ_in_what_is_trained_and_older_ones_may_lack_keys() -> None:
    def plain(**flags: Any) -> dict[str, Any]:
        return to_dict(plan("wgan_gp", flags={k.replace("_0_", ".0."): v for k, v in flags.items()}).recipe)

    now, difference = plain(), recipes.difference
    assert difference(now, now) is None and difference(plain(steps=3, compile=True), now) is None
    assert difference(plain(lr=0.5), now) == "optimizers.G.lr was 0.5 and is 0.0001"
    assert difference(plain(penalties_0_weight=5), now) == "penalties.0.weight was 5.0 and is 10.0"
    older = plain()
    del older["views"], older["start"], older["penalties"][0]["every"]
    assert difference(json.loads(json.dumps(older)), now) is None
    assert difference(older, plain(views=["flip"])) == "views.0.name was None and is flip"
    assert difference(now, plain(penalties=[])) == "penalties.0.name was wgan_gp and is None"


def test_paths_become_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(**flags: Any) -> Recipe:
        return recipes.with_full_paths(plan("gan", flags=flags)).recipe

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GANSMITH_DATA", raising=False)
    (tmp_path / "pictures").mkdir()
    recipe = full(**{"networks.G.weights": "one", "from": "other", "data": "pictures"})
    assert recipe.data.name == str(tmp_path / "pictures") and recipe.start.run == str(tmp_path / "other")
    assert recipe.networks["G"].args["weights"] == str(tmp_path / "one")
    assert full(data="cifar10").data.root == str(tmp_path / "data")
    assert full() == plan("gan").recipe
    assert full(data="no such").data.name == "no such"  # said when it is read
    with pytest.raises(UserError, match="start.run is '~nobody_of_this_name/x'"):
        full(**{"from": "~nobody_of_this_name/x"})


def test_only_the_post_s_own_recipe_has_an_eps_of_08() -> None:
    """BatchNorm1d(n, 0.8) gives eps what was meant as a momentum: 22 folders of the collection do."""
    odd = {
        name
        for name in SHIPPED
        for network in plan(name).recipe.networks.values()
        if network.args.get("batchnorm_eps", 1e-5) > 1e-3
    }
    assert odd == {"gan"}

"""Recipes: what ships, the post's options under their own names, layers and their origins, and every wrong key."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gansmith.errors import UserError
from gansmith.recipe import (
    SECTIONS,
    SHORT_NAMES,
    TABLES,
    Component,
    Layer,
    Recipe,
    flags_layer,
    flatten,
    plan,
    read_layer,
    recipe_names,
    recipe_text,
    resolve,
    to_dict,
    to_yaml,
)

GAN2014 = [f"gan2014_{data}" for data in ("cifar10_conv", "cifar10_fc", "mnist", "tfd", "tfd_pretrain")]
NAMES = ["began", "fast_mnist", "figure1", "gan", *GAN2014, "infogan", "wgan_gp"]
# Keys of the 2014 paper's networks that are off by default; where all of a layer's weights are sparse, it has no range.
OFF = {"weights", "schedules", "sparse_out", "sigmoid_bias", "max_col_norm"}
UNUSED = {"gan2014_tfd_pretrain": {"irange_out"}}


def values(recipe: Recipe) -> dict[str, Any]:
    return dict(flatten(to_dict(recipe)))


def changed(before: Recipe, after: Recipe) -> dict[str, Any]:
    """The dotted keys whose values differ, with the new value (None for a key that is gone)."""
    a, b = values(before), values(after)
    return {key: b.get(key) for key in sorted({*a, *b}) if a.get(key, "gone") != b.get(key, "gone")}


def refused(flags: dict[str, Any], what: str | Path = "gan") -> str:
    with pytest.raises(UserError) as caught:
        plan(what, flags=flags)
    text = str(caught.value)
    assert "\n" not in text and text
    return text


# ---- what ships ------------------------------------------------------------------------------------------------


def test_these_recipes_ship() -> None:
    assert recipe_names() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_recipe_loads_and_says_everything_that_matters(name: str) -> None:
    resolved = plan(name)
    assert resolved.label == name
    header = [line for line in recipe_text(name).splitlines() if line.startswith("#")]
    for part in ("# paper:", f"# run:      gansmith train {name}", "# expect:", "# differs:"):
        assert any(line.startswith(part) for line in header), part
    assert "arXiv" in recipe_text(name)
    # Whoever reads the file sees each parameter of the mathematics; only these are left to defaults.
    left = {key.rpartition(".")[2] for key, _, origin in resolved.lines() if origin == "default"}
    assert left <= {
        *(f.name for cls in SECTIONS.values() for f in dataclasses.fields(cls)),
        *("seed", "log_interval", "eps", "weight_decay", "accumulate", "sync_batchnorm"),
        "steps" if resolved.recipe.steps is None else "n_epochs",  # a length is given in one of them
        *OFF,
        *UNUSED.get(name, ()),
    }


@pytest.mark.parametrize("name", NAMES)
def test_yaml_round_trip(name: str, tmp_path: Path) -> None:
    recipe = plan(name, flags={"ema.halflife_kimg": 5, "steps": 7}).recipe
    path = tmp_path / "again.yaml"
    path.write_text(to_yaml(recipe, "two lines\nof header"), encoding="utf-8")
    assert plan(path).recipe == recipe
    assert path.read_text(encoding="utf-8").startswith("# two lines\n# of header\n")
    assert to_yaml(plan(path).recipe) == to_yaml(recipe)


def test_a_run_folder_is_a_recipe_too(tmp_path: Path) -> None:
    recipe = plan("wgan_gp", flags={"lr": 0.5}).recipe
    (tmp_path / "recipe.yaml").write_text(to_yaml(recipe), encoding="utf-8")
    assert plan(tmp_path).recipe == plan(tmp_path / "recipe.yaml").recipe == recipe


def test_saying_nothing_is_the_recipe_gan() -> None:
    assert resolve().recipe == plan().recipe == plan("gan").recipe


def test_a_recipe_is_frozen() -> None:
    recipe = plan().recipe
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.seed = 3  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.data.name = "x"  # type: ignore[misc]


# ---- the post's options ----------------------------------------------------------------------------------------

# Name, the post's default, another value, the keys that it stands for.
POST: list[tuple[str, Any, Any, list[str]]] = [
    ("n_epochs", 200, 3, ["n_epochs"]),
    ("batch_size", 64, 32, ["batch_size"]),
    ("lr", 0.0002, 0.5, ["optimizers.D.lr", "optimizers.G.lr"]),
    ("b1", 0.5, 0.25, ["optimizers.D.b1", "optimizers.G.b1"]),
    ("b2", 0.999, 0.75, ["optimizers.D.b2", "optimizers.G.b2"]),
    ("n_cpu", 8, 2, ["data.n_cpu"]),
    ("latent_dim", 100, 17, ["prior.dim"]),
    ("img_size", 28, 64, ["data.img_size"]),
    ("channels", 1, 3, ["data.channels"]),
    ("sample_interval", 400, 11, ["sample_interval"]),
]


@pytest.mark.parametrize(("option", "default", "other", "keys"), POST, ids=[p[0] for p in POST])
def test_an_option_of_the_post(option: str, default: Any, other: Any, keys: list[str], tmp_path: Path) -> None:
    post = plan("gan").recipe
    for key in keys:
        assert values(post)[key] == default and type(values(post)[key]) is type(default)
    by_flag = plan("gan", flags={option: other})
    assert changed(post, by_flag.recipe) == dict.fromkeys(keys, other)
    assert {key for key, _, origin in by_flag.lines() if origin == "flag"} == set(keys)
    path = tmp_path / "own.yaml"
    path.write_text(f"{option}: {other}\n", encoding="utf-8")
    by_file = plan(path)
    assert by_file.recipe == by_flag.recipe
    assert {key for key, _, origin in by_file.lines() if origin == str(path)} == set(keys)


def test_no_option_of_the_post_is_missing() -> None:
    own = {f.name for f in dataclasses.fields(Recipe)}
    assert {*SHORT_NAMES, *own} >= {option for option, *_ in POST}


def test_the_posts_networks_and_update_are_the_recipe_gan() -> None:
    recipe = plan("gan").recipe
    assert recipe.networks["G"].args == {
        "widths": (128, 256, 512, 1024),
        "slope": 0.2,
        "batchnorm_eps": 0.8,
        "batchnorm_momentum": 0.1,
        "weights": None,
    }
    assert recipe.networks["D"].args == {"widths": (512, 256), "slope": 0.2, "weights": None}
    assert recipe.game == Component("simultaneous")
    assert recipe.objective == Component("non_saturating")
    assert recipe.prior == Component("normal", {"dim": 100})
    assert recipe.data.name == "mnist" and not recipe.penalties and not recipe.schedules
    assert recipe.data.values == "signed" and recipe.data.validation == 0 and recipe.ema.halflife_kimg is None


@pytest.mark.parametrize("name", NAMES)
def test_short_names_reach_every_player_of_every_recipe(name: str) -> None:
    recipe = plan(name, flags={"lr": 0.125}).recipe
    assert {c.args["lr"] for c in recipe.optimizers.values()} == {0.125}
    if {c.name for c in recipe.optimizers.values()} == {"sgd"}:
        assert "there is no such key" in refused({"b1": 0.375}, name)
    else:
        recipe = plan(name, flags={"b1": 0.375}).recipe
        assert {c.args["b1"] for c in recipe.optimizers.values()} == {0.375}


# ---- layers ----------------------------------------------------------------------------------------------------


def test_flags_win_over_the_file_and_the_file_over_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("lr: 0.01\nbatch_size: 16\noptimizers: {D: {b1: 0.1}}\n", encoding="utf-8")
    resolved = plan(path, flags={"batch_size": 8, "optimizers.G.lr": 0.02, "data.fit": "pad"})
    where = {key: (value, origin) for key, value, origin in resolved.lines()}
    assert where["batch_size"] == (8, "flag")
    assert where["optimizers.G.lr"] == (0.02, "flag")
    assert where["optimizers.D.lr"] == (0.01, str(path))
    assert where["optimizers.D.b1"] == (0.1, str(path))
    assert where["optimizers.G.b1"] == (0.5, "default")
    assert where["data.fit"] == ("pad", "flag")
    assert where["n_epochs"] == (200, "default")
    assert resolved.label == "own"


def test_a_short_name_gives_way_to_the_long_one_beside_it() -> None:
    recipe = plan("gan", flags={"lr": 0.1, "optimizers.D.lr": 0.2}).recipe
    assert (recipe.optimizers["G"].args["lr"], recipe.optimizers["D"].args["lr"]) == (0.1, 0.2)
    assert plan("gan", flags={"optimizers.D.lr": 0.2, "lr": 0.1}).recipe == recipe


def test_a_short_name_in_a_flag_wins_over_a_long_one_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("optimizers: {D: {lr: 0.3}}\n", encoding="utf-8")
    assert plan(path, flags={"lr": 0.1}).recipe.optimizers["D"].args["lr"] == 0.1


def test_another_component_drops_the_parameters_of_the_earlier_one() -> None:
    resolved = plan("wgan_gp", flags={"optimizers.D.name": "sgd", "game": "simultaneous"})
    recipe = resolved.recipe
    assert recipe.optimizers["D"] == Component("sgd", {"lr": 0.1, "momentum": 0.0, "weight_decay": 0.0})
    assert recipe.optimizers["G"] == plan("wgan_gp").recipe.optimizers["G"]
    assert recipe.game == Component("simultaneous")  # without n_critic
    origins = {key: origin for key, _, origin in resolved.lines()}
    assert origins["optimizers.D.lr"] == "default" and origins["optimizers.D.name"] == "flag"
    assert not [key for key in resolved.origins if key not in origins]


def test_the_same_component_keeps_its_parameters() -> None:
    recipe = plan("wgan_gp", flags={"game.name": "alternating", "networks.G": "mlp_generator"}).recipe
    assert recipe == plan("wgan_gp").recipe


def test_short_forms_of_components(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("game: alternating\ndata: kmnist\npenalties: [wgan_gp]\noptimizers: {G: sgd}\n", encoding="utf-8")
    recipe = plan(path).recipe
    assert recipe.game == Component("alternating", {"n_critic": 1})
    assert recipe.data.name == "kmnist" and recipe.data.img_size == 28
    assert recipe.penalties == (Component("wgan_gp", {"weight": 1.0, "every": 1, "target": 1.0}),)
    assert recipe.optimizers["G"].name == "sgd" and recipe.optimizers["D"].name == "adam"


def test_dotted_flags_in_any_order() -> None:
    one = flags_layer({"data": "cifar10", "data.n_cpu": 2, "game.n_critic": 3, "game": "alternating"})
    assert one.keys == {
        "data": {"name": "cifar10", "n_cpu": 2},
        "game": {"n_critic": 3, "name": "alternating"},
    }
    assert resolve(one).recipe.game == Component("alternating", {"n_critic": 3})


def test_layers_are_left_as_they_are() -> None:
    keys = {"data": {"img_size": 32}, "lr": 0.1, "game": "alternating"}
    layer = Layer("own", keys)
    first = resolve(layer, Layer("flag", {"data": {"channels": 3}, "game": {"n_critic": 2}})).recipe
    assert keys == {"data": {"img_size": 32}, "lr": 0.1, "game": "alternating"}
    assert resolve(layer).recipe.data.channels == 1 and first.data.channels == 3
    assert resolve().recipe == plan("gan").recipe


# ---- what is wrong is answered ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flags", "parts"),
    [
        ({"n_epoch": 5}, ["flag: n_epoch: there is no such key", "did you mean n_epochs?"]),
        ({"learning_rate": 1}, ["flag: learning_rate: there is no such key; did you mean lr?", "known: data, prior"]),
        ({"latentdim": 5}, ["did you mean latent_dim?"]),
        ({"imgsize": 5}, ["did you mean img_size?"]),
        ({"halflife_kimg": 5}, ["did you mean ema.halflife_kimg?"]),
        ({"max_brokn": 0.5}, ["did you mean data.max_broken?"]),
        ({"data.img_siz": 5}, ["flag: data.img_siz", "did you mean img_size?", "known here: name, img_size"]),
        ({"game.n_crtic": 5, "game.name": "alternating"}, ["game.n_crtic", "did you mean n_critic?"]),
        ({"game.n_critic": 5}, ["flag: game.n_critic: there is no such key", "known here: name"]),
        ({"networks.G.width": [1]}, ["networks.G.width", "did you mean widths?"]),
        ({"optimizers.D.learning": 1}, ["optimizers.D.learning", "known here: name, lr, b1"]),
        ({"checkpoint.intervall": 1}, ["checkpoint.intervall", "did you mean interval?"]),
        ({"penalties": [{"name": "wgan_gp", "wieght": 1}]}, ["penalties[0].wieght", "did you mean weight?"]),
        ({"batch_size": 0}, ["flag: batch_size is 0", "at least 1", "the nearest is 1"]),
        ({"batch_size": "many"}, ["flag: batch_size is 'many'", "a whole number"]),
        ({"n_epochs": 2.5}, ["n_epochs is 2.5", "a whole number"]),
        ({"steps": 0}, ["steps is 0", "the nearest is 1"]),
        ({"seed": -1}, ["seed is -1", "the nearest is 0"]),
        ({"lr": 0}, ["lr is 0", "above 0"]),
        ({"b1": 1.0}, ["b1 is 1.0", "below 1"]),
        ({"channels": 2}, ["data.channels is 2", "one of 1, 3, 4", "the nearest is 1"]),
        ({"data.fit": "crp"}, ["data.fit is 'crp'", "one of crop, pad, stretch", "did you mean crop?"]),
        ({"data.max_broken": 2}, ["data.max_broken is 2", "the nearest is 1"]),
        ({"latent_dim": 0}, ["prior.dim is 0", "the nearest is 1"]),
        ({"game": "simultanous"}, ["game.name is 'simultanous'", "one of simultaneous", "did you mean simultaneous?"]),
        ({"objective": "wasserstien"}, ["objective.name is 'wasserstien'", "did you mean wasserstein?"]),
        ({"networks.G": "mlp_genrator"}, ["networks.G.name", "did you mean mlp_generator?"]),
        ({"optimizers.G": "adamw"}, ["optimizers.G.name is 'adamw'", "did you mean adam?", "module:attribute"]),
        ({"penalties": [{"name": "wgan_gp", "every": 0}]}, ["penalties[0].every is 0", "at least 1; the nearest is 1"]),
        ({"penalties": [{"name": "wgan_gp", "every": 2.5}]}, ["penalties[0].every is 2.5", "a whole number"]),
        ({"penalties": [{"name": "wgan_gp", "evry": 2}]}, ["penalties[0].evry", "did you mean every?"]),
        ({"penalties": ["wgan_pg"]}, ["penalties[0].name is 'wgan_pg'", "did you mean wgan_gp?"]),
        ({"penalties": "wgan_gp"}, ["penalties must be a list"]),
        ({"penalties": [3]}, ["penalties[0] is 3", "keys and values"]),
        ({"data": 3}, ["data is 3", "keys and values"]),
        ({"networks": "mlp"}, ["networks is 'mlp'", "keys and values"]),
        ({"game": None}, ["game"]),
        ({"networks.E": "mlp_generator"}, ["networks.E", "no such player", "its players: G, D"]),
        ({"objective": None}, ["needs objective", "one of non_saturating"]),
        ({"prior": None}, ["needs prior", "one of normal"]),
        ({"networks.G.name": 3}, ["networks.G needs a name", "one of mlp_generator"]),
        ({"networks.G.widths": 3}, ["networks.G.widths is 3", "must be a list"]),
        ({"networks.G.widths": [8, 0]}, ["networks.G.widths[1] is 0", "the nearest is 1"]),
        ({"ema.halflife_kimg": 0}, ["ema.halflife_kimg is 0", "above 0"]),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else "",
)
def test_a_wrong_flag_is_answered_with_what_is_right(flags: dict[str, Any], parts: list[str]) -> None:
    text = refused(flags)
    for part in parts:
        assert part in text, text


def test_a_game_that_takes_no_objective_or_penalty_says_so() -> None:
    assert "takes no objective: say objective: null" in refused({"objective": "wasserstein"}, "began")
    assert "takes no penalties: say penalties: []" in refused({"penalties": ["wgan_gp"]}, "began")


def test_a_wrong_key_of_a_file_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    for text, parts in {
        "n_epoch: 5": ["n_epoch: there is no such key"],
        "batch_size: no": ["batch_size is False"],
        "data: {fit: fill}": ["data.fit is 'fill'"],
        "lr: fast": ["optimizers.", ".lr is 'fast'"],
        "networks: {G: {name: mlp_generator, width: 3}}": ["networks.G.width"],
        "data: {1: 2}": ["data.1"],
    }.items():
        path.write_text(text, encoding="utf-8")
        answer = refused({}, path)
        assert answer.startswith(f"{path}: "), answer
        for part in parts:
            assert part in answer


def test_a_wrong_flag_on_top_of_a_file_is_called_a_flag(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("batch_size: 5\n", encoding="utf-8")
    assert refused({"batch_size": 0}, path).startswith("flag: batch_size is 0")


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [("a: [1, 2\nb: 3\n", 2, 2), ("lr: 1\n  b: 2\n", 2, 4), ("x: 'open\n", 2, 1), ("lr: 1\n\tb: 2\n", 2, 1)],
)
def test_damaged_yaml_names_line_and_column(text: str, line: int, column: int, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    assert refused({}, path).startswith(f"{path}: line {line}, column {column} is not YAML: ")


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n", "3\n", "{1: 2}\n"])
def test_yaml_that_holds_no_keys_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    assert str(path) in refused({}, path)


def test_yaml_that_wants_to_build_objects_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"seed: !!python/object/apply:os.mkdir ['{tmp_path / 'made'}']\n", encoding="utf-8")
    assert "line 1" in refused({}, path)
    assert not (tmp_path / "made").exists()


def test_what_is_not_there_or_not_a_recipe_is_said(tmp_path: Path) -> None:
    assert "there are no schedules to change; give the list: --schedules '[{name: linear," in refused(
        {"schedules.0.name": "exponential"}, "gan"
    )
    assert "there is no recipe 'gann'; did you mean gan?" in refused({}, "gann")
    assert f"(recipes: {', '.join(recipe_names())};" in refused({}, "nothing like it")
    assert f"there is no recipe file or run {tmp_path / 'no.yaml'}" in refused({}, tmp_path / "no.yaml")
    assert "is a folder without recipe.yaml" in refused({}, tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00lr")
    assert "not a text file" in refused({}, tmp_path / "bytes.yaml")
    (tmp_path / "control.yaml").write_bytes(b"lr: \x01\n")
    assert "control.yaml" in refused({}, tmp_path / "control.yaml")


def test_an_empty_file_is_the_recipe_gan(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing yet\n", encoding="utf-8")
    assert plan(tmp_path / "empty.yaml").recipe == plan("gan").recipe


# ---- anything at all -------------------------------------------------------------------------------------------

KEYS = st.sampled_from(
    [
        *(f.name for f in dataclasses.fields(Recipe)),
        *SHORT_NAMES,
        *(name for rows in TABLES.values() for name in rows),
        *("name", "G", "D", "lr", "widths", "dim", "interval", "weight", "fit", "*", ""),
    ]
) | st.text(max_size=3)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.floats()
    | st.text(max_size=3)
    | st.sampled_from(["adam", "normal", "codes", "alternating", "mlp_generator", "wgan_gp", "a:b", "math:x", "1e-3"])
    | st.dates()
    | st.binary(max_size=2)
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | st.integers(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(KEYS, TREES, max_size=3), st.dictionaries(KEYS, TREES, max_size=2))
@example({"optimizers": None, "lr": 1}, {})
@example({"optimizers": {}, "lr": 1}, {})
@example({"optimizers": [], "lr": 1}, {})
@example({"optimizers": {1: {}}, "lr": 1}, {})
@example({"optimizers": {1: {}, "G": {}}, "lr": 1}, {})
@example({"prior": None, "latent_dim": 1}, {})
@example({"prior": [], "latent_dim": 1}, {})
@example({"networks": {"G": None}}, {"networks": {"G": {"name": "mlp_generator"}}})
@example({"data": {"channels": []}}, {})
@example({"data": {"fit": {}}}, {})
@example({"game": {"name": []}}, {})
@example({"penalties": [[]]}, {})
@example({"n_epochs": 10**400}, {"lr": 10**400})
def test_any_tree_is_a_recipe_or_a_user_error(tree: dict[str, Any], flags: dict[str, Any]) -> None:
    try:
        resolved = resolve(Layer("own.yaml", tree), Layer("flag", flags))
    except UserError as error:
        assert str(error)
        return
    # And what is accepted is written so that it can be read again.
    again = yaml.safe_load(to_yaml(resolved.recipe))
    assert resolve(Layer("again", again)).recipe == resolved.recipe


@settings(deadline=None, max_examples=150)
@given(st.dictionaries(st.lists(KEYS, min_size=1, max_size=3).map(".".join), LEAVES, max_size=4))
@example({"data": "mnist", "data.name.x": 1})
@example({"lr.x": 1})
@example({".": 1})
@example({"optimizers.*.lr": 1})
def test_any_flags_are_a_recipe_or_a_user_error(flags: dict[str, Any]) -> None:
    try:
        plan("gan", flags=flags)
    except UserError as error:
        assert str(error)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=40) | st.lists(st.sampled_from(list("{}[]:,-&*!|>'\"%@` \n\t#?a1"))).map("".join))
def test_any_text_is_a_recipe_or_a_user_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "own.yaml"
    try:
        path.write_text(text, encoding="utf-8")
    except UnicodeEncodeError:  # half a surrogate
        return
    try:
        plan(path)
    except UserError as error:
        assert str(path) in str(error)


def test_read_layer_gives_the_keys_as_they_stand(tmp_path: Path) -> None:
    path = tmp_path / "own.yml"
    path.write_text("lr: 0.1\nprior: null\n", encoding="utf-8")
    assert read_layer(path) == read_layer(str(path)) == Layer(str(path), {"lr": 0.1, "prior": None})


# ---- penalties by flag, keys that stand twice, lengths -----------------------------------------------------------


@pytest.mark.parametrize("at", ["penalties.0", "penalties[0]"])
def test_a_penalty_has_flags(at: str) -> None:
    [penalty] = plan("wgan_gp", flags={f"{at}.weight": 5, f"{at}.every": 16}).recipe.penalties
    assert penalty.name == "wgan_gp" and penalty.args == {"weight": 5.0, "every": 16, "target": 1.0}
    with pytest.raises(UserError, match="there are 1 penalties"):
        plan("wgan_gp", flags={"penalties.1.weight": 5})


def test_a_key_that_stands_twice_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("n_epochs: 3\nlr: 0.1\nlr: 0.2\n", encoding="utf-8")
    with pytest.raises(UserError, match="line 3, column 1 is not YAML: the key lr stands twice"):
        plan(path)


def test_the_length_that_is_asked_for_last_is_meant(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    path.write_text("steps: 7\n", encoding="utf-8")
    assert plan(path).recipe.steps == 7
    assert plan(path, flags={"n_epochs": 2}).recipe.steps is None
    assert plan(path, flags={"n_epochs": 2, "steps": 9}).recipe.steps == 9

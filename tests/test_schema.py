"""The schema read from source text is the one that Python itself sees; wrong values are answered with right ones."""

import importlib
import inspect
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gansmith import schema
from gansmith.errors import UserError
from gansmith.recipe import PARTS, TABLES

ROWS = [(kind, name, target) for kind, rows in TABLES.items() for name, targets in rows.items() for target in targets]


def imported(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def as_python(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


# ---- the source text and the objects ---------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name", "target"), ROWS, ids=[f"{k}-{n}-{t.split(':')[1]}" for k, n, t in ROWS])
def test_signatures_read_from_source_are_those_of_the_objects(kind: str, name: str, target: str) -> None:
    real = inspect.signature(imported(target)).parameters.values()
    keyword = {p.name: p for p in real if p.kind is p.KEYWORD_ONLY}
    positional = tuple(p.name for p in real if p.kind is p.POSITIONAL_OR_KEYWORD)
    assert not [p for p in real if p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL)], "a component takes no **kwargs"
    assert schema.handed(target) == positional
    read = schema.parameters(target)
    assert list(read) == list(keyword)
    for key, parameter in read.items():
        assert parameter.default == as_python(keyword[key].default), key
        annotation = keyword[key].annotation
        if isinstance(annotation, str):  # under `from __future__ import annotations`
            assert parameter.annotation == annotation, key


@pytest.mark.parametrize(("kind", "name", "target"), ROWS, ids=[f"{k}-{n}-{t.split(':')[1]}" for k, n, t in ROWS])
def test_every_default_of_a_component_is_a_value_that_it_accepts(kind: str, name: str, target: str) -> None:
    for key, parameter in schema.parameters(target).items():
        assert schema.convert(parameter.default, parameter.annotation, key) == parameter.default


@pytest.mark.parametrize(
    ("kind", "module", "table"),
    [
        ("prior", "gansmith.priors", "PRIORS"),
        ("objective", "gansmith.objectives", "OBJECTIVES"),
        ("penalties", "gansmith.penalties", "PENALTIES"),
        ("optimizers", "gansmith.players", "OPTIMIZERS"),
        ("schedules", "gansmith.schedules", "SCHEDULES"),
        ("networks", "gansmith.networks", "NETWORKS"),
        ("game", "gansmith.games", "GAMES"),
    ],
)
def test_tables_read_from_source_are_the_tables(kind: str, module: str, table: str) -> None:
    real = getattr(importlib.import_module(module), table)
    assert list(TABLES[kind]) == list(real)
    for name, row in real.items():
        read = [imported(target) for target in TABLES[kind][name]]
        if kind in ("networks", "game"):
            assert TABLES[kind][name] == (row,)
        elif kind == "objective":
            assert read == [row.d, row.g]
        elif kind == "penalties":
            assert read == [row.function]
        else:
            assert read == [row]


def test_what_games_ask_for_is_a_player_or_a_known_part() -> None:
    for target in (targets[0] for targets in TABLES["game"].values()):
        assert {name for name in schema.handed(target) if name not in PARTS} == {"G", "D"}


# ---- private components ----------------------------------------------------------------------------------------


@pytest.fixture
def private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """private(source) writes a module that can be imported and returns its name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made = iter(range(100))

    def write(source: str) -> str:
        name = f"private_{tmp_path.name}_{next(made)}".replace("-", "_")
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        importlib.invalidate_caches()
        return name

    return write


def test_a_private_module_is_read_and_not_imported(private: Callable[[str], str]) -> None:
    module = private(
        "raise SystemExit('imported')\n"
        "class Base:\n    def __init__(self, shape, *, width: PositiveInt = 3, mode: Literal['a', 'b'] = 'a'): ...\n"
        "class Child(Base):\n    pass\n"
        "class Bare:\n    pass\n"
        "def function(real, fake, *, margin: float = -1.5): ...\n"
    )
    assert list(schema.parameters(f"{module}:Child")) == ["width", "mode"]
    assert schema.parameters(f"{module}:Child")["width"] == schema.Parameter("PositiveInt", 3)
    assert schema.handed(f"{module}:Base") == ("shape",)
    assert schema.parameters(f"{module}:Bare") == {} and schema.handed(f"{module}:Bare") == ()
    assert schema.parameters(f"{module}:function")["margin"].default == -1.5
    assert module not in sys.modules


def test_a_private_class_takes_the_parameters_of_the_imported_one_that_it_extends(
    private: Callable[[str], str],
) -> None:
    module = private(
        "import gansmith.networks.mlp as mlp\n"
        "from gansmith.games.two_player import Alternating\n"
        "from gansmith.networks import mlp as networks\n"
        "class Game(Alternating):\n    pass\n"
        "class Wide(mlp.Generator):\n    pass\n"
        "class Deep(networks.Generator):\n    pass\n"
    )
    base = "gansmith.games.two_player:Alternating"
    assert schema.handed(f"{module}:Game") == schema.handed(base)
    assert schema.parameters(f"{module}:Game") == schema.parameters(base) != {}
    for name in ("Wide", "Deep"):
        assert list(schema.parameters(f"{module}:{name}"))[0] == "widths"


def test_a_private_row_is_read_like_one_of_a_table(private: Callable[[str], str]) -> None:
    from gansmith.recipe import Component, plan

    module = private(
        "from gansmith.objectives import Objective\n"
        "def d(real, fake): return fake - real\n"
        "def g(real, fake): return -fake\n"
        "MINE = Objective(d, g, paper='', at_zero=(0.0, 0.0))\n"
    )
    assert plan("gan", flags={"objective": f"{module}:MINE"}).recipe.objective == Component(f"{module}:MINE")


def test_a_private_name_that_is_not_there_is_answered_with_the_nearest(private: Callable[[str], str]) -> None:
    module = private("class Generator:\n    pass\n")
    with pytest.raises(UserError, match=f"{module} has no 'Generater'; did you mean Generator"):
        schema.parameters(f"{module}:Generater")
    with pytest.raises(UserError, match="there is no Python module 'no_such_module_at_all'"):
        schema.parameters("no_such_module_at_all:Thing")
    with pytest.raises(UserError, match="there is no Python module 'no_such.module_at_all'"):
        schema.parameters("no_such.module_at_all:Thing")
    with pytest.raises(UserError, match="there is no Python module 'math'"):  # has no source text
        schema.parameters("math:sqrt")


@pytest.mark.parametrize(
    "source",
    [
        "def thing(x, *, k=1): ...\n",  # no type
        "def thing(x, *, k: int): ...\n",  # no default
        "def thing(x, *, k: int = some_name): ...\n",  # a default that is not literal
        "def thing(x, *, k: dict = None): ...\n",  # a type that a recipe cannot hold
        "def thing(x, *, k: int = 1:\n",  # no Python at all
        "thing = 3\n",
        "",
    ],
)
def test_a_private_component_that_breaks_the_convention_is_a_user_error(
    source: str, private: Callable[[str], str]
) -> None:
    from gansmith.recipe import plan

    module = private(source)
    with pytest.raises(UserError, match=f"{module}|objective.k"):
        plan("gan", flags={"objective": {"name": f"{module}:thing", "k": 5}})


@pytest.mark.parametrize("name", [":", "a:", ":b", "a:b:c", "..:x", ".a:b", "os.:x", "a b:c", "gansmith.priors:"])
def test_nonsense_with_a_colon_is_a_user_error(name: str) -> None:
    from gansmith.recipe import plan

    with pytest.raises(UserError):
        plan("gan", flags={"objective": name})


# ---- values ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "annotation", "wanted"),
    [
        (3, "int", 3),
        (3, "float", 3.0),
        ("1e-3", "float", 1e-3),  # YAML 1.1 reads 1e-3 as a text
        (True, "bool", True),
        ("a", "str", "a"),
        (7, "str", "7"),  # a folder may be called 7
        (None, "PositiveInt | None", None),
        (4, "PositiveInt | None", 4),
        ([1, 2], "Sequence[PositiveInt]", (1, 2)),
        ([], "tuple[int, ...]", ()),
        ("pad", "Literal['crop', 'pad']", "pad"),
        (0, "NonNegativeInt", 0),
        (0, "NonNegativeFloat", 0.0),
        (0, "Decay", 0.0),
        (1, "Fraction", 1.0),
    ],
)
def test_right_values(value: Any, annotation: str, wanted: Any) -> None:
    got = schema.convert(value, annotation, "key")
    assert got == wanted and type(got) is type(wanted)


@pytest.mark.parametrize(
    ("value", "annotation", "text"),
    [
        (0, "PositiveInt", "key is 0; it must be a whole number at least 1; the nearest is 1"),
        (-3, "NonNegativeInt", "key is -3; it must be a whole number at least 0; the nearest is 0"),
        (2.6, "PositiveInt", "key is 2.6; it must be a whole number at least 1; the nearest is 3"),
        (True, "int", "key is True; it must be a whole number"),
        (1, "bool", "key is 1; it must be true or false"),
        (True, "float", "key is True; it must be a number"),
        ("many", "PositiveInt", "key is 'many'; it must be a whole number at least 1"),
        (None, "PositiveInt", "key is None; it must be a whole number at least 1"),
        (0, "PositiveFloat", "key is 0; it must be a number above 0"),
        (math.nan, "float", "key is nan; it must be a number"),
        (math.inf, "PositiveFloat", "key is inf; it must be a number above 0"),
        ("nan", "float", "key is 'nan'; it must be a number"),
        (1, "Decay", "key is 1; it must be a number at least 0 and below 1"),
        (1.5, "Fraction", "key is 1.5; it must be a number at least 0 and at most 1; the nearest is 1"),
        ([1], "str", r"key is \[1\]; it must be a text"),
        (5, "Sequence[PositiveInt]", r"key is 5; it must be a list, such as \[5\]"),
        ([1, 0], "Sequence[PositiveInt]", r"key\[1\] is 0; it must be a whole number at least 1; the nearest is 1"),
        ("crob", "Literal['crop', 'pad']", "key is 'crob'; it must be one of crop, pad; did you mean crop"),
        (2, "Literal[1, 3, 4]", "key is 2; it must be one of 1, 3, 4; the nearest is 1"),
        (9, "Literal[1, 3, 4]", "key is 9; it must be one of 1, 3, 4; the nearest is 4"),
        (True, "Literal[1, 3]", "key is True; it must be one of 1, 3"),
    ],
)
def test_wrong_values_name_the_key_and_what_is_right(value: Any, annotation: str, text: str) -> None:
    with pytest.raises(UserError, match=f"^{text}"):
        schema.convert(value, annotation, "key")


@given(
    st.sampled_from(["PositiveInt", "NonNegativeInt", "PositiveFloat", "NonNegativeFloat", "Decay", "Fraction"]),
    st.integers(-5, 5) | st.floats(-3, 3) | st.floats() | st.integers() | st.text(max_size=4) | st.none(),
)
def test_numbers_are_in_their_range_or_refused(alias: str, value: Any) -> None:
    try:
        got = schema.convert(value, alias, "key")
    except UserError as error:
        assert str(error).startswith("key is ")
        return
    low, high = {"Decay": (0, 1), "Fraction": (0, 1)}.get(alias, (0, math.inf))
    assert low <= got <= high and math.isfinite(got)
    assert got > 0 or not alias.startswith("Positive")
    assert got < 1 or alias != "Decay"


@given(st.floats(-10, 10), st.booleans(), st.booleans())
def test_the_nearest_value_that_is_named_is_a_right_one(x: float, open_low: bool, open_high: bool) -> None:
    limits = schema.Range(0, 1, open_low, open_high)
    if x not in limits and (near := limits.nearest(x)):
        assert float(near.rpartition(" ")[2]) in limits

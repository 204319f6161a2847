"""The schema of a component is its signature; wrong values are answered with right ones."""

import math
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Annotated, Any, Literal, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gansmith import schema
from gansmith.errors import UserError
from gansmith.schema import Decay, Fraction, NonNegativeInt, Parameter, PositiveFloat, PositiveInt, Seed, convert

Size = PositiveInt | tuple[PositiveInt, PositiveInt]


def function(real: Any, fake: Any, *, margin: float = -1, widths: Sequence[PositiveInt] = (2, 3)) -> None: ...


class Base:
    def __init__(self, shape: "tuple[int, ...]", *, width: "PositiveInt" = 3, mode: Literal["a"] = "a") -> None: ...


class Child(Base):
    pass


@dataclass
class Dataclass:
    G: Any
    noise: Any = None
    _: KW_ONLY
    k: Decay = 0.5


def test_positional_parameters_are_handed_over_and_keyword_only_ones_are_keys() -> None:
    for component, handed in ((function, ("real", "fake")), (Child, ("shape",)), (Dataclass, ("G", "noise"))):
        assert schema.handed(component) == handed
    widths = Parameter(Sequence[PositiveInt], (2, 3))
    assert schema.parameters(function) == {"margin": Parameter(float, -1.0), "widths": widths}
    assert schema.parameters(Child) == {"width": Parameter(PositiveInt, 3), "mode": Parameter(Literal["a"], "a")}
    assert schema.parameters(Dataclass) == {"k": Parameter(Decay, 0.5)}
    assert schema.handed(math.hypot) == () and not schema.parameters(math.hypot)  # C's have no signature to look at


def no_type(x, *, k=1): ...  # type: ignore[no-untyped-def]
def no_default(x: int, *, k: int) -> None: ...
def no_plain_type(x: int, *, k: dict[str, int] = {}) -> None: ...  # noqa: B006
def no_such_type(x: int, *, k: "Missing" = 1) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def other_default(x: int, *, k: PositiveInt = 0) -> None: ...


@pytest.mark.parametrize(
    ("component", "text"),
    [
        (no_type, "the keyword-only parameter k needs a type and a default"),
        (no_default, "the keyword-only parameter k needs a type and a default"),
        (no_plain_type, "the default of k: its type dict cannot be checked; known are int,"),
        (no_such_type, "the type of k, Missing, cannot be read: name 'Missing' is not defined"),
        (other_default, "the default of k is 0; it must be a whole number at least 1"),
    ],
)
def test_a_component_that_breaks_the_convention_is_named(component: Any, text: str) -> None:
    with pytest.raises(UserError, match=f"^{__name__}:{component.__name__}: {text}"):
        schema.parameters(component)


@pytest.mark.parametrize(
    ("value", "annotation", "wanted"),
    [
        *((3, int, 3), (3, float, 3.0), ("1e-3", float, 1e-3), (True, bool, True), (0, Decay, 0.0), (1, Fraction, 1.0)),
        *(("a", str, "a"), (7, str, "7"), ("pad", Literal["crop", "pad"], "pad")),  # a folder may be called 7
        *((None, PositiveInt | None, None), (4, Optional[PositiveInt], 4)),  # noqa: UP045
        *(([1, 2], Sequence[PositiveInt], (1, 2)), ([], tuple[int, ...], ()), ("a, b", list[str], ("a", "b"))),
        *((64, Size, 64), ([48, 64], Size, (48, 64)), (2, Annotated[int, "of no meaning here"], 2)),
    ],
)
def test_right_values(value: Any, annotation: Any, wanted: Any) -> None:
    got = convert(value, annotation, "key")
    assert got == wanted and type(got) is type(wanted)


@pytest.mark.parametrize(
    ("annotation", "right", "hints"),
    [
        (PositiveInt, "a whole number at least 1", {0: "1", 2.6: "3", 0.2: "1", "many": "", None: ""}),
        (int, "a whole number", {True: "", math.inf: ""}),
        (bool, "true or false", {1: ""}),
        (float, "a number", {True: "", math.nan: "", "many": ""}),
        (PositiveFloat, "a number above 0", {0: ""}),
        (Decay, "a number at least 0 and below 1", {1: "", -1: "0"}),
        (Fraction, "a number at least 0 and at most 1", {1.5: "1"}),
        (Seed, "a whole number at least 0 and at most 4294967295", {-1: "0"}),
        (str, "a text", {"": "", "a\0b": "", (1,): "", 0.5: ""}),
        (Sequence[PositiveInt], "a list, such as [5]", {5: ""}),
        (Size, "a list of 2", {(48, 64, 3): ""}),
        (Size, "a whole number at least 1", {0: "1"}),
        (Literal[1, 3, 4], "one of 1, 3, 4", {9: "4", "many": ""}),
        (Literal["no", 1], "one of no, 1", {True: ""}),
    ],
)
def test_wrong_values_name_the_key_and_what_is_right(annotation: Any, right: str, hints: dict[Any, str]) -> None:
    for value, nearest in hints.items():
        with pytest.raises(UserError) as caught:
            convert(value, annotation, "key")
        hint = f"; the nearest is {nearest}" if nearest else ""
        assert str(caught.value) == f"key is {value!r}; it must be {right}{hint}"


def test_wrong_items_are_named_and_near_words_too() -> None:
    for annotation in (Sequence[PositiveInt], Size):
        with pytest.raises(UserError, match=r"^key\[1\] is 0; it must be a whole number at least 1; the nearest is 1$"):
            convert([48, 0], annotation, "key")
    with pytest.raises(UserError, match=r"^key is 'crob'; it must be one of crop, pad; did you mean crop\?$"):
        convert("crob", Literal["crop", "pad"], "key")
    for kind in (float, str, Literal[1, 3], Seed, Sequence[int]):  # Python does not write such a number
        with pytest.raises(UserError, match=r"^key is a value of thousands of digits; it must be "):
            convert(10**5000, kind, "key")


@given(
    st.sampled_from([PositiveInt, NonNegativeInt, PositiveFloat, schema.NonNegativeFloat, Decay, Fraction]),
    st.integers(-5, 5) | st.floats(-3, 3) | st.floats() | st.integers() | st.text(max_size=4) | st.none(),
)
def test_numbers_are_in_their_range_or_refused(kind: Any, value: Any) -> None:
    try:
        got = convert(value, kind, "key")
    except UserError as error:
        _, _, nearest = str(error).partition("; the nearest is ")
        assert not nearest or convert(kind.__origin__(nearest), kind, "key") is not None
        return
    assert 0 <= got <= (1 if kind in (Decay, Fraction) else math.inf) and math.isfinite(got)
    assert got > 0 or kind not in (PositiveInt, PositiveFloat)
    assert got < 1 or kind is not Decay

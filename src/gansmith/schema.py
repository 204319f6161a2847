"""The schema of a recipe is the code itself: types of fields, and the keyword-only parameters of components.

By convention a component's positional parameters are what `build.py` hands over, and its keyword-only parameters, with
a type and a default, are what a recipe may set. Nothing here imports torch.
"""

import contextlib
import difflib
import inspect
import math
import sys
import types
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from gansmith.errors import UserError


@dataclass(frozen=True)
class Range:
    """The values that a number may take, with the nearest right one for those that it may not."""

    low: float
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, x: float) -> bool:
        above = x > self.low if self.open_low else x >= self.low
        below = x < self.high if self.open_high else x <= self.high
        return above and below

    def __str__(self) -> str:
        text = f"{'above' if self.open_low else 'at least'} {self.low:g}"
        if self.high < math.inf:
            text += f" and {'below' if self.open_high else 'at most'} {self.high:.10g}"
        return text

    def nearest(self, x: float) -> str:
        """'; the nearest is X' for a number out of the range, or nothing where the range is open there."""
        end, closed = (self.low, not self.open_low) if x <= self.low else (self.high, not self.open_high)
        return f"; the nearest is {end:.10g}" if closed else ""


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, open_low=True)]
NonNegativeFloat = Annotated[float, Range(0)]
Decay = Annotated[float, Range(0, 1, open_high=True)]  # the factor of an exponential moving average
Fraction = Annotated[float, Range(0, 1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]

# What a scalar is called, and the values that may become one.
_SCALARS: dict[Any, tuple[str, Any]] = {
    **{int: ("a whole number", int), float: ("a number", object)},  # a text too: YAML 1.1 reads 1e-3 as one
    **{bool: ("true or false", bool), str: ("a text", (str, int))},
}
_LISTS: tuple[Any, ...] = (tuple, list, Sequence)


def convert(value: Any, annotation: Any, key: str) -> Any:
    """`value` as the annotation's type; a UserError that names the key and what would be right otherwise."""
    outer, inner = get_origin(annotation), get_args(annotation)
    if outer in (Union, types.UnionType):
        if value is None and types.NoneType in inner:
            return None
        errors, listed = [], isinstance(value, (list, tuple))
        kinds = [kind for kind in inner if kind is not types.NoneType]
        for kind in sorted(kinds, key=lambda kind: (get_origin(kind) in _LISTS) is not listed):
            try:
                return convert(value, kind, key)
            except UserError as error:
                errors.append(error)
        raise errors[0]  # of the first with the value's own form, list or not
    if outer in _LISTS and inner:
        if isinstance(value, str) and inner[0] is str:
            value = [part.strip() for part in value.split(",")]
        if not isinstance(value, (list, tuple)):
            raise UserError(f"{key} is {shown(value)}; it must be a list, such as [{shown(value)}]")
        kinds = list(inner) if outer is tuple and inner[-1] is not ... else [inner[0]] * len(value)
        if len(value) != len(kinds):
            raise UserError(f"{key} is {shown(value)}; it must be a list of {len(kinds)}")
        return tuple(convert(v, kind, f"{key}[{i}]") for i, (v, kind) in enumerate(zip(value, kinds, strict=True)))
    if outer is Literal:
        return _choice(value, inner, key)
    kind, *facts = inner if outer is Annotated else (annotation,)
    if kind in _SCALARS:
        return _scalar(value, kind, next((fact for fact in facts if isinstance(fact, Range)), None), key)
    known = "int, float, bool, str, the ranges of gansmith.schema, Literal[...], Sequence[...], tuple[...], X | None"
    raise UserError(f"{key}: its type {getattr(kind, '__name__', kind)} cannot be checked; known are {known}")


def _choice(value: Any, choices: tuple[Any, ...], key: str) -> Any:
    for choice in choices:
        if value == choice and isinstance(value, bool) == isinstance(choice, bool):  # in Python, True is 1
            return choice
    names = [str(choice) for choice in choices]
    near = did_you_mean(value, names) if isinstance(value, str) else ""
    if isinstance(value, int) and all(isinstance(choice, int) for choice in choices):
        near = f"; the nearest is {min(choices, key=lambda choice: abs(choice - value))}"
    raise UserError(f"{key} is {shown(value)}; it must be one of {', '.join(names)}{near}")


def _scalar(value: Any, kind: type[Any], limits: Range | None, key: str) -> Any:
    wanted, takes = _SCALARS[kind]
    good: Any = None
    if isinstance(value, takes) and isinstance(value, bool) is (kind is bool):  # in Python, True is a whole number
        with contextlib.suppress(TypeError, ValueError, OverflowError):  # no number, or one of thousands of digits
            good = kind(value)
    near = ""
    if good is None or (kind is str and (not good or "\0" in good)) or (kind is float and not math.isfinite(good)):
        if kind is int and isinstance(value, float) and math.isfinite(value):
            whole = round(value)
            near = limits.nearest(whole) if limits and whole not in limits else f"; the nearest is {whole}"
    elif limits and good not in limits:
        near = limits.nearest(good)
    else:
        return good
    raise UserError(f"{key} is {shown(value)}; it must be {wanted}{f' {limits}' if limits else ''}{near}")


def shown(value: Any) -> str:
    """A value as an error shows it: no longer than a line."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no whole number of more than 4,300 digits
        return "a value of thousands of digits"
    return text if len(text) <= 100 else f"{text[:80]}..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean X?' for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


class Parameter(NamedTuple):
    """A keyword-only parameter of a component: a key that a recipe may set."""

    annotation: Any
    default: Any


def parameters(component: Any) -> Mapping[str, Parameter]:
    """The keyword-only parameters of a function or a class, whose defaults are values of their types."""
    found: dict[str, Parameter] = {}
    name = f"{getattr(component, '__module__', '')}:{getattr(component, '__qualname__', component)}"
    for p in (p for p in _signature(component) if p.kind is p.KEYWORD_ONLY):
        if p.annotation is p.empty or p.default is p.empty:
            raise UserError(f"{name}: the keyword-only parameter {p.name} needs a type and a default, such as int = 64")
        try:
            annotation = _evaluated(component, p)
        except Exception as error:  # a type that is written as a text is a piece of code
            raise UserError(f"{name}: the type of {p.name}, {p.annotation}, cannot be read: {error}") from None
        found[p.name] = Parameter(annotation, convert(p.default, annotation, f"{name}: the default of {p.name}"))
    return found


def _evaluated(component: Any, p: inspect.Parameter) -> Any:
    """The type of a parameter; a dataclass's field may come from a base, whose module knows what its text means."""
    if not isinstance(p.annotation, str):
        return p.annotation
    owners = [c for c in getattr(component, "__mro__", ()) if p.name in vars(c).get("__annotations__", {})]
    function = inspect.unwrap(component if inspect.isroutine(component) else component.__init__)
    return eval(p.annotation, vars(sys.modules[owners[0].__module__]) if owners else function.__globals__)


def handed(component: Any) -> tuple[str, ...]:
    """The names of the positional parameters of a function or a class: what `build.py` hands over."""
    return tuple(p.name for p in _signature(component) if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


def _signature(component: Any) -> Iterable[inspect.Parameter]:
    try:
        return inspect.signature(component).parameters.values()
    except ValueError:  # a function of C's has none to look at
        return ()

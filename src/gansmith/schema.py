"""The schema of a recipe is the code itself: types of fields, and the keyword-only parameters of components.

A component's parameters are read from its source text, not by importing it: a misspelt key is answered before
torch is loaded. By convention a component's positional parameters are what `build.py` hands over and its
keyword-only parameters, whose defaults are literals, are what a recipe may set.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import functools
import importlib.util
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

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
            text += f" and {'below' if self.open_high else 'at most'} {self._text(self.high)}"
        return text

    @staticmethod
    def _text(x: float) -> str:
        return str(x) if isinstance(x, int) else f"{x:g}"

    def nearest(self, x: float) -> str:
        closed_low, closed_high = not self.open_low, not self.open_high and self.high < math.inf
        if x <= self.low and closed_low:
            return f"; the nearest is {self.low:g}"
        if x >= self.high and closed_high:
            return f"; the nearest is {self._text(self.high)}"
        return ""


PositiveInt = Annotated[int, Range(1)]
NonNegativeInt = Annotated[int, Range(0)]
PositiveFloat = Annotated[float, Range(0, open_low=True)]
NonNegativeFloat = Annotated[float, Range(0)]
Decay = Annotated[float, Range(0, 1, open_high=True)]
"""The factor of an exponential moving average: 0 <= x < 1."""
Fraction = Annotated[float, Range(0, 1)]
Seed = Annotated[int, Range(0, 2**32 - 1)]

_ALIASES: dict[str, Any] = {
    "PositiveInt": PositiveInt,
    "NonNegativeInt": NonNegativeInt,
    "PositiveFloat": PositiveFloat,
    "NonNegativeFloat": NonNegativeFloat,
    "Decay": Decay,
    "Fraction": Fraction,
    "Seed": Seed,
}
_WORDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "a text"}


def convert(value: Any, annotation: str, key: str) -> Any:
    """`value` as the annotation's type; a UserError that names the key and what would be right otherwise."""
    return _convert(value, ast.parse(annotation, mode="eval").body, key)


def _convert(value: Any, node: ast.expr, key: str) -> Any:
    if isinstance(node, ast.BinOp):  # X | None
        return None if value is None else _convert(value, node.left, key)
    if isinstance(node, ast.Subscript):
        outer = ast.unparse(node.value)
        if outer == "Literal":
            choices = ast.literal_eval(node.slice)
            choices = choices if isinstance(choices, tuple) else (choices,)
            return _choice(value, choices, key)
        if outer in ("tuple", "Sequence", "list"):
            if isinstance(value, str) and ast.unparse(node.slice) == "str":
                value = [part.strip() for part in value.split(",")]
            if not isinstance(value, (list, tuple)):
                raise UserError(f"{key} is {value!r}; it must be a list, such as [{value}]")
            inner = node.slice.elts[0] if isinstance(node.slice, ast.Tuple) else node.slice
            return tuple(_convert(v, inner, f"{key}[{i}]") for i, v in enumerate(value))
    if isinstance(node, ast.Name):
        base, limits = get_args(_ALIASES[node.id]) if node.id in _ALIASES else (None, None)
        kind = base.__name__ if base else node.id
        if kind in _WORDS:
            return _scalar(value, kind, limits, key)
    raise UserError(
        f"{key}: its type {ast.unparse(node)} cannot be checked; known are {', '.join((*_WORDS, *_ALIASES))}"
    )


def _choice(value: Any, choices: tuple[Any, ...], key: str) -> Any:
    for choice in choices:
        if value == choice and isinstance(value, bool) == isinstance(choice, bool):  # in Python, True is 1
            return choice
    names = [str(c).lower() if isinstance(c, bool) else str(c) for c in choices]
    if isinstance(value, int) and all(isinstance(c, int) for c in choices):
        near = f"; the nearest is {min(choices, key=lambda c: abs(c - value))}"
    else:
        near = did_you_mean(str(value), names)
    raise UserError(f"{key} is {value!r}; it must be one of {', '.join(names)}{near}")


def _scalar(value: Any, kind: str, limits: Range | None, key: str) -> Any:
    ok: Any = None
    if isinstance(value, bool):
        ok = value if kind == "bool" else None
    elif kind == "float":
        with contextlib.suppress(TypeError, ValueError, OverflowError):
            ok = float(value)  # YAML 1.1 reads 1e-3 as a text
    elif kind == "int" and isinstance(value, int):
        ok = value
    elif kind == "str" and isinstance(value, (str, int)):
        ok = str(value)
    wanted = _WORDS[kind] + (f" {limits}" if limits else "")
    if ok is None or (kind == "float" and not math.isfinite(ok)):
        near = f"; the nearest is {round(value)}" if kind == "int" and _is_number(value) else ""
        raise UserError(f"{key} is {value!r}; it must be {wanted}{near}")
    if limits and ok not in limits:
        raise UserError(f"{key} is {value!r}; it must be {wanted}{limits.nearest(ok)}")
    return ok


def _is_number(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean X?' for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


# ---- components, read from source ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parameter:
    """A keyword-only parameter of a component: a key that a recipe may set."""

    annotation: str
    default: Any


@functools.cache
def _tree(module: str) -> ast.Module:
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        known = f"; did you mean {module[:-3]}:...?" if module.endswith(".py") else ""
        raise UserError(
            f"there is no Python module {module!r} to take a component from{known} (looked in the current folder and"
            " where Python finds its packages): type the command in the folder of that module, or set PYTHONPATH"
        )
    try:
        return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
    except (OSError, SyntaxError, ValueError) as error:
        raise UserError(f"cannot read {spec.origin}: {error}") from None


def table(module: str, name: str) -> dict[str, tuple[str, ...]]:
    """The rows of a literal table: row name -> the objects that the row is made of, as "module:attribute"."""
    for node in _tree(module).body:
        if not (
            isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and isinstance(node.value, ast.Dict)
        ):
            continue
        if node.target.id == name:
            rows = zip(node.value.keys, node.value.values, strict=True)
            return {ast.literal_eval(key): _row(module, value) for key, value in rows if key is not None}
    raise LookupError(f"{module} has no literal table {name}")


def _row(module: str, value: ast.expr) -> tuple[str, ...]:
    parts = value.args if isinstance(value, ast.Call) else [value]
    return tuple(f"{module}:{part.id}" for part in parts if isinstance(part, ast.Name))


def parameters(target: str) -> Mapping[str, Parameter]:
    """The keyword-only parameters of "module:attribute", a function or a class (then of its __init__)."""
    function = _signature(target)
    found: dict[str, Parameter] = {}
    if function is None:
        return found
    for arg, default in zip(function.args.kwonlyargs, function.args.kw_defaults, strict=True):
        if arg.annotation is None or default is None:
            raise UserError(
                f"{target}: the keyword-only parameter {arg.arg} needs a type and a literal default, such as"
                f" {arg.arg}: int = 64"
            )
        try:
            found[arg.arg] = Parameter(ast.unparse(arg.annotation), ast.literal_eval(default))
        except ValueError:
            raise UserError(
                f"{target}: the default of {arg.arg} is {ast.unparse(default)}; it must be a literal"
            ) from None
    return found


def handed(target: str) -> tuple[str, ...]:
    """The names of the positional parameters of "module:attribute": what `build.py` hands over."""
    function = _signature(target)
    return tuple(arg.arg for arg in function.args.args if arg.arg != "self") if function else ()


@functools.cache
def _signature(target: str) -> ast.FunctionDef | None:
    """The definition of a function, or of a class's own or inherited __init__; None where there is none to read."""
    module, _, attribute = target.partition(":")
    definitions = {n.name: n for n in _tree(module).body if isinstance(n, (ast.ClassDef, ast.FunctionDef))}
    if attribute in _values(module):  # a finished object, such as a row of a table: it takes no parameters
        return None
    if attribute not in definitions:
        raise UserError(f"{module} has no {attribute!r}{did_you_mean(attribute, definitions)}")
    node = definitions[attribute]
    if isinstance(node, ast.FunctionDef):
        return node
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == "__init__":
            return item
    imported = _imported(module)
    for base in node.bases:
        dotted, _, last = ast.unparse(base).rpartition(".")
        if not dotted and last in definitions:
            return _signature(f"{module}:{last}")
        target = f"{imported.get(dotted, '')}:{last}" if dotted else ":".join(imported.get(last, "").rsplit(".", 1))
        if target.split(".")[0].split(":")[0] in ("gansmith", module.split(".")[0]):  # to look into torch imports it
            return _signature(target)
    return None


def _values(module: str) -> set[str]:
    """The names that a module assigns at its top."""
    nodes = [n for n in _tree(module).body if isinstance(n, (ast.Assign, ast.AnnAssign))]
    targets = [t for n in nodes for t in (n.targets if isinstance(n, ast.Assign) else [n.target])]
    return {t.id for t in targets if isinstance(t, ast.Name)}


def _imported(module: str) -> dict[str, str]:
    """The names that a module imports at its top, and what they stand for, dotted."""
    found: dict[str, str] = {}
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.asname or alias.name: alias.name for alias in node.names}
    return found

"""JSON that every program reads: it has no NaN and no infinities, which `json.dumps` would write all the same."""

import json
import math
from collections.abc import Mapping
from typing import Any


def dumps(value: Any, *, indent: int | None = None) -> str:
    """`value` as JSON; nan and infinities as the texts "nan", "inf" and "-inf", which `float` understands.

    Not null: that is for what was not measured.
    """
    return json.dumps(plain(value), indent=indent, allow_nan=False)


def plain(value: Any) -> Any:
    """The same tree with those texts in it."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return str(float(value)) if isinstance(value, float) and not math.isfinite(value) else value


def numbers(value: Any) -> Any:
    """The inverse of `plain` for a tree that holds no such words as texts; what json.loads made of a bare NaN stays."""
    if isinstance(value, Mapping):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers(item) for item in value]
    return float(value) if value in ("nan", "inf", "-inf") else value

"""Receipts: a number together with how it was measured. Only numbers of one protocol are compared."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gansmith import strict_json
from gansmith._version import __version__
from gansmith.errors import UserError
from gansmith.tables import Table


@dataclass(frozen=True)
class Receipt:
    """One score of one generator."""

    metric: str  # measure, features and number of samples in one word: fd_mnist_10k
    measure: str  # the measure alone: fd
    values: Sequence[float]  # one per set of samples
    unit: str
    better: str  # higher, lower, or what a perfect generator would have: "0.01"
    real: float | None  # the same measure with real training images in place of samples: what could be reached
    protocol: Mapping[str, Any]  # all that must be equal for two values to be comparable
    subject: Mapping[str, Any]  # what was measured: run, round, raw or averaged weights, the seeds of the samples
    details: Mapping[str, Any]  # what came up on the way: the sigma chosen, a standard error over test images, ...
    note: str = ""  # what a reader of the value should know
    gansmith: str = __version__

    @property
    def value(self) -> float:
        return math.fsum(self.values) / len(self.values)

    @property
    def spread(self) -> float | None:
        """The standard deviation over sets of samples (n - 1); None for a single one."""
        if len(self.values) < 2:
            return None
        return math.sqrt(math.fsum((x - self.value) ** 2 for x in self.values) / (len(self.values) - 1))

    def better_than(self, value: float) -> bool:
        """Whether this value is better than another; any is better than nan, and nan never is."""
        if math.isnan(self.value) or self.better not in ("higher", "lower"):
            return False
        return math.isnan(value) or (self.value > value if self.better == "higher" else self.value < value)

    @property
    def best(self) -> str:
        """`better` in words."""
        return self.better if self.better in ("higher", "lower") else f"near {self.better}"

    def __str__(self) -> str:
        return f"{self.metric} {self.text()} {self.unit}".rstrip()

    def text(self) -> str:
        """The value with its interval, if it has one, else with its spread, to the second digit of the spread."""
        if "low" in self.details:
            low, high = (math.fsum(self.details[end]) / len(self.values) for end in ("low", "high"))
            return f"{number(self.value)} ({number(low)} to {number(high)})"
        if self.spread is None or not self.spread > 1e-9 * abs(self.value) or math.isinf(self.spread):
            return number(self.value)  # one set, no spread but rounding, or values that are no numbers
        decimals = max(0, 1 - math.floor(math.log10(self.spread)))
        return f"{self.value:.{decimals}f} +- {self.spread:.{decimals}f}"

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dict(strict_json.plain({**dataclasses.asdict(self), "value": self.value, "spread": self.spread}))


def called(value: str, n: int, split: str = "test") -> str:
    """The value's name with the number of samples and, unless it is the test split, what they are compared with."""
    return f"{value}_{f'{n // 1000}k' if n % 1000 == 0 else n}{'' if split == 'test' else f'_{split}'}"


def number(x: float | None) -> str:
    """Four digits that count, without an exponent where that is short; nothing for None."""
    if x is None:
        return ""
    if math.isfinite(x) and x == int(x) and abs(x) < 1e6:
        return f"{x:.0f}"
    return f"{x:.2f}" if abs(x) >= 100 else f"{x:.4g}"


def check_comparable(receipts: Sequence[Receipt]) -> None:
    """UserError that says what differs, unless all receipts are of one metric and one protocol."""
    first, *others = receipts
    for other in others:
        if other.metric != first.metric:
            raise UserError(f"{first.metric} and {other.metric} are different measures and are not compared")
        for key in {**first.protocol, **other.protocol}:
            one, two = first.protocol.get(key), other.protocol.get(key)
            if one != two:
                whose = f"{first.metric} of {first.subject.get('what')} and of {other.subject.get('what')}"
                raise UserError(f"{whose} are not compared: {key} is {one} and {two}")


def by_maker(found: Sequence[Sequence[Receipt]]) -> list[list[Sequence[Receipt]]]:
    """The columns of each table that shows several evaluations: of one maker each, or else a table for every maker."""
    tables: dict[str, list[Sequence[Receipt]]] = {}
    makers = [dict.fromkeys(receipt.subject.get("maker", "") for receipt in receipts) for receipts in found]
    for names, receipts in zip(makers, found, strict=True):
        for name in names:
            column = [receipt for receipt in receipts if receipt.subject.get("maker", "") == name]
            tables.setdefault(name if max(map(len, makers)) > 1 else "", []).append(column)
    return list(tables.values())


def table(columns: Sequence[Sequence[Receipt]]) -> Table:
    """A row for each score: each generator's value and spread, what real images reach, which end is better."""
    named: dict[str, Receipt] = {}
    for receipt in (receipt for column in columns for receipt in column):
        named.setdefault(receipt.metric, receipt)
    heads, errors = [], []
    for column in columns:
        subject = column[0].subject
        at = [str(subject["what"]), *(f"{key} {subject[key]}" for key in ("maker", "round") if key in subject)]
        heads.append(", ".join(at))
        for receipt in column:
            if "standard_error" in receipt.details:
                sigmas = [s for one in receipt.details["sigma"] for s in (one if isinstance(one, list) else [one])]
                shown = ", ".join(dict.fromkeys(map(number, sigmas)))
                error = number(max(receipt.details["standard_error"]))
                errors.append(f"{receipt.metric} of {subject['what']}: sigma {shown}, standard error {error}")
    rows = []
    for metric, first in named.items():
        values = [next((r.text() for r in column if r.metric == metric), "") for column in columns]
        unit = f" ({first.unit})" if first.unit else ""
        rows.append([f"{metric}{unit}", *values, number(first.real), first.best])
    sets = max((len(receipt.values) for receipt in named.values()), default=1)
    several = any(receipt.spread is not None and "low" not in receipt.details for receipt in named.values())
    means = f"means over {sets} sets of samples" if sets > 1 else "one set of samples"
    spread = "+-: standard deviation over sets of samples" if several else means
    notes = [f"{metric} is {receipt.note}" for metric, receipt in named.items() if receipt.note]
    head = ["score", *heads, "real images", "better"]
    return Table(head, rows, left=(0, len(head) - 1), below=[spread, *errors, *notes])


def append(receipts: Sequence[Receipt], path: Path) -> None:
    """Add receipts to a file of JSON lines, all of them or, where the disk is full, none: OSError."""
    lines = "".join(strict_json.dumps(receipt.as_dict()) + "\n" for receipt in receipts).encode()
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            written = file.write(lines)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from None
        if written < len(lines):  # half a line would spoil the file
            file.truncate(before)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def read(path: Path) -> list[Receipt]:
    """The receipts of a file of JSON lines, or none where there is no file."""
    if not path.exists():
        return []
    names, receipts = {f.name for f in dataclasses.fields(Receipt)}, []
    try:
        for line in filter(str.strip, path.read_text(encoding="utf-8").splitlines()):
            row = {key: value for key, value in json.loads(line).items() if key in names}
            # Not in the subject: a run may be called "nan".
            row |= {key: strict_json.numbers(row[key]) for key in ("values", "real", "details") if key in row}
            receipts.append(Receipt(**row))
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{path} does not hold receipts, one a line; remove it to have them made anew") from None
    return receipts

"""What a table says of pictures: attributes as bits, of which some exclude one another.

A bit has a name. "smiling" is one by itself; of all bits "hair=red", "hair=white", ... a picture has at most one.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from gansmith.errors import UserError

TABLE = "attributes.csv"  # read where it lies beside the pictures and nothing else is said
MOST = 20  # values of a column that is not yes and no; one with more, such as a name, is hardly an attribute
YES, NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "-1", "-1.0", "false", "no", "")


def read_table(path: Path, columns: Sequence[str] | None) -> tuple[tuple[str, ...], dict[str, tuple[float, ...]]]:
    """The names of the bits, and each file's row of 0 and 1, from a CSV file or a list such as CelebA's.

    The first column names the file. A column of yes and no (1 and 0, 1 and -1, true and false) is one bit; any other is
    one for each of its values. `columns` chooses; null takes all that have at most MOST values. UserError for what is
    no such table.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UserError(f"data.attributes: {path} cannot be read: {why}") from None
    if lines and lines[0].strip().isdecimal():  # CelebA's: a count, the names, then name and numbers
        head, *rows = [line.split() for line in lines[1:] if line.strip()] or [[]]
        head = ["file", *head]
    else:
        head, *rows = [row for row in csv.reader(lines) if row] or [[]]
    if len(head) < 2 or not rows:
        raise UserError(f"data.attributes: {path} is no table of files and attributes: a first line names the columns")
    for number, row in enumerate(rows, 2):
        if len(row) != len(head):
            wrong = f"row {number} of {path} has {len(row)} columns, and the first {len(head)}"
            raise UserError(f"data.attributes: {wrong}")
    found = {name: [row[i].strip() for row in rows] for i, name in enumerate(head) if i > 0}
    for name in columns or ():
        if name not in found:
            raise UserError(f"data.columns names {name}; {path} has {', '.join(found)}")
        if (n := len({*found[name]})) > MOST:
            raise UserError(f"data.columns: {name} has {n} values in {path}; an attribute has at most {MOST}")
    chosen = [name for name, own in found.items() if len({*own}) <= MOST] if columns is None else columns
    if not chosen:
        raise UserError(f"data.attributes: no column of {path} has at most {MOST} values")
    bits: dict[str, list[bool]] = {}
    for name in chosen:
        values = sorted({*found[name]} - {""})
        if {value.lower() for value in values} <= {*YES, *NO}:
            bits[name] = [value.lower() in YES for value in found[name]]
        else:
            bits |= {f"{name}={value}": [own == value for own in found[name]] for value in values}
    each = zip(*bits.values(), strict=True)
    return tuple(bits), {row[0]: tuple(map(float, own)) for row, own in zip(rows, each, strict=True)}


def group(name: str) -> str:
    """What a bit is a value of; bits of one group exclude one another."""
    return name.partition("=")[0]


def wished(names: Sequence[str], bits: Sequence[float], name: str, value: bool) -> list[float]:
    """The bits after one of them is set; those that it excludes become 0."""
    own = names.index(name)
    others = {i for i, other in enumerate(names) if i != own and "=" in name and group(other) == group(name)}
    return [float(value) if i == own else 0.0 if value and i in others else float(b) for i, b in enumerate(bits)]

"""A table of text: aligned on a terminal or in a pipe, and the same as Markdown for a file."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells, with lines of text above and below them."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: Sequence[int] = (0,)  # the columns that hold words; the others hold numbers and stand flush right
    above: Sequence[str] = ()
    below: Sequence[str] = ()

    def show(self) -> None:
        """Print it: as wide as the terminal allows, without a limit in a pipe."""
        from rich.console import Console
        from rich.table import Table as Rich

        table = Rich(box=None, pad_edge=False)
        for i, name in enumerate(self.head):
            table.add_column(name, justify="left" if i in self.left else "right", overflow="fold")
        for row in self.rows:
            table.add_row(*row)
        console = Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 10_000)
        for part in (*self.above, *[""] * bool(self.above), table, *[""] * bool(self.below), *self.below):
            console.print(part, soft_wrap=isinstance(part, str))

    def markdown(self) -> str:
        """The same, its columns aligned in the text, too."""
        lines = [[cell.replace("|", "\\|").replace("\n", "<br>") for cell in row] for row in (self.head, *self.rows)]
        wide = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]
        rule = ["-" * w if i in self.left else "-" * (w - 1) + ":" for i, w in enumerate(wide)]

        def line(cells: Sequence[str]) -> str:
            aligned = (cells[i].ljust(w) if i in self.left else cells[i].rjust(w) for i, w in enumerate(wide))
            return f"| {' | '.join(aligned)} |"

        grid = [line(lines[0]), line(rule), *map(line, lines[1:])]
        return "\n".join([*self.above, *[""] * bool(self.above), *grid, *[""] * bool(self.below), *self.below]) + "\n"

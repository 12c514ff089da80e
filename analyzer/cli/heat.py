"""A table of coloured cells, one row a layer, as many columns at a time as the terminal is wide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analyzer.errors import printable

if TYPE_CHECKING:
    from rich.text import Text

# Told apart in grey and by the colour-blind too: by the mark first.
_MARKS = {"below": ("·", "blue"), "near": ("○", "yellow"), "above": ("●", "bright_red")}


@dataclass(frozen=True, slots=True)
class Cell:
    """Text and the band it falls in: below, near or above; None for neither."""

    text: str
    band: str | None


def print_heat(cells: Mapping[str, Sequence[Cell]], *, title: str, corner: str) -> None:
    """Rows as given, columns numbered from 0; split into several tables where they do not fit."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(printable(title), style="italic"))
    count = max(len(one) for one in cells.values())
    width = 3 + max(len(cell.text) for one in cells.values() for cell in one)
    named = 4 + max(map(len, (corner, *cells)))
    step = max(1, (max(console.width, 80) - named) // width)
    for start in range(0, count, step):
        numbers = range(start, min(start + step, count))
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
        table.add_column(corner, no_wrap=True)
        for number in numbers:
            table.add_column(str(number), justify="right", no_wrap=True)
        for name, values in cells.items():
            shown = [_text(values[n]) if n < len(values) else Text("") for n in numbers]
            table.add_row(Text(printable(name)), *shown)
        console.width = max(console.width, console.measure(table).maximum)
        console.print(table)


def _text(cell: Cell) -> Text:
    from rich.text import Text

    mark, colour = _MARKS.get(cell.band or "", (" ", ""))
    return Text(f"{mark}{cell.text}", style=colour)

"""Tables for people on the terminal, the same rows as JSON or CSV for programs."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

from analyzer.errors import printable

Rows = Sequence[Mapping[str, Any]]
JSON_SCHEMA = 1
WIDTH = 160  # of a table that goes to a file or a pipe


def emit(rows: Rows, *, title: str, as_json: bool, as_csv: bool, note: str = "") -> None:
    """Print rows on stdout as a table, as one JSON object, or as CSV."""
    if as_json:
        click.echo(json.dumps({"schema": JSON_SCHEMA, "title": title, "rows": list(rows)}))
    elif as_csv:
        write_csv(rows, sys.stdout)
    else:
        _print_table(rows, title, note)


def write_csv(rows: Rows, file: Any) -> None:
    """CSV whose text cells cannot be taken for formulas by a spreadsheet."""
    if rows:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)


def _cell(value: Any) -> Any:
    return "'" + value if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def _print_table(rows: Rows, title: str, note: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    table = Table(title=Text(printable(title)), title_justify="left", box=box.SIMPLE_HEAD)
    if rows:
        for name, value in rows[0].items():
            numeric = all(isinstance(r[name], (int, float)) or r[name] is None for r in rows)
            table.add_column(name, justify="right" if numeric and value is not True else "left")
    for row in rows:
        table.add_row(*(Text(shown(value)) for value in row.values()))
    console.print(table)
    if note:
        console.print(Text(note))


def shown(value: Any) -> str:
    """A cell: at most four significant digits, a dash for NULL, names made printable."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return printable(str(value))

"""A view: the data of one picture, with the words that make it readable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
from pyarrow import csv

MOST_POINTS = 2000  # of one line: more cannot be seen


@dataclass(frozen=True, slots=True)
class View:
    """One picture or table: `table` in long form, and what must stand beside it.

    `name` is a file name's stem and the same for every store; `method` says in a sentence or two
    how the numbers were computed; `source` cites; `parameters` are what the numbers depend on.
    """

    name: str
    title: str
    table: pa.Table
    method: str
    source: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        return self.table.num_rows == 0

    def column(self, name: str) -> list[Any]:
        """The values of one column. Raises KeyError for an unknown one."""
        return self.table.column(name).to_pylist()

    def rows(self) -> list[dict[str, Any]]:
        return self.table.to_pylist()

    def groups(self, column: str) -> Iterator[tuple[Any, dict[str, list[Any]]]]:
        """The values of `column` in their order, each with the columns of its rows."""
        found: dict[Any, dict[str, list[Any]]] = {}
        for row in self.rows():
            part = found.setdefault(row[column], {name: [] for name in row})
            for name, value in row.items():
                part[name].append(value)
        yield from found.items()

    def csv(self) -> bytes:
        """All rows and columns, with a header."""
        buffer = pa.BufferOutputStream()
        csv.write_csv(self.table, buffer)
        return buffer.getvalue().to_pybytes()

    def facts(self) -> str:
        """`k = 10, epsilon = 0.5`: the parameters in a line."""
        return ", ".join(f"{name} = {_plain(value)}" for name, value in self.parameters.items())


def thinned(rank: str, count: str, points: int = MOST_POINTS) -> str:
    """SQL condition that keeps about `points` of `count` ranks (1-based), evenly spaced in log k.

    The first ranks stay all, and so does the last. Both arguments are SQL expressions.
    """
    steps = f"({points} / greatest(ln({count}), 1))"
    return (
        f"({count} <= {points} OR {rank} IN (1, {count}) OR "
        f"floor(ln({rank}) * {steps}) <> floor(ln({rank} - 1) * {steps}))"
    )


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)

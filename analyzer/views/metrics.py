"""Every metric's name, unit, definition and source, as its table defines them.

One registry feeds the dashboard's tooltips and the report's glossary.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from analyzer.analyses.tables import TABLES
from analyzer.models.manifold.tables import MANIFOLD_TABLES
from analyzer.models.spectral_tensor.tables import TUCKER_TABLES
from analyzer.store.columns import Column, columns


@cache
def registry() -> dict[tuple[str, str], Column]:
    """(table, column) → definition, for every table of a store."""
    tables = (*TABLES, *TUCKER_TABLES, *MANIFOLD_TABLES)
    return {(table.TABLE, c.name): c for table in tables for c in columns(table)}


def metric(name: str, tables: Iterable[str] = ()) -> Column | None:
    """The definition of column `name`: in `tables` if one of them has it, else the first found."""
    known = registry()
    for table in tables:
        if (table, name) in known:
            return known[table, name]
    return next((column for (_, other), column in known.items() if other == name), None)


def explained(column: Column) -> str:
    """Definition, unit and source in one line."""
    unit = f" [{column.unit}]" if column.unit else ""
    source = f" ({column.source})" if column.source else ""
    return f"{column.description}{unit}{source}"

"""Rows to DuckDB, in batches through Arrow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import fields

import duckdb
import pyarrow as pa

from analyzer.store.columns import Row, columns

_ARROW_TYPES = {
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "VARCHAR": pa.string(),
    "BOOLEAN": pa.bool_(),
}


def insert(connection: duckdb.DuckDBPyConnection, rows: Iterable[Row]) -> None:
    """Append rows to their tables, one Arrow table a row type."""
    by_type: dict[type[Row], list[Row]] = defaultdict(list)
    for row in rows:
        by_type[type(row)].append(row)
    for row_type, members in by_type.items():
        batch = to_arrow(row_type, members)
        connection.register("batch", batch)
        names = ", ".join(f'"{name}"' for name in batch.column_names)
        connection.execute(f'INSERT INTO "{row_type.TABLE}" ({names}) SELECT {names} FROM batch')
        connection.unregister("batch")


def to_arrow(row_type: type[Row], rows: list[Row]) -> pa.Table:
    """Arrow table of rows of one type; NaN and infinities become NULL."""
    arrays = {}
    for field, spec in zip(fields(row_type), columns(row_type), strict=True):  # type: ignore[arg-type]
        values = [getattr(row, field.name) for row in rows]
        arrays[field.name] = pa.array(
            [_finite(value) for value in values] if spec.sql_type == "DOUBLE" else values,
            type=_ARROW_TYPES[spec.sql_type],
        )
    return pa.table(arrays)


def _finite(value: float | None) -> float | None:
    return None if value is None or value != value or abs(value) == float("inf") else float(value)

"""Rows to DuckDB, in batches through Arrow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from analyzer.store.columns import Row, columns
from analyzer.store.schema import SpectrumRow

_ARROW_TYPES = {
    "BIGINT": pa.int64(),
    "DOUBLE": pa.float64(),
    "VARCHAR": pa.string(),
    "BOOLEAN": pa.bool_(),
}


@dataclass(frozen=True, slots=True)
class SpectrumValues:
    """All singular values (p,) of one matrix and kind, descending: many `SpectrumRow`s at once."""

    matrix_id: int
    kind: str
    sigma: NDArray[np.float64]


def insert(connection: duckdb.DuckDBPyConnection, rows: Iterable[Row | SpectrumValues]) -> None:
    """Append rows to their tables, one Arrow table a row type."""
    by_type: dict[type[Row], list[Row]] = defaultdict(list)
    spectra: list[SpectrumValues] = []
    for row in rows:
        if isinstance(row, SpectrumValues):
            spectra.append(row)
        else:
            by_type[type(row)].append(row)
    for row_type, members in by_type.items():
        _append(connection, row_type.TABLE, to_arrow(row_type, members))
    if spectra:
        _append(connection, SpectrumRow.TABLE, _spectra_to_arrow(spectra))


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


def _spectra_to_arrow(spectra: Sequence[SpectrumValues]) -> pa.Table:
    """Long rows (matrix_id, kind, k, sigma)."""
    sizes = [one.sigma.size for one in spectra]
    return pa.table(
        {
            "matrix_id": np.repeat([one.matrix_id for one in spectra], sizes),
            "kind": pa.array(np.repeat([one.kind for one in spectra], sizes)),
            "k": np.concatenate([np.arange(1, size + 1) for size in sizes]),
            "sigma": np.concatenate([one.sigma for one in spectra]),
        }
    )


def _append(connection: duckdb.DuckDBPyConnection, table: str, batch: pa.Table) -> None:
    names = ", ".join(f'"{name}"' for name in batch.column_names)
    connection.register("batch", batch)
    connection.execute(f'INSERT INTO "{table}" ({names}) SELECT {names} FROM batch')
    connection.unregister("batch")


def _finite(value: float | None) -> float | None:
    return None if value is None or value != value or abs(value) == float("inf") else float(value)

"""Stores that a report must cope with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from analyzer.analyses.tables import TABLES
from analyzer.models.manifold.tables import MANIFOLD_TABLES
from analyzer.models.spectral_tensor.tables import TUCKER_TABLES
from analyzer.store.columns import columns
from analyzer.store.connection import create, writer

Rows = dict[str, Sequence[dict[str, object]]]


@pytest.fixture
def make_store(tmp_path: Path) -> Callable[..., Path]:
    """`make_store(tail=[{...}], …)`: every table, with these rows; what is not given is NULL."""

    def make(**rows: Sequence[dict[str, object]]) -> Path:
        db = tmp_path / "handmade.duckdb"
        tables = {t.TABLE: t for t in (*TABLES, *TUCKER_TABLES, *MANIFOLD_TABLES)}
        create(db, tuple(tables.values()))
        with writer(db) as connection:
            for name, given in rows.items():
                fields = [c.name for c in columns(tables[name])]
                for row in given:
                    assert set(row) <= set(fields), set(row) - set(fields)
                    marks = ", ".join("?" * len(fields))
                    values = [row.get(field) for field in fields]
                    connection.execute(f"INSERT INTO {name} VALUES ({marks})", values)
        return db

    return make

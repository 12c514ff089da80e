"""Reading the store: Arrow tables out of a hardened read-only connection."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyzer.errors import StoreCorrupt, UsageError
from analyzer.store.connection import reader

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Store:
    """A store opened for reading; every query opens and closes the file, so writers get in.

    With `threads` = 1 the same query gives the same digits every time.
    """

    db: Path
    threads: int | None = None

    def sql(self, query: str, parameters: Sequence[Any] = ()) -> pa.Table:
        """The result of one query. Raises UsageError with DuckDB's message for a bad query."""
        import duckdb
        import pyarrow as pa

        with reader(self.db, self.threads) as connection:
            try:
                relation = connection.sql(query, params=list(parameters) or None)
                # None where the statement has no result
                return relation.to_arrow_table() if relation is not None else pa.table({})
            except (duckdb.IOException, duckdb.FatalException) as error:
                line = str(error).strip().splitlines()[0]
                hint = "move it aside and scan again"
                raise StoreCorrupt(f"cannot be read: {line}", path=self.db, hint=hint) from None
            except duckdb.Error as error:
                line = str(error).strip().splitlines()[0]
                raise UsageError(line, path=self.db) from None

    def table(self, name: str) -> pa.Table:
        """All rows of one table. Raises UsageError naming the tables that exist."""
        names = self.tables()
        if name not in names:
            raise UsageError(
                f"no table named {name}", path=self.db, hint=f"tables: {', '.join(names)}"
            )
        return self.sql(f'SELECT * FROM "{name}"')

    def tables(self) -> list[str]:
        """Names of the tables, sorted."""
        found = self.sql(
            "SELECT table_name FROM duckdb_tables() WHERE database_name = 'store' ORDER BY ALL"
        )
        return found.column(0).to_pylist()


def connect(db: str | Path | None = None) -> Store:
    """Open a store read-only: `db`, else ``$ANALYZER_DB``, else ``./analyzer.duckdb``.

    Raises StoreError when there is no such file.
    """
    store = Store(default_store(db))
    with reader(store.db):
        return store


def default_store(db: str | Path | None = None) -> Path:
    """`db`, else ``$ANALYZER_DB``, else ``./analyzer.duckdb``."""
    return Path(db or os.environ.get("ANALYZER_DB") or "analyzer.duckdb")

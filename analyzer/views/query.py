"""A reader's own query on the store, and what there is to ask for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from analyzer.errors import UsageError
from analyzer.store.connection import reader
from analyzer.store.reading import Store
from analyzer.views.metrics import registry
from analyzer.views.view import View

PAGE = 1000  # rows of a page
MOST = 1_000_000  # rows of a download
PATIENCE = 20.0  # seconds that a query may take

EXAMPLES = (
    (
        "Matrices with most intruder dimensions",
        "SELECT c.name AS checkpoint, m.name AS matrix, i.n_intruders, i.delta_fro_ratio\n"
        "FROM intruder i JOIN matrix m USING (matrix_id) JOIN checkpoint c USING (checkpoint_id)\n"
        "WHERE side = 'left' ORDER BY n_intruders DESC, delta_fro_ratio DESC",
    ),
    (
        "Median alpha by role",
        "SELECT c.name AS checkpoint, role, median(alpha) AS alpha, count(*) AS n\n"
        "FROM tail t JOIN matrix m USING (matrix_id) JOIN checkpoint c USING (checkpoint_id)\n"
        "WHERE t.kind = 'weight' GROUP BY ALL ORDER BY ALL",
    ),
    (
        "What was refused or failed",
        "SELECT c.name AS checkpoint, m.name AS matrix, m.status, m.detail\n"
        "FROM matrix m JOIN checkpoint c USING (checkpoint_id) WHERE status <> 'ok'",
    ),
    (
        "The ten largest singular values of every update",
        "SELECT c.name AS checkpoint, m.name AS matrix, k, sigma\n"
        "FROM spectrum s JOIN matrix m USING (matrix_id) JOIN checkpoint c USING (checkpoint_id)\n"
        "WHERE s.kind = 'delta' AND k <= 10 ORDER BY ALL",
    ),
)


def rows(store: Store, query: str, offset: int = 0, limit: int = PAGE) -> View:
    """At most `limit` rows of a query's result from `offset` on, on the hardened connection.

    Raises UsageError, with one line of DuckDB's message, for a bad query and for one that takes
    longer than `PATIENCE` or more memory than there is.
    """
    with reader(store.db) as connection, _in_words(), _stopped(connection):
        relation = connection.sql(_bare(query))
        # a statement without a result has no relation
        table = relation.limit(limit, offset).to_arrow_table() if relation else pa.table({})
    return View("query", "Result", table, " ".join(query.split()))


def _bare(query: str) -> str:
    """The query without remarks and semicolons at its end: it becomes part of a larger one."""
    text = query.encode()  # places of tokens are counted in bytes
    for at, kind in reversed(duckdb.tokenize(query)):
        if kind != duckdb.token_type.comment and text[at:].strip() != b";":
            break
        text = text[:at].rstrip()
    return text.decode()


@contextmanager
def _in_words() -> Iterator[None]:
    try:
        yield
    except duckdb.InterruptException:
        hint = "add conditions, or ask in the terminal with `analyzer sql`"
        raise UsageError(f"the query took longer than {PATIENCE:g} s", hint=hint) from None
    except duckdb.Error as error:
        raise UsageError(str(error).strip().splitlines()[0]) from None


@contextmanager
def _stopped(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Interrupts whatever runs on the connection when patience ends."""
    timer = threading.Timer(PATIENCE, connection.interrupt)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def tables(store: Store) -> View:
    """One row a table: `table`, about how many `rows`, and its `columns`."""
    found = store.sql(
        """
        SELECT table_name AS "table", estimated_size::BIGINT AS "rows",
               (SELECT string_agg(column_name, ', ' ORDER BY column_index) FROM duckdb_columns() c
                WHERE c.table_oid = t.table_oid AND c.database_name = 'store') AS columns
        FROM duckdb_tables() t WHERE database_name = 'store' ORDER BY 1
        """
    )
    return View("tables", "Tables", found, "")


def columns(table: str) -> View:
    """One row a column of `table` with its type, unit, definition and source."""
    found = [c for (name, _), c in registry().items() if name == table]
    names = ("name", "sql_type", "unit", "description", "source")
    data = {name: pa.array([getattr(c, name) for c in found], pa.string()) for name in names}
    return View("columns", f"Columns of {table}", pa.table(data), "")

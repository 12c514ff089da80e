"""Any number of any table by layer and role: one cell a place in the network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from analyzer.errors import UsageError
from analyzer.store.columns import Column
from analyzer.store.reading import Store
from analyzer.views.cells import cells, place_order, role_order
from analyzer.views.metrics import explained, registry
from analyzer.views.pairing import CHECKPOINT, pairs
from analyzer.views.view import View

Fixed = tuple[tuple[str, str | int | float], ...]  # (column, its value), as side = left

WIDE_RANGE = 50.0  # largest over smallest value from which on a colour scale is logarithmic
_NUMBERS = ("BIGINT", "DOUBLE", "BOOLEAN")


def definition(metric: str, fixed: Fixed = ()) -> Column:
    """The definition of `table.column`, a number whose rows belong to matrices.

    Raises UsageError for anything else, and for a column of `fixed` that the table has not: these
    names stand in queries and come from addresses.
    """
    table, _, name = metric.partition(".")
    found = registry().get((table, name))
    unknown = [column for column, _ in fixed if (table, column) not in registry()]
    if found is None or found.sql_type not in _NUMBERS or (table, "matrix_id") not in registry():
        raise UsageError(f"no number of matrices named {metric}")
    if unknown:
        raise UsageError(f"table {table} has no column {unknown[0]}")
    return found


def values(metric: str, fixed: Fixed, among: str) -> tuple[str, list[str | int | float]]:
    """SQL of (matrix_id, value) and its parameters; `among` is SQL that gives matrix numbers.

    Several rows of one matrix (heads, steps) become their median. Only finite values.
    """
    column = definition(metric, fixed)
    table = metric.partition(".")[0]
    conditions = "".join(f' AND "{name}" = ?' for name, _ in fixed)
    query = (
        f'SELECT matrix_id, median(CAST("{column.name}" AS DOUBLE)) AS value FROM "{table}"'
        f' WHERE matrix_id IN ({among}) AND isfinite(CAST("{column.name}" AS DOUBLE)){conditions}'
        " GROUP BY matrix_id"
    )
    return query, [value for _, value in fixed]


def heat(
    store: Store, checkpoint: str, metric: str, fixed: Fixed = (), against: str | None = None
) -> View:
    """Medians of `metric` (`table.column`) over the matrices of each layer and role.

    Columns: `place` (layer, with its stack where there are several), `stack`, `layer`, `role`,
    `n` matrices, `value`, `low`, `high`, `matrices` (up to three names). With `against`, value
    minus that of the same matrix of that checkpoint. Raises UsageError for an unknown metric.
    """
    column = definition(metric, fixed)
    if against is None:
        query, own = values(metric, fixed, "SELECT matrix_id FROM own")
        source = f"SELECT matrix_id, value FROM ({query})"
        parameters: list[Any] = [checkpoint, *own]
    else:
        source, parameters = _changes(store, checkpoint, metric, fixed, against)
    found = store.sql(
        f"""
        WITH own AS (SELECT * FROM matrix WHERE checkpoint_id = {CHECKPOINT}),
        v AS ({source})
        SELECT stack, layer, role, count(*) AS n, median(value) AS value, min(value) AS low,
               max(value) AS high, list(name ORDER BY expert, name)[1:4] AS matrices
        FROM own JOIN v USING (matrix_id) GROUP BY stack, layer, role
        """,
        parameters,
    )
    title = f"Change of {column.name}" if against is not None else column.name
    return View(
        f"heat_{column.name}" if against is None else f"heat_change_{column.name}",
        f"{title} by layer and role: {checkpoint}",
        cells(found),
        explained(column).rstrip(".") + ". Several matrices of one cell: their median.",
        parameters=dict(fixed) | ({"against": against} if against is not None else {}),
    )


def _changes(
    store: Store, checkpoint: str, metric: str, fixed: Fixed, against: str
) -> tuple[str, list[Any]]:
    """SQL of (matrix_id, value of the checkpoint − value of `against`), and all parameters."""
    both = pairs(store, against, checkpoint)
    query, own = values(metric, fixed, "SELECT a FROM p UNION ALL SELECT b FROM p")
    source = f"""
        WITH p AS (SELECT unnest(?::BIGINT[]) AS a, unnest(?::BIGINT[]) AS b),
        x AS ({query})
        SELECT b AS matrix_id, after.value - before.value AS value
        FROM p JOIN x before ON before.matrix_id = a JOIN x after ON after.matrix_id = b
    """
    return source, [checkpoint, list(both.first), list(both.second), *own]


def places(view: View) -> list[str]:
    """Labels of the layers in order: stack by stack, what is outside the layers first."""
    found = {row["place"]: place_order(row) for row in view.rows()}
    return sorted(found, key=lambda place: found[place])


def label(view: View) -> str:
    """What the colours show: the title up to `by layer`."""
    return view.title.partition(" by layer")[0]


def roles(view: View) -> list[str]:
    """Roles in the order of the forward pass."""
    return sorted(set(view.column("role")), key=role_order)


def scale(view: View) -> Literal["linear", "log", "diverging"]:
    """How colours should follow the values: around 0 for changes, by magnitude for wide ranges."""
    found = view.column("value")
    if "against" in view.parameters or (found and min(found) < 0 < max(found)):
        return "diverging"
    wide = bool(found) and min(found) > 0 and max(found) > WIDE_RANGE * min(found)
    return "log" if wide else "linear"


def cell_matrices(
    store: Store, checkpoint: str, stack: str | None, layer: int | None, role: str
) -> list[str]:
    """Names of the matrices of one cell, experts in order."""
    found = store.sql(
        f"""
        SELECT name FROM matrix WHERE checkpoint_id = {CHECKPOINT} AND rows > 0
            AND stack IS NOT DISTINCT FROM ? AND layer IS NOT DISTINCT FROM ? AND role = ?
        ORDER BY expert NULLS FIRST, name
        """,
        [checkpoint, stack, layer, role],
    )
    return found.column(0).to_pylist()


def metrics(store: Store, checkpoint: str, tables: Sequence[str]) -> list[str]:
    """`table.column` of every number that the `tables` hold about a checkpoint's matrices."""
    lines = " UNION ALL ".join(
        f"SELECT '{table}' WHERE EXISTS (SELECT 1 FROM \"{table}\" JOIN own USING (matrix_id))"
        for table in tables
        if (table, "matrix_id") in registry()
    )
    own = f"WITH own AS (SELECT matrix_id FROM matrix WHERE checkpoint_id = {CHECKPOINT})"
    known = store.sql(f"{own} {lines}", [checkpoint]).column(0).to_pylist() if lines else []
    return [
        f"{table}.{name}"
        for (table, name), column in registry().items()
        if table in known and column.sql_type in _NUMBERS and name not in _KEYS
    ]


_KEYS = frozenset({"matrix_id", "k", "j", "seed", "null_draws", "gof_replicates", "epsilon"})


def kinds(store: Store, checkpoint: str, table: str, column: str) -> list[str]:
    """The values that a column such as `kind` or `side` of a table takes for a checkpoint."""
    if (table, column) not in registry():
        return []
    query = (
        f'SELECT DISTINCT t."{column}" FROM "{table}" t JOIN matrix USING (matrix_id)'
        f" WHERE checkpoint_id = {CHECKPOINT}"
    )
    return sorted(store.sql(query, [checkpoint]).column(0).to_pylist())

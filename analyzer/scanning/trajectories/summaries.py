"""What is said of a whole run once its matrices are followed: correlations and memory."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import product
from typing import TYPE_CHECKING

import duckdb
import numpy as np

from analyzer.analyses.rows_emergence import EmergenceCorrelationRow, GaloreMemoryRow
from analyzer.store.columns import Row
from analyzer.store.writing import insert
from theory.low_rank_memory import Convention, memory, total_elements
from theory.low_rank_memory import Method as Training

if TYPE_CHECKING:
    from theory.gradient_maps import Correlation, Method

# What is held against the rank of the weights at the end of the run.
NUMBERS = (
    "stable_rank_end", "energy_r_end", "cos_all", "cos_late", "overlap_late", "signal_fraction",
)  # fmt: skip
OUTCOMES = ("pruned_ratio", "weight_erank_ratio")
SMALLEST_POWER = 2  # ranks 4, 8, … up to the shortest side of any followed matrix
METHODS: tuple[Method, ...] = ("spearman", "pearson")
TRAININGS: tuple[Training, ...] = ("full", "lora", "galore", "fira")
CONVENTIONS: tuple[Convention, ...] = ("exact", "paper")

# Matrices that the last checkpoint lacks belong to an earlier one: a run is summed up at its last.
# Runs of several folders may share a name.
_RUNS = """
    SELECT e.run, arg_max(checkpoint_id, coalesce(c.step, 0)), arg_max(kind, coalesce(c.step, 0))
    FROM emergence e JOIN matrix USING (matrix_id) JOIN checkpoint c USING (checkpoint_id)
    GROUP BY e.run, left(c.path, length(c.path) - length(c.name))
"""
_MATRICES = f"""
    SELECT source, batch_id, type, {", ".join(NUMBERS)},
           rank_pruned / least(rows, cols) AS pruned_ratio,
           effective_rank / least(rows, cols) AS weight_erank_ratio
    FROM emergence e JOIN matrix m USING (matrix_id) LEFT JOIN welore USING (matrix_id)
         LEFT JOIN spectrum_info s ON s.matrix_id = m.matrix_id AND s.kind = 'weight'
    WHERE e.run = ? AND m.checkpoint_id = ? AND n_steps > 0
    ORDER BY matrix_id
"""


def pending_runs(connection: duckdb.DuckDBPyConnection) -> list[tuple[str, int]]:
    """Runs, with their last checkpoint, that were followed but not summed up."""
    correlated, counted = (
        set(connection.execute(f'SELECT DISTINCT run, checkpoint_id FROM "{table}"').fetchall())
        for table in (EmergenceCorrelationRow.TABLE, GaloreMemoryRow.TABLE)
    )
    return [
        (run, checkpoint_id)
        for run, checkpoint_id, kind in connection.execute(_RUNS).fetchall()
        if ((run, checkpoint_id) not in counted and kind != "adapter")
        or ((run, checkpoint_id) not in correlated and _has_pairs(connection, run, checkpoint_id))
    ]


def _has_pairs(connection: duckdb.DuckDBPyConnection, run: str, checkpoint_id: int) -> bool:
    """Whether any source of a run has numbers to hold against any of the weights'."""
    both = [f"count(coalesce({', '.join(names)})) > 0" for names in (NUMBERS, OUTCOMES)]
    found = connection.execute(
        f"SELECT source FROM ({_MATRICES}) GROUP BY source, batch_id HAVING {' AND '.join(both)}",
        [run, checkpoint_id],
    )
    return bool(found.fetchall())


def write_runs(connection: duckdb.DuckDBPyConnection) -> None:
    """Sum up every followed run anew: weights may have been analysed since."""
    for table in (EmergenceCorrelationRow.TABLE, GaloreMemoryRow.TABLE):
        connection.execute(f'DELETE FROM "{table}"')
    for run, checkpoint_id, _ in connection.execute(_RUNS).fetchall():
        rows: list[Row] = list(_correlations(connection, run, checkpoint_id))
        rows += _memory(connection, run, checkpoint_id)
        insert(connection, rows)


def _correlations(
    connection: duckdb.DuckDBPyConnection, run: str, checkpoint_id: int
) -> Iterator[EmergenceCorrelationRow]:
    # Only where there is work: it needs SciPy.
    from theory.gradient_maps import rank_correlation, within_groups

    found = connection.execute(_MATRICES, [run, checkpoint_id])
    names = [column[0] for column in found.description or ()]
    series: dict[tuple[str, str | None], list[dict[str, object]]] = defaultdict(list)
    for values in found.fetchall():
        row = dict(zip(names, values, strict=True))
        series[row["source"], row["batch_id"]].append(row)
    for (source, batch_id), rows in series.items():
        types = [str(row["type"]) for row in rows]
        for x, y, method in product(NUMBERS, OUTCOMES, METHODS):
            if all(row[x] is None for row in rows) or all(row[y] is None for row in rows):
                continue
            a, b = (np.array([row[name] for row in rows], dtype=float) for name in (x, y))
            grouped: dict[object, Correlation] = {"all": rank_correlation(a, b, method)}
            grouped |= within_groups(a, b, types, method) if len(set(types)) > 1 else {}
            for group, one in grouped.items():
                yield EmergenceCorrelationRow(
                    checkpoint_id=checkpoint_id, run=run, source=source, batch_id=batch_id,
                    x=x, y=y, method=method, group=str(group),
                    n=one.n, rho=one.rho, p=one.p, reason=one.reason,
                )  # fmt: skip


def _memory(
    connection: duckdb.DuckDBPyConnection, run: str, checkpoint_id: int
) -> Iterator[GaloreMemoryRow]:
    """Of the whole model: followed matrices by each method, everything else with full states."""
    ((kind, n_params),) = connection.execute(
        "SELECT kind, n_params FROM checkpoint WHERE checkpoint_id = ?", [checkpoint_id]
    ).fetchall()
    shapes = connection.execute(
        "SELECT DISTINCT matrix_id, rows, cols FROM emergence JOIN matrix USING (matrix_id)"
        " WHERE run = ? AND checkpoint_id = ? ORDER BY matrix_id",
        [run, checkpoint_id],
    ).fetchall()
    matrices = [(rows, cols) for _, rows, cols in shapes]
    if kind == "adapter" or not matrices:
        return
    rest = n_params - sum(rows * cols for rows, cols in matrices)
    shortest_side = min(min(shape) for shape in matrices)
    ranks = [2**i for i in range(SMALLEST_POWER, shortest_side.bit_length())]
    for convention, method in product(CONVENTIONS, TRAININGS):
        for rank in ranks if method != "full" else [None]:
            counted = total_elements(
                matrices, rank or 1, method, convention, full_state=[(rest,)] if rest > 0 else []
            )
            size = memory(counted, weight_bytes=2, optimizer_bytes=2, unit="GB")
            yield GaloreMemoryRow(
                checkpoint_id=checkpoint_id, run=run, convention=convention, method=method,
                rank=rank, weights=counted.weights, optimizer=counted.optimizer,
                gradient=counted.gradient, bf16_gigabytes=size,
            )  # fmt: skip

"""Finished units to the store, a batch a transaction, so that nothing finished is lost."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from analyzer.analyses.tables import KINDS_OF, SHARED_TABLES, TABLES_OF
from analyzer.scanning.drafts import Problem
from analyzer.scanning.jobs import Unit
from analyzer.store.connection import writer
from analyzer.store.schema import EventRow
from analyzer.store.writing import insert

if TYPE_CHECKING:
    from analyzer.scanning.compute import Outcome
    from analyzer.scanning.nulls import Nulls

BATCH_UNITS, BATCH_SECONDS = 64, 5.0


def batches(outcomes: Iterator[Outcome]) -> Iterator[list[Outcome]]:
    """Groups of 64 units or 5 seconds, whichever comes first; the rest when interrupted."""
    batch: list[Outcome] = []
    since = time.monotonic()
    try:
        for outcome in outcomes:
            batch.append(outcome)
            if len(batch) >= BATCH_UNITS or time.monotonic() - since > BATCH_SECONDS:
                yield batch
                batch, since = [], time.monotonic()
    finally:
        if batch and sys.exc_info()[0] is not GeneratorExit:
            yield batch


def write_batch(db: Path, scan_id: int, batch: Sequence[Outcome], nulls: Nulls) -> list[Outcome]:
    """One transaction: rows, marks of finished units, statuses. Returns what failed."""
    # What fails two passes over the same matrix is one failure.
    failures = list({(o.unit.entry.matrix_id, o.detail): o for o in batch if o.failed}.values())
    # A crashed unit brings nothing that could take the place of what is stored.
    settled = [outcome for outcome in batch if outcome.rows]
    with writer(db) as connection:
        _drop_earlier(connection, settled)
        _set_status(connection, [o for o in batch if isinstance(o.unit, Unit)])
        insert(connection, [row for outcome in batch for row in outcome.rows])
        nulls.save(connection)
        insert(
            connection,
            [
                event(scan_id, Problem(row.name, o.status, o.detail or o.status, row.checkpoint_id))
                for o in failures
                for row in (o.unit.entry.row,)
            ],
        )
    nulls.saved()
    return failures


def _set_status(connection: duckdb.DuckDBPyConnection, outcomes: Sequence[Outcome]) -> None:
    """What became of each matrix; a failure takes nothing away from what is stored."""
    if outcomes:
        connection.executemany(
            "UPDATE matrix SET status = ?, detail = ? WHERE matrix_id = ?"
            " AND (? OR matrix_id NOT IN (SELECT matrix_id FROM done))",
            [[o.status, o.detail, o.unit.entry.matrix_id, bool(o.rows)] for o in outcomes],
        )


def _drop_earlier(connection: duckdb.DuckDBPyConnection, batch: Sequence[Outcome]) -> None:
    """Rows of units that were stored before: with other parameters, or by a scan beside this."""
    for analysis, tables in TABLES_OF.items():
        numbers = [n for o in batch if analysis in o.unit.params for n in o.unit.matrix_ids]
        again = connection.execute(
            "SELECT DISTINCT matrix_id FROM done WHERE analysis = ?"
            " AND matrix_id IN (SELECT unnest(?))",
            [analysis, numbers],
        ).fetchall()
        before = {number for (number,) in again}
        # A unit that covers several matrices is marked at one of them, which may be gone.
        stale = [
            n
            for o in batch
            if analysis in o.unit.params
            and (len(o.unit.matrix_ids) > 1 or before & set(o.unit.matrix_ids))
            for n in o.unit.matrix_ids
        ]
        if not stale:
            continue
        connection.execute(
            "DELETE FROM done WHERE analysis = ? AND matrix_id IN (SELECT unnest(?))",
            [analysis, stale],
        )
        for table in tables:
            condition = "matrix_id IN (SELECT unnest(?))"
            values: list[object] = [stale]
            if table in SHARED_TABLES:
                condition += f" AND {SHARED_TABLES[table]} IN (SELECT unnest(?))"
                values.append(list(KINDS_OF[analysis]))
            connection.execute(f'DELETE FROM "{table.TABLE}" WHERE {condition}', values)


def event(scan_id: int, problem: Problem) -> EventRow:
    level = "warning" if problem.code == "warning" else "error"
    return EventRow(
        now(), level, scan_id, problem.checkpoint_id, problem.name, problem.code, problem.message
    )


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

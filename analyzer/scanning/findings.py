"""What a scan tells at its end: what could not be analysed, and what looks wrong."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from analyzer.scanning.drafts import Entry, Problem, is_gone
from analyzer.store.connection import reader

if TYPE_CHECKING:
    from analyzer.scanning.compute import Outcome

# ‖ΔW‖_F/‖W0‖_F above which a whole checkpoint was hardly tuned from its base; two independent
# matrices of equal norm differ by √2.
WRONG_BASE = 0.75
MOST_ALIKE = 3


def findings(
    db: Path, entries: Sequence[Entry], problems: Sequence[Problem], failed: Sequence[Outcome]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Errors (exit code 3) and warnings of this collection, met this time or before.

    What `failed` this time may have good results of an earlier scan, which the store keeps.
    """
    numbers = [entry.matrix_id for entry in entries]
    with reader(db) as connection:
        failures = _failures(connection, numbers)
        suspicious = _suspicious(connection, numbers) + _gone(connection)
    errors = [p.message for p in problems if p.code != "warning"]
    warnings = [f"{p.name}: {p.message}" for p in problems if p.code == "warning"]
    failures += [line for line in map(_line, failed) if line not in failures]
    return (*errors, *failures), (*warnings, *suspicious)


def _gone(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Checkpoints in the store that are not on disk any more."""
    known = connection.execute("SELECT name, path FROM checkpoint ORDER BY name").fetchall()
    return [
        f"{name}: no longer at {path}; its results stay in the store"
        for name, path in known
        if is_gone(path)
    ]


def _line(outcome: Outcome) -> str:
    entry = outcome.unit.entry
    return f"{entry.checkpoint.name}: {_naming(entry.row.name, outcome.detail or outcome.status)}"


def _failures(connection: duckdb.DuckDBPyConnection, numbers: list[int]) -> list[str]:
    """Matrices without results, and why."""
    found = connection.execute(
        "SELECT c.name, m.name, m.status, m.detail FROM matrix m"
        " JOIN checkpoint c USING (checkpoint_id)"
        " WHERE m.status NOT IN ('ok', 'zero_delta', 'new_module')"
        " AND matrix_id IN (SELECT unnest(?)) ORDER BY matrix_id",
        [numbers],
    ).fetchall()
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for checkpoint, name, status, detail in found:
        line = f"{checkpoint}: {_naming(name, detail or status)}"
        alike[checkpoint, line.replace(name, "")].append(line)
    return [line for lines in alike.values() for line in _folded(lines)]


def _folded(lines: list[str]) -> list[str]:
    """Lines that differ in the matrix only: the first stands for many."""
    if len(lines) <= MOST_ALIKE:
        return lines
    return [f"{lines[0]} (and {len(lines) - 1} more matrices alike)"]


def _naming(name: str, detail: str) -> str:
    return detail if name in detail else f"{name}: {detail}"


def _suspicious(connection: duckdb.DuckDBPyConnection, numbers: list[int]) -> list[str]:
    """Checkpoints that differ from their base as much as from a stranger."""
    found = connection.execute(
        "SELECT c.name, median(delta_fro_ratio) AS ratio FROM intruder"
        " JOIN matrix m USING (matrix_id) JOIN checkpoint c USING (checkpoint_id)"
        " WHERE side = 'left' AND matrix_id IN (SELECT unnest(?))"
        " GROUP BY c.name HAVING ratio > ? ORDER BY c.name",
        [numbers, WRONG_BASE],
    ).fetchall()
    return [
        f"{name}: the update is {ratio:.2f} times as large as the base (median of ‖ΔW‖/‖W‖):"
        " is this its base?"
        for name, ratio in found
    ]

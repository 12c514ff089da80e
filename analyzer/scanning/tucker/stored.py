"""Which fits a store has, and for which runs there could be one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import duckdb

from analyzer.errors import UsageError
from analyzer.models.spectral_tensor.observations import (
    RunOfStore,
    inputs_of,
    runs_of,
)
from analyzer.models.spectral_tensor.settings import Settings
from analyzer.models.spectral_tensor.tables import (
    TUCKER_TABLES,
    TuckerAnomalyRow,
    TuckerFitRow,
    TuckerPredictionRow,
)
from analyzer.store.connection import create, reader, writer
from analyzer.store.writing import insert

FOLDER = ".analyzer-fits"  # hidden, so that no scan takes a fit for a checkpoint
FEWEST_DEPTHS = 4
CODE_VERSION = 1


def runs_to_fit(db: Path) -> list[RunOfStore]:
    """Runs and checkpoints whose weights were scanned at four depths or more."""
    with reader(db) as connection:
        return [run for run in runs_of(connection) if _depths(connection, run) >= FEWEST_DEPTHS]


def pending_fits(
    db: Path, settings: Settings, *, force: bool = False
) -> tuple[list[RunOfStore], int]:
    """Runs at four depths or more that have no fit of these spectra (with `force` all of them), and
    how many are left."""
    prepare(db)
    runs = runs_to_fit(db)
    with reader(db) as connection:
        missing = [
            run
            for run in runs
            if force
            or stored_fit(connection, run.name, inputs_of(connection, run), params_of(settings))
            is None
        ]
    return missing, len(runs) - len(missing)


def find_run(db: Path, name: str | None) -> RunOfStore:
    """The run of this name; without one, the only run, else the one of most steps.

    Raises UsageError naming the runs there are.
    """
    with reader(db) as connection:
        runs = runs_of(connection)
    named = [run for run in runs if run.name == name]
    if name is None and runs:
        return max(runs, key=lambda run: len(run.checkpoint_ids))
    if not runs:
        raise UsageError("no checkpoint with spectra", path=db, hint="scan one first")
    if not named:
        names = ", ".join(run.name for run in runs) or "none"
        raise UsageError(f"no run or checkpoint named {name}", path=db, hint=f"there are: {names}")
    return named[0]


def keep_predictions(db: Path, rows: Sequence[TuckerPredictionRow]) -> None:
    """Predictions beside those of the fit; places that are there already take the new values."""
    keys = [(row.fit_id, row.role, row.depth, row.step, row.quantile) for row in rows]
    with writer(db) as connection:
        connection.executemany(
            "DELETE FROM tucker_prediction WHERE fit_id = ? AND role = ? AND depth = ?"
            " AND step = ? AND quantile = ?",
            [list(key) for key in keys],
        )
        insert(connection, list(rows))


def known_steps(db: Path, run: str) -> list[float]:
    """Steps of the checkpoints of a run, scanned for spectra or not; its base's are not its own."""
    with reader(db) as connection:
        named = [one for one in runs_of(connection) if one.name == run]
        ids = [number for one in named for number in one.checkpoint_ids if number != one.base_id]
        found = connection.execute(
            "SELECT DISTINCT step FROM checkpoint WHERE step IS NOT NULL"
            " AND checkpoint_id IN (SELECT unnest(?))",
            [ids],
        ).fetchall()
    return [float(step) for (step,) in found]


def params_of(settings: Settings, kind: str = "weight", roles: Sequence[str] = ()) -> str:
    """Everything a fit depends on besides the spectra, as it is stored."""
    chosen = {**asdict(settings), "kind": kind, "roles": sorted(roles), "version": CODE_VERSION}
    chosen["package"] = version("spectral-workbench")
    return json.dumps(chosen, sort_keys=True)


def prepare(db: Path) -> None:
    """The tables of fits in a store that exists. Raises StoreError where there is none."""
    with reader(db):
        pass
    create(db, TUCKER_TABLES)


def _depths(connection: duckdb.DuckDBPyConnection, run: RunOfStore) -> int:
    query = (
        "SELECT count(DISTINCT layer) FROM matrix JOIN spectrum_info USING (matrix_id)"
        " WHERE kind = 'weight' AND expert IS NULL AND checkpoint_id IN (SELECT unnest(?))"
    )
    ((count,),) = connection.execute(query, [list(run.checkpoint_ids)]).fetchall()
    return count


def stored_fit(
    connection: duckdb.DuckDBPyConnection, run: str, inputs_sha256: str, params: str
) -> int | None:
    """Number of the fit of these spectra with these settings."""
    found = connection.execute(
        "SELECT fit_id FROM tucker_fit WHERE run = ? AND inputs_sha256 = ? AND params = ?",
        [run, inputs_sha256, params],
    ).fetchone()
    return None if found is None else found[0]


def forget(connection: duckdb.DuckDBPyConnection, run: str, params: str) -> set[int]:
    """Delete the fits of the run with the same settings, of these or of earlier spectra; their
    numbers."""
    old = "SELECT fit_id FROM tucker_fit WHERE run = ? AND params = ?"
    numbers = {number for (number,) in connection.execute(old, [run, params]).fetchall()}
    for table in (TuckerPredictionRow, TuckerAnomalyRow, TuckerFitRow):
        connection.execute(f'DELETE FROM "{table.TABLE}" WHERE fit_id IN ({old})', [run, params])
    return numbers


def next_fit(connection: duckdb.DuckDBPyConnection) -> int:
    query = "SELECT coalesce(max(fit_id), 0) + 1 FROM tucker_fit"
    ((number,),) = connection.execute(query).fetchall()
    return number


def fit_file(db: Path, fit_id: int) -> Path:
    folder = db.parent / FOLDER
    folder.mkdir(exist_ok=True)
    return folder / f"{db.stem}-{fit_id}.safetensors"

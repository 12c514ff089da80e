"""Scan a folder of checkpoints into the store."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from analyzer.activations.format import open_activations
from analyzer.analyses.tables import TABLES
from analyzer.checkpoints.discover import Collection, discover
from analyzer.errors import UsageError
from analyzer.models.manifold.tables import MANIFOLD_TABLES
from analyzer.models.spectral_tensor.tables import TUCKER_TABLES
from analyzer.scanning.drafts import Problem, read_drafts
from analyzer.scanning.findings import findings
from analyzer.scanning.late import LatePlan, LateResults, plan_late, run_late, stored_late
from analyzer.scanning.limits.calibration import calibration_states
from analyzer.scanning.options import ANALYSES, ON_REQUEST, Options
from analyzer.scanning.planning import plan_scan
from analyzer.scanning.pool import AnyJob, Progress, run_jobs
from analyzer.scanning.registry import register
from analyzer.scanning.saving import batches, event, now, write_batch
from analyzer.scanning.trajectories.summaries import pending_runs, write_runs
from analyzer.scanning.welore import pending_welore, write_welore
from analyzer.store.connection import create, reader, writer
from analyzer.store.schema import ScanRow
from analyzer.store.writing import insert

if TYPE_CHECKING:
    from analyzer.scanning.compute import Outcome


@dataclass(frozen=True, slots=True)
class ScanSummary:
    """What a scan did: units computed and stored before, problems met, where the results are."""

    db: Path
    scan_id: int | None  # None where there was nothing to do
    n_checkpoints: int
    n_matrices: int
    n_computed: int
    n_stored: int
    problems: tuple[str, ...]
    warnings: tuple[str, ...]
    not_run: dict[str, str]  # analysis → why it could not run on this collection
    seconds: float


def scan(
    path: str | Path,
    *,
    base: str | Path | None = None,
    db: str | Path | None = None,
    analyses: Sequence[str] | None = None,
    device: str = "auto",
    workers: int | None = None,
    options: Options | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    activations: str | Path | None = None,
    calibration: str | Path | None = None,
    force: bool = False,
    discovered: Callable[[Collection], None] | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> ScanSummary:
    """Analyse every checkpoint below `path` and store the rows; what is stored is not repeated.

    `db` defaults to ``PATH/analyzer.duckdb``. Attention is also measured on the hidden states in
    `activations`, or on those of the base reading the text file `calibration`. Raises UsageError,
    NothingToScan, StoreError; an unreadable file or matrix becomes an event and a status, and the
    scan goes on.
    """
    started = time.monotonic()
    options = options or Options()
    chosen = _chosen(analyses)
    collection = discover(path, base, include, exclude)
    if discovered:
        discovered(collection)
    db = Path(db) if db else _default_db(Path(path))
    report = progress or (lambda _: None)
    states = _hidden_states(activations, calibration, collection, db, report)
    create(db, (*TABLES, *TUCKER_TABLES, *MANIFOLD_TABLES))
    drafts, problems = read_drafts(
        collection, db, lambda name: report(Progress(0.0, f"hashing {name}"))
    )
    problems = _refusals(collection) + problems
    fresh = any(draft.hashes is not None or draft.moved_from is not None for draft in drafts)
    with (writer if fresh else reader)(db) as connection:
        entries = register(connection, drafts, collection.base)
        stored = _done(connection)
        identities = _identities(connection)
        pending = bool(pending_welore(connection) or pending_runs(connection))
    plan = plan_scan(collection, entries, chosen, options, stored, identities, states, force=force)
    problems += plan.problems
    late = plan_late(db, collection, entries, identities, chosen, options.seed, force=force)
    problems += late.problems
    scan_id = None
    if fresh or plan.jobs or pending or late.is_pending:
        with writer(db) as connection:
            scan_id = _open_scan(connection, options, chosen, device)
            insert(connection, [event(scan_id, problem) for problem in problems])
    computed, failed = 0, []
    not_run = plan.not_run | (ON_REQUEST if analyses is None else {})
    if scan_id is not None:
        computed, failed, last = _run(
            db, scan_id, plan.jobs, options, device, workers, report, bool(problems), late
        )
        problems += last.problems
        not_run |= last.not_run
    n_late, reasons = stored_late(late)
    not_run = reasons | not_run
    errors, warnings = findings(db, entries, problems, failed)
    return ScanSummary(
        db=db,
        scan_id=scan_id,
        n_checkpoints=len(drafts),
        n_matrices=len(entries),
        n_computed=computed,
        n_stored=plan.n_stored + n_late,
        problems=errors,
        warnings=warnings,
        not_run=not_run,
        seconds=time.monotonic() - started,
    )


def _hidden_states(
    activations: str | Path | None,
    calibration: str | Path | None,
    collection: Collection,
    db: Path,
    report: Callable[[Progress], None],
) -> Path | None:
    """What attention is measured on; that it cannot be read is told before any work."""
    if activations is not None and calibration is not None:
        raise UsageError("give --activations or --calibration, not both")
    if calibration is not None:
        return calibration_states(
            collection, Path(calibration), db, lambda done, what: report(Progress(done, what))
        )
    return None if activations is None else open_activations(activations).path


def _run(
    db: Path,
    scan_id: int,
    jobs: Sequence[AnyJob],
    options: Options,
    device: str,
    workers: int | None,
    report: Callable[[Progress], None],
    partial: bool,
    late: LatePlan,
) -> tuple[int, list[Outcome], LateResults]:
    """Compute and store the jobs, then what comes last: number of results, and what failed."""
    # Only where there is work: it needs SciPy.
    from analyzer.scanning.nulls import Nulls

    with reader(db) as connection:
        nulls = Nulls.load(connection)
    computed, failed = 0, []
    status = "interrupted"
    try:
        for batch in batches(run_jobs(jobs, options, nulls, device, workers, report)):
            failed += write_batch(db, scan_id, batch, nulls)
            computed += sum(len(o.unit.params) for o in batch if not o.failed)
        with writer(db) as connection:
            for checkpoint_id in pending_welore(connection):
                write_welore(connection, checkpoint_id)
            write_runs(connection)
        last = run_late(late, report)
        with writer(db) as connection:
            insert(connection, [event(scan_id, problem) for problem in last.problems])
        status = "partial" if partial or failed or last.problems else "ok"
    finally:
        with writer(db) as connection:
            connection.execute(
                "UPDATE scan SET ended_at = ?, status = ? WHERE scan_id = ?",
                [now(), status, scan_id],
            )
    return computed + last.computed, failed, last


def _chosen(analyses: Sequence[str] | None) -> tuple[str, ...]:
    if analyses is None:
        return tuple(name for name in ANALYSES if name not in ON_REQUEST)
    chosen = tuple(analyses)
    unknown = [name for name in chosen if name not in ANALYSES]
    if unknown:
        raise UsageError(
            f"no analysis named {', '.join(unknown)}", hint=f"choose from {', '.join(ANALYSES)}"
        )
    return chosen


def _default_db(root: Path) -> Path:
    return (root if root.is_dir() else root.parent) / "analyzer.duckdb"


def _done(connection: duckdb.DuckDBPyConnection) -> set[tuple[int, str, str]]:
    return set(connection.execute("SELECT matrix_id, analysis, params FROM done").fetchall())


def _identities(connection: duckdb.DuckDBPyConnection) -> dict[int, str]:
    """Hash of every checkpoint by its number."""
    query = "SELECT checkpoint_id, identity_sha256 FROM checkpoint"
    return dict(connection.execute(query).fetchall())


def _open_scan(
    connection: duckdb.DuckDBPyConnection,
    options: Options,
    chosen: tuple[str, ...],
    device: str,
) -> int:
    query = "SELECT coalesce(max(scan_id), 0) + 1 FROM scan"
    ((scan_id,),) = connection.execute(query).fetchall()
    config = json.dumps({**asdict(options), "analyses": chosen})
    row = ScanRow(
        scan_id, now(), None, " ".join(sys.argv), config,
        version("spectral-workbench"), version("torch"), device, "running",
    )  # fmt: skip
    insert(connection, [row])
    return scan_id


def _refusals(collection: Collection) -> list[Problem]:
    return [
        Problem(
            str(r.path), "refused", f"{r.path}: {r.reason}" + (f" ({r.hint})" if r.hint else "")
        )
        for r in collection.refusals
    ]

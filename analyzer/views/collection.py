"""What a store holds: checkpoints, their matrices, and how the scan went."""

from __future__ import annotations

from analyzer.store.reading import Store
from analyzer.views.view import View

# Where a matrix stands: the order of layers, then of names.
PLACE = "stack NULLS FIRST, layer NULLS FIRST, role, expert NULLS FIRST, name"


def checkpoints(store: Store) -> View:
    """One row a checkpoint, base first, runs by step, with its headline numbers."""
    table = store.sql(
        """
        WITH i AS (
            SELECT checkpoint_id, sum(n_intruders)::BIGINT AS n_intruders,
                   count(*) AS n_compared, median(delta_fro_ratio) AS delta_fro_ratio
            FROM intruder JOIN matrix USING (matrix_id) WHERE side = 'left' GROUP BY ALL),
        d AS (
            SELECT checkpoint_id, median(effective_rank) AS delta_effective_rank
            FROM spectrum_info JOIN matrix USING (matrix_id) WHERE kind = 'delta' GROUP BY ALL),
        t AS (
            SELECT checkpoint_id, median(alpha) AS median_alpha
            FROM tail JOIN matrix USING (matrix_id)
            WHERE kind = 'weight' AND tail.status = 'ok' GROUP BY ALL),
        m AS (
            SELECT checkpoint_id, count(*) AS n_matrices,
                   count(*) FILTER (status NOT IN ('ok', 'zero_delta', 'new_module')) AS n_failed
            FROM matrix GROUP BY ALL)
        SELECT c.name, c.kind, c.format, c.run, c.step, b.name AS base, c.n_params,
               coalesce(n_matrices, 0) AS n_matrices, coalesce(n_failed, 0) AS n_failed,
               n_intruders, n_compared, delta_fro_ratio, delta_effective_rank, median_alpha,
               c.identity_sha256, c.checkpoint_id
        FROM checkpoint c
        LEFT JOIN checkpoint b ON b.checkpoint_id = c.base_checkpoint_id
        LEFT JOIN m ON m.checkpoint_id = c.checkpoint_id
        LEFT JOIN i ON i.checkpoint_id = c.checkpoint_id
        LEFT JOIN d ON d.checkpoint_id = c.checkpoint_id
        LEFT JOIN t ON t.checkpoint_id = c.checkpoint_id
        ORDER BY c.kind <> 'base', c.run NULLS LAST, c.step, c.name
        """
    )
    return View(
        "checkpoints",
        "Checkpoints",
        table,
        "Intruders (left singular vectors) are summed; the size and effective rank of the update "
        "and alpha are medians over the matrices.",
    )


def tuned_names(store: Store) -> list[str]:
    """Names of the checkpoints that were compared with a base, last steps of a run first."""
    return _names(
        store,
        """
        SELECT name FROM checkpoint
        WHERE base_checkpoint_id IS NOT NULL AND checkpoint_id IN
            (SELECT checkpoint_id FROM intruder JOIN matrix USING (matrix_id))
        ORDER BY row_number() OVER (PARTITION BY run ORDER BY step DESC) > 1 AND run IS NOT NULL,
                 run, step DESC, name
        """,
    )


def names(store: Store) -> list[str]:
    """Names of all checkpoints, base first."""
    return _names(store, "SELECT name FROM checkpoint ORDER BY kind <> 'base', run, step, name")


def runs(store: Store) -> list[str]:
    """Names of the runs (trajectories)."""
    return _names(store, "SELECT DISTINCT run FROM checkpoint WHERE run IS NOT NULL ORDER BY run")


def roles(store: Store) -> list[str]:
    """Roles of the store's matrices."""
    return _names(store, "SELECT DISTINCT role FROM matrix ORDER BY role")


def matrix_names(store: Store, checkpoint: str) -> list[str]:
    """Names of a checkpoint's analysed matrices, by place."""
    return _names(
        store,
        f"""
        SELECT m.name FROM matrix m JOIN checkpoint c USING (checkpoint_id)
        WHERE c.name = ? AND m.rows > 0 ORDER BY {PLACE.replace("name", "m.name")}
        """,
        checkpoint,
    )


def base_of(store: Store, checkpoint: str) -> str | None:
    """Name of the base a checkpoint is compared with."""
    found = _names(
        store,
        """
        SELECT b.name FROM checkpoint c JOIN checkpoint b
            ON b.checkpoint_id = c.base_checkpoint_id WHERE c.name = ?
        """,
        checkpoint,
    )
    return found[0] if found else None


def pairing(store: Store) -> View:
    """One row a run or single checkpoint: `base` ← `tuned`, `kind`, `steps` and their ends."""
    table = store.sql(
        """
        SELECT b.name AS base, coalesce(c.run, c.name) AS tuned, c.kind,
               count(c.step) AS steps, min(c.step) AS first_step, max(c.step) AS last_step
        FROM checkpoint c LEFT JOIN checkpoint b ON b.checkpoint_id = c.base_checkpoint_id
        WHERE c.kind <> 'base'
        GROUP BY b.name, coalesce(c.run, c.name), c.kind ORDER BY base, tuned
        """
    )
    return View(
        "pairing",
        "What was tuned from what",
        table,
        "A run is a trajectory of checkpoint-N or step-N folders; no base: compared with none.",
    )


def scans(store: Store) -> View:
    """One row a scan, newest first: when, on what, how it ended."""
    table = store.sql(
        "SELECT scan_id, started_at, ended_at, status, device, package_version, torch_version, argv"
        " FROM scan ORDER BY scan_id DESC"
    )
    return View("scans", "Scans", table, "Times are UTC.")


def problems(store: Store) -> View:
    """What was refused, failed or skipped, and why: matrices and messages."""
    table = store.sql(
        """
        SELECT c.name AS checkpoint, m.name AS matrix, m.status AS code, m.detail AS message
        FROM matrix m JOIN checkpoint c USING (checkpoint_id)
        WHERE m.status NOT IN ('ok', 'zero_delta', 'new_module')
        UNION ALL
        SELECT c.name, e.name, e.code, e.message
        FROM event e LEFT JOIN checkpoint c USING (checkpoint_id)
        WHERE e.level <> 'info' AND e.scan_id = (SELECT max(scan_id) FROM scan)
        ORDER BY ALL
        """
    )
    return View(
        "problems",
        "Failed, refused and skipped",
        table,
        "Matrices whose status is not ok, and the messages of the last scan.",
    )


def _names(store: Store, query: str, *parameters: str) -> list[str]:
    return store.sql(query, list(parameters)).column(0).to_pylist()

"""WeLore ranks at any target reduction, computed from the stored spectra.

One threshold on z = (σ - σ_min)/(σ_max - σ_min) serves all block matrices of a checkpoint
(theory.welore); what an adapter leaves untouched counts as it is in the base.
"""

from __future__ import annotations

import math

from analyzer.checkpoints.names import BLOCK_ROLES
from analyzer.store.reading import Store
from analyzer.views.cells import NAMES, cells
from analyzer.views.view import View
from theory.welore import LRC_MIN_RATIO

SOURCE = "Jaiswal et al. 2024, arXiv 2407.11239"

_MATRICES = """
    c AS (SELECT checkpoint_id, base_checkpoint_id, kind FROM checkpoint
          WHERE checkpoint_id = (SELECT max(checkpoint_id) FROM checkpoint WHERE name = $1)),
    m AS (SELECT matrix.*, true AS own FROM matrix JOIN c USING (checkpoint_id)
          WHERE list_contains($2, role)
          UNION ALL
          SELECT matrix.*, false FROM matrix JOIN c ON matrix.checkpoint_id = base_checkpoint_id
          WHERE c.kind = 'adapter' AND list_contains($2, role) AND name NOT IN
              (SELECT name FROM matrix JOIN c USING (checkpoint_id))),
    s AS (
        SELECT matrix_id, k, sigma FROM spectrum
        WHERE kind = 'weight' AND matrix_id IN (SELECT matrix_id FROM m))
"""
# $3 is the place in the pool of the value pruned last, as a share; below 0 nothing is pruned. A
# constant spectrum has no tail to prune: z = 1.
_POOL = f"""
    {_MATRICES},
    ends AS (SELECT matrix_id, max(sigma) AS high, min(sigma) AS low, count(*) AS full_rank
             FROM s GROUP BY matrix_id),
    z AS MATERIALIZED (
        SELECT matrix_id, k, sigma, full_rank,
               CASE WHEN high > low THEN (sigma / high - low / high) / (1 - low / high) ELSE 1 END
                   AS z
        FROM s JOIN ends USING (matrix_id)),
    cut AS (SELECT CASE WHEN $3 < 0 THEN -1 ELSE quantile_disc(z, abs($3)) END AS last FROM z),
    above AS (SELECT min(z) AS next FROM z, cut WHERE z > last),
    level AS (SELECT last, CASE WHEN last < 0 THEN 0 ELSE coalesce((last + next) / 2, 1) END
                  AS threshold FROM cut, above),
    r AS (
        SELECT matrix_id, full_rank, threshold,
               count(*) FILTER (z <= last AND z < 1) AS rank_pruned,
               sum(sigma * sigma) FILTER (NOT (z <= last AND z < 1))
                   / nullif(sum(sigma * sigma), 0) AS energy_kept
        FROM z, level GROUP BY matrix_id, full_rank, threshold)
"""


def ranks(store: Store, checkpoint: str, target: float = 0.5) -> View:
    """Rank kept by every block matrix at a reduction of `target` (fraction) of all ranks.

    Cells as of analyzer.views.heat, where `value` is the share of the rank that is kept (median
    of several matrices), and `threshold`, `achieved`, `rank_kept` and `full_rank` (sums),
    `is_lrc`, `param_ratio`, `energy_kept`. LRC: more than 0.4999 of the cell's rank pruned.
    """
    found = store.sql(
        f"""
        WITH {_POOL},
        achieved AS (SELECT sum(rank_pruned) / sum(full_rank) AS achieved FROM r)
        SELECT stack, layer, role, count(*) AS n, {NAMES},
               median(1 - rank_pruned / r.full_rank) AS value,
               min(1 - rank_pruned / r.full_rank) AS low,
               max(1 - rank_pruned / r.full_rank) AS high,
               sum(r.full_rank - rank_pruned)::BIGINT AS rank_kept,
               sum(r.full_rank)::BIGINT AS full_rank,
               sum(rank_pruned) / sum(r.full_rank) > {LRC_MIN_RATIO} AS is_lrc,
               sum((r.full_rank - rank_pruned) * (rows + cols)) / sum(rows * cols) AS param_ratio,
               avg(r.energy_kept) AS energy_kept, any_value(threshold) AS threshold,
               any_value(achieved) AS achieved
        FROM m JOIN r USING (matrix_id), achieved WHERE own GROUP BY stack, layer, role
        """,
        [checkpoint, sorted(BLOCK_ROLES), _place(store, checkpoint, target)],
    )
    table = cells(found)
    first = table.slice(0, 1).to_pylist()
    reached = {name: first[0][name] for name in ("threshold", "achieved")} if first else {}
    return View(
        "welore_ranks",
        f"Share of the rank kept by layer and role: {checkpoint}",
        table,
        "Share of the rank that each matrix keeps under one threshold on its normalised singular "
        "values. LRC (low-rank component): more than 0.4999 of the rank pruned.",
        SOURCE,
        {"target reduction": target} | reached,
    )


def normalised_spectra(store: Store, checkpoint: str, target: float = 0.5) -> View:
    """z against the relative rank q = k/p of every block matrix, about 48 points a matrix."""
    table = store.sql(
        f"""
        WITH {_POOL},
        p AS (SELECT z.*, m.name, m.role, m.layer, threshold,
                     rank_pruned / r.full_rank > {LRC_MIN_RATIO} AS is_lrc
              FROM z JOIN m USING (matrix_id) JOIN r USING (matrix_id) WHERE own)
        SELECT name, role, layer, is_lrc, k / full_rank AS q, z, threshold
        FROM p WHERE full_rank <= 48 OR k IN (1, full_rank)
            OR floor(k * 48 / full_rank) <> floor((k - 1) * 48 / full_rank)
        ORDER BY name, k
        """,
        [checkpoint, sorted(BLOCK_ROLES), _place(store, checkpoint, target)],
    )
    return View(
        "normalised_spectra",
        "Normalised singular values",
        table,
        "(σ - σ_min)/(σ_max - σ_min) against the relative rank k/p of every block matrix. What "
        "lies below the line is pruned.",
        SOURCE,
        {"target reduction": target},
    )


def _place(store: Store, checkpoint: str, target: float) -> float:
    """The value that `target` prunes last, as a share of the pool; -1 where nothing is pruned."""
    query = f"WITH {_MATRICES} SELECT count(*) AS n FROM s"
    count = store.sql(query, [checkpoint, sorted(BLOCK_ROLES)])["n"][0].as_py()
    # rounding of target·count is forgiven one part in 1e12, as in theory.welore
    pruned = math.ceil(target * count * (1.0 - 1e-12))
    return (pruned - 0.5) / count if pruned else -1.0

"""What follows from a run: ranks and gaps advised, correlations with the weights, memory."""

from __future__ import annotations

from typing import Any

from analyzer.store.reading import Store
from analyzer.views.emergence import ANCHOR, GALORE, KEY, WELORE
from analyzer.views.view import View

# A statistic of the gradient, and the number of the weights at the end it is held against.
STATISTICS = (
    "stable_rank_end", "energy_r_end", "cos_all", "cos_late", "overlap_late", "signal_fraction",
)  # fmt: skip
OUTCOMES = ("weight_erank_ratio", "pruned_ratio")
_AT = "(SELECT checkpoint_id FROM anchor)"
_MATRICES = """
    SELECT e.*, s.effective_rank / least(m.rows, m.cols) AS weight_erank_ratio,
           w.rank_pruned / least(m.rows, m.cols) AS pruned_ratio, w.is_lrc
    FROM emergence e JOIN matrix m USING (matrix_id) LEFT JOIN welore w USING (matrix_id)
         LEFT JOIN spectrum_info s ON s.matrix_id = m.matrix_id AND s.kind = 'weight'
    WHERE e.run = ? AND m.checkpoint_id = {at}
    ORDER BY stack NULLS FIRST, e.layer NULLS FIRST, type, expert, matrix, source, batch_id
"""


def matrix_table(store: Store, run: str, checkpoint_id: int | None) -> Any:
    """One row a matrix and source of a run, with the rank of the weights at its last checkpoint."""
    return store.sql(_MATRICES.format(at="?"), [run, checkpoint_id])


def advice(store: Store, run: str, source: str) -> View:
    """One row a matrix: rank and gap advised, whether projecting pays, and what each rests on.

    Gaps and motion come from the minibatch gradients where those were recorded: one fixed batch
    has no lags.
    """
    table = store.sql(
        f"""
        WITH {ANCHOR}, rows AS ({_MATRICES.format(at=_AT)})
        SELECT e.matrix, e.layer, e.type, e.advised_rank, e.worth_projecting,
               coalesce(g.advised_gap, e.advised_gap) AS advised_gap,
               coalesce(g.motion, e.motion) AS motion,
               e.signal_fraction, e.energy_in, e.energy_out, e.energy_cv, e.cos_late,
               e.overlap_late, e.overlap_chance, e.saturation_step,
               e.weight_erank_ratio, e.pruned_ratio, e.is_lrc,
               e.advised_rank_basis,
               CASE WHEN g.matrix_id IS NULL THEN e.advised_gap_basis ELSE g.advised_gap_basis
                    END AS advised_gap_basis,
               CASE WHEN g.matrix_id IS NULL THEN e.motion_basis ELSE g.motion_basis
                    END AS motion_basis,
               e.flags
        FROM rows e LEFT JOIN rows g
             ON g.matrix_id = e.matrix_id AND (g.source, g.batch_id) = ('grad', 'train')
                AND e.source = 'grad'
        WHERE concat_ws('/', e.source, e.batch_id) = ?
        ORDER BY e.layer NULLS FIRST, e.type, e.matrix
        """,
        [run, run, source],
    )
    return View(
        "emergence_advice",
        "Advice, matrix by matrix",
        table,
        "advised_rank is the least with 90 % of another batch's energy (its own where the basis "
        "says in-sample); advised_gap the longest update_proj_gap that loses at most 5 % of the "
        "energy captured one step later; empty where not reached or not measured, as the basis "
        "says.",
        f"{GALORE}; {WELORE}",
        {"run": run, "source": source},
    )


def correlations(store: Store, run: str, source: str) -> View:
    """Spearman correlations over all matrices: `x`, `y`, `rho`, `p`, `n`, `reason`."""
    table = store.sql(
        f"""
        WITH {ANCHOR}
        SELECT x, y, rho, p, n, reason FROM emergence_correlation
        WHERE run = ? AND checkpoint_id = {_AT} AND {KEY} = ? AND method = 'spearman'
              AND "group" = 'all' ORDER BY y DESC, x
        """,
        [run, run, source],
    )
    return View(
        "emergence_correlations",
        "Gradients against the rank of the weights, all pairs",
        table,
        "Spearman over the matrices; p is not corrected for the number of pairs tested.",
        WELORE,
        {"run": run, "source": source},
    )


def correlation_scatter(store: Store, run: str, source: str, x: str, y: str) -> View:
    """One point a matrix: `matrix`, `type`, `layer`, `x`, `y`; ρ, p and n among the
    parameters.

    `x` is one of STATISTICS, `y` of OUTCOMES; others give no points.
    """
    table = store.sql(
        f"""
        WITH {ANCHOR}, rows AS (
            SELECT matrix, type, layer, {", ".join(STATISTICS)}, {", ".join(OUTCOMES)}
            FROM ({_MATRICES.format(at=_AT)}) WHERE {KEY} = ? AND n_steps > 0),
        xs AS (UNPIVOT rows ON {", ".join(STATISTICS)} INTO NAME number VALUE x),
        ys AS (UNPIVOT rows ON {", ".join(OUTCOMES)} INTO NAME number VALUE y)
        SELECT matrix, xs.type, xs.layer, xs.x, ys.y, rho, p, n
        FROM xs JOIN ys USING (matrix) LEFT JOIN emergence_correlation c
             ON c.run = ? AND c.checkpoint_id = {_AT} AND concat_ws('/', c.source, c.batch_id) = ?
                AND (c.x, c.y) = (xs.number, ys.number)
                AND (c.method, c."group") = ('spearman', 'all')
        WHERE xs.number = ? AND ys.number = ? ORDER BY matrix
        """,
        [run, run, source, run, source, x, y],
    )
    first = table.slice(0, 1).to_pylist()
    found = [row for row in first if row["rho"] is not None]
    return View(
        "emergence_correlation",
        "Gradient against the rank of the weights",
        table,
        "Each point is a matrix, its weights at the end of the run. Spearman's ρ with its "
        "two-sided p, not corrected for the number of pairs tested; the published link between "
        "saturating gradients and low-rank weights need not hold in every model.",
        WELORE,
        {"run": run, "source": source, "x": x, "y": y}
        | {name: found[0][name] for name in ("rho", "p", "n") if found},
    )


def ranks(store: Store, run: str) -> list[int]:
    """Ranks for which memory was counted."""
    return store.sql(
        f"WITH {ANCHOR} SELECT DISTINCT rank FROM galore_memory WHERE run = ?"
        f" AND checkpoint_id = {_AT} AND rank IS NOT NULL ORDER BY rank",
        [run, run],
    ).column(0).to_pylist()  # fmt: skip


def memory(store: Store, run: str, rank: int) -> View:
    """Weights and optimizer in bfloat16 of each method at one rank: `method`, `convention`,
    `part`, `bytes`."""
    table = store.sql(
        f"""
        WITH {ANCHOR}, sizes AS (
            SELECT method, convention, weights, optimizer FROM galore_memory
            WHERE run = ? AND checkpoint_id = {_AT} AND (rank = ? OR rank IS NULL)
                  AND (convention = 'exact' OR method = 'galore'))
        SELECT method, convention, part, 2 * elements AS bytes
        FROM (UNPIVOT sizes ON weights, optimizer INTO NAME part VALUE elements)
        ORDER BY list_position(['full', 'lora', 'galore', 'fira'], method), convention, part DESC
        """,
        [run, run, rank],
    )
    return View(
        "galore_memory",
        "Memory of weights and Adam",
        table,
        "bfloat16, without gradients and activations. Exact: counted matrix by matrix, everything "
        "not projected with full states; the paper's convention takes GaLore's optimizer as ¾ of "
        "LoRA's.",
        GALORE,
        {"run": run, "rank": rank},
    )

"""Two checkpoints matrix by matrix, and several fine-tunes of one base side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from analyzer.store.reading import Store
from analyzer.views import verdicts
from analyzer.views.metrics import explained, metric
from analyzer.views.pairing import pairs
from analyzer.views.spectra import parts_of
from analyzer.views.verdicts import intruder_verdict, tail_verdict
from analyzer.views.view import View

PLACE = "m.stack NULLS FIRST, m.layer NULLS FIRST, m.role, m.expert NULLS FIRST, m.name"
_UPDATE = (
    "n_intruders", "n_uncertain", "min_maxcos", "delta_fro_ratio", "delta_effective_rank",
    "theta_star", "critical_multiplier",
)  # fmt: skip
_HELPERS = ("k", "tail_status", "phase")
INTRUDERS_SOURCE = "Shuttleworth et al. 2024, arXiv 2410.21228"


def matrices(store: Store, first: str, second: str, side: str = "left") -> View:
    """One row per matrix of both: its update, tail and ranks before and after, verdict in words.

    The columns of the update only where `second` was scanned against `first`.
    """
    both = pairs(store, first, second)
    update = both.is_update
    table = store.sql(
        f"""
        WITH p AS (SELECT unnest(?::BIGINT[]) AS a, unnest(?::BIGINT[]) AS b),
        lowest AS (
            SELECT matrix_id, min(maxcos) AS min_maxcos FROM intruder_vector
            WHERE side = ? AND matrix_id IN (SELECT b FROM p) GROUP BY matrix_id)
        SELECT m.name, m.stack, m.layer, m.role, m.expert, m.rows || '×' || m.cols AS shape,
               m.status, i.n_intruders, i.n_uncertain, i.k, l.min_maxcos, i.delta_fro_ratio,
               i.delta_effective_rank, i.theta_star, i.critical_multiplier,
               ta.alpha AS alpha_base, tb.alpha AS alpha_tuned, tb.alpha - ta.alpha AS alpha_change,
               ta.alpha_hi < tb.alpha_lo OR tb.alpha_hi < ta.alpha_lo AS intervals_apart,
               sa.stable_rank AS stable_rank_base, sb.stable_rank AS stable_rank_tuned,
               wa.rank_kept AS rank_kept_base, wb.rank_kept AS rank_kept_tuned,
               tb.status AS tail_status, tb.phase, m.matrix_id
        FROM p JOIN matrix m ON m.matrix_id = p.b
        LEFT JOIN intruder i ON i.matrix_id = p.b AND i.side = ?
        LEFT JOIN lowest l ON l.matrix_id = p.b
        LEFT JOIN tail ta ON ta.matrix_id = p.a AND ta.kind = 'weight'
        LEFT JOIN tail tb ON tb.matrix_id = p.b AND tb.kind = 'weight'
        LEFT JOIN spectrum_info sa ON sa.matrix_id = p.a AND sa.kind = 'weight'
        LEFT JOIN spectrum_info sb ON sb.matrix_id = p.b AND sb.kind = 'weight'
        LEFT JOIN welore wa ON wa.matrix_id = p.a LEFT JOIN welore wb ON wb.matrix_id = p.b
        ORDER BY {PLACE}
        """,
        [list(both.first), list(both.second), side, side],
    )
    says = intruder_verdict if update else tail_verdict
    words = pa.array([says(row) for row in table.to_pylist()], pa.string())
    hidden = {*_HELPERS, *(() if update else _UPDATE), *_constant(table)}
    at = table.column_names.index("status")
    shown = table.add_column(at, "verdict", words).drop_columns(sorted(hidden))
    return View(
        "matrices",
        f"{first} → {second}, matrix by matrix",
        shown,
        "The verdict reads the intruders (|cosine| below ε = the scan's threshold) of an update, "
        "else the tail of the second checkpoint; intervals_apart: the 95 % intervals of alpha do "
        "not overlap.",
        INTRUDERS_SOURCE,
        {"side": side} if update else {},
    )


def _constant(table: pa.Table) -> list[str]:
    """Place columns that tell no rows apart."""
    return [c for c in ("stack", "expert") if len(set(table.column(c).to_pylist())) < 2]


def summary(store: Store, first: str, second: str, side: str = "left") -> dict[str, Any]:
    """The whole pair in numbers: matrices, intruders, size of the update, changes of alpha."""
    both = pairs(store, first, second)
    (row,) = store.sql(
        """
        WITH p AS (SELECT unnest(?::BIGINT[]) AS a, unnest(?::BIGINT[]) AS b)
        SELECT count(*) AS n_matrices, count(i.matrix_id) AS n_compared,
               sum(i.n_intruders)::BIGINT AS n_intruders, sum(i.k)::BIGINT AS judged,
               count(*) FILTER (i.n_intruders > 0) AS n_hit,
               sum(i.n_uncertain)::BIGINT AS n_uncertain, sum(i.n_robust)::BIGINT AS n_robust,
               max(i.k) AS k, max(i.epsilon) AS epsilon,
               median(i.delta_fro_ratio) AS delta_fro_ratio,
               max(i.delta_fro_ratio) AS largest_ratio,
               median(tb.alpha - ta.alpha) AS alpha_change,
               count(tb.alpha - ta.alpha) AS n_alpha,
               count(*) FILTER (ta.alpha_hi < tb.alpha_lo OR tb.alpha_hi < ta.alpha_lo) AS n_apart,
               count(*) FILTER (m.status = 'zero_delta') AS n_equal
        FROM p JOIN matrix m ON m.matrix_id = p.b
        LEFT JOIN intruder i ON i.matrix_id = p.b AND i.side = ?
        LEFT JOIN tail ta ON ta.matrix_id = p.a AND ta.kind = 'weight'
        LEFT JOIN tail tb ON tb.matrix_id = p.b AND tb.kind = 'weight'
        """,
        [list(both.first), list(both.second), side],
    ).to_pylist()
    return row | {"side": side, "is_update": both.is_update}


def sentences(row: dict[str, Any]) -> list[str]:
    """A `summary` in words."""
    if not row["n_matrices"]:
        return ["The two checkpoints share no matrix by name."]
    found = [f"{row['n_matrices']} matrices are in both."]
    if row["n_equal"]:
        found.append(f"{row['n_equal']} of them are equal.")
    if row["is_update"] and row["n_compared"]:
        found.append(
            f"Intruder dimensions: {row['n_intruders']} of {row['judged']} leading {row['side']} "
            f"singular vectors (k = {row['k']} a matrix) have no base vector with "
            f"|cosine| ≥ {row['epsilon']:g}, in {row['n_hit']} of {row['n_compared']} matrices; "
            f"{row['n_robust']} robust against clusters, {row['n_uncertain']} undecided."
        )
    if row["is_update"] and row["delta_fro_ratio"] is not None:
        found.append(
            f"The update is {100 * row['delta_fro_ratio']:.3g} % of the base in the median matrix "
            f"and at most {100 * row['largest_ratio']:.3g} % (Frobenius norms)."
        )
    if row["n_alpha"]:
        found.append(
            f"alpha changes by {row['alpha_change']:+.2g} in the median; the 95 % intervals of "
            f"{row['n_apart']} of {row['n_alpha']} matrices do not overlap."
        )
    return found


def unmatched(store: Store, first: str, second: str) -> View:
    """Matrices that only one of two checkpoints has, or that have another shape in each.

    Columns: `name`, `where` (only in base, only in tuned, another shape), `layer`, `role`,
    `shape_base`, `shape_tuned`, `status`, `detail`. What an adapter leaves as it is does not count.
    """
    both = pairs(store, first, second)
    only_first = () if both.is_adapter else both.only_first
    table = store.sql(
        """
        WITH p AS (
            SELECT unnest(?::BIGINT[]) AS a, unnest(?::BIGINT[]) AS b
            UNION ALL SELECT unnest(?::BIGINT[]), NULL
            UNION ALL SELECT NULL, unnest(?::BIGINT[]))
        SELECT coalesce(m.name, o.name) AS name,
               CASE WHEN m.name IS NULL THEN 'only in base' WHEN o.name IS NULL THEN 'only in tuned'
                    ELSE 'another shape' END AS "where",
               coalesce(m.layer, o.layer) AS layer, coalesce(m.role, o.role) AS role,
               CASE WHEN o.rows > 0 THEN o.rows || '×' || o.cols END AS shape_base,
               CASE WHEN m.rows > 0 THEN m.rows || '×' || m.cols END AS shape_tuned,
               m.status, m.detail
        FROM p LEFT JOIN matrix o ON o.matrix_id = p.a LEFT JOIN matrix m ON m.matrix_id = p.b
        WHERE p.a IS NULL OR p.b IS NULL OR o.rows <> m.rows OR o.cols <> m.cols
        ORDER BY 2, 3 NULLS FIRST, 4, 1
        """,
        [list(n) for n in (both.first, both.second, only_first, both.only_second)],
    )
    return View(
        "unmatched",
        "Only on one side, or of another shape",
        table,
        "Matched by name: wrappers and one shared model prefix may differ.",
        parameters={"base": first, "tuned": second},
    )


def several(store: Store, checkpoints: Sequence[str], roles: Sequence[str] = ()) -> View:
    """Several checkpoints in one table, over the matrices of some `roles` (all if none).

    One row a checkpoint, in the order of their names: counts are sums, the others medians.
    """
    table = store.sql(
        """
        WITH m AS (
            SELECT matrix_id, c.name AS checkpoint, c.kind, c.run, c.step, b.name AS base
            FROM matrix JOIN checkpoint c USING (checkpoint_id)
            LEFT JOIN checkpoint b ON b.checkpoint_id = c.base_checkpoint_id
            WHERE c.name = ANY(?) AND (len(?::VARCHAR[]) = 0 OR role = ANY(?)))
        SELECT checkpoint, m.kind, run, step, base, count(*) AS n_matrices,
               sum(l.n_intruders)::BIGINT AS n_intruders_left,
               sum(r.n_intruders)::BIGINT AS n_intruders_right,
               sum(l.k)::BIGINT AS judged, median(l.delta_fro_ratio) AS delta_fro_ratio,
               median(l.delta_effective_rank) AS delta_effective_rank,
               median(l.delta_stable_rank) AS delta_stable_rank,
               median(l.critical_multiplier) AS critical_multiplier,
               median(t.alpha) AS alpha, median(s.stable_rank) AS stable_rank,
               median(w.rank_kept) AS rank_kept
        FROM m
        LEFT JOIN intruder l ON l.matrix_id = m.matrix_id AND l.side = 'left'
        LEFT JOIN intruder r ON r.matrix_id = m.matrix_id AND r.side = 'right'
        LEFT JOIN tail t ON t.matrix_id = m.matrix_id AND t.kind = 'weight'
        LEFT JOIN spectrum_info s ON s.matrix_id = m.matrix_id AND s.kind = 'weight'
        LEFT JOIN welore w ON w.matrix_id = m.matrix_id
        GROUP BY ALL ORDER BY base, run NULLS LAST, step, checkpoint
        """,
        [list(checkpoints), list(roles), list(roles)],
    )
    return View(
        "several",
        "Checkpoints side by side",
        table,
        "Intruders are summed over the matrices, everything else is their median.",
        INTRUDERS_SOURCE,
        {"roles": ", ".join(roles) or "all"},
    )


_RANKS = (
    "fro_norm", "spectral_norm", "stable_rank", "effective_rank", "participation_ratio",
    "numerical_rank", "rank_kept", "alpha", "error_bound", "storage_floor",
)  # fmt: skip


def ranks(store: Store, first: str, second: str, matrix: str) -> View:
    """Norms, ranks and exponent of one matrix: a row a `quantity`, a column a part."""
    parts = parts_of(store, first, second, matrix)
    rows = {
        row["part"]: row
        for row in store.sql(
            """
            WITH p AS (SELECT unnest(?::VARCHAR[]) AS part, unnest(?::BIGINT[]) AS matrix_id,
                              unnest(?::VARCHAR[]) AS kind)
            SELECT part, s.*, alpha, CASE WHEN p.kind = 'weight' THEN rank_kept END AS rank_kept
            FROM p LEFT JOIN spectrum_info s USING (matrix_id, kind)
            LEFT JOIN tail t USING (matrix_id, kind) LEFT JOIN welore w USING (matrix_id)
            """,
            [list(parts), [n for n, _ in parts.values()], [kind for _, kind in parts.values()]],
        ).to_pylist()
    }
    columns: dict[str, pa.Array] = {"quantity": pa.array(_RANKS, pa.string())}
    for part in parts:
        columns[part] = pa.array([_number(rows[part][c]) for c in _RANKS], pa.float64())
    meanings = [metric(c, ("spectrum_info", "tail", "welore")) for c in _RANKS]
    columns["meaning"] = pa.array([explained(c) if c else "" for c in meanings], pa.string())
    return View(
        "ranks",
        f"Norms and ranks: {matrix}",
        pa.table(columns),
        "rank_kept: WeLore rank at half the total rank (arXiv 2407.11239).",
        parameters={"base": first, "tuned": second},
    )


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def matrix_sentences(store: Store, first: str, second: str, matrix: str) -> list[str]:
    """What became of one matrix, in words with the numbers and thresholds behind them."""
    parts = parts_of(store, first, second, matrix)
    number = parts["tuned"][0] if "tuned" in parts else None
    compared = store.sql(
        """
        SELECT m.status, i.* EXCLUDE (status), min(v.maxcos) AS min_maxcos
        FROM matrix m JOIN intruder i USING (matrix_id)
        LEFT JOIN intruder_vector v ON v.matrix_id = m.matrix_id AND v.side = i.side
        WHERE m.matrix_id = ? GROUP BY ALL ORDER BY i.side
        """,
        [number],
    ).to_pylist()
    found = []
    if "ΔW" in parts and compared:
        found = [verdicts.size_sentence(compared[0])]
        found += [verdicts.intruder_sentence(row) for row in compared]
        found.append(verdicts.strength_sentence(compared[0]))
    tails = {
        row["matrix_id"]: row
        for row in store.sql(
            "SELECT * FROM tail WHERE kind = 'weight' AND matrix_id = ANY(?)",
            [[parts[part][0] for part in ("base", "tuned") if part in parts]],
        ).to_pylist()
    }
    own = {part: tails.get(parts[part][0]) for part in ("base", "tuned") if part in parts}
    found += [verdicts.tail_sentence(row, part.capitalize()) for part, row in own.items() if row]
    before, after = own.get("base"), own.get("tuned")
    if before and after:
        found.append(verdicts.change_sentence(before, after))
    return [sentence for sentence in found if sentence]

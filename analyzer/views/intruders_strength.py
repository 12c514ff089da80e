"""How strong updates are against what makes an intruder: thresholds, multipliers, ranks of ΔW."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from analyzer.store.reading import Store
from analyzer.views.cells import role_order
from analyzer.views.intruders import NEWEST
from analyzer.views.view import View

# A decoder goes without saying, other stacks are named.
ROLE = "concat_ws(' ', nullif(stack, 'decoder'), role)"

_LAW = "finite-size law after Benaych-Georges & Nadakuditi 2012, J. Multivariate Anal. 111"
_ROY = "Roy & Vetterli, EUSIPCO 2007"
MOST_MATRICES = 4000  # of one scatter; beyond that, a fixed random choice of them

# One row a matrix of checkpoints ($1) on one side ($2).
_MATRICES = f"""
    one AS (
        SELECT c.name AS checkpoint, c.kind, m.name AS matrix, m.layer, {ROLE} AS role, i.*
        FROM intruder i JOIN matrix m USING (matrix_id) JOIN checkpoint c USING (checkpoint_id)
        WHERE list_contains($1, c.name) AND {NEWEST} AND i.side = $2 AND i.status = 'ok')
"""
_CHOSEN = f"QUALIFY row_number() OVER (ORDER BY hash(checkpoint, matrix)) <= {MOST_MATRICES}"


def predicted_against_strength(
    store: Store, checkpoints: Sequence[str], side: str = "left"
) -> View:
    """`theta_star` against `delta_spectral_norm` of every matrix, and what was found.

    `expected` is σ₁(ΔW) ≥ θ*; matrices without a θ* are left out.
    """
    table = store.sql(
        f"""
        WITH {_MATRICES}
        SELECT checkpoint, kind, matrix, layer, role, theta_star, delta_spectral_norm, n_intruders,
               n_intruders > 0 AS has_intruders, delta_spectral_norm >= theta_star AS expected,
               k, epsilon
        FROM one WHERE theta_star IS NOT NULL {_CHOSEN}
        ORDER BY list_position($1, checkpoint), layer NULLS FIRST, matrix
        """,
        [list(checkpoints), side],
    )
    return View(
        "predicted_against_strength",
        "Strength of the update against the predicted threshold θ*",
        table,
        "A matrix above the diagonal has σ₁(ΔW) ≥ θ*: if the update's direction is generic, an "
        "intruder is expected. Red: intruders were found, at the scan's k and ε.",
        _LAW,
        _scanned_with(table.to_pylist()) | {"side": side},
    )


def critical_multipliers(store: Store, checkpoints: Sequence[str], side: str = "left") -> View:
    """`critical_multiplier` of every matrix by role; None where none was found up to its limit."""
    table = store.sql(
        f"""
        WITH {_MATRICES}
        SELECT checkpoint, kind, matrix, layer, role, critical_multiplier, critical_limit,
               n_intruders, k, epsilon
        FROM one WHERE critical_limit IS NOT NULL {_CHOSEN}
        ORDER BY list_position($1, checkpoint), layer NULLS FIRST, matrix
        """,
        [list(checkpoints), side],
    )
    rows = sorted(table.to_pylist(), key=lambda row: role_order(row["role"]))
    without = sum(row["critical_multiplier"] is None for row in rows)
    return View(
        "critical_multipliers",
        "Critical multiplier of the update by role",
        pa.Table.from_pylist(rows, schema=table.schema),
        "Smallest s for which W0 + s·ΔW has an intruder: at or below 1 the tuned matrix has or had "
        f"one. Matrices without any up to the largest s tried, not drawn: {without} of "
        f"{len(rows)}.",
        "exact spectra of W0 + s·ΔW",
        _scanned_with(rows) | {"side": side},
    )


def update_ranks(store: Store, checkpoints: Sequence[str]) -> View:
    """Effective rank of ΔW by layer: median, least and largest over the layer's matrices."""
    table = store.sql(
        f"""
        WITH {_MATRICES}
        SELECT checkpoint, kind, layer, median(delta_effective_rank) AS effective_rank,
               min(delta_effective_rank) AS lo, max(delta_effective_rank) AS hi,
               count(*) AS n_matrices
        FROM one WHERE layer IS NOT NULL AND delta_effective_rank IS NOT NULL
        GROUP BY checkpoint, kind, layer ORDER BY list_position($1, checkpoint), layer
        """,
        [list(checkpoints), "left"],
    )
    return View(
        "update_ranks",
        "Effective rank of ΔW by layer",
        table,
        "exp(-Σ p ln p) with p = σ/Σσ of ΔW; line: median over the layer's matrices, band: least "
        "to largest.",
        _ROY,
    )


def _scanned_with(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The k and ε of stored rows, which differ only between scans with different options."""
    return {
        name: ", ".join(f"{value:g}" for value in sorted({row[name] for row in rows}))
        for name in ("k", "epsilon")
        if rows
    }

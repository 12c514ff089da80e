"""Intruder dimensions: counts against the threshold, cosines, dynamics, predicted thresholds."""

from __future__ import annotations

from collections.abc import Sequence

from analyzer.store.reading import Store
from analyzer.views.view import View

SOURCE = "Shuttleworth et al. 2024, arXiv 2410.21228, definition 3.1"


def count_against_epsilon(
    store: Store, checkpoints: Sequence[str], side: str = "left", k: int = 10
) -> View:
    """Intruders of whole checkpoints for ε = 0, 0.05 … 1: `checkpoint`, `kind`, `epsilon`, `n`."""
    table = store.sql(
        """
        WITH v AS (
            SELECT c.name AS checkpoint, c.kind, v.maxcos
            FROM intruder_vector v JOIN matrix USING (matrix_id)
            JOIN checkpoint c USING (checkpoint_id)
            WHERE c.name = ANY(?) AND v.side = ? AND v.j <= ?)
        SELECT checkpoint, kind, e / 20 AS epsilon,
               count(*) FILTER (maxcos < e / 20)::BIGINT AS n_intruders, count(*) AS n_judged
        FROM v, range(21) AS grid(e) GROUP BY ALL ORDER BY checkpoint, epsilon
        """,
        [list(checkpoints), side, k],
    )
    return View(
        "count_against_epsilon",
        "Intruder dimensions against the threshold ε",
        table,
        f"Of the {k} leading {side} singular vectors of every judged matrix, those whose largest "
        "|cosine| with any base vector is below ε.",
        SOURCE,
        {"k": k, "side": side},
    )

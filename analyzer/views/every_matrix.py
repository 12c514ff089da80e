"""Every matrix of some checkpoints with its headline numbers: a report's appendix."""

from __future__ import annotations

from collections.abc import Sequence

from analyzer.store.reading import Store
from analyzer.views.view import View


def every_matrix(store: Store, checkpoints: Sequence[str]) -> View:
    """One row a matrix, in the order of checkpoints and places; left singular vectors."""
    table = store.sql(
        """
        WITH asked AS (SELECT unnest(?::VARCHAR[]) AS checkpoint, unnest(?::INT[]) AS place)
        SELECT c.name AS checkpoint, m.name AS matrix, m.layer, m.role, m.rows, m.cols,
               t.alpha, t.null_q, w.rank_kept, i.delta_fro_ratio, i.n_intruders, i.n_uncertain,
               i.delta_spectral_norm, i.theta_star, i.critical_multiplier, m.status,
               m.content_sha256
        FROM asked JOIN checkpoint c ON c.name = asked.checkpoint
        JOIN matrix m USING (checkpoint_id)
        LEFT JOIN tail t ON t.matrix_id = m.matrix_id AND t.kind = 'weight'
        LEFT JOIN welore w ON w.matrix_id = m.matrix_id
        LEFT JOIN intruder i ON i.matrix_id = m.matrix_id AND i.side = 'left'
        ORDER BY asked.place, m.stack NULLS FIRST, m.layer NULLS FIRST, m.role, m.name
        """,
        [list(checkpoints), list(range(len(checkpoints)))],
    )
    return View("every_matrix", "Every matrix", table, "Left singular vectors.")

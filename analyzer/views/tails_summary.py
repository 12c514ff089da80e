"""Tails and ranks of a whole checkpoint in a few rows."""

from __future__ import annotations

from analyzer.store.reading import Store
from analyzer.views.view import View


def by_role(store: Store, checkpoint: str) -> View:
    """Tail and rank of one checkpoint's matrices, medians by role."""
    table = store.sql(
        """
        SELECT role, count(*) AS n_matrices, median(t.alpha) AS alpha,
               printf('%.2f to %.2f', median(t.alpha_lo), median(t.alpha_hi)) AS alpha_interval,
               median(t.ks_d) AS ks_d, median(t.n_tail)::BIGINT AS n_tail,
               median(t.null_q) AS null_q, median(t.num_spikes) AS num_spikes,
               median(s.stable_rank) AS stable_rank,
               median(w.rank_kept / least(m.rows, m.cols)) AS rank_share,
               count(*) FILTER (w.is_lrc) || ' of ' || count(w.is_lrc) AS lrc
        FROM matrix m JOIN checkpoint c USING (checkpoint_id)
        JOIN tail t ON t.matrix_id = m.matrix_id AND t.kind = 'weight'
        LEFT JOIN spectrum_info s ON s.matrix_id = m.matrix_id AND s.kind = 'weight'
        LEFT JOIN welore w ON w.matrix_id = m.matrix_id
        WHERE c.name = ? GROUP BY role ORDER BY role
        """,
        [checkpoint],
    )
    return View("tails_by_role", f"Tails by role: {checkpoint}", table, "Medians over matrices.")

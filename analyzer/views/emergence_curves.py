"""Curves along a run by role: ranks, the noise ceiling, and how fast a subspace goes stale."""

from __future__ import annotations

from analyzer.store.reading import Store
from analyzer.views.emergence import ANCHOR, COLLECTED, GALORE, KEY, WELORE, kept
from analyzer.views.view import View

STEPS = 200  # of a curve
SIGNAL = 0.1  # below it a gradient is mostly minibatch noise
STATISTICS = ("stable rank", "energy")
_SPREAD = "Lines are medians, bands quartiles over the matrices of a role."


def rank_curves(store: Store, run: str, source: str, statistic: str) -> View:
    """Stable rank or share of energy by role and step: `role`, `step`, `median`, `low`, `high`
    (quartiles), `first` (median at the first step), `n` matrices.

    Raises ValueError for another statistic than "stable rank" and "energy".
    """
    if statistic not in STATISTICS:
        raise ValueError(f"the statistic must be one of {STATISTICS}, got {statistic!r}")
    table = store.sql(
        f"""
        WITH {ANCHOR}, {COLLECTED}, observed AS (
            SELECT m.role, g.step, g.r,
                   CASE ? WHEN 'energy' THEN energy_r ELSE stable_rank END AS value
            FROM grad_spectrum g JOIN collected m USING (matrix_id)
            WHERE g.run = ? AND {KEY} = ? AND block IS NULL),
        {kept("FROM observed WHERE value IS NOT NULL", STEPS)}
        SELECT role, step, median(value) AS median, quantile_cont(value, 0.25) AS low,
               quantile_cont(value, 0.75) AS high,
               first_value(median(value)) OVER (PARTITION BY role ORDER BY step) AS first,
               count(value) AS n, max(r) AS r
        FROM observed SEMI JOIN kept USING (step) WHERE value IS NOT NULL
        GROUP BY role, step ORDER BY role, step
        """,
        [run, statistic, run, source],
    )
    energy = statistic == "energy"
    r = max((r for r in table.column("r").to_pylist() if r is not None), default=None)
    return View(
        "gradient_energy_curves" if energy else "stable_rank_curves",
        f"{'Energy in the leading directions' if energy else 'Stable rank'} of {source} by role",
        table,
        f"{_SPREAD} "
        + (
            "Energy: Σ_{i≤r}σ²/Σσ², in sample, which overstates it where noise is large."
            if energy
            else "Stable rank: Σσ²/σ₁². It need not fall: dotted lines are the first values."
        ),
        GALORE,
        {"run": run, "source": source} | ({"r": r} if energy and r else {}),
    )


def signal_fraction(store: Store, run: str) -> View:
    """Signal in a minibatch gradient by role and step: `role`, `step`, `median`, `low`, `high`,
    `n`."""
    table = store.sql(
        f"""
        WITH {ANCHOR}, {COLLECTED}, observed AS (
            SELECT role, g.step, signal_fraction AS value, n_tokens
            FROM grad_noise g JOIN collected m USING (matrix_id)
            WHERE g.run = ? AND signal_fraction IS NOT NULL),
        {kept("FROM observed", STEPS)}
        SELECT role, step, median(value) AS median, quantile_cont(value, 0.25) AS low,
               quantile_cont(value, 0.75) AS high, count(value) AS n, max(n_tokens) AS n_tokens
        FROM observed SEMI JOIN kept USING (step) GROUP BY role, step ORDER BY role, step
        """,
        [run, run],
    )
    tokens = max((n for n in table.column("n_tokens").to_pylist() if n is not None), default=None)
    return View(
        "gradient_signal_fraction",
        "Signal in a minibatch gradient",
        table,
        "⟨G_B, G_C⟩/(‖G_B‖‖G_C‖) of two independent batches, about ‖E G‖²/E‖G‖²: the noise "
        f"ceiling, of cosines too. Below {SIGNAL} a gradient is mostly noise. {_SPREAD}",
        "Spearman 1904; " + WELORE,
        {"run": run} | ({"tokens a batch": tokens} if tokens else {}),
    )


ENERGIES = {
    "energy_in": "of its own batch",
    "energy_out": "of another batch",
    "energy_cv": "of the expected gradient",
}


def noise_ceiling(store: Store, run: str) -> View:
    """Energy in the r leading directions of one batch, of itself, of another batch and of the
    expected gradient: `measure`, `step`, `median`, `low`, `high`, `n`."""
    table = store.sql(
        f"""
        WITH {ANCHOR}, {COLLECTED}, observed AS (
            UNPIVOT (
                SELECT g.step, g.r, energy_in, energy_out,
                       CASE WHEN signal_fraction > {SIGNAL} THEN energy_cv END AS energy_cv
                FROM grad_noise g SEMI JOIN collected USING (matrix_id) WHERE g.run = ?)
            ON energy_in, energy_out, energy_cv INTO NAME measure VALUE value),
        {kept("FROM observed", STEPS)}
        SELECT measure, step, median(value) AS median, quantile_cont(value, 0.25) AS low,
               quantile_cont(value, 0.75) AS high, count(value) AS n, max(r) AS r
        FROM observed SEMI JOIN kept USING (step) GROUP BY measure, step
        ORDER BY measure DESC, step
        """,
        [run, run],
    )
    r = max((r for r in table.column("r").to_pylist() if r is not None), default=None)
    return View(
        "gradient_noise_ceiling",
        "Energy held by the leading directions of one batch",
        table,
        "Share of energy in the r leading directions of one batch: of that batch (overstated), of "
        "another batch, and, cross-validated, of the expected gradient (only matrices with a "
        f"signal fraction above {SIGNAL}). Lines are medians, bands quartiles over the matrices.",
        GALORE,
        {"run": run} | ({"r": r} if r else {}),
    )


def staleness(store: Store, run: str) -> View:
    """Energy that a subspace still captures some steps later, by role: `role`, `lag`, `median`,
    `low`, `high`, `overlap` (median), `n` matrices."""
    table = store.sql(
        f"""
        WITH {ANCHOR}
        SELECT m.role, lag, median(captured) AS median, quantile_cont(captured, 0.25) AS low,
               quantile_cont(captured, 0.75) AS high, median(overlap) AS overlap,
               count(*) AS n, sum(g.n)::BIGINT AS n_pairs
        FROM grad_staleness g JOIN matrix m USING (matrix_id)
        WHERE g.run = ? AND m.checkpoint_id = (SELECT checkpoint_id FROM anchor)
        GROUP BY m.role, lag ORDER BY m.role, lag
        """,
        [run, run],
    )
    return View(
        "gradient_staleness",
        "Energy captured by a subspace of an earlier step",
        table,
        "‖PᵀG‖²/‖G‖² of the minibatch gradient some steps after P was computed. What is lost from "
        f"lag 0 to 1 is sampling noise, only later losses are drift. {_SPREAD}",
        GALORE,
        {"run": run},
    )

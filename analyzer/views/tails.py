"""Heavy tails of whole checkpoints: exponents by depth, their histogram, distance from noise."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from analyzer.store.reading import Store
from analyzer.views.cells import NAMES, cells, role_order
from analyzer.views.collection import base_of
from analyzer.views.pairing import CHECKPOINT, pairs
from analyzer.views.view import View

CSN = "Clauset, Shalizi & Newman 2009, arXiv 0706.1062"
NOISE = "Dumitriu & Edelman 2002, J. Math. Phys. 43"
MOST_BINS = 40
_WIDTHS = (0.02, 0.05, 0.1, 0.2, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0)

# Fitted weights of a checkpoint ($1, matrix numbers), and what they were in its base ($2); the
# checkpoint's own series is $3.
_FITTED = """
    m AS (SELECT *, $3 AS series FROM matrix WHERE list_contains($1::BIGINT[], matrix_id)
          UNION ALL
          SELECT *, 'base' FROM matrix WHERE list_contains($2::BIGINT[], matrix_id)),
    f AS (SELECT m.series, m.name, m.stack, m.layer, m.role, m.expert,
                 least(rows, cols) AS short_side, greatest(rows, cols) AS long_side, t.*
          FROM tail t JOIN m USING (matrix_id)
          WHERE t.kind = 'weight' AND t.status = 'ok' AND t.alpha IS NOT NULL)
"""


def _chosen(store: Store, checkpoint: str) -> list[Any]:
    """The parameters of `_FITTED`."""
    base = base_of(store, checkpoint)
    if base is not None:
        both = pairs(store, base, checkpoint)
        return [[*both.second, *both.only_second], list(both.first), "tuned"]
    found = store.sql(
        f"""
        SELECT matrix_id, c.kind FROM matrix m JOIN checkpoint c USING (checkpoint_id)
        WHERE checkpoint_id = {CHECKPOINT}
        """,
        [checkpoint],
    ).to_pylist()
    is_base = bool(found) and found[0]["kind"] == "base"
    return [[row["matrix_id"] for row in found], [], "base" if is_base else "tuned"]


def alpha_by_depth(store: Store, checkpoint: str) -> View:
    """α of weights by layer with its 95 % interval: `series` base or tuned, `role`, `layer`.

    Several matrices of a place (experts) become the medians of α and of both ends.
    """
    found = store.sql(
        f"""
        WITH {_FITTED}
        SELECT series, concat_ws(' ', nullif(stack, 'decoder'), role) AS role, layer,
               median(alpha) AS alpha, median(alpha_lo) AS lo, median(alpha_hi) AS hi,
               count(*) AS n_matrices
        FROM f WHERE layer IS NOT NULL
        GROUP BY series, stack, role, layer ORDER BY series, layer
        """,
        _chosen(store, checkpoint),
    )
    rows = sorted(found.to_pylist(), key=lambda row: role_order(row["role"]))
    return View(
        "alpha_by_depth",
        "Tail exponent α by depth",
        pa.Table.from_pylist(rows, schema=found.schema),
        "α of p(λ) ∝ λ^(-α) above xmin, λ = σ² of the weight; bars: 95 % intervals. Several "
        "matrices of one layer and role: medians.",
        f"{CSN}, eq. 3.1",
        {"checkpoint": checkpoint},
    )


def alpha_histogram(store: Store, checkpoint: str) -> View:
    """Matrices by α: `series` base, tuned or random, bins `low` to `high`, `n`.

    `random` is what as many random matrices of the same shapes would give, on average. Matrices
    above the last bin are counted in it; of random ones only those inside the bins.
    """
    chosen = _chosen(store, checkpoint)
    width, high = _bins(store, chosen)
    table = store.sql(
        f"""
        WITH {_FITTED},
        shapes AS (SELECT short_side, long_side, seed, count(*) AS n FROM f
                   WHERE series = $3 AND null_draws IS NOT NULL
                   GROUP BY ALL),
        every AS (
            SELECT series, alpha, 1.0 AS weight FROM f
            UNION ALL
            SELECT 'random', d.alpha,
                   n / count(*) OVER (PARTITION BY short_side, long_side, seed)
            FROM shapes JOIN tail_null d USING (short_side, long_side, seed)),
        b AS (SELECT series, weight, least(floor(alpha / $4), floor($5 / $4) + 1) AS bin FROM every)
        SELECT series, bin * $4 AS low, (bin + 1) * $4 AS high,
               sum(weight::DECIMAL(18, 9))::DOUBLE AS n  -- exact, whatever the order
        FROM b WHERE series <> 'random' OR bin <= floor($5 / $4)
        GROUP BY series, bin ORDER BY list_position(['base', 'tuned', 'random'], series), bin
        """,
        [*chosen, width, high],
    )
    return View(
        "alpha_histogram",
        "Tail exponents α of the weights",
        table,
        "Dotted: average of as many random matrices of the same shapes, as far as their α lies in "
        "the range shown. Matrices above the range are counted in the last bin.",
        f"{CSN}; {NOISE}",
        {"checkpoint": checkpoint, "bin width": width},
    )


def _bins(store: Store, chosen: list[Any]) -> tuple[float, float]:
    """A round width of bins that suits the number of exponents, and where the last bin begins."""
    found = store.sql(
        f"WITH {_FITTED} SELECT min(alpha) AS low, quantile_cont(alpha, 0.98) AS high, "
        "count(*) AS n FROM f",
        chosen,
    ).to_pylist()[0]
    low, high = found["low"] or 1.0, found["high"] or 2.0
    bins = min(MOST_BINS, max(8.0, 2 * found["n"] ** 0.5))
    return next((w for w in _WIDTHS if (high - low) / w < bins), _WIDTHS[-1]), high


def against_noise(store: Store, checkpoint: str) -> View:
    """How many standard deviations α lies from that of random matrices: cells as of views.heat.

    `value` is z = (α - mean)/deviation over random matrices of the shape: below 0 heavier-tailed
    than noise; `null_q` is the share of them with a smaller α. Several matrices: medians.
    """
    found = store.sql(
        f"""
        WITH {_FITTED},
        noise AS (SELECT short_side, long_side, seed, avg(alpha) AS centre,
                         nullif(stddev_samp(alpha), 0) AS deviation, count(*) AS n_draws
                  FROM tail_null GROUP BY ALL),
        m2 AS (SELECT f.*, (alpha - centre) / deviation AS z, n_draws
               FROM f JOIN noise USING (short_side, long_side, seed)
               WHERE null_q IS NOT NULL AND series = $3)
        SELECT stack, layer, role, count(*) AS n, {NAMES}, median(z) AS value, min(z) AS low,
               max(z) AS high, median(alpha) AS alpha, median(null_q) AS null_q,
               max(n_draws) AS n_draws
        FROM m2 m WHERE z IS NOT NULL GROUP BY stack, layer, role
        """,
        _chosen(store, checkpoint),
    )
    return View(
        "alpha_against_noise",
        f"z of α against noise by layer and role: {checkpoint}",
        cells(found),
        "z: α minus the mean of random matrices of the same shape, over their standard deviation. "
        "Below 0: heavier-tailed than noise.",
        NOISE,
        {"against": "random matrices"},
    )


def fitted_names(store: Store) -> list[str]:
    """Names of the checkpoints with a fitted tail, tuned ones first, last steps of a run first."""
    found = store.sql(
        """
        SELECT name FROM checkpoint WHERE checkpoint_id IN
            (SELECT checkpoint_id FROM tail JOIN matrix USING (matrix_id)
             WHERE tail.status IN ('ok', 'low_n'))
        QUALIFY row_number() OVER (PARTITION BY name ORDER BY checkpoint_id DESC) = 1
        ORDER BY kind = 'base', row_number() OVER (PARTITION BY run ORDER BY step DESC) > 1
                 AND run IS NOT NULL, run, step DESC, name
        """
    )
    return found.column(0).to_pylist()


def fitted_matrices(store: Store, checkpoint: str) -> list[str]:
    """Names of a checkpoint's matrices with a tail row, by place."""
    found = store.sql(
        f"""
        SELECT m.name FROM matrix m
        WHERE checkpoint_id = {CHECKPOINT} AND m.matrix_id IN (SELECT matrix_id FROM tail)
        ORDER BY stack NULLS FIRST, layer NULLS LAST, role, expert NULLS FIRST, m.name
        """,
        [checkpoint],
    )
    return found.column(0).to_pylist()

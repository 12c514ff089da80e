"""Any number of any table along the steps of training runs."""

from __future__ import annotations

from collections.abc import Sequence

from analyzer.store.reading import Store
from analyzer.views.heat import Fixed, definition, values
from analyzer.views.metrics import explained
from analyzer.views.view import View


def history(store: Store, runs: Sequence[str], metric: str, fixed: Fixed = ()) -> View:
    """Median and quartiles of `metric` (`table.column`) over the matrices of every step.

    Columns: `run` (NULL for the base of these runs, where the metric is one of weights),
    `checkpoint`, `step`, `n` matrices, `value`, `low`, `high`. Raises UsageError for an unknown
    metric.
    """
    column = definition(metric, fixed)
    query, own = values(metric, fixed, "SELECT matrix_id FROM m")
    table = store.sql(
        f"""
        WITH c AS (SELECT * FROM checkpoint WHERE run = ANY(?) AND step IS NOT NULL),
        shown AS (
            SELECT checkpoint_id, name, run, step FROM c
            UNION ALL SELECT checkpoint_id, name, NULL, NULL FROM checkpoint
            WHERE checkpoint_id IN (SELECT base_checkpoint_id FROM c)),
        m AS (
            SELECT matrix_id, s.* FROM shown s JOIN matrix x USING (checkpoint_id)),
        v AS ({query})
        SELECT run, m.name AS checkpoint, step, count(*) AS n, median(value) AS value,
               quantile_cont(value, 0.25) AS low, quantile_cont(value, 0.75) AS high
        FROM v JOIN m USING (matrix_id) GROUP BY ALL ORDER BY run NULLS FIRST, step, checkpoint
        """,
        [list(runs), *own],
    )
    return View(
        f"history_{column.name}",
        f"{column.name} along training",
        table,
        explained(column).rstrip(".") + ". Median over the matrices; band: quartiles.",
        parameters=dict(fixed),
    )

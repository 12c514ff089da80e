"""Followed runs: which there are, what was followed of them, and what each source cannot say.

A source is named as in addresses: its table's source and, if recorded of one batch, the batch, as
`grad/probe` or `exp_avg`.
"""

from __future__ import annotations

from typing import Any

from analyzer.store.reading import Store
from analyzer.views.collection import PLACE
from analyzer.views.view import View

GALORE = "Zhao et al. 2024, arXiv 2403.03507"
WELORE = "Jaiswal et al. 2024, arXiv 2407.11239"

# What is shown of a run, the first of these that it has.
PREFERRED = (
    ("grad", "probe"), ("grad", "saved"), ("grad", "train"), ("exp_avg", None),
    ("delta_init", None), ("delta_prev", None),
)  # fmt: skip
KEY = "concat_ws('/', source, batch_id)"
_SOURCES = """
    SELECT source, batch_id, max(n_steps) AS n_steps, min(step_first) AS step_first,
           max(step_last) AS step_last, median(stable_rank_first) AS stable_rank_first,
           median(stable_rank_max) AS stable_rank_max, median(stable_rank_end) AS stable_rank_end,
           median(energy_r_end) AS energy_r_end, median(cos_adjacent) AS cos_adjacent,
           median(cos_late) AS cos_late, median(overlap_late) AS overlap_late,
           any_value(caution) AS caution
    FROM emergence JOIN matrix USING (matrix_id)
    WHERE run = ? AND checkpoint_id = {at} GROUP BY ALL ORDER BY source, batch_id
"""
# A run is summed up at its last checkpoint; runs of several collections may share a name, so that
# the folder tells them apart. Binds the run.
ANCHOR = """
    anchor AS (
        SELECT c.checkpoint_id, c.base_checkpoint_id,
               left(c.path, length(c.path) - length(c.name)) AS folder
        FROM emergence e JOIN matrix USING (matrix_id) JOIN checkpoint c USING (checkpoint_id)
        WHERE e.run = ? ORDER BY c.step DESC NULLS LAST, c.checkpoint_id DESC LIMIT 1)
"""
# Matrices of all checkpoints of that collection, and of the last one the chosen (binds its name).
COLLECTED = """
    collected AS (
        SELECT m.* FROM matrix m JOIN checkpoint c USING (checkpoint_id), anchor
        WHERE left(c.path, length(c.path) - length(c.name)) = folder)
"""
TARGET = """
    target AS (
        SELECT matrix_id FROM matrix
        WHERE checkpoint_id = (SELECT checkpoint_id FROM anchor) AND name = ?)
"""


def kept(steps: str, most: int) -> str:
    """SQL table `kept` of about `most` evenly chosen steps, ends included; `steps` selects all."""
    return f"""
    kept AS (
        SELECT step FROM (
            SELECT step, row_number() OVER (ORDER BY step) AS i, count(*) OVER () AS n
            FROM (SELECT DISTINCT step FROM ({steps})))
        WHERE n <= {most} OR i IN (1, n)
              OR (i * {most - 1}) // n <> ((i - 1) * {most - 1}) // n)
"""


def runs(store: Store) -> list[str]:
    """Names of the followed runs: those with gradients first, then by name."""
    return _texts(
        store,
        "SELECT run FROM emergence GROUP BY run"
        " ORDER BY bool_or(source = 'grad') DESC, max(n_steps) DESC, run",
    )


def sources(store: Store, run: str) -> list[str]:
    """What was followed of a run, the source that speaks for it first."""
    order = [f"WHEN '{'/'.join(filter(None, one))}' THEN {i}" for i, one in enumerate(PREFERRED)]
    return _texts(
        store,
        f"SELECT {KEY} AS key FROM emergence WHERE run = ? GROUP BY key"
        f" ORDER BY CASE key {' '.join(order)} ELSE {len(PREFERRED)} END, key",
        run,
    )


def matrices(store: Store, run: str, source: str) -> list[str]:
    """Names of the matrices followed through a source, by place."""
    return _texts(
        store,
        f"""
        WITH {ANCHOR}
        SELECT m.name FROM emergence e JOIN matrix m USING (matrix_id)
        WHERE e.run = ? AND m.checkpoint_id = (SELECT checkpoint_id FROM anchor)
              AND {KEY.replace("source", "e.source")} = ?
        ORDER BY {PLACE.replace("layer", "m.layer").replace("name", "m.name")}
        """,
        run, run, source,
    )  # fmt: skip


def last_checkpoint(store: Store, run: str) -> int | None:
    """Id of the checkpoint at which a run is summed up, None of one that was not followed."""
    found = store.sql(f"WITH {ANCHOR} SELECT checkpoint_id FROM anchor", [run]).column(0)
    return found[0].as_py() if len(found) else None


def caution(store: Store, run: str, source: str) -> str:
    """What a source cannot say, in words; empty where nothing was followed."""
    found = _texts(
        store, f"SELECT DISTINCT caution FROM emergence WHERE run = ? AND {KEY} = ?", run, source
    )
    return "; ".join(found)


def source_summary(store: Store, run: str) -> View:
    """One row a source: medians over the matrices, and what the source cannot say."""
    return View(
        "emergence_sources",
        "Sources of the run",
        store.sql(
            f"WITH {ANCHOR} {_SOURCES.format(at='(SELECT checkpoint_id FROM anchor)')}", [run, run]
        ),
        "Medians over the matrices.",
        f"{GALORE}; {WELORE}",
        {"run": run},
    )


def source_table(store: Store, run: str, checkpoint_id: int | None) -> Any:
    """One row a source of a run's last checkpoint: medians over its matrices."""
    return store.sql(_SOURCES.format(at="?"), [run, checkpoint_id])


def _texts(store: Store, query: str, *parameters: str) -> list[str]:
    return store.sql(query, list(parameters)).column(0).to_pylist()

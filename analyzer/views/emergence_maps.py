"""Maps of one matrix along a run: singular values by step, cosines and overlaps between steps."""

from __future__ import annotations

from dataclasses import replace

from analyzer.analyses.gradient_sources import SOURCES, spectrum_kind
from analyzer.store.reading import Store
from analyzer.views.emergence import ANCHOR, COLLECTED, GALORE, KEY, TARGET, WELORE, kept
from analyzer.views.view import View

VALUES = 100  # singular values of a map, as published ones show
STEPS = 50  # rows of a map
PREVIOUS, FIRST, LAST = "the step before", "the first step", "the last step"


def gradient_spectrum_map(store: Store, run: str, source: str, matrix: str) -> View:
    """Leading singular values by step: `step`, `k` (1-based), `sigma`."""
    name, _, batch = source.partition("/")
    of_steps = f"""
        SELECT g.step, g.matrix_id, g.fro FROM grad_spectrum g JOIN collected USING (matrix_id)
        WHERE g.run = ? AND g.matrix = ? AND {KEY} = ? AND g.block IS NULL
    """
    table = store.sql(
        f"""
        WITH {ANCHOR}, {COLLECTED}, observed AS ({of_steps}), {kept("FROM observed", STEPS)},
        shown AS (SELECT DISTINCT step, matrix_id FROM observed SEMI JOIN kept USING (step))
        SELECT step, k, sigma FROM spectrum JOIN shown USING (matrix_id)
        WHERE kind = ? AND k <= {VALUES} AND ? IN ('', 'saved')
        UNION ALL
        SELECT v.step, v.k, v.sigma FROM grad_singular_value v
        JOIN shown ON (v.matrix_id, v.step) = (shown.matrix_id, shown.step)
        WHERE v.run = ? AND {KEY} = ? AND v.k <= {VALUES}
        ORDER BY step, k
        """,
        [run, run, matrix, source, spectrum_kind(name), batch, run, source],
    )
    formula = SOURCES[name].formula if name in SOURCES else name
    return View(
        "gradient_spectrum_map",
        f"Singular values of {source} along the run",
        table,
        f"Of {formula}. At most {VALUES} leading values of at most {STEPS} steps; values recorded "
        "by sketches are lower bounds.",
        f"{WELORE}, figures 2 and 3",
        {"run": run, "source": source, "matrix": matrix},
    )


def weight_spectrum_map(store: Store, run: str, matrix: str) -> View:
    """The same of the weights: `step`, `k`, `sigma`; step 0 is the base the run started from."""
    table = store.sql(
        f"""
        WITH {ANCHOR}, {COLLECTED}, observed AS (
            SELECT m.matrix_id, coalesce(c.step, 0) AS step
            FROM collected m JOIN checkpoint c USING (checkpoint_id)
            WHERE m.name = ? AND (
                c.run = ? OR c.checkpoint_id IN (SELECT checkpoint_id FROM anchor))
            UNION ALL
            SELECT m.matrix_id, 0 FROM matrix m JOIN checkpoint c USING (checkpoint_id)
            WHERE m.name = ? AND c.checkpoint_id IN (SELECT base_checkpoint_id FROM anchor)
                  AND c.run IS DISTINCT FROM ?),
        {kept("FROM observed", STEPS)}
        SELECT step, k, sigma FROM spectrum JOIN observed USING (matrix_id) SEMI JOIN kept
            USING (step) WHERE kind = 'weight' AND k <= {VALUES} ORDER BY step, k
        """,
        [run, matrix, run, matrix, run],
    )
    return View(
        "weight_spectrum_map",
        "Singular values of the weights along the run",
        table,
        f"At most {VALUES} leading values of at most {STEPS} checkpoints; step 0 is the base where "
        "the run started from one.",
        f"{WELORE}, figures 2 and 3",
        {"run": run, "matrix": matrix},
    )


def _square(columns: str, diagonal: str) -> str:
    """SQL of all steps against all: the `columns` of `pairs` twice, and `diagonal` for a step."""
    return f"""
        {kept("SELECT step_a AS step FROM pairs UNION SELECT step_b FROM pairs", STEPS)},
        shown AS (
            SELECT * FROM pairs WHERE step_a IN (FROM kept) AND step_b IN (FROM kept)
                  AND step_a <> step_b)
        SELECT * FROM shown
        UNION ALL SELECT step_b, step_a, {columns} FROM shown
        UNION ALL SELECT step, step, {diagonal} FROM kept
        ORDER BY ALL
    """


_ONE_AND_CHANCE = "1.0, (SELECT max(chance) FROM pairs), (SELECT max(r) FROM pairs)"


def cosine_map(store: Store, run: str, source: str, matrix: str) -> View:
    """Cosines between steps, both halves and the diagonal: `step_a`, `step_b`, `cosine`, `err`,
    `disattenuated` (cosine of the expected gradients, where a noise ceiling allows it)."""
    table = store.sql(
        f"""
        WITH {ANCHOR}, {TARGET}, pairs AS (
            SELECT step_a, step_b, cosine, err, disattenuated FROM grad_cosine
            SEMI JOIN target USING (matrix_id) WHERE run = ? AND {KEY} = ?),
        {_square("cosine, err, disattenuated", "1.0, 0.0, NULL")}
        """,
        [run, matrix, run, source],
    )
    errors = [e for e in table.column("err").to_pylist() if e is not None]
    return View(
        "gradient_cosine_map",
        f"Cosine of {source} between steps",
        table,
        "⟨A, B⟩/(‖A‖‖B‖) of the matrices at two steps. Cosines grow where steps are close or the "
        "learning rate is small.",
        f"{WELORE}, figure 2",
        {"run": run, "source": source, "matrix": matrix, "error": float(max(errors, default=0.0))},
    )


def overlap_map(store: Store, run: str, source: str, matrix: str) -> View:
    """Overlap of leading subspaces between steps, both halves and the diagonal: `step_a`,
    `step_b`, `overlap`, `chance`, `r`."""
    table = store.sql(
        f"""
        WITH {ANCHOR}, {TARGET}, pairs AS (
            SELECT step_a, step_b, overlap, chance, r FROM grad_overlap
            SEMI JOIN target USING (matrix_id)
            WHERE run = ? AND {KEY} = ? AND source_b = source),
        {_square("overlap, chance, r", _ONE_AND_CHANCE)}
        """,
        [run, matrix, run, source],
    )
    return _overlap_view(
        View(
            "gradient_overlap_map",
            f"Overlap of the leading directions of {source} between steps",
            table,
            "‖UᵀV‖_F²/r of the r leading singular vectors at two steps; 1 is the same subspace, "
            "chance is what random ones share.",
            f"{GALORE}; Björck & Golub 1973, Math. Comp. 27",
            {"run": run, "source": source, "matrix": matrix},
        )
    )


def overlap_curves(store: Store, run: str, source: str, matrix: str) -> View:
    """Overlap by step with the step before, the first and the last one, and of a cumulated subspace
    with those of ΔW and W: `held_to`, `step`, `overlap`, `error`, `chance`, `r`."""
    table = store.sql(
        f"""
        WITH {ANCHOR}, {TARGET}, pairs AS (
            SELECT step_a, step_b, overlap, overlap_error AS error, chance, r, source, source_b
            FROM grad_overlap SEMI JOIN target USING (matrix_id) WHERE run = ? AND {KEY} = ?),
        own AS (FROM pairs WHERE source = source_b AND step_a < step_b),
        curves AS (
            SELECT '{PREVIOUS}' AS held_to, step_b AS step, overlap, error, chance, r FROM own
            QUALIFY row_number() OVER (PARTITION BY step_b ORDER BY step_a DESC) = 1
            UNION ALL
            SELECT '{FIRST}', step_b, overlap, error, chance, r FROM own
            WHERE step_a = (SELECT min(step_a) FROM own)
            UNION ALL
            SELECT '{LAST}', step_a, overlap, error, chance, r FROM own
            WHERE step_b = (SELECT max(step_b) FROM own)
            UNION ALL
            SELECT source_b, step_a, overlap, error, chance, r FROM pairs
            WHERE source <> source_b)
        SELECT * FROM curves ORDER BY held_to, step
        """,
        [run, matrix, run, source],
    )
    return _overlap_view(
        View(
            "gradient_overlap_curves",
            f"Overlap of the leading directions of {source} along the run",
            table,
            "‖UᵀV‖_F²/r with the r leading directions of another step, or of W and ΔW. An "
            "overlap at the chance line says that the subspaces have nothing in common.",
            f"{GALORE}; Björck & Golub 1973, Math. Comp. 27",
            {"run": run, "source": source, "matrix": matrix},
        )
    )


def _overlap_view(view: View) -> View:
    """The view with the dimension and the chance level among its parameters."""
    if view.is_empty:
        return view
    r, chance = max(view.column("r")), max(view.column("chance"))
    return replace(view, parameters={**view.parameters, "r": r, "chance": float(chance)})

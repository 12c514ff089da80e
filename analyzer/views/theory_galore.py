"""GaLore's statements about gradients, evaluated on small instances with their conditions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from analyzer.store.reading import Store
from analyzer.views.view import View
from theory.galore import StableRankBounds, bounds_from_modes, rank_one_limit, step_limit
from theory.galore_convergence import Smoothness, contraction_rates, projected_factors
from theory.galore_modes import GradientModes, gradient_modes
from theory.verdicts import Verdict

Array = NDArray[np.float64]
SOURCE = "Zhao et al. 2024, arXiv 2403.03507"
CASES = ("product form", "generic", "few tokens")
ROWS, COLS, RANK = 6, 5, 2
_TERMS = {"product form": 1, "generic": 5, "few tokens": 3}


def instance(case: str, seed: int) -> tuple[Array, Array, Array]:
    """G (6, 5), B (N, 6, 6) and C (N, 5, 5), seeded.

    product form: N = 1, so that eigenspaces are products. generic: N = 5. few tokens: N = 3 with
    C_i = f_i f_iᵀ, which leaves a null space that holds nothing of G. Raises ValueError for others.
    """
    if case not in CASES:
        raise ValueError(f"case {case!r}: one of {', '.join(CASES)}")
    rng = np.random.default_rng([seed, CASES.index(case)])
    terms = _TERMS[case]
    left = rng.standard_normal((terms, ROWS, ROWS))
    B = left @ left.swapaxes(1, 2) / ROWS
    if case == "few tokens":
        f = rng.standard_normal((terms, COLS))
        return (rng.standard_normal((ROWS, terms)) @ f, B, f[:, :, None] * f[:, None, :])
    right = rng.standard_normal((terms, COLS, COLS))
    return rng.standard_normal((ROWS, COLS)), B, right @ right.swapaxes(1, 2) / COLS


def stable_rank(case: str, share: float, steps: int, seed: int) -> View:
    """Exact stable rank and both bounds: `step`, `curve`, `value`; η is `share` of its limit."""
    _, bounds = _bounds(case, share, steps, seed)
    curves = {
        "exact": bounds.exact,
        "printed bound": bounds.printed.formula,
        "gap-aware bound": bounds.gap_aware.formula,
    }
    rows = [
        {"step": int(t), "curve": name, "value": float(v)}
        for name, values in curves.items()
        if values is not None
        for t, v in zip(bounds.steps, values, strict=True)
        if np.isfinite(v) and v <= 4 * min(ROWS, COLS)
    ]
    known: dict[str, Any] = {
        "case": case, "η": f"{bounds.eta:.3g}", "λ₁": f"{bounds.lambda1:.3g}",
        "gap g": f"{bounds.gap:.3g}", "seed": seed,
    }  # fmt: skip
    return View(
        "galore_stable_rank",
        "Stable rank of a gradient under GaLore's linear dynamics",
        pa.Table.from_pylist(rows, schema=_CURVES),
        f"A {ROWS} × {COLS} gradient, G_(t+1) = G_t - η S(G_t). Bounds are drawn where they are "
        f"below {4 * min(ROWS, COLS)}, whatever their conditions say; the table below tells.",
        f"{SOURCE}, Lemma 3.3",
        known,
    )


_CURVES = pa.schema([("step", pa.int64()), ("curve", pa.string()), ("value", pa.float64())])


def verdicts(case: str, share: float, steps: int, seed: int, lipschitz: float) -> View:
    """One row a statement: `statement`, `status`, `condition`, `compared`, `limit`, `rate`."""
    modes, bounds = _bounds(case, share, steps, seed)
    rows = [
        _row("Lemma 3.3 as printed", bounds.printed.verdict),
        _row("Lemma 3.3, gap-aware", bounds.gap_aware.verdict),
        _row("smallest eigenvalue of S is active", bounds.literal),
        _row("Corollary 3.5: tends to rank one", rank_one_limit(modes)),
    ]
    G, B, C = instance(case, seed)
    U, _, Vt = np.linalg.svd(G)
    factors = projected_factors(B, C, U[:, :RANK], Vt[:RANK].T)
    smooth = Smoothness(lipschitz, lipschitz, lipschitz, 1.0, factors.norm_left, factors.norm_right)
    rates = contraction_rates(factors, smooth, bounds.eta)
    for name in ("main_text", "appendix", "safe", "constant"):
        rate = getattr(rates, name)
        rows.append(
            _row(f"Theorem 3.8, {name.replace('_', ' ')}", rate.verdict) | {"rate": rate.formula}
        )
    return View(
        "galore_verdicts",
        "Which statements hold here",
        pa.Table.from_pylist(rows, schema=_VERDICTS),
        "A rate bounds ‖R_t‖/‖R_(t-1)‖ of the projected gradient; 1 or more says nothing. A "
        "number whose condition fails says nothing either.",
        SOURCE,
        {"case": case, "rank": RANK, "Lipschitz constant": lipschitz},
    )


_VERDICTS = pa.schema(
    [("statement", pa.string()), ("status", pa.string()), ("condition", pa.string())]
    + [(name, pa.float64()) for name in ("compared", "limit", "rate")]
)


def own_gradients(store: Store) -> View:
    """Stable rank of recorded gradients by run and step: `median`, `low`, `high`, `n`."""
    table = store.sql(
        """
        SELECT run, step, median(stable_rank) AS median, quantile_cont(stable_rank, 0.1) AS low,
               quantile_cont(stable_rank, 0.9) AS high, count(*) AS n
        FROM grad_spectrum
        WHERE source = 'grad' AND block IS NULL AND stable_rank IS NOT NULL
        GROUP BY run, step ORDER BY run, step
        """
    )
    return View(
        "own_gradients",
        "Stable rank of this store's gradients",
        table,
        "Median and the middle 80 % of matrices. A real gradient is not linear in the weights: "
        "the lemma speaks of one stretch of training at best.",
        SOURCE,
    )


def _bounds(
    case: str, share: float, steps: int, seed: int
) -> tuple[GradientModes, StableRankBounds]:
    modes = gradient_modes(*instance(case, seed))
    limit = step_limit(modes)
    assert limit is not None  # instances have many modes
    t = np.unique(np.geomspace(1, steps + 1, 120).round().astype(int) - 1)
    return modes, bounds_from_modes(modes, share * limit, t)


def _row(statement: str, verdict: Verdict) -> dict[str, Any]:
    return {
        "statement": statement, "status": verdict.status, "condition": verdict.condition,
        "compared": verdict.value, "limit": verdict.limit, "rate": None,
    }  # fmt: skip

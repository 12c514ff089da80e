"""Heavy-tail analysis of one matrix: tail exponent and its reliability, random bulk, phase.

Only eigenvalues λ = σ² with σ > max(2·storage_floor, n·ε·σ_1) enter: a rule that follows the
scale of the matrix, so that W and 10⁻¹²·W have the same exponent. Everything is computed on λ/λ_1.

A default run is meant to cost less than the eigenvalues themselves. Its interval of α is exact
given xmin, and its goodness of fit samples until ten samples fit worse, at most 199: a standard
error of p/√10 or, near p = 0.1, of 0.02 to 0.03 (`gof_replicates` tells the number). `full` takes
2500 samples (0.006 at p = 0.1) and lets the interval of α vary xmin. Both bootstraps take
eigenvalues as independent; they repel each other, so p-values and the interval of ξ err on the
side of caution.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer.analyses.rows_tails import TailRow
from analyzer.analyses.tail_fit import (
    EQUAL,
    LOW_N,
    Description,
    TailFit,
    describe,
    fit_tail,
    tail_status,
)
from theory.bulk_fit import BulkFit, bulk_fit
from theory.extreme_value import moment_index, moment_interval
from theory.phase import phase
from theory.power_law import pl_alpha_hill
from theory.random_matrix import hill_null
from theory.spectral_summaries import (
    log_alpha_norm,
    matrix_entropy,
    rank_tolerance,
    trace_log_crossing,
)
from theory.wishart_null import NullStatistics

__all__ = ["TailFit", "fit_tail", "tail_row"]

Array = NDArray[np.float64]
Values = dict[str, Any]


def tail_row(
    singular_values: ArrayLike,
    *,
    rows: int,
    cols: int,
    storage_floor: float,
    matrix_id: int,
    kind: str,
    full: bool,
    seed: int,
    null: NullStatistics | None = None,
) -> TailRow:
    """The row of one matrix (rows, cols), from its singular values in any order.

    `storage_floor` is their noise, of storage or of the solver, whichever is larger. Fewer values
    than min(rows, cols), as of a low-rank update, have no random matrix to compare with.
    `null`, from `null_statistics(rows, cols)`, gives each statistic's rank among random matrices.
    Never raises for degenerate values: `status` says why there is no fit.
    """
    s = np.sort(np.asarray(singular_values, dtype=np.float64).ravel())
    common: Values = {"matrix_id": matrix_id, "kind": kind, "seed": seed}
    if not np.isfinite(s).all():
        return TailRow(**common, n_evals=0, status="nonfinite", warnings="")
    usable, scaled, largest, status = _prepare(s, max(rows, cols), storage_floor)
    common |= {"n_evals": usable.size, "status": status}
    common["entropy"] = matrix_entropy(usable, usable.size)
    if status not in ("ok", "low_n"):
        phase = _collapsed(usable.size, s.size, min(rows, cols))
        return TailRow(**common, phase=phase, warnings="")
    found = describe(scaled, full=full, seed=seed)
    values = _fit_values(found, scaled, largest) | _index_values(scaled, full, seed)
    if s.size < min(rows, cols):
        warnings = (*found.warnings, "no random matrix to compare with: a low-rank spectrum")
        return TailRow(**common, **values, warnings="; ".join(warnings))
    bulk, warnings = bulk_fit(scaled, rows, cols), found.warnings
    if bulk.is_random and found.fit.xmin < bulk.bulk_max:
        warnings = (*warnings, "the tail starts inside a random bulk")
    values |= _bulk_values(bulk, largest) | {"hill_null": hill_null(s.size / max(rows, cols))}
    label = _phase(bulk, values, usable.size, s.size)
    # So few values pass for random whatever they are: 4/m is a wide tolerance.
    values["phase"] = label if status == "ok" or label == "rank_collapse" else None
    if null is not None:
        values |= _null_values(values, null)
    return TailRow(**common, **values, warnings="; ".join(warnings))


def _prepare(s: Array, long_side: int, floor: float) -> tuple[Array, Array, float, str]:
    """Ascending σ above the noise, λ/λ_1, σ_1 and status."""
    largest = float(s[-1]) if s.size else 0.0
    usable = s[s > rank_tolerance(s, long_side, floor)]
    scaled = (usable / largest) ** 2 if largest else usable
    # differences of σ below 2·floor mean nothing: of an orthogonal matrix, only rounding is left
    spread = max(EQUAL, 4.0 * floor / largest) if largest else 0.0
    status = "below_floor" if largest and not usable.size else tail_status(scaled, spread)
    return usable, scaled, largest, status


def _collapsed(rank: int, n_values: int, full_rank: int) -> str | None:
    """The one phase that needs no fit; a low-rank update has none."""
    return "rank_collapse" if n_values == full_rank and 0 < rank < full_rank / 2 else None


def _fit_values(found: Description, scaled: Array, largest: float) -> Values:
    """Columns of the tail fit and its alternatives."""
    fit = found.fit
    # Σ λ^α in decimal logarithms, because λ_1^α itself overflows
    log_largest = 2.0 * float(np.log10(largest))
    crossing = trace_log_crossing(scaled)
    values: Values = {
        "alpha": fit.alpha,
        "alpha_lo": found.interval[0],
        "alpha_hi": found.interval[1],
        "alpha_interval": found.interval_method,
        "alpha_unbiased": found.alpha_unbiased,
        "xmin": _times(fit.xmin, largest, 2),
        "ks_d": fit.ks_d,
        "sigma": fit.sigma,
        "n_tail": fit.n_tail,
        "tail_decades": float(np.log10(fit.xmax / fit.xmin)),
        "gof_p": None if found.gof is None else found.gof.p,
        "gof_replicates": None if found.gof is None else found.gof.replicates,
        "best_model": found.best,
        "verdict": found.verdict,
        "alpha_weighted": fit.alpha * log_largest,
        "log_alpha_norm": log_alpha_norm(scaled, fit.alpha) + fit.alpha * log_largest,
        "pl_alpha_hill": _hill(scaled),
        "detx_num": None if crossing is None else crossing.num,
        "erg_gap": None if crossing is None else crossing.num - fit.n_tail,
    }
    for name, comparison in found.comparisons.items():
        if comparison is not None:
            short = name.partition("_")[0]
            values |= {f"r_{short}": comparison.normalized, f"p_{short}": comparison.p}
    return values


def _hill(scaled: Array) -> float | None:
    return pl_alpha_hill(scaled) if scaled[scaled.size // 2] < scaled[-1] else None


def _index_values(scaled: Array, full: bool, seed: int) -> Values:
    """Extreme-value index of the largest quarter, with its interval; None for few eigenvalues."""
    k = scaled.size // 4
    if scaled.size < LOW_N:
        return {"xi": None, "xi_lo": None, "xi_hi": None}
    interval = moment_interval(scaled, k, replicates=2000 if full else 400, seed=seed)
    low, high = interval or (None, None)
    return {"xi": moment_index(scaled, k), "xi_lo": low, "xi_hi": high}


def _bulk_values(bulk: BulkFit, largest: float) -> Values:
    return {
        "sigma_bulk": _times(bulk.sigma_bulk, largest, 1),
        "num_spikes": bulk.num_spikes,
        "edge_tw99": _times(bulk.edge_tw99, largest, 2),
        "bulk_min": _times(bulk.bulk_min, largest, 2),
        "bulk_max": _times(bulk.bulk_max, largest, 2),
        "mp_softrank": bulk.bulk_max,
        "d_mp": bulk.d_mp,
    }


def _phase(bulk: BulkFit, values: Values, rank: int, full_rank: int) -> str | None:
    return phase(
        numerical_rank=rank,
        full_rank=full_rank,
        bulk_is_random=bulk.is_random,
        num_spikes=bulk.num_spikes,
        xi_lo=values["xi_lo"],
        gof_p=values["gof_p"],
    )


def _null_values(values: Values, drawn: NullStatistics) -> Values:
    """Rank of each statistic among random matrices of the shape."""
    columns = {
        "null_q": ("alpha", "alpha"),
        "hill_null_q": ("hill", "pl_alpha_hill"),
        "xi_null_q": ("xi", "xi"),
        "ks_null_q": ("ks_d", "ks_d"),
    }
    shares: Values = {"null_draws": drawn.alpha.size}
    for column, (statistic, source) in columns.items():
        observed = values[source]
        shares[column] = None if observed is None else drawn.share_below(statistic, observed)
    return shares


def _times(value: float, largest: float, power: int) -> float | None:
    """value·largestᵖ, p = 1 or 2, in the units of W; None where float64 cannot hold it."""
    product = value * largest * (largest if power == 2 else 1.0)
    lost = not np.isfinite(product) or (product == 0.0 and value > 0.0)
    return None if lost else product

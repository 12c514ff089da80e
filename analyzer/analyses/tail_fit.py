"""Power-law tail of eigenvalues with everything needed to judge it.

`fit_tail` is the public function on any array; `describe` is its core on prepared eigenvalues.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.goodness_of_fit import GoodnessOfFit, goodness_of_fit
from theory.ks_scan import KS
from theory.model_comparison import (
    SIGNIFICANT,
    Comparison,
    Verdict,
    best_model,
    compare_with_power_law,
    verdict,
)
from theory.power_law import (
    PowerLawFit,
    ScanCurve,
    alpha_interval,
    bootstrap_alpha,
    fit_power_law,
    fit_with_rivals,
    scan_curve,
)
from theory.tail_models import fit_models

Array = NDArray[np.float64]

MIN_VALUES = 8  # fewer give no exponent
LOW_N = 20  # fewer give one without a usable interval
ENOUGH_FOR_MODELS = 10
EQUAL = 1e-10  # relative spread of eigenvalues that are the same up to the solver's rounding

# replicates and sequential stop of the goodness of fit, replicates of the interval of α
_QUICK = (199, 10, 0)
_FULL = (2500, None, 1000)


@dataclass(frozen=True, slots=True)
class TailFit:
    """Tail exponent α with 95 % interval, distance, p-value; None where there is none.

    `status`: ok, low_n (8 to 19 values), too_few_evals, degenerate (all equal), zero.
    `xmins`, `alphas`, `ks_ds` are the curves over every start of the tail, for plots.
    """

    status: str
    n_values: int
    alpha: float | None = None
    alpha_lo: float | None = None
    alpha_hi: float | None = None
    alpha_unbiased: float | None = None
    xmin: float | None = None
    ks_d: float | None = None
    sigma: float | None = None
    n_tail: int | None = None
    gof_p: float | None = None
    gof_replicates: int | None = None
    best_model: str | None = None
    verdict: str | None = None
    warnings: tuple[str, ...] = ()
    xmins: Array = field(default_factory=lambda: np.empty(0))
    alphas: Array = field(default_factory=lambda: np.empty(0))
    ks_ds: Array = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True, slots=True)
class Description:
    """A fit and what speaks for and against it."""

    fit: PowerLawFit
    interval: tuple[float, float]
    interval_method: str
    gof: GoodnessOfFit | None
    comparisons: dict[str, Comparison | None]
    best: str | None
    verdict: Verdict | None
    warnings: tuple[str, ...]

    @property
    def alpha_unbiased(self) -> float | None:
        """None where the tail is too short for the correction to exist."""
        return self.fit.alpha_unbiased if self.fit.free_logs > 1 else None


def fit_tail(
    eigenvalues: ArrayLike,
    *,
    xmin: float | tuple[float, float] | None = None,
    drop_largest: int = 0,
    ks: KS = "csn",
    floor: float = 0.0,
    full: bool = False,
    seed: int = 0,
) -> TailFit:
    """Fit p(λ) ∝ λ^(-α) above xmin (Clauset, Shalizi & Newman, arXiv 0706.1062).

    `eigenvalues` above `floor` enter, in any order. `xmin`: None searches all of them, a pair
    (low, high) a range, a number is taken as given; `drop_largest` leaves the k largest out.
    `full` takes 2500 instead of up to 199 samples for gof_p and lets the interval vary xmin.
    Raises ValueError for NaN or infinity, or an xmin above all eigenvalues.
    """
    if ks not in get_args(KS) or drop_largest < 0:
        raise ValueError(f"no tail fit with ks={ks!r}, drop_largest={drop_largest}")
    values = np.sort(np.asarray(eigenvalues, dtype=np.float64).ravel())
    if values.size and not np.isfinite(values).all():
        raise ValueError("eigenvalues must be finite")
    values = values[values > max(floor, 0.0)]
    values = values[: max(values.size - drop_largest, 0)]
    status = tail_status(values)
    if status not in ("ok", "low_n"):
        return TailFit(status, values.size)
    scale = float(values[-1])
    found = describe(values / scale, xmin=_scaled(xmin, scale), ks=ks, full=full, seed=seed)
    search = xmin if isinstance(xmin, tuple) else None
    return _tail_fit(status, found, scale, scan_curve(values, xmin=search, ks=ks))


def _tail_fit(status: str, found: Description, scale: float, curve: ScanCurve) -> TailFit:
    """In the units of the eigenvalues, of which `found` has the largest at 1."""
    fit, gof = found.fit, found.gof
    return TailFit(
        status=status,
        n_values=fit.n_values,
        alpha=fit.alpha,
        alpha_lo=found.interval[0],
        alpha_hi=found.interval[1],
        alpha_unbiased=found.alpha_unbiased,
        xmin=fit.xmin * scale,
        ks_d=fit.ks_d,
        sigma=fit.sigma,
        n_tail=fit.n_tail,
        gof_p=None if gof is None else gof.p,
        gof_replicates=None if gof is None else gof.replicates,
        best_model=found.best,
        verdict=found.verdict,
        warnings=found.warnings,
        xmins=curve.xmins,
        alphas=curve.alphas,
        ks_ds=curve.ks_ds,
    )


def _scaled(
    xmin: float | tuple[float, float] | None, scale: float
) -> float | tuple[float, float] | None:
    if isinstance(xmin, tuple):
        return xmin[0] / scale, xmin[1] / scale
    return None if xmin is None else float(xmin) / scale


def tail_status(values: Array, spread: float = EQUAL) -> str:
    """Of positive eigenvalues, ascending; `spread` is a relative difference that means nothing."""
    if values.size == 0:
        return "zero"
    if values.size < MIN_VALUES:
        return "too_few_evals"
    if values[-1] - values[0] <= spread * values[-1]:
        return "degenerate"
    return "low_n" if values.size < LOW_N else "ok"


def describe(
    values: Array,
    *,
    xmin: float | tuple[float, float] | None = None,
    ks: KS = "csn",
    full: bool = False,
    seed: int = 0,
) -> Description:
    """Fit, interval, goodness of fit, alternatives and warnings of positive `values`.

    Goodness of fit and the interval over xmin exist for a search of the whole sample only.
    Raises like `fit_power_law`.
    """
    searched = xmin is None
    replicates, stop_at, alpha_replicates = _FULL if full else _QUICK
    rivals = np.empty(0)
    if searched and ks == "csn":
        fit, rivals = fit_with_rivals(values)
    else:
        fit = fit_power_law(values, xmin=xmin, ks=ks)
    interval, method = alpha_interval(fit), "chi2"
    gof = None
    if searched:
        gof = goodness_of_fit(values, fit, replicates=replicates, seed=seed, stop_at=stop_at, ks=ks)
        if alpha_replicates:
            wide = bootstrap_alpha(values, replicates=alpha_replicates, seed=seed, ks=ks)
            interval = min(interval[0], wide[0]), max(interval[1], wide[1])
            method = "bootstrap"
    comparisons: dict[str, Comparison | None] = {}
    best = grade = None
    if fit.n_tail >= ENOUGH_FOR_MODELS:
        models = fit_models(values, fit.xmin)
        comparisons, best = compare_with_power_law(models), best_model(models)
        grade = None if gof is None else verdict(gof.p, comparisons, fit.n_tail)
    warnings = _warnings(fit, interval, gof, rivals)
    return Description(fit, interval, method, gof, comparisons, best, grade, warnings)


def _warnings(
    fit: PowerLawFit, interval: tuple[float, float], gof: GoodnessOfFit | None, rivals: Array
) -> tuple[str, ...]:
    """Reasons to distrust α, most of them from Clauset, Shalizi & Newman, section 3."""
    found = []
    if fit.n_values < LOW_N:
        found.append(f"fewer than {LOW_N} eigenvalues")
    if fit.n_tail < 50:
        found.append("fewer than 50 eigenvalues in the tail")
    if fit.xmax < 10.0 * fit.xmin:
        found.append("tail shorter than a decade")
    if interval[1] - interval[0] > 0.4 * fit.alpha:
        found.append("interval of alpha wider than ±20 %")
    if gof is not None and gof.p < SIGNIFICANT:
        found.append("goodness of fit rejects a power law")
    if np.any(np.abs(rivals - fit.alpha) > 0.5):
        found.append("another start of the tail fits as well with a different alpha")
    return tuple(found)

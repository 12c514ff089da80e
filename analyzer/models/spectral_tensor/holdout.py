"""How wrong a fit is on whole scans that it did not see, beside linear interpolation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyzer.models.funbat import Progress
from analyzer.models.spectral_tensor.fitting import fit_spectra
from analyzer.models.spectral_tensor.observations import Array, Mode, Observations
from analyzer.models.spectral_tensor.settings import Settings

SHARE = 0.2  # of the scans
STEADY_BELOW = 0.9  # quantile: smaller singular values than these are erratic in the logarithm


@dataclass(frozen=True, slots=True)
class HoldOut:
    """Errors of log σ on held-out scans; `rmse` and `baseline_rmse` of quantiles below 0.9.

    The baseline interpolates linearly `along` training, or depth, between the neighbours that
    were kept. None where too few scans are there to hold any out.
    """

    along: Mode
    n_scans: int
    n_values: int
    rmse: float
    rmse_all: float
    baseline_rmse: float
    baseline_rmse_all: float
    coverage: float  # of 95 % intervals


def hold_out(
    seen: Observations, settings: Settings, progress: Callable[[Progress], None] | None = None
) -> HoldOut | None:
    """Fit without a fifth of the scans and predict them.

    Neither the first nor the last of a series is held out: those would be extrapolated.
    """
    along: Mode = "step" if "step" in seen.varying(settings.modes) else "depth"
    held = _held_out(seen, along, settings.seed)
    if held is None:
        return None
    kept = seen.where(~held)
    asked = seen.where(held)
    fit = fit_spectra(kept, settings, progress)
    if set(fit.modes) != set(seen.varying(settings.modes)):
        return None
    found = fit.at(asked)
    wrong = found.mean - asked.values
    linear = _interpolated(kept, asked, along) - asked.values
    steady = asked.quantile < STEADY_BELOW
    inside = np.abs(wrong) <= 1.96 * found.sd
    return HoldOut(
        along=along,
        n_scans=int(_scans(asked).max()) + 1,
        n_values=asked.values.size,
        rmse=_rms(wrong[steady]),
        rmse_all=_rms(wrong),
        baseline_rmse=_rms(linear[steady]),
        baseline_rmse_all=_rms(linear),
        coverage=float(inside.mean()),
    )


def _scans(seen: Observations) -> NDArray[np.intp]:
    """A number for each spectrum (N,)."""
    places = np.column_stack([seen.depth, seen.step, seen.role])
    return np.unique(places, axis=0, return_inverse=True)[1].ravel()


def _held_out(seen: Observations, along: Mode, seed: int) -> NDArray[np.bool_] | None:
    """A fifth of the inner (depth, step) pairs, for all roles at once: what a skipped scan is."""
    step = getattr(seen, along)
    inner = (step > step.min()) & (step < step.max())
    pairs = np.column_stack([seen.depth, seen.step])
    distinct, which = np.unique(pairs[inner], axis=0, return_inverse=True)
    count = round(SHARE * len(distinct))
    if count == 0:
        return None
    chosen = np.random.default_rng(seed).choice(len(distinct), count, replace=False)
    held = np.zeros(seen.values.size, dtype=bool)
    held[np.flatnonzero(inner)] = np.isin(which.ravel(), chosen)
    return held


def _interpolated(kept: Observations, asked: Observations, along: Mode) -> Array:
    """Linear in the index of `along`, series by series."""
    other: Mode = "depth" if along == "step" else "step"
    keys = ("role", "quantile", other)

    def series(seen: Observations) -> Array:
        return np.column_stack([getattr(seen, name) for name in keys])

    both = np.concatenate([series(kept), series(asked)])
    numbers = np.unique(both, axis=0, return_inverse=True)[1].ravel()
    of_kept, of_asked = numbers[: kept.values.size], numbers[kept.values.size :]
    found = np.empty(asked.values.size)
    at, wanted = kept.column(along), asked.column(along)
    for number in np.unique(of_asked):
        rows = np.flatnonzero(of_kept == number)
        rows = rows[np.argsort(at[rows])]
        mine = of_asked == number
        if rows.size:
            found[mine] = np.interp(wanted[mine], at[rows], kept.values[rows])
        else:
            found[mine] = kept.values.mean()
    return found


def _rms(errors: Array) -> float:
    return float(np.sqrt(np.mean(errors**2))) if errors.size else float("nan")

"""The functional Tucker model of a run's spectra, with a residual process along training.

S. Fang et al., arXiv 2311.04829; low rank plus a local residual process as in M. Lei et al.,
arXiv 2208.09978.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analyzer.errors import UsageError
from analyzer.models.funbat import (
    BadInput,
    FunbatFit,
    Prediction,
    Progress,
    ResidualFit,
    Variational,
    fit_funbat,
    fit_residuals,
)
from analyzer.models.spectral_tensor.observations import Array, Mode, Observations
from analyzer.models.spectral_tensor.settings import Settings

# Low ranks, with a constant in every mode that gives main effects and lower interactions.
RANKS: dict[Mode, int] = {"depth": 2, "step": 2, "role": 1, "quantile": 3}
# Where every matrix may have functions of its own, which says nothing of unscanned layers.
RANKS_BY_MATRIX: dict[Mode, int] = {"step": 3, "matrix": 6, "quantile": 5}
KERNELS: dict[Mode, str] = {
    "depth": "matern32",
    "step": "matern32",
    "role": "iid",
    "matrix": "iid",
    "quantile": "matern32",
}
LENGTHSCALE = 0.3  # of each span, where learning starts
TOLERANCE = 1e-5  # relative gain of the ELBO a sweep; smaller ones move no prediction visibly
FEWEST_STEPS = 3  # for a residual process along them


@dataclass(frozen=True, slots=True)
class SpectraFit:
    """A fit over `modes`, in this order; with a residual process where steps were observed."""

    modes: tuple[Mode, ...]
    tucker: FunbatFit
    residual: ResidualFit | None

    def predict(self, places: dict[Mode, Array]) -> Prediction:
        """log σ at places, one array (M,) a mode of the fit, in user units."""
        model = self.tucker if self.residual is None else self.residual
        return model.predict(self.columns(places))

    def columns(self, places: dict[Mode, Array]) -> Array:
        """Places as the model sees them (M, K)."""
        return np.column_stack(
            [np.log1p(places[m]) if m == "step" else places[m] for m in self.modes]
        )

    def at(self, seen: Observations) -> Prediction:
        """At the places of observations."""
        model = self.tucker if self.residual is None else self.residual
        return model.predict(seen.indexes(self.modes))


def fit_spectra(
    seen: Observations, settings: Settings, progress: Callable[[Progress], None] | None = None
) -> SpectraFit:
    """Fit log σ over the modes of `settings` that vary.

    Every quantile has its own noise: the smallest singular values are erratic. Raises UsageError
    for fewer than two modes that vary, or ranks that do not fit.
    """
    modes = seen.varying(settings.modes)
    if len(modes) < 2 or "quantile" not in modes:
        raise UsageError(
            f"{seen.run}: {', '.join(settings.modes)} leave nothing to fit",
            hint="it takes quantile and one of depth, step or role with several values",
        )
    chosen = RANKS_BY_MATRIX if "matrix" in settings.modes else RANKS
    if settings.ranks:
        chosen = dict(zip(settings.modes, settings.ranks, strict=True))
    sizes = {mode: np.unique(getattr(seen, mode)).size for mode in modes}
    ranks = [min(chosen[mode], sizes[mode]) for mode in modes]
    span = {mode: float(np.ptp(seen.column(mode))) for mode in modes}
    indexes = seen.indexes(modes)
    try:
        fit = fit_funbat(
            indexes,
            seen.values,
            ranks,
            [KERNELS[mode] for mode in modes],
            lengthscales=[None if KERNELS[m] == "iid" else LENGTHSCALE * span[m] for m in modes],
            constant=True,
            noise_mode=modes.index("quantile"),
            inference=Variational(
                restarts=settings.restarts, max_sweeps=settings.max_sweeps, tolerance=TOLERANCE
            ),
            seed=settings.seed,
            progress=progress,
        )
        residual = None
        if sizes.get("step", 0) >= FEWEST_STEPS:
            residual = fit_residuals(fit, indexes, seen.values, modes.index("step"))
    except BadInput as error:
        raise UsageError(f"{seen.run}: {error}") from None
    return SpectraFit(modes, fit, residual)


def refit_residual(fit: FunbatFit, modes: Sequence[Mode], seen: Observations) -> SpectraFit:
    """A stored fit with the residual process of the data it was fitted to."""
    steps = np.unique(seen.step).size if "step" in modes else 0
    residual = None
    if steps >= FEWEST_STEPS:
        indexes = seen.indexes(modes)
        residual = fit_residuals(fit, indexes, seen.values, list(modes).index("step"))
    return SpectraFit(tuple(modes), fit, residual)

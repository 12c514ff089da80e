"""A fitted functional Tucker model: what it predicts and what it found.

    y = c + s_y · (W ×₁ U¹(i_1) ×₂ … ×_K U^K(i_K)) + ε

Core and functions live in standardised values and are identified up to rotations that the core
absorbs: `analyzer.models.funbat.canonical` brings them to one form for display.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer.models.funbat.checks import BadInput, as_indexes
from analyzer.models.funbat.core import Noise
from analyzer.models.funbat.entries import Mode
from analyzer.models.funbat.factors import Factor, posterior_at
from analyzer.models.funbat.hyperparameters import at_bound
from analyzer.models.funbat.messages import Core, moments
from analyzer.models.funbat.prediction import Prediction, function_moments

Array = NDArray[np.float64]

COLLAPSED_BELOW = 0.01  # share of variance explained


@dataclass(frozen=True, slots=True)
class Functions:
    """The r functions of one mode at indexes in user units."""

    indexes: Array  # (m,)
    mean: Array  # (m, r)
    sd: Array  # (m, r)


@dataclass(frozen=True, slots=True)
class FunbatFit:
    """Posterior, how it was reached, and the scaling of indexes and values."""

    modes: tuple[Mode, ...]
    factors: tuple[Factor, ...]
    tucker_core: Core | None  # None: the diagonal core of FunBaT-CP
    noise: Noise
    noise_mode: int | None  # the mode whose every index has its own noise
    constant: bool  # a 1 stands before every mode's functions
    value_mean: float  # c: the sample mean and the learned constant; 0 for values not centred
    value_sd: float
    learned_lengthscales: bool
    method: str  # "variational" or "message-passing"
    elbo_trace: tuple[float, ...]  # of the chosen start; standardised units
    restart_elbos: tuple[float, ...]
    converged: bool
    explained: float  # share of the values' variance, in sample
    n_observations: int
    n_missing: int  # NaN values that were dropped
    seed: int
    seconds: float

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(mode.rank for mode in self.modes)

    @property
    def core(self) -> Array:
        """E[W]: (r_1, …, r_K), one more an axis with the constant; ones for a diagonal core."""
        if self.tucker_core is not None:
            return self.tucker_core.mean
        core = np.zeros(self.ranks)
        core[(np.arange(self.ranks[0]),) * len(self.ranks)] = 1.0
        return core

    @property
    def core_cov(self) -> Array:
        """Cov[vec W] (P, P) in C order; zeros for a diagonal core, which is fixed."""
        if self.tucker_core is not None:
            return self.tucker_core.cov
        return np.zeros((self.core.size, self.core.size))

    @property
    def lengthscales(self) -> tuple[float, ...]:
        """ℓ of every mode in user units, nan for iid."""
        return tuple(
            f.lengthscale * mode.span for f, mode in zip(self.factors, self.modes, strict=True)
        )

    @property
    def noise_precision(self) -> Array:
        """E[τ] (G,) in standardised units."""
        return self.noise.precision

    @property
    def noise_sd(self) -> Array:
        """√E[1/τ] (G,) in the units of the values."""
        return self.value_sd * np.sqrt(self.noise.variance)

    @property
    def n_sweeps(self) -> int:
        return len(self.elbo_trace)

    @property
    def collapsed(self) -> bool:
        """The fit explains less than 1 % of the variance: it predicts the mean everywhere."""
        return self.explained < COLLAPSED_BELOW

    @property
    def bound_hit(self) -> tuple[bool, ...]:
        """A mode: whether its learned lengthscale stopped at the edge of the search."""
        return tuple(
            self.learned_lengthscales and at_bound(mode, f.lengthscale)
            for f, mode in zip(self.factors, self.modes, strict=True)
        )

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader of the fit should know, a line each."""
        found = [f"{self.n_missing} NaN values were dropped"] if self.n_missing else []
        if self.collapsed:
            found.append("collapsed: the fit explains less than 1 % of the variance")
        if not self.converged and self.method == "variational":
            found.append(f"not converged after {self.n_sweeps} sweeps")
        if self.method == "variational" and self._bound_fell():
            found.append("the ELBO fell between sweeps, which exact updates cannot do")
        for k, hit in enumerate(self.bound_hit):
            if hit:
                found.append(f"lengthscale of mode {k} at its bound, {self.lengthscales[k]:.4g}")
        return tuple(found)

    def predict(self, indexes: ArrayLike) -> Prediction:
        """Mean and sd at indexes (M, K) in user units; far from the data the prior returns.

        Raises BadInput for a wrong shape or indexes that are not finite.
        """
        x = as_indexes(indexes, len(self.modes))
        known, rows, outside = [], [], np.zeros(len(x), dtype=bool)
        for k, (mode, factor) in enumerate(zip(self.modes, self.factors, strict=True)):
            distinct, row = np.unique(mode.scaled(x[:, k]), return_inverse=True)
            known.append(moments(*posterior_at(mode, factor, distinct), self.constant))
            rows.append(row.ravel())
            outside |= _outside(mode, distinct)[rows[-1]]
        mean, variance = function_moments(self.tucker_core, known, rows)
        noise = self._noise_variance(x)
        return Prediction(
            mean=self.value_mean + self.value_sd * mean,
            sd=self.value_sd * np.sqrt(variance + noise),
            sd_function=self.value_sd * np.sqrt(variance),
            extrapolated=outside,
        )

    def functions(self, mode: int, indexes: ArrayLike | None = None) -> Functions:
        """The functions of one mode at its observed indexes, or at any (m,) in user units.

        Raises BadInput for a mode that does not exist or indexes that are not finite.
        """
        if not 0 <= mode < len(self.modes):
            raise BadInput(f"mode {mode} does not exist: modes are 0 to {len(self.modes) - 1}")
        own, factor = self.modes[mode], self.factors[mode]
        if indexes is None:
            at, mean, cov = own.in_units(own.grid), factor.mean, factor.cov
        else:
            at = as_indexes(np.asarray(indexes, dtype=np.float64)[:, None], 1)[:, 0]
            mean, cov = posterior_at(own, factor, own.scaled(at))
        return Functions(at, mean, np.sqrt(np.diagonal(cov, axis1=1, axis2=2).clip(min=0.0)))

    def _bound_fell(self) -> bool:
        steps = np.diff(self.elbo_trace)
        return bool(np.any(steps < -1e-8 * np.abs(self.elbo_trace[1:])))

    def _noise_variance(self, x: Array) -> Array:
        """Of a new observation, standardised; between the indexes of a noise mode log-linear."""
        if self.noise_mode is None:
            return np.broadcast_to(self.noise.variance, len(x))
        mode = self.modes[self.noise_mode]
        at = mode.scaled(x[:, self.noise_mode])
        return np.exp(np.interp(at, mode.grid, np.log(self.noise.variance)))


def _outside(mode: Mode, scaled: Array) -> NDArray[np.bool_]:
    """Beyond the observed range; for labels, never observed."""
    if mode.kernel == "iid":
        return ~np.isin(scaled, mode.grid)
    slack = 1e-9
    return (scaled < mode.grid[0] - slack) | (scaled > mode.grid[-1] + slack)

"""A fit as if more had been scanned and found as predicted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from analyzer.models.funbat.core import core_messages
from analyzer.models.funbat.entries import Mode as Axis
from analyzer.models.funbat.factors import Factor, condition, posterior_at, without_constant
from analyzer.models.funbat.messages import Core, contract, moments
from analyzer.models.funbat.model import FunbatFit
from analyzer.models.funbat.residual import ResidualFit
from analyzer.models.funbat.state import make_problem, weighted_sums
from analyzer.models.spectral_tensor.fitting import SpectraFit
from analyzer.models.spectral_tensor.observations import Array, Mode
from theory.gp_regression import merge_indexes


def with_scans(fit: SpectraFit, places: dict[Mode, Array]) -> SpectraFit:
    """The fit after scans at `places`, (M,) a mode in user units: means stay, spreads shrink.

    Every mode and the core take the messages that entries there would send by the present moments
    of the others; lengthscales, noise and the scale of the residual process stay as they are. No
    standard deviation of f can grow. Labels and quantiles must be known to the fit.
    """
    tucker = _with_entries(fit.tucker, fit.columns(places))
    if fit.residual is None:
        return SpectraFit(fit.modes, tucker, None)
    return SpectraFit(fit.modes, tucker, _with_times(fit.residual, tucker, fit.columns(places)))


def _with_entries(fit: FunbatFit, x: Array) -> FunbatFit:
    """With entries at x (M, K) whose values are the predicted ones."""
    axes, rows, there = [], [], []
    for k, (axis, factor) in enumerate(zip(fit.modes, fit.factors, strict=True)):
        scaled = axis.scaled(x[:, k])
        distinct, row = np.unique(scaled, return_inverse=True)
        if k == fit.noise_mode:  # all of them: noise is told by their number
            distinct, row = axis.grid, np.abs(scaled[:, None] - axis.grid).argmin(1)
        axes.append(replace(axis, grid=distinct))
        rows.append(row.ravel().astype(np.int32))
        there.append(posterior_at(axis, factor, distinct))
    problem = make_problem(
        axes, rows, np.zeros(len(x)), diagonal=fit.tucker_core is None, constant=fit.constant,
        noise_mode=fit.noise_mode, a0=0.0, b0=0.0,
    )  # fmt: skip
    known = [moments(mean, cov, fit.constant) for mean, cov in there]
    factors, grids = [], []
    for k, factor in enumerate(fit.factors):
        sums = weighted_sums(problem, known, k, fit.noise)
        Lam, eta = contract(sums, fit.tucker_core, k, problem.ranks[k])
        if fit.constant:
            Lam, _ = without_constant(Lam, eta)
        grid, wider = _wider(fit.modes[k], factor, axes[k].grid, Lam, there[k][0])
        grids.append(grid)
        factors.append(wider)
    core = fit.tucker_core
    if core is not None:
        last = problem.last
        G, _ = core_messages(
            weighted_sums(problem, known, last, fit.noise), known[last], last, problem.ranks
        )
        cov = np.linalg.solve(np.eye(len(G)) + core.cov @ G, core.cov).astype(np.float64)
        core = Core(core.mean, 0.5 * (cov + cov.T), core.prior_variance)
    return replace(fit, modes=tuple(grids), factors=tuple(factors), tucker_core=core)


def _wider(axis: Axis, factor: Factor, new: Array, Lam: Array, mean: Array) -> tuple[Axis, Factor]:
    """With precision Λ (n, r, r) at new indexes, whose linear term leaves the mean where it is:
    (K⁻¹ + Λ_old + Λ) m = η_old + Λ m."""
    grid, rows = merge_indexes(np.concatenate([axis.grid, new]), tolerance=1e-9)
    old, there = rows[: axis.grid.size], rows[axis.grid.size :]
    precision = np.zeros((grid.size, *Lam.shape[1:]))
    linear = np.zeros((grid.size, Lam.shape[1]))
    precision[old], linear[old] = factor.precision, factor.linear
    np.add.at(precision, there, Lam)
    np.add.at(linear, there, (Lam @ mean[:, :, None])[:, :, 0])
    wider = replace(axis, grid=grid)
    return wider, condition(wider, precision, linear, factor.lengthscale)


def _with_times(residual: ResidualFit, fit: FunbatFit, x: Array) -> ResidualFit:
    """With every series seen at the new times, where its process was predicted to be."""
    along, axis = residual.along, fit.modes[residual.along]
    new = np.setdiff1d(axis.scaled(np.unique(x[:, along])), residual.times)
    series = np.repeat(residual.keys, new.size, axis=0)
    times = np.tile(axis.in_units(new), len(residual.keys))
    places = np.insert(series, along, times, axis=1)
    expected = residual.predict(places).mean - residual.fit.predict(places).mean
    return replace(
        residual,
        fit=fit,
        times=np.concatenate([residual.times, new]),
        residuals=np.hstack([residual.residuals, expected.reshape(len(residual.keys), new.size)]),
    )

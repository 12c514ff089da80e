"""Functional Tucker fits of the spectra in a store: fitted, judged on held-out scans, stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from analyzer.errors import NotConverged, UsageError
from analyzer.models.funbat import Progress as Sweep
from analyzer.models.funbat import load_fit, save_fit
from analyzer.models.spectral_tensor.fitting import SpectraFit, fit_spectra, refit_residual
from analyzer.models.spectral_tensor.holdout import HoldOut, hold_out
from analyzer.models.spectral_tensor.observations import (
    MODES,
    Array,
    Mode,
    Observations,
    RunOfStore,
    observe_spectra,
    runs_of,
)
from analyzer.models.spectral_tensor.settings import Settings
from analyzer.models.spectral_tensor.tables import (
    TuckerAnomalyRow,
    TuckerFitRow,
    TuckerPredictionRow,
)
from analyzer.scanning.pool import Progress
from analyzer.scanning.tucker.stored import (
    fit_file,
    forget,
    next_fit,
    params_of,
    pending_fits,
    prepare,
    stored_fit,
)
from analyzer.store.columns import Row
from analyzer.store.connection import reader, writer
from analyzer.store.writing import insert

Report = Callable[[Sweep], None]


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fit with its data and number, and how it did on scans it did not see."""

    fit_id: int
    seen: Observations
    fit: SpectraFit
    held_out: HoldOut | None


def fit_run(
    db: Path,
    run: RunOfStore,
    settings: Settings,
    *,
    kind: str = "weight",
    roles: Sequence[str] = (),
    force: bool = False,
    progress: Report | None = None,
) -> tuple[Fitted | None, bool]:
    """Fit one run and store fit, predictions and scores; what is stored is not fitted again.

    The flag says whether it was computed now; None where the store has it. Raises UsageError.
    """
    prepare(db)
    with reader(db) as connection:
        seen = observe_spectra(connection, run, kind=kind, roles=roles)
        params = params_of(settings, kind, roles)
        earlier = stored_fit(connection, seen.run, seen.inputs_sha256, params)
    if earlier is not None and not force:
        return None, False
    with threadpool_limits(1):  # matrices of a few rows: threads would wait for each other
        fit = fit_spectra(seen, settings, progress)
        held_out = hold_out(seen, settings, progress)
    with writer(db) as connection:  # numbered under the lock: fits may run side by side
        number = next_fit(connection) if earlier is None else earlier
        gone = forget(connection, run.name, params) - {number}
        fitted = Fitted(number, seen, fit, held_out)
        save_fit(fit.tucker, fit_file(db, number))
        insert(connection, list(_rows(fitted, settings, params)))
    for old in gone:
        fit_file(db, old).unlink(missing_ok=True)
    return fitted, True


def fit_pending(
    db: Path, settings: Settings, report: Callable[[Progress], None], *, force: bool
) -> tuple[int, list[str]]:
    """Fit every run that has no fit of its present spectra, or with `force` every run.

    Returns the number of fits and why others could not be made. Each is stored as soon as it is
    there.
    """
    runs, _ = pending_fits(db, settings, force=force)
    reasons = []
    for number, run in enumerate(runs):
        report(Progress(number / len(runs), f"fitting the spectra of {run.name}"))
        try:
            fit_run(db, run, settings, force=force)
        except (UsageError, NotConverged) as error:
            reasons.append(str(error))
    return len(runs) - len(reasons), reasons


def load(db: Path, fit_id: int | None) -> tuple[TuckerFitRow, SpectraFit, Observations]:
    """A stored fit, by default the last, with the data it was fitted to.

    Raises UsageError where there is none, or where its data changed since.
    """
    prepare(db)
    with reader(db) as connection:
        condition = "" if fit_id is None else "WHERE fit_id = ?"
        found = connection.execute(
            f"SELECT * FROM tucker_fit {condition} ORDER BY fit_id DESC LIMIT 1",
            [] if fit_id is None else [fit_id],
        ).fetchall()
        if not found:
            raise UsageError("no such fit", path=db, hint="run `analyzer tucker fit` first")
        row = TuckerFitRow(*found[0])
        run = next((run for run in runs_of(connection) if run.name == row.run), None)
        chosen = json.loads(row.params)
        seen = run and observe_spectra(connection, run, kind=row.kind, roles=chosen["roles"])
    file = fit_file(db, row.fit_id)
    if not file.is_file():
        raise UsageError(f"the file of fit {row.fit_id} is gone", path=file, hint="fit again")
    if seen is None or seen.inputs_sha256 != row.inputs_sha256:
        raise UsageError(
            f"the spectra of fit {row.fit_id} changed since", path=db, hint="fit them again"
        )
    modes: list[Mode] = [MODES[MODES.index(name)] for name in row.modes.split(",")]
    return row, refit_residual(load_fit(file), modes, seen), seen


def predict_places(
    fit_id: int,
    fit: SpectraFit,
    seen: Observations,
    depths: Sequence[float],
    steps: Sequence[float],
    roles: Sequence[str] = (),
) -> list[TuckerPredictionRow]:
    """log σ at every depth × step × role × quantile; what was scanned there stands beside it."""
    names = [role for role in seen.roles if not roles or role in roles]
    unknown = set(roles) - set(seen.roles)
    if unknown:
        raise UsageError(
            f"no role {', '.join(sorted(unknown))} in the fit",
            hint=f"it has {', '.join(seen.roles)}",
        )
    grid = np.meshgrid(
        np.asarray(depths, dtype=np.float64),
        np.asarray(steps, dtype=np.float64),
        [float(seen.roles.index(name)) for name in names],
        np.unique(seen.quantile),
        indexing="ij",
    )
    depth, step, role, quantile = (axis.ravel() for axis in grid)
    places: dict[Mode, Array] = {
        "depth": depth, "step": step, "role": role, "quantile": quantile,
        "matrix": seen.matrix_at(depth, role),
    }  # fmt: skip
    found = fit.predict(places)
    # also where depth or step is no mode of the fit, since it was always the same
    outside = found.extrapolated | _beyond(seen.depth, depth) | _beyond(seen.step, step)
    scanned = zip(seen.depth, seen.step, seen.role, seen.quantile, strict=True)
    known = dict(zip(scanned, seen.values.tolist(), strict=True))
    return [
        TuckerPredictionRow(
            fit_id, seen.roles[int(r)], float(d), float(s), float(q), float(mean), float(sd),
            float(sd_f), known.get((d, s, r, q)), bool(out),
        )
        for d, s, r, q, mean, sd, sd_f, out in zip(
            depth, step, role, quantile, found.mean, found.sd, found.sd_function,
            outside, strict=True,
        )
    ]  # fmt: skip


def _beyond(seen: Array, at: Array) -> NDArray[np.bool_]:
    return (at < seen.min()) | (at > seen.max())


def anomalies(fitted: Fitted) -> list[TuckerAnomalyRow]:
    """Every matrix by how far it strays from the fit alone, the oddest first."""
    seen = fitted.seen
    found = replace(fitted.fit, residual=None).at(seen)
    z = (seen.values - found.mean) / found.sd
    scores = []
    for depth, role in np.unique(np.column_stack([seen.depth, seen.role]), axis=0):
        mine = z[(seen.depth == depth) & (seen.role == role)]
        scores.append((float(np.sqrt(np.mean(mine**2))), float(depth), int(role), mine.size))
    return [
        TuckerAnomalyRow(fitted.fit_id, seen.roles[role], depth, n, score, place)
        for place, (score, depth, role, n) in enumerate(sorted(scores, reverse=True), 1)
    ]


def _rows(fitted: Fitted, settings: Settings, params: str) -> Iterator[Row]:
    fit, seen, held = fitted.fit.tucker, fitted.seen, fitted.held_out
    modes = fitted.fit.modes
    hit = [mode for mode, at in zip(modes, fit.bound_hit, strict=True) if at]
    status = "collapsed" if fit.collapsed else "ok" if fit.converged else "not_converged"
    yield TuckerFitRow(
        fit_id=fitted.fit_id,
        run=seen.run,
        kind=seen.kind,
        roles=",".join(seen.roles),
        modes=",".join(modes),
        ranks=",".join(map(str, fit.ranks)),
        kernel=",".join(mode.kernel for mode in fit.modes),
        lengthscales=",".join("–" if v != v else f"{v:.6g}" for v in fit.lengthscales),
        noise=float(np.median(fit.noise_sd)),
        residual=fitted.fit.residual is not None,
        n_obs=fit.n_observations,
        n_scans=seen.n_scans,
        explained=fit.explained,
        holdout=None if held is None else f"{held.n_scans} scans along {held.along}",
        n_holdout=None if held is None else held.n_values,
        rmse=None if held is None else held.rmse,
        rmse_all=None if held is None else held.rmse_all,
        baseline_rmse=None if held is None else held.baseline_rmse,
        baseline_rmse_all=None if held is None else held.baseline_rmse_all,
        coverage=None if held is None else held.coverage,
        elbo=fit.elbo_trace[-1],
        restart_elbos=",".join(f"{value:.8g}" for value in fit.restart_elbos),
        n_sweeps=fit.n_sweeps,
        converged=fit.converged,
        collapsed=fit.collapsed,
        bound_hit=",".join(hit),
        method=fit.method,
        precision="float64",
        seconds=fit.seconds,
        seed=settings.seed,
        status=status,
        inputs_sha256=seen.inputs_sha256,
        params=params,
    )
    depths, steps = np.unique(seen.depth), np.unique(seen.step)
    yield from predict_places(fitted.fit_id, fitted.fit, seen, depths.tolist(), steps.tolist())
    yield from anomalies(fitted)

"""Functional Tucker fits: what was fitted, how wrong it is, and which matrices stray from it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from analyzer.models.spectral_tensor.settings import Settings
from analyzer.store.reading import Store
from analyzer.views.view import View

SOURCE = "Fang et al. 2024, arXiv 2311.04829"
HELD_OUT = (
    "A fifth of the inner scans is held out as a whole; linear interpolation between the kept "
    "scans is the baseline."
)


def fits(store: Store) -> View:
    """One row a fit, newest first."""
    table = store.sql(
        """
        SELECT fit_id, run, kind, modes, ranks, kernel, lengthscales, noise, n_obs, n_scans,
               explained, holdout, rmse, baseline_rmse, coverage, status, bound_hit, n_sweeps,
               seconds, roles, inputs_sha256
        FROM tucker_fit ORDER BY fit_id DESC
        """
    )
    return View("tucker_fits", "Fits of log σ", table, HELD_OUT, SOURCE)


def fit_labels(store: Store) -> dict[str, int]:
    """`run · kind of spectrum` → number of its newest fit over the modes a scan fits.

    Other modes follow in the label, and roles where a fit is of one. Runs with something held out
    come first.
    """
    rows = store.sql(
        """
        SELECT fit_id, run, kind, roles, json_extract_string(params, '$.modes[*]') AS asked, modes
        FROM tucker_fit ORDER BY holdout IS NULL, run, kind, fit_id DESC
        """
    ).to_pylist()
    found: dict[str, int] = {}
    for row in rows:
        label = f"{row['run']} · {row['kind']}"
        if tuple(row["asked"]) != Settings().modes:
            label += f" · {row['modes']}"
        if "role" not in row["asked"]:
            label += f" · {row['roles']}"
        found.setdefault(label, row["fit_id"])
    return found


def fit_row(store: Store, fit_id: int) -> dict[str, Any]:
    """Everything the store says of one fit, by column; empty for an unknown one."""
    found = store.sql("SELECT * FROM tucker_fit WHERE fit_id = ?", [fit_id]).to_pylist()
    return found[0] if found else {}


def fit_in_words(row: dict[str, Any]) -> list[str]:
    """What a `tucker_fit` row says, in sentences; the caution first."""
    said = [*_cautions(row), *_errors(row)]
    said.append(
        f"{row['n_obs']:,} values of {row['n_scans']:,} spectra were fitted; the fit explains "
        f"{row['explained']:.4g} of their variance (in sample, without the residual process), and "
        f"the median noise is {row['noise']:.3g} in log σ."
    )
    return said


def _cautions(row: dict[str, Any]) -> list[str]:
    said = []
    if row["collapsed"]:
        said.append("The fit collapsed: it explains less than 1 % of the variance. Do not use it.")
    if not row["converged"]:
        said.append(
            f"The fit had not converged after {row['n_sweeps']} sweeps: the last one still gained "
            "more than 1e-5 of the bound."
        )
    if row["bound_hit"]:
        modes = row["bound_hit"].replace(",", ", ")
        said.append(
            f"The lengthscale of {modes} stopped at the edge of the search: along it the data show "
            "no scale of their own."
        )
    return said


def _errors(row: dict[str, Any]) -> list[str]:
    if row["rmse"] is None:
        return ["Nothing was held out (too few scans), so the error of predictions is not known."]
    own, linear = row["rmse"], row["baseline_rmse"]
    said = [
        f"On {row['holdout']} the error of log σ is {own:.3g} (quantiles below 0.9), "
        f"that of linear interpolation {linear:.3g}: "
        + (
            "linear interpolation wins here; use it for what lies between scans."
            if linear <= own
            else "the fit is better than interpolation."
        )
    ]
    if row["coverage"] is not None:
        share = row["coverage"]
        verdict = (
            "as meant" if 0.92 <= share <= 0.98 else "too wide" if share > 0.98 else "too narrow"
        )
        said.append(
            f"{share:.1%} of the held-out values lie in the 95 % interval: it is {verdict}."
        )
    return said


def errors(store: Store) -> View:
    """Held-out error of every fit beside interpolation: `fit`, `method`, `quantiles`, `rmse`."""
    table = store.sql(
        """
        WITH f AS (
            SELECT fit_id, run || ' (' || kind || ', fit ' || fit_id || ')' AS fit,
                   rmse, rmse_all, baseline_rmse, baseline_rmse_all, coverage, holdout
            FROM tucker_fit WHERE rmse IS NOT NULL ORDER BY fit_id DESC LIMIT 40)
        SELECT fit, fit_id, 'functional Tucker' AS method, 'below 0.9' AS quantiles, rmse,
               coverage, holdout FROM f
        UNION ALL SELECT fit, fit_id, 'functional Tucker', 'all', rmse_all, coverage, holdout FROM f
        UNION ALL SELECT fit, fit_id, 'linear interpolation', 'below 0.9', baseline_rmse, NULL,
               holdout FROM f
        UNION ALL SELECT fit, fit_id, 'linear interpolation', 'all', baseline_rmse_all, NULL,
               holdout FROM f
        ORDER BY fit_id, quantiles DESC, method
        """
    )
    return View(
        "tucker_errors",
        "Error on held-out scans, beside linear interpolation",
        table,
        f"Root mean square error of log σ. {HELD_OUT} The smallest singular values are erratic, "
        "hence the two sets of quantiles.",
        SOURCE,
    )


def restarts(store: Store, fit_id: int) -> View:
    """Evidence bound of every restart: `restart` (1-based), `elbo`, `chosen`."""
    row = fit_row(store, fit_id)
    values = [float(v) for v in row.get("restart_elbos", "").split(",") if v.strip()]
    best = max(values, default=0.0)
    table = pa.table(
        {
            "restart": pa.array(range(1, len(values) + 1), pa.int64()),
            "elbo": pa.array(values, pa.float64()),
            "below_best": pa.array([best - v for v in values], pa.float64()),
            "chosen": pa.array([v == best for v in values], pa.bool_()),
        }
    )
    return View(
        "tucker_restarts",
        "Evidence lower bound of every restart",
        table,
        "Of standardised values, in nats; the highest is chosen. Restarts that end far apart found "
        "different optima.",
        SOURCE,
        {"fit": fit_id},
    )


def anomalies(store: Store, fit_id: int, most: int = 20) -> View:
    """The `most` matrices that stray furthest: `matrix`, `role`, `depth`, `score`, `place`."""
    table = store.sql(
        """
        SELECT role || ' ' || printf('%g', depth) AS matrix, role, depth, score, place, n
        FROM tucker_anomaly WHERE fit_id = ? AND place <= ? ORDER BY place, role, depth
        """,
        [fit_id, most],
    )
    return View(
        "tucker_anomalies",
        "Matrices that stray from what their neighbours lead to expect",
        table,
        "Root mean square of (observed - mean)/sd over steps and quantiles, without the residual "
        "process, in sample: a flag, not a p-value. 1 is what the noise alone gives.",
        SOURCE,
        {"fit": fit_id, "at most": most},
    )


def lengthscales(store: Store) -> View:
    """Learned lengthscale of every mode of every fit that has one: `run`, `mode`, `lengthscale`."""
    table = store.sql(
        """
        WITH f AS (
            SELECT fit_id, run, kind, bound_hit,
                   unnest(string_split(modes, ',')) AS mode,
                   unnest(string_split(kernel, ',')) AS kernel,
                   unnest(string_split(lengthscales, ',')) AS text
            FROM tucker_fit)
        SELECT run, kind, mode, kernel, TRY_CAST(text AS DOUBLE) AS lengthscale,
               list_contains(string_split(bound_hit, ','), mode) AS at_bound, fit_id
        FROM f WHERE TRY_CAST(text AS DOUBLE) IS NOT NULL ORDER BY fit_id DESC, mode
        """
    )
    return View(
        "lengthscales",
        "Learned lengthscales of this store's fits",
        table,
        "In the mode's own units; of step in log(1 + step). At the bound of the search the data "
        "show no scale of their own.",
        SOURCE,
    )

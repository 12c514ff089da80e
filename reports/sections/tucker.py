"""Functional Bayesian Tucker fits of the spectra over depth, step and quantile."""

from __future__ import annotations

from typing import Any

from analyzer.store.reading import Store
from analyzer.views import tucker, tucker_posterior
from reports.document import Column, Equation, Paragraph, Picture, Section, Table
from reports.figures import tucker as figures
from reports.figures import tucker_posterior as posterior_figures
from reports.numbers import number, percent, text, whole
from reports.scope import Scope
from reports.sections.parts import pictures

_COLUMNS = (
    Column("fit_id", "fit", whole),
    Column("run", "run", text, is_number=False),
    Column("kind", "spectrum", text, is_number=False),
    Column("ranks", "ranks", text, is_number=False),
    Column("n_obs", "values", whole),
    Column("noise", "noise", number),
    Column("holdout", "held out", text, is_number=False),
    Column("rmse", "RMSE", number),
    Column("baseline_rmse", "interpolation", number),
    Column("coverage", "coverage", percent),
    Column("status", "status", text, is_number=False),
)
_EQUATION = Equation(
    "y(i_1, ..., i_K) = sum_(r_1 ... r_K) w_(r_1 ... r_K) product_k u^k_(r_k) (i_k) + epsilon,"
    " quad u^k_r tilde cal(G P)(0, kappa_k)",
    r"y(i_1,\dots,i_K) = \sum_{r_1\dots r_K} w_{r_1\dots r_K} \prod_k u^k_{r_k}(i_k) + \epsilon,"
    r" \quad u^k_r \sim \mathcal{GP}(0, \kappa_k)",
    "log σ as a Tucker core w times functions u of depth, step and quantile with Matérn priors, in "
    "state-space form.",
)


def section(store: Store, scope: Scope) -> Section | None:
    """None where nothing was fitted."""
    fits = tucker.fits(store)
    if fits.is_empty:
        return None
    chosen = _chosen(fits.rows(), scope)
    row = tucker.fit_row(store, chosen)
    return Section(
        "tucker",
        "Functional Tucker fits of the spectra",
        findings=tuple(
            f"Fit {chosen}: {sentence}" for sentence in tucker.fit_in_words(row)[:1]
        ),
        paragraphs=(
            Paragraph(
                "Spectra at layers or steps that nobody scanned come with intervals; predictions "
                "are held against linear interpolation between scans.",
                ("fang2023", "hartikainen2010"),
            ),
            Paragraph(f"Fit {chosen}. " + " ".join(tucker.fit_in_words(row))),
        ),
        equations=(_EQUATION,),
        tables=(
            Table(fits, _COLUMNS, "RMSE of log σ on held-out scans for quantiles below 0.9, beside "
                  "linear interpolation; coverage of the 95 % interval."),
        ),
        pictures=_pictures(store, chosen),
        metrics=("tucker_fit.rmse", "tucker_fit.coverage", "tucker_fit.noise"),
    )  # fmt: skip


def _chosen(rows: list[dict[str, Any]], scope: Scope) -> int:
    """The fit of the scope's run, else the one of most values."""
    own = [row for row in rows if scope.run is not None and row["run"] == scope.run]
    return max(own or rows, key=lambda row: (row["n_obs"], row["fit_id"]))["fit_id"]


def _pictures(store: Store, fit: int) -> tuple[Picture, ...]:
    found = [*pictures(tucker.errors(store), figures.errors)]
    roles = tucker_posterior.roles(store, fit)
    if roles:
        quantiles = tucker_posterior.quantiles(store, fit)
        shown = quantiles[:: max(1, len(quantiles) // 5)][:5]
        steps = tucker_posterior.places(store, fit, roles[0], "step")
        at = steps[-1] if steps else None
        surface = tucker_posterior.surface(store, fit, roles[0], "depth", at)
        found += pictures(surface, posterior_figures.surface, str(fit))
        slices = tucker_posterior.slices(store, fit, roles[0], "depth", at, shown)
        found += pictures(slices, posterior_figures.slices, str(fit))
    against = tucker_posterior.predicted_against_scanned(store, fit)
    found += pictures(against, posterior_figures.predicted_against_scanned, str(fit))
    found += pictures(tucker.anomalies(store, fit), figures.anomalies, str(fit))
    return tuple(found)

"""Row types of fits to spectra: one row a fit, a predicted value, a matrix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from analyzer.store.columns import column

_FANG = "Fang et al. 2024, arXiv 2311.04829"


@dataclass(frozen=True, slots=True)
class TuckerFitRow:
    """One functional Tucker fit of the log singular values of a run, and how wrong it is."""

    TABLE: ClassVar[str] = "tucker_fit"

    fit_id: int = column("number of the fit in this store")
    run: str = column("training run, or checkpoint alone")
    kind: str = column("kind of spectrum: weight, delta, …")
    roles: str = column("roles that were fitted, by commas")
    modes: str = column("modes of the tensor, by commas; step enters as log(1 + step)")
    ranks: str = column("rank of each mode, besides its constant", source=_FANG)
    kernel: str = column("kernel of each mode; iid for labels")
    lengthscales: str = column("of each mode in its own units, of step in log(1 + step); – for iid")
    noise: float = column("median over quantiles of the noise's standard deviation, in log σ")
    residual: bool = column("a Matérn-1/2 process along steps for every matrix and quantile")
    n_obs: int = column("values fitted", unit="count")
    n_scans: int = column("spectra they are of", unit="count")
    explained: float = column("share of the values' variance, in sample, without the residual")
    holdout: str | None = column(
        "what was held out to get the errors below: a fifth of the inner scans, of all roles at "
        "once, along this mode; NULL where too few"
    )
    n_holdout: int | None = column("values held out", unit="count")
    rmse: float | None = column("error of log σ on held-out scans, quantiles below 0.9")
    rmse_all: float | None = column("the same over all quantiles; the smallest σ are erratic")
    baseline_rmse: float | None = column("rmse of linear interpolation between kept scans")
    baseline_rmse_all: float | None = column("rmse_all of linear interpolation")
    coverage: float | None = column("share of held-out values within the 95 % interval")
    elbo: float = column("evidence lower bound of the chosen restart, standardised values")
    restart_elbos: str = column("of every restart; the highest was chosen")
    n_sweeps: int = column("sweeps of the chosen restart", unit="count")
    converged: bool = column("whether a sweep gained less than 1e-5 of the bound at the end")
    collapsed: bool = column("the fit explains less than 1 % of the variance")
    bound_hit: str = column("modes whose lengthscale stopped at the edge of the search")
    method: str = column("inference")
    precision: str = column("arithmetic")
    seconds: float = column("wall clock of the fit", unit="s")
    seed: int = column("of starts and hold-out")
    status: str = column("ok, collapsed, or not_converged")
    inputs_sha256: str = column("hash over the content hashes of the matrices fitted")
    params: str = column("everything else the fit depends on, JSON")


@dataclass(frozen=True, slots=True)
class TuckerPredictionRow:
    """log σ that a fit predicts at one place, scanned or not."""

    TABLE: ClassVar[str] = "tucker_prediction"

    fit_id: int = column("fit it comes from")
    role: str = column("role of the matrix")
    depth: float = column("number of the block; a fraction lies between two")
    step: float = column("training step", unit="optimizer steps")
    quantile: float = column("of the singular values, from the largest")
    mean: float = column("predicted log σ", unit="nats")
    sd: float = column(
        "standard deviation of an observation; mean ± 1.96 sd is meant to hold 95 in 100, within "
        "the model: ranks and kernels are not in it",
        source=_FANG,
    )
    sd_function: float = column("standard deviation without observation noise")
    observed: float | None = column("scanned log σ; NULL where nothing was scanned")
    extrapolated: bool = column("beyond the scanned depths or steps: the interval is optimistic")


@dataclass(frozen=True, slots=True)
class TuckerAnomalyRow:
    """How far the spectra of one matrix stray from what its neighbours lead to expect."""

    TABLE: ClassVar[str] = "tucker_anomaly"

    fit_id: int = column("fit it comes from")
    role: str = column("role of the matrix")
    depth: float = column("number of the block")
    n: int = column("values", unit="count")
    score: float = column(
        "root mean square of (observed - mean)/sd without the residual process, in sample: a flag, "
        "not a p-value"
    )
    place: int = column("rank of the score in its fit, 1 the oddest")


TUCKER_TABLES = (TuckerFitRow, TuckerPredictionRow, TuckerAnomalyRow)

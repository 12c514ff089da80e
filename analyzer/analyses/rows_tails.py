"""Row type of the tail analysis: the heavy-tail description of one spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from analyzer.store.columns import column

_CSN = "Clauset, Shalizi & Newman 2009, arXiv 0706.1062"
_HTSR = "Martin & Mahoney 2021, arXiv 1810.01075"
_DEH = "Dekkers, Einmahl & de Haan 1989, Ann. Statist. 17"
_MA = "Ma 2012, Bernoulli 18; Johnstone 2001, Ann. Statist. 29"


@dataclass(frozen=True, slots=True)
class TailRow:
    """Power-law tail, random-matrix bulk and entropy of one matrix's eigenvalues λ = σ²."""

    TABLE: ClassVar[str] = "tail"

    matrix_id: int = column("matrix the row belongs to")
    kind: str = column("what was decomposed: weight, delta, gradient, …")
    alpha: float | None = column(
        "exponent α of the density p(λ) ∝ λ^(-α) above xmin", source=f"{_CSN}, eq. 3.1"
    )
    alpha_lo: float | None = column(
        "lower end of the 95 % interval of α, xmin given", source="χ² law of Σ ln(λ/xmin)"
    )
    alpha_hi: float | None = column(
        "upper end of the 95 % interval of α, xmin given", source="χ² law of Σ ln(λ/xmin)"
    )
    alpha_unbiased: float | None = column(
        "1 + (n-2)/Σ ln(λ/xmin): α without small-sample bias", source="Γ law of Σ ln(λ/xmin)"
    )
    xmin: float | None = column(
        "eigenvalue where the fitted tail starts", unit="σ²", source=f"{_CSN}, section 3.3"
    )
    ks_d: float | None = column(
        "Kolmogorov-Smirnov distance of the tail to its fit", source=f"{_CSN}, eq. 3.9"
    )
    sigma: float | None = column("standard error (α-1)/√n of α", source=f"{_CSN}, eq. 3.2")
    n_tail: int | None = column("eigenvalues at or above xmin", unit="count", source=_CSN)
    gof_p: float | None = column(
        "goodness-of-fit p-value; below 0.1 speaks against a power law", source=f"{_CSN}, section 4"
    )
    best_model: str | None = column(
        "tail model of the lowest AIC among power law and alternatives", source=f"{_CSN}, section 5"
    )
    alpha_weighted: float | None = column(
        "α·log10 λ_max", source="Martin, Peng & Mahoney 2021, Nature Communications 12"
    )
    log_alpha_norm: float | None = column(
        "log10 Σ λ^α", source="Martin, Peng & Mahoney 2021, Nature Communications 12"
    )
    pl_alpha_hill: float | None = column(
        "Hill exponent of the upper half of the eigenvalues",
        source="Zhou et al. 2023, arXiv 2312.00359",
    )
    hill_null: float | None = column(
        "pl_alpha_hill of a random matrix of the same aspect ratio", source="Marchenko-Pastur law"
    )
    null_q: float | None = column(
        "share of random matrices of this shape whose α is below the observed one",
        unit="fraction",
        source="Dumitriu & Edelman 2002, J. Math. Phys. 43",
    )
    xi: float | None = column(
        "moment estimate of the extreme-value index; above 0 heavy tail, below 0 bounded edge",
        source=_DEH,
    )
    xi_lo: float | None = column("lower end of the 95 % bootstrap interval of xi", source=_DEH)
    xi_hi: float | None = column("upper end of the 95 % bootstrap interval of xi", source=_DEH)
    sigma_bulk: float | None = column(
        "standard deviation of the entries of the random bulk",
        unit="weight",
        source="Marchenko-Pastur fit with spikes deflated",
    )
    num_spikes: int | None = column(
        "eigenvalues above the 99 % Tracy-Widom edge of the bulk", unit="count", source=_MA
    )
    edge_tw99: float | None = column("99 % Tracy-Widom edge of the bulk", unit="σ²", source=_MA)
    d_mp: float | None = column(
        "largest distance between bulk and Marchenko-Pastur distribution functions; "
        "up to 4/min(rows, cols) is what pure noise shows",
        source="Marchenko & Pastur 1967",
    )
    phase: str | None = column(
        "diagnostic label: rank_collapse, random_like, bulk_spikes, heavy_tailed or bulk_decay",
        source=_HTSR,
    )
    entropy: float | None = column("-Σ p ln p / ln(rank), p = λ/Σλ", source=_HTSR)
    status: str = column("ok or the reason why no tail was fitted")
    warnings: str = column("reasons to distrust the numbers, separated by '; '")

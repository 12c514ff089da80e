"""Row type of the tail analysis: the heavy-tail description of one spectrum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from analyzer.store.columns import column

_CSN = "Clauset, Shalizi & Newman 2009, arXiv 0706.1062"
_HTSR = "Martin & Mahoney 2021, arXiv 1810.01075"
_DEH = "Dekkers, Einmahl & de Haan 1989, Ann. Statist. 17"
_VUONG = "Vuong 1989, Econometrica 57"
_DE = "Dumitriu & Edelman 2002, J. Math. Phys. 43"
_MP = "Marchenko & Pastur 1967"
_MA = "Ma 2012, Bernoulli 18; Johnstone 2001, Ann. Statist. 29"


@dataclass(frozen=True, slots=True, kw_only=True)
class TailRow:
    """Power-law tail, random-matrix bulk and entropy of one matrix's eigenvalues λ = σ²."""

    TABLE: ClassVar[str] = "tail"

    matrix_id: int = column("matrix the row belongs to")
    kind: str = column("what was decomposed: weight, delta, gradient, …")
    alpha: float | None = column(
        "exponent α of the density p(λ) ∝ λ^(-α) above xmin",
        source=f"{_CSN}, eq. 3.1",
        default=None,
    )
    alpha_lo: float | None = column(
        "lower end of the 95 % interval of α, see alpha_interval",
        source="χ² law of Σ ln(λ/xmin)",
        default=None,
    )
    alpha_hi: float | None = column(
        "upper end of the 95 % interval of α, see alpha_interval",
        source="χ² law of Σ ln(λ/xmin)",
        default=None,
    )
    alpha_unbiased: float | None = column(
        "1 + (n-2)/Σ ln(λ/xmin): α without small-sample bias",
        source="Γ law of Σ ln(λ/xmin)",
        default=None,
    )
    xmin: float | None = column(
        "eigenvalue where the fitted tail starts",
        unit="σ²",
        source=f"{_CSN}, section 3.3",
        default=None,
    )
    ks_d: float | None = column(
        "Kolmogorov-Smirnov distance of the tail to its fit",
        source=f"{_CSN}, eq. 3.9",
        default=None,
    )
    sigma: float | None = column(
        "standard error (α-1)/√n of α", source=f"{_CSN}, eq. 3.2", default=None
    )
    n_tail: int | None = column(
        "eigenvalues at or above xmin", unit="count", source=_CSN, default=None
    )
    tail_decades: float | None = column("log10 of λ_max/xmin", source=_CSN, default=None)
    alpha_interval: str | None = column(
        "alpha_lo and alpha_hi: chi2 (exact, xmin given) or bootstrap (the wider of that and a "
        "percentile interval that chooses xmin anew)",
        default=None,
    )
    gof_p: float | None = column(
        "goodness-of-fit p-value; below 0.1 speaks against a power law",
        source=f"{_CSN}, section 4",
        default=None,
    )
    gof_replicates: int | None = column(
        "synthetic samples behind gof_p, whose standard error is √(p(1-p)/replicates)",
        unit="count",
        source=f"{_CSN}, section 4; Besag & Clifford 1991, Biometrika 78",
        default=None,
    )
    best_model: str | None = column(
        "tail model of the lowest AIC among power law and alternatives",
        source=f"{_CSN}, section 5",
        default=None,
    )
    verdict: str | None = column(
        "power law supported (fits, every alternative significantly worse, n_tail ≥ 50), "
        "plausible, or rejected (gof_p < 0.1 or an alternative significantly better)",
        source=f"{_CSN}, section 6",
        default=None,
    )
    r_exponential: float | None = column(
        "normalised log-likelihood ratio of the power law to the exponential; "
        "above 0 favours the power law",
        source=_VUONG,
        default=None,
    )
    p_exponential: float | None = column("p-value of r_exponential", source=_VUONG, default=None)
    r_lognormal: float | None = column(
        "normalised log-likelihood ratio of the power law to the lognormal; "
        "above 0 favours the power law",
        source=_VUONG,
        default=None,
    )
    p_lognormal: float | None = column("p-value of r_lognormal", source=_VUONG, default=None)
    r_truncated: float | None = column(
        "normalised log-likelihood ratio of the power law to the truncated power law; "
        "above 0 favours the power law",
        source=_VUONG,
        default=None,
    )
    p_truncated: float | None = column("p-value of r_truncated", source=_VUONG, default=None)
    r_stretched: float | None = column(
        "normalised log-likelihood ratio of the power law to the stretched exponential; "
        "above 0 favours the power law",
        source=_VUONG,
        default=None,
    )
    p_stretched: float | None = column("p-value of r_stretched", source=_VUONG, default=None)
    alpha_weighted: float | None = column(
        "α·log10 λ_max",
        source="Martin, Peng & Mahoney 2021, Nature Communications 12",
        default=None,
    )
    log_alpha_norm: float | None = column(
        "log10 Σ λ^α", source="Martin, Peng & Mahoney 2021, Nature Communications 12", default=None
    )
    pl_alpha_hill: float | None = column(
        "Hill exponent of the upper half of the eigenvalues",
        source="Zhou et al. 2023, arXiv 2312.00359",
        default=None,
    )
    hill_null: float | None = column(
        "pl_alpha_hill of a random matrix of the same aspect ratio",
        source="Marchenko-Pastur law",
        default=None,
    )
    null_q: float | None = column(
        "share of random matrices of this shape whose α is below the observed one",
        unit="fraction",
        source=_DE,
        default=None,
    )
    hill_null_q: float | None = column(
        "share of random matrices of this shape whose pl_alpha_hill is below the observed one",
        unit="fraction",
        source=_DE,
        default=None,
    )
    xi_null_q: float | None = column(
        "share of random matrices of this shape whose xi is below the observed one",
        unit="fraction",
        source=_DE,
        default=None,
    )
    ks_null_q: float | None = column(
        "share of random matrices of this shape whose ks_d is below the observed one",
        unit="fraction",
        source=_DE,
        default=None,
    )
    null_draws: int | None = column(
        "random matrices behind the null quantiles", unit="count", source=_DE, default=None
    )
    xi: float | None = column(
        "moment estimate of the extreme-value index; above 0 heavy tail, below 0 bounded edge",
        source=_DEH,
        default=None,
    )
    xi_lo: float | None = column(
        "lower end of the 95 % bootstrap interval of xi", source=_DEH, default=None
    )
    xi_hi: float | None = column(
        "upper end of the 95 % bootstrap interval of xi", source=_DEH, default=None
    )
    sigma_bulk: float | None = column(
        "standard deviation of the entries of the random bulk",
        unit="weight",
        source="Marchenko-Pastur fit with spikes deflated",
        default=None,
    )
    num_spikes: int | None = column(
        "eigenvalues above the 99 % Tracy-Widom edge of the bulk",
        unit="count",
        source=_MA,
        default=None,
    )
    edge_tw99: float | None = column(
        "99 % Tracy-Widom edge of the bulk", unit="σ²", source=_MA, default=None
    )
    bulk_min: float | None = column(
        "lower Marchenko-Pastur edge of the bulk", unit="σ²", source=_MP, default=None
    )
    bulk_max: float | None = column(
        "upper Marchenko-Pastur edge of the bulk", unit="σ²", source=_MP, default=None
    )
    mp_softrank: float | None = column(
        "bulk_max/λ_max: 1 for pure noise, small for strong signal", source=_HTSR, default=None
    )
    d_mp: float | None = column(
        "largest distance between bulk and Marchenko-Pastur distribution functions; "
        "up to 4/min(rows, cols) is what pure noise shows",
        source=_MP,
        default=None,
    )
    phase: str | None = column(
        "diagnostic label: rank_collapse, random_like, bulk_spikes, heavy_tailed or bulk_decay",
        source=_HTSR,
        default=None,
    )
    entropy: float | None = column("-Σ p ln p / ln(rank), p = λ/Σλ", source=_HTSR, default=None)
    detx_num: int | None = column(
        "leading eigenvalues of mean 1 whose product first falls below 1",
        unit="count",
        source="Martin & Mahoney, WeightWatcher 0.7.7 (detX_num)",
        default=None,
    )
    erg_gap: int | None = column(
        "detx_num - n_tail",
        unit="count",
        source="Martin & Mahoney, WeightWatcher 0.7.7 (ERG_gap)",
        default=None,
    )
    n_evals: int = column("eigenvalues above the noise floor of storage", unit="count")
    seed: int = column("seed of bootstraps and null draws")
    status: str = column("ok or the reason why no tail was fitted")
    warnings: str = column("reasons to distrust the numbers, separated by '; '")


@dataclass(frozen=True, slots=True, kw_only=True)
class TailNullRow:
    """Order statistics of random matrices of one shape: what the tail of pure noise looks like.

    Every statistic is sorted on its own, so a row is no single draw.
    """

    TABLE: ClassVar[str] = "tail_null"

    short_side: int = column("smaller of rows and columns")
    long_side: int = column("larger of rows and columns")
    seed: int = column("seed of the draws")
    rank: int = column("1 for the smallest of the draws")
    alpha: float = column("tail exponent", source=_DE)
    ks_d: float = column("Kolmogorov-Smirnov distance of the tail to its fit", source=_DE)
    pl_alpha_hill: float = column("Hill exponent of the upper half", source=_DE)
    xi: float | None = column("moment estimate of the extreme-value index", source=_DE)

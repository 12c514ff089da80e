"""Row types of the emergence analysis: gradients and updates of one matrix along training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from analyzer.store.columns import column

_GALORE = "Zhao et al. 2024, arXiv 2403.03507"
_WELORE = "Jaiswal et al. 2024, arXiv 2407.11239"
_HMT = "Halko, Martinsson & Tropp 2011, arXiv 0909.4061"
_ROY = "Roy & Vetterli, EUSIPCO 2007"
_ANGLES = "Björck & Golub 1973, Math. Comp. 27"

_RUN = "training run"
_MATRIX = "tensor name as stored"
_SOURCE = (
    "what was decomposed: grad, exp_avg, adam_update, delta_prev, delta_init, cumulative, projector"
)
_BATCH = "recorded batch of a gradient: train (the minibatch), probe (one fixed batch) or saved"
_ANCHOR = "matrix of the run's last checkpoint"


@dataclass(frozen=True, slots=True, kw_only=True)
class GradSpectrumRow:
    """Spectrum of one source of one matrix at one step, in numbers."""

    TABLE: ClassVar[str] = "grad_spectrum"

    matrix_id: int = column("matrix of the checkpoint at this step, else of the run's last one")
    run: str = column(_RUN)
    step: int = column("training step whose weights the gradient was taken at")
    matrix: str = column(_MATRIX)
    source: str = column(_SOURCE)
    batch_id: str | None = column(_BATCH)
    block: str | None = column("q, k or v of a matrix that holds all three; NULL for the whole")
    n_tokens: int | None = column(
        "tokens in the gradient: its rank cannot exceed them", unit="count"
    )
    learning_rate: float | None = column("learning rate of the step, of the first group")
    m: int = column("rows: output features", unit="count")
    n: int = column("columns: input features", unit="count")
    side: str = column("side of the subspace: left for m ≤ n, else right", source=_GALORE)
    fro: float | None = column("√Σσ²")
    sigma1: float | None = column("largest singular value, a lower bound if method is a sketch")
    stable_rank: float | None = column("Σσ²/σ₁²: its upper bound if method is a sketch")
    stable_rank_lo: float | None = column("lower bound of stable_rank", source=_HMT)
    stable_rank_hi: float | None = column("upper bound of stable_rank", source=_HMT)
    effective_rank: float | None = column(
        "exp(−Σ p ln p), p = σ/Σσ; NULL without all singular values", source=_ROY
    )
    effective_rank_energy: float | None = column(
        "exp(−Σ p ln p), p = σ²/Σσ²; NULL without all singular values"
    )
    participation_ratio: float | None = column("(Σσ²)²/Σσ⁴; NULL without all singular values")
    numerical_rank: int | None = column(
        "singular values above max(m, n)·ε·σ₁, ε of the stored dtype, or above twice the noise of "
        "rounding to it (half precision, differences of weights)",
        unit="count",
    )
    r: int | None = column("rank of energy_r", unit="count")
    energy_r: float | None = column(
        "Σ_{i≤r}σ²/Σσ², in sample: a lower bound if method is a sketch", unit="fraction"
    )
    energy_r_hi: float | None = column("upper bound of energy_r", unit="fraction", source=_HMT)
    rank_at_energy: int | None = column(
        "least r with 90 % of Σσ², an upper bound if method is a sketch; NULL if not reached by it",
        unit="count",
    )
    rank_at_95: int | None = column("the same for 95 %", unit="count")
    rank_at_99: int | None = column("the same for 99 %", unit="count")
    sigma_error: float | None = column("largest absolute error of a singular value used here")
    snr: float | None = column("‖m̂‖²/Σv̂ of Adam's moments: 1 without any noise")
    method: str | None = column(
        "gram, direct_svd, qr_core: all values; warm, cold, exact: leading Ritz values (a sketch); "
        "frequent_directions"
    )
    precision: str = column("floating-point format of the computation")
    dtype: str = column("storage dtype of the source")
    origin_sha256: str | None = column(
        "SHA-256 of what was decomposed, or of the hashes of what it came from; NULL if nothing was"
    )
    flags: str = column(
        "zero_gradient, non_finite, no_gradient, token_limited, rounded_tail (half-precision "
        "storage: do not read effective_rank), rounding_only (no larger than what rounding the "
        "weights leaves), restarted"
    )
    caution: str = column("what this source cannot say")


@dataclass(frozen=True, slots=True, kw_only=True)
class GradSingularValueRow:
    """One recorded leading singular value, where no whole spectrum is stored."""

    TABLE: ClassVar[str] = "grad_singular_value"

    matrix_id: int = column("matrix of the checkpoint at this step, else of the run's last one")
    run: str = column(_RUN)
    step: int = column("training step")
    source: str = column(_SOURCE)
    batch_id: str | None = column(_BATCH)
    k: int = column("rank of the value, 1-based, descending")
    sigma: float = column("Ritz value, a lower bound of the singular value", source=_HMT)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradOverlapRow:
    """How close the leading subspaces of two steps, or of two sources, are."""

    TABLE: ClassVar[str] = "grad_overlap"

    matrix_id: int = column(_ANCHOR)
    run: str = column(_RUN)
    matrix: str = column(_MATRIX)
    source: str = column(_SOURCE)
    source_b: str = column("source at step_b: the same, or what a cumulated subspace is held to")
    batch_id: str | None = column(_BATCH)
    step_a: int = column("earlier step")
    step_b: int = column("later step")
    side: str = column("left or right singular vectors")
    r: int = column("dimension of both subspaces", unit="count")
    overlap: float = column("‖UᵀV‖_F²/r, the mean cos² of the principal angles", source=_ANGLES)
    overlap_error: float | None = column(
        "bound of its error from the computed subspaces; NULL where no gap after r separates them"
    )
    chance: float = column("overlap expected of independent random subspaces: r/d")
    corrected: float | None = column("(overlap − chance)/(1 − chance); NULL for r = d")
    theta_max: float = column("largest principal angle", unit="rad", source=_ANGLES)


@dataclass(frozen=True, slots=True, kw_only=True)
class GradCosineRow:
    """Cosine between one source of one matrix at two steps."""

    TABLE: ClassVar[str] = "grad_cosine"

    matrix_id: int = column(_ANCHOR)
    run: str = column(_RUN)
    matrix: str = column(_MATRIX)
    source: str = column(_SOURCE)
    batch_id: str | None = column(_BATCH)
    step_a: int = column("earlier step")
    step_b: int = column("later step")
    cosine: float | None = column(
        "⟨A, B⟩/(‖A‖‖B‖); NULL if one of them is zero", source=f"{_WELORE}, figure 2"
    )
    err: float = column(
        "error of cosine: rounding, or 2/√w of CountSketches of width w (95 %)",
        source="Charikar, Chen & Farach-Colton, ICALP 2002",
    )
    disattenuated: float | None = column(
        "cosine/√(ρ_a ρ_b) of independent minibatches: cosine of the expected gradients",
        source="Spearman 1904",
    )
    reason: str | None = column("why disattenuated is NULL where a noise ceiling was recorded")


@dataclass(frozen=True, slots=True, kw_only=True)
class GradNoiseRow:
    """How much of a recorded gradient is signal, from independent batches A, B and C."""

    TABLE: ClassVar[str] = "grad_noise"

    matrix_id: int = column("matrix of the checkpoint at this step, else of the run's last one")
    run: str = column(_RUN)
    step: int = column("training step")
    matrix: str = column(_MATRIX)
    n_tokens: int | None = column("tokens of one batch", unit="count")
    signal_fraction: float | None = column(
        "⟨G_B, G_C⟩/(‖G_B‖‖G_C‖), about ‖E G‖²/E‖G‖²; not clipped", unit="fraction"
    )
    r: int = column("rank of the energies", unit="count")
    energy_in: float | None = column(
        "share of ‖G_A‖² in the r leading directions of G_A itself", unit="fraction"
    )
    energy_out: float | None = column(
        "share of ‖G_B‖² in the r leading directions of G_A", unit="fraction"
    )
    energy_cv: float | None = column(
        "tr(PᵀG_B G_CᵀP)/⟨G_B, G_C⟩, P from G_A: share of ‖E G‖²; not clipped", unit="fraction"
    )
    reason: str | None = column("why a value is NULL: noise_dominated, zero_gradient")


@dataclass(frozen=True, slots=True, kw_only=True)
class GradStalenessRow:
    """How well a subspace still fits the minibatch gradient some steps later, over a run."""

    TABLE: ClassVar[str] = "grad_staleness"

    matrix_id: int = column(_ANCHOR)
    run: str = column(_RUN)
    matrix: str = column(_MATRIX)
    batch_id: str | None = column(_BATCH)
    lag: int = column("steps from the subspace to the gradient; 0 is its own", unit="steps")
    n: int = column("pairs of steps that were averaged", unit="count")
    captured: float = column(
        "mean of ‖PᵀG‖²/‖G‖²: a loss from lag 0 to 1 is sampling noise, later losses are drift",
        unit="fraction",
        source=_GALORE,
    )
    overlap: float | None = column("mean overlap with the later gradient's own subspace")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmergenceRow:
    """One source of one matrix over a whole run."""

    TABLE: ClassVar[str] = "emergence"

    matrix_id: int = column(_ANCHOR)
    run: str = column(_RUN)
    matrix: str = column(_MATRIX)
    type: str = column("role of the matrix: attn_q, mlp_up, …")
    layer: int | None = column("block number, 0-based")
    source: str = column(_SOURCE)
    batch_id: str | None = column(_BATCH)
    n_steps: int = column("steps with a finite, non-zero matrix", unit="count")
    step_first: int | None = column("first of them")
    step_last: int | None = column("last of them")
    stable_rank_first: float | None = column("stable rank at step_first: not monotone from there")
    stable_rank_max: float | None = column("largest stable rank")
    stable_rank_end: float | None = column("stable rank at step_last")
    r: int = column("rank of energies and overlaps", unit="count")
    energy_r_first: float | None = column("energy_r at step_first, in sample", unit="fraction")
    energy_r_end: float | None = column("energy_r at step_last, in sample", unit="fraction")
    cos_adjacent: float | None = column("mean cosine of neighbouring steps", source=_WELORE)
    cos_late: float | None = column("mean cosine within the second half of the steps")
    cos_all: float | None = column("mean cosine of all pairs of steps")
    cos_error: float | None = column("error of one cosine: rounding, or 2/√w of sketches (95 %)")
    saturation_step: int | None = column(
        "first step whose mean cosine with all later ones is at least 0.5; NULL if none"
    )
    overlap_adjacent: float | None = column("mean subspace overlap of neighbouring steps")
    overlap_late: float | None = column("mean subspace overlap within the second half")
    overlap_chance: float | None = column("overlap of independent random subspaces")
    signal_fraction: float | None = column(
        "ratio of means of ⟨G_B, G_C⟩ and ‖G_B‖‖G_C‖ over the second half: the noise ceiling",
        unit="fraction",
    )
    signal_fraction_stderr: float | None = column("standard error over steps", unit="fraction")
    energy_in: float | None = column("energy_in over the same steps", unit="fraction")
    energy_out: float | None = column("energy_out over the same steps", unit="fraction")
    energy_cv: float | None = column("energy_cv over the same steps", unit="fraction")
    energy_cv_stderr: float | None = column("standard error over steps", unit="fraction")
    advised_rank: int | None = column(
        "least rank with 90 % of another batch's energy, or of its own where the basis says "
        "in-sample; NULL if not reached",
        source=_GALORE,
    )
    advised_rank_basis: str | None = column("measurement behind advised_rank, or what is missing")
    advised_gap: int | None = column(
        "longest update_proj_gap that loses at most 5 % of the energy captured at lag 1",
        unit="steps",
        source=_GALORE,
    )
    advised_gap_basis: str | None = column("measurement behind advised_gap, or what is missing")
    motion: str | None = column(
        "why the subspace differs later: stable, sampling_noise, drift or both"
    )
    motion_basis: str | None = column("measurement behind motion, or what is missing")
    worth_projecting: bool | None = column(
        "advised_rank is reached and saves parameters: r < mn/(m + n)", source=_GALORE
    )
    flags: str = column("gaps, shape changes and what else to know of the series")
    caution: str = column("what this source cannot say")


@dataclass(frozen=True, slots=True, kw_only=True)
class EmergenceCorrelationRow:
    """Rank correlation of two numbers over the matrices of one run."""

    TABLE: ClassVar[str] = "emergence_correlation"

    checkpoint_id: int = column("last checkpoint of the run")
    run: str = column(_RUN)
    source: str = column(_SOURCE)
    batch_id: str | None = column(_BATCH)
    x: str = column("number of the emergence table")
    y: str = column("number of the weights at the end: pruned_ratio or weight_erank_ratio")
    method: str = column("spearman or pearson")
    group: str = column("all matrices, or those of one type")
    n: int = column("matrices with both numbers", unit="count")
    rho: float | None = column("correlation")
    p: float | None = column("two-sided p-value, not corrected for the number of pairs tested")
    reason: str | None = column("why there is none: too_few_pairs, constant")


@dataclass(frozen=True, slots=True, kw_only=True)
class GaloreMemoryRow:
    """What weights and optimizer of a run would take under one method at one rank."""

    TABLE: ClassVar[str] = "galore_memory"

    checkpoint_id: int = column("last checkpoint of the run")
    run: str = column(_RUN)
    convention: str = column(
        "exact: per-matrix formulas; paper: GaLore's optimizer as 3/4 of LoRA's", source=_GALORE
    )
    method: str = column("full, lora, galore or fira")
    rank: int | None = column("rank of the method; matrices with a smaller side use that side")
    weights: int = column("stored weights", unit="elements")
    optimizer: int = column("projectors and moments", unit="elements")
    gradient: int = column("the whole gradient at once", unit="elements")
    bf16_gigabytes: float = column("weights and optimizer in bfloat16, 1e9 bytes", unit="GB")


EMERGENCE_TABLES = (
    GradSpectrumRow,
    GradSingularValueRow,
    GradOverlapRow,
    GradCosineRow,
    GradNoiseRow,
    GradStalenessRow,
    EmergenceRow,
)
RUN_TABLES = (EmergenceCorrelationRow, GaloreMemoryRow)

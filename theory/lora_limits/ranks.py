"""How far from low rank one attention matrix F (rows sum to 1) is, measured on its spectrum.

Measurements of one input, not guarantees: a small rank here does not say that an algorithm finds
the factors in almost linear time, a large one does not say that the head is hard to approximate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.lora_limits.arrays import finite_matrix
from theory.spectral_summaries import summarise

MAX_ROWS = 2048


@dataclass(frozen=True, slots=True)
class RowSample:
    """Rows of F to compute: `rows` ascending, `label` 'exact' or 'sample of m of L, seed s'."""

    rows: NDArray[np.int64]
    length: int
    label: str


@dataclass(frozen=True, slots=True)
class AttentionRanks:
    """Spectral summaries of F, or of a sample of its rows as `label` says."""

    rank_tau: int  # #{σ_i > τ σ_1}
    stable_rank: float  # ‖F‖_F²/σ_1²
    eff_rank: float  # exp of the entropy of σ/Σσ
    ha_alpha: float  # L max_j ‖F_:j‖², the column norms in I. Han et al., arXiv 2310.05869
    label: str


def sample_rows(length: int, seed: int, limit: int = MAX_ROWS) -> RowSample:
    """All rows up to `limit`, beyond it `limit` rows drawn uniformly without replacement.

    The same seed gives the same rows. Raises ValueError for a length below 1 or a limit outside
    1 … 2048.
    """
    if length < 1:
        raise ValueError(f"the sequence length must be at least 1, got {length}")
    if not 1 <= limit <= MAX_ROWS:
        raise ValueError(f"the limit must lie in 1 … {MAX_ROWS}, got {limit}")
    if length <= limit:
        return RowSample(np.arange(length, dtype=np.int64), length, "exact")
    drawn = np.random.default_rng(seed).choice(length, limit, replace=False)
    return RowSample(
        np.sort(drawn).astype(np.int64), length, f"sample of {limit} of {length}, seed {seed}"
    )


def attention_ranks(rows: ArrayLike, sample: RowSample, tau: float = 1e-3) -> AttentionRanks:
    """Summaries of F[sample.rows, :] (m, L_k), m = sample.rows.size, all keys kept.

    Of a sample, the three ranks are those of the sampled rows (rank_tau and eff_rank cannot exceed
    m) and ha_alpha is the estimate L·(L/m)·max_j Σ_sampled F_ij², which scatters upwards because of
    the maximum. L is the number of query positions.
    Raises ValueError for negative or non-finite entries, a row count that differs from the sample,
    τ outside (0, 1), or F = 0.
    """
    F = finite_matrix(rows, "attention")
    if len(F) != sample.rows.size:
        raise ValueError(f"F has {len(F)} rows but the sample names {sample.rows.size}")
    if not 0.0 < tau < 1.0:
        raise ValueError(f"the threshold tau must lie in (0, 1), got {tau}")
    if F.min() < 0.0:
        raise ValueError(f"attention is not negative, got {F.min():g}")
    values = np.linalg.svd(F, compute_uv=False)
    summary = summarise(values)
    if summary.stable_rank is None or summary.effective_rank is None:
        raise ValueError("attention is zero everywhere: its ranks are undefined")
    columns = float(np.max(np.einsum("ij,ij->j", F, F)))
    return AttentionRanks(
        rank_tau=int(np.count_nonzero(values > tau * values[0])),
        stable_rank=summary.stable_rank,
        eff_rank=summary.effective_rank,
        ha_alpha=sample.length * (sample.length / len(F)) * columns,
        label=sample.label,
    )

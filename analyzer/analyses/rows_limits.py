"""Row types of the norm limits of attention: one row a head and source, and one a prefix length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from analyzer.store.columns import column

_HU = "Hu et al. 2025, arXiv 2406.03136"
_ALMAN_SONG = "Alman & Song 2023, arXiv 2302.13214"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Which head of which pair of checkpoints a row speaks of, and what it was computed from."""

    matrix_id: int = column("matrix of the queries; of another target where those are untouched")
    checkpoint_id: int = column("checkpoint whose head it is")
    model: str = column("the base, or the model itself where it has none")
    adapter: str | None = column("adapter or fine-tune; NULL for the base itself")
    stack: str | None = column("part of the network, where the name tells")
    layer: int = column("number of the block")
    module: str = column("attention layer")
    inputs_sha256: str = column("hash over the hashes of every tensor that entered")
    activations_sha256: str | None = column("hash of the hidden states; NULL unless measured")
    activations_of: str | None = column("model and text that the hidden states are of")


@dataclass(frozen=True, kw_only=True)
class HeadLimits:
    """Norms of one head, how far they are from the threshold c·√(ln L), and what that costs.

    Of source ``activations`` every norm is a value on the given text; of ``data_free`` an upper
    bound for every input of the norm layer, of a fine-tune its own; of ``spherical`` a typical
    value, the median of the largest entry of L random tokens. The three are never mixed in a row.
    What a source does not say is None. Queries and keys are as they enter the product: after a norm
    of their own, if the model has one (gamma_dq is then the change of the normalised query).
    """

    head: int = column("query head, 0-based")
    kv_head: int = column("key head it uses, 0-based")
    source: str = column("activations (values), data_free (upper bounds), spherical (typical)")
    L: int = column("sequence length: number of keys", unit="tokens")
    length_from: str = column("activations, config (longest sequence), or assumed")
    n_tokens: int | None = column("tokens measured, padding left out", unit="tokens", default=None)
    n_samples: int | None = column("sequences; every gamma is the largest", default=None)
    d_h: int = column("head width", unit="channels")
    beta: float = column("what multiplies q·k before the softmax")
    causal: bool = column("whether a query sees earlier keys only")
    cross_attention: bool = column("keys come from another sequence")
    rope: bool = column("whether queries and keys are rotated by position")
    qk_norm: bool = column("queries and keys are normalised: no adapter moves the bounds")
    touches_qk: bool = column("whether the update changes queries or keys")
    r: int | None = column("rank of the query update", default=None)
    lora_alpha: float | None = column("alpha of the query update", default=None)
    scaling: float | None = column(
        "s in ΔW = s·lora_B·lora_A: alpha/r, or alpha/√r (rsLoRA)", default=None
    )
    c: float = column("constant of the threshold, a convention: o(·) has none", source=_HU)
    threshold: float = column("c·√(ln L)", source=_HU)
    eps: float = column("accuracy that rank_exponent asks for, 1/L")
    gamma_x: float | None = column(
        "max|X|, input of the query projection", source=_HU, default=None
    )
    gamma_q_base: float | None = column("max|X W_Q*|, base, before RoPE", source=_HU, default=None)
    gamma_dq: float | None = column("max|s·X·B·A|", source=_HU, default=None)
    gamma_q: float | None = column("max|X W_Q|, adapted, before RoPE", source=_HU, default=None)
    gamma_k_base: float | None = column("max|X W_K*|; C⁽²⁾", source=_HU, default=None)
    gamma_dk: float | None = column("largest change of a key entry", default=None)
    gamma_k: float | None = column("max|X W_K|, adapted, before RoPE", source=_HU, default=None)
    gamma_v: float | None = column("max|X W_V|, adapted", source=_HU, default=None)
    gamma_qkt: float | None = column("max|X W_Q W_Kᵀ|, adapted", source=_HU, default=None)
    c1: float | None = column("max|C⁽¹⁾| = s·max|X|", source=_HU, default=None)
    c2: float | None = column("max|C⁽²⁾| = gamma_k_base", source=_HU, default=None)
    c3: float | None = column("max|C⁽³⁾| = max|X W_V*|", source=_HU, default=None)
    gamma_partial: float | None = column(
        "max(gamma_q, gamma_k_base): the sufficient condition with frozen keys",
        source=f"{_HU}, theorem 3.1",
        default=None,
    )
    gamma_full: float | None = column(
        "max(gamma_q, gamma_k, gamma_qkt, max|X|): the same, all adapted",
        source=f"{_HU}, theorem A.1",
        default=None,
    )
    gamma_hard: float | None = column(
        "max(gamma_k_base, gamma_dq), the norms of the hard family; large is not hard",
        source=f"{_HU}, theorem 4.1",
        default=None,
    )
    gamma_as: float | None = column(
        "√(beta·d_h)·max(max|q|, max|k|), after RoPE", source=_ALMAN_SONG, default=None
    )
    gamma_bal: float | None = column("√(beta·d_h·max|q|·max|k|)", default=None)
    gamma_chan: float | None = column("√(beta·d_h·max_c q_c k_c), q_c = max|q_ic|", default=None)
    gamma_chansum: float | None = column("√(beta·Σ_c q_c k_c)", default=None)
    gamma_logit: float | None = column("√max|S|, S = beta·q·k over visible pairs", default=None)
    gamma_range: float | None = column("√(half the largest max - min of a row of S)", default=None)
    gamma_logit_capped: float | None = column("gamma_logit after the softcap", default=None)
    q_token_q50: float | None = column("median over tokens of max_c |q_ic|", default=None)
    q_token_q99: float | None = column("0.99 quantile over tokens of max_c |q_ic|", default=None)
    logit_q50: float | None = column("median over queries of √max_j|S_ij|", default=None)
    logit_q99: float | None = column("0.99 quantile over queries of √max_j|S_ij|", default=None)
    rem_ratio: float | None = column(
        "√(mean_i Var_j S_ij)/√(2 ln L); a heuristic: the softmax condenses near 1",
        source="random-energy model",
        default=None,
    )
    ipr: float | None = column("mean_i Σ_j F_ij²: 1/L uniform, 1 one-hot", default=None)
    ratio_partial: float | None = column("gamma_partial/threshold", default=None)
    ratio_full: float | None = column("gamma_full/threshold", default=None)
    ratio_as: float | None = column("gamma_as/threshold", default=None)
    ratio_logit: float | None = column("gamma_logit/threshold", default=None)
    ratio_range: float | None = column("gamma_range/threshold", default=None)
    band_as: str | None = column("ratio_as: below < 0.8, near to 1.25, above", default=None)
    band_logit: str | None = column("ratio_logit: below < 0.8, near to 1.25, above", default=None)
    verdict: str | None = column(
        "certified (ratio_as below), effective (ratio_logit below), borderline (near), outside "
        "(no guarantee, which proves nothing); undecided where a bound is not below; of spherical "
        "NULL",
        source=_HU,
        default=None,
    )
    log10_L_star_as: float | None = column(
        "log10 of the length at which gamma_as, held fixed, meets √(ln L)", default=None
    )
    log10_L_star_logit: float | None = column("the same of gamma_logit", default=None)
    log10_L_gaussian: float | None = column(
        "log10 of the least length at which normal entries of the measured spread meet √(ln L); "
        "NULL if none",
        default=None,
    )
    scaling_low: float | None = column(
        "least s with max|Q0 + s·U| ≤ threshold; NULL if there is none or no limit", default=None
    )
    scaling_high: float | None = column("largest such s", default=None)
    alpha_max: float | None = column(
        "largest lora_alpha with gamma_q ≤ threshold; NULL if unbounded or the base exceeds it",
        default=None,
    )
    alpha_unbounded: bool | None = column("no alpha exceeds the threshold", default=None)
    headroom: float | None = column("alpha_max/lora_alpha; below 1: over it", default=None)
    weight_scale: float | None = column("threshold/gamma_q", default=None)
    width_over_log: float = column("d_h/ln L, which the theorems assume bounded", source=_HU)
    degree: int | None = column("certified degree for exp on |S| ≤ R to 1/L", default=None)
    log10_features: float | None = column(
        "log10 C(d_h + degree, degree): features of the explicit algorithm", default=None
    )
    rank_exponent: float | None = column(
        "ln(features)/ln L: below 1 there are fewer features than tokens", default=None
    )
    delta_logit: float | None = column("max|ΔS| of the update, keys centred", default=None)
    delta_rank: int | None = column("rank of ΔS", default=None)
    log10_k_delta: float | None = column(
        "log10 of the features of exp(ΔS) alone, exp(S0) kept exact", default=None
    )
    method: str = column("how the norms were computed")
    precision: str = column("arithmetic")
    warnings: str | None = column("what is left out or approximate", default=None)


@dataclass(frozen=True, kw_only=True)
class LoraLimitsRow(HeadLimits, Place):
    """Norms of one attention head against the threshold of almost-linear-time attention."""

    TABLE: ClassVar[str] = "lora_limits"


@dataclass(frozen=True, kw_only=True)
class HeadSweep:
    """One head on the first L tokens of the text (causal models: a prefix is a text of its own)."""

    head: int = column("query head, 0-based")
    L: int = column("prefix length", unit="tokens")
    threshold: float = column("c·√(ln L)")
    gamma_q: float = column("max|X W_Q|, adapted, before RoPE")
    gamma_as: float = column("√(beta·d_h)·max(max|q|, max|k|)")
    gamma_chansum: float = column("√(beta·Σ_c q_c k_c)")
    gamma_logit: float | None = column("√max|S|; NULL where logits were not computed")
    ratio_q: float = column("gamma_q/threshold")
    ratio_as: float = column("gamma_as/threshold")
    ratio_logit: float | None = column("gamma_logit/threshold")


@dataclass(frozen=True, kw_only=True)
class LoraLimitsSweepRow(HeadSweep):
    """Norms of one head against the threshold at growing prefix lengths."""

    TABLE: ClassVar[str] = "lora_limits_sweep"

    matrix_id: int = column("matrix of the row in lora_limits")


LIMITS_TABLES = (LoraLimitsRow, LoraLimitsSweepRow)
# Sources of the two passes: from weights alone, and on a text.
DATA_FREE_SOURCES = ("data_free", "spherical")
MEASURED_SOURCES = ("activations",)

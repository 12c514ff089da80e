"""Norms on one scale, from what the softmax sees to what the theorems bound, for one head.

With S = β q kᵀ (post-RoPE) and q_c, k_c the largest |entry| of a channel over the tokens,

    gamma_range   √(max_i (max_j S_ij - min_j S_ij)/2)
    gamma_logit   √(max |S_ij|)
    gamma_chansum √(β Σ_c q_c k_c)
    gamma_chan    √(β d_h max_c q_c k_c)
    gamma_bal     √(β d_h ‖q‖∞‖k‖∞)
    gamma_as      √(β d_h)·max(‖q‖∞, ‖k‖∞)

each at most the next. gamma_as is the entry bound of J. Alman & Z. Song (arXiv 2302.13214), whose
softmax of QKᵀ/d has β = 1/d; Hu et al. (arXiv 2406.03136) drop that factor, which a threshold does
not forgive. The first five are as valid: logits are unchanged by q → qT, k → kT⁻¹ with T diagonal
(bal, chan), the softmax by a shift of each row (range), and the polynomial method uses only |S|
and d_h. None of them proves a head hard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from theory.lora_limits.arrays import Array, finite_vector, kept_positions, positive
from theory.lora_limits.logits import AdditiveBias, Mask, RowLogits, head_pair, row_logits
from theory.lora_limits.thresholds import threshold


@dataclass(frozen=True, slots=True)
class ChannelNorms:
    gamma_chansum: float
    gamma_chan: float
    gamma_bal: float
    gamma_as: float


@dataclass(frozen=True, slots=True)
class EntryNorms:
    """What a pass over the tokens gives, in O((L + L_k) d_h²). A mask does not enter."""

    channels: ChannelNorms
    gamma_norm: float  # √(β max_i ‖q_i‖₂ max_j ‖k_j‖₂) ≥ gamma_logit; RoPE leaves it unchanged
    # √(mean_i Var_j S_ij)/√(2 ln L_k) over all pairs: a heuristic (random-energy model: the softmax
    # condenses near 1), not a bound
    rem_ratio: float
    n_keys: int  # the L of the threshold, padding left out


@dataclass(frozen=True, slots=True)
class LogitNorms:
    """What the pairs give; masked and padded ones are left out."""

    gamma_range: float
    gamma_logit: float
    ipr: float  # mean_i Σ_j F_ij²: 1/L_k for a uniform softmax, 1 for a one-hot one
    range_q50: float  # quantiles over queries of √(spread_i/2)
    range_q99: float
    logit_q50: float  # and of √(max_j |S_ij|)
    logit_q99: float


def chain(
    q: ArrayLike,
    k: ArrayLike,
    beta: float,
    *,
    mask: Mask = "none",
    padded_queries: ArrayLike | None = None,
    padded_keys: ArrayLike | None = None,
    additive: AdditiveBias | None = None,
    block_rows: int | None = None,
) -> tuple[EntryNorms, LogitNorms]:
    """All six norms of q (L, d_h) and k (L_k, d_h); arguments as `row_logits`.

    An additive bias belongs to the logits only, which may then exceed the norms of the entries.
    Raises ValueError as `row_logits` and for fewer than two keys.
    """
    entries = entry_norms(q, k, beta, padded_queries=padded_queries, padded_keys=padded_keys)
    rows = row_logits(
        q,
        k,
        beta,
        mask=mask,
        padded_queries=padded_queries,
        padded_keys=padded_keys,
        additive=additive,
        block_rows=block_rows,
    )
    ceiling = entries.channels.gamma_chansum if additive is None else math.inf
    return entries, logit_norms(rows, ceiling)


def entry_norms(
    q: ArrayLike,
    k: ArrayLike,
    beta: float,
    *,
    padded_queries: ArrayLike | None = None,
    padded_keys: ArrayLike | None = None,
) -> EntryNorms:
    """The part of `chain` that needs no pairs. Raises ValueError as `chain`."""
    Q, K = head_pair(q, k)
    Q = Q[kept_positions(Q.shape[0], padded_queries, "queries")]
    K = K[kept_positions(K.shape[0], padded_keys, "keys")]
    scale = positive(beta, "beta")
    centred = K - K.mean(axis=0)
    covariance = centred.T @ centred / K.shape[0]
    variance = scale**2 * max(float(np.sum((Q @ covariance) * Q)), 0.0) / Q.shape[0]
    radii = np.linalg.norm(Q, axis=1).max() * np.linalg.norm(K, axis=1).max()
    return EntryNorms(
        channels=channel_norms(np.abs(Q).max(axis=0), np.abs(K).max(axis=0), scale),
        gamma_norm=math.sqrt(scale * radii),
        rem_ratio=math.sqrt(variance / 2.0) / threshold(K.shape[0]),
        n_keys=K.shape[0],
    )


def channel_norms(q_channels: ArrayLike, k_channels: ArrayLike, beta: float) -> ChannelNorms:
    """From the largest |entry| of each channel (d_h,), or a bound on it. Raises ValueError if one
    is negative, not finite, or the widths differ."""
    qc = finite_vector(q_channels, "the channel maxima of q")
    kc = finite_vector(k_channels, "the channel maxima of k", qc.size)
    if min(qc.min(), kc.min()) < 0.0:
        raise ValueError(f"channel maxima cannot be negative, got {min(qc.min(), kc.min())}")
    return ChannelNorms(*(float(x) for x in stacked_channel_norms(qc, kc, positive(beta, "beta"))))


def stacked_channel_norms(qc: Array, kc: Array, beta: float) -> Array:
    """chansum, chan, bal, as along a new first axis, for channel maxima (..., d_h)."""
    products = qc * kc
    q_max, k_max = qc.max(axis=-1), kc.max(axis=-1)
    squares = [
        beta * products.sum(axis=-1),
        beta * qc.shape[-1] * products.max(axis=-1),
        beta * qc.shape[-1] * q_max * k_max,
        beta * qc.shape[-1] * np.maximum(q_max, k_max) ** 2,
    ]
    # where two are equal, rounding could swap them
    return np.sqrt(np.maximum.accumulate(np.stack(squares), axis=0))


def logit_norms(rows: RowLogits, ceiling: float = math.inf) -> LogitNorms:
    """From the rows of logits. `ceiling` is gamma_chansum, which rounding alone could exceed."""
    ranges, logits = np.sqrt(rows.spread / 2.0), np.sqrt(rows.largest)
    range_q50, range_q99 = np.quantile(ranges, [0.5, 0.99])
    logit_q50, logit_q99 = np.quantile(logits, [0.5, 0.99])
    gamma_logit = min(float(logits.max()), ceiling)
    return LogitNorms(
        gamma_range=min(float(ranges.max()), gamma_logit),
        gamma_logit=gamma_logit,
        ipr=float(rows.participation.mean()),
        range_q50=float(range_q50),
        range_q99=float(range_q99),
        logit_q50=float(logit_q50),
        logit_q99=float(logit_q99),
    )


def softcapped(gamma_logit: float, cap: float) -> float:
    """√(cap·tanh(gamma_logit²/cap)), gamma_logit of logits capped as in Gemma 2.

    Capped logits are no longer of the form β q·k, so that the theorems do not speak of them: show
    this beside the norm before the cap. Raises ValueError for cap ≤ 0.
    """
    limit = positive(cap, "the cap")
    return math.sqrt(limit * math.tanh(gamma_logit**2 / limit))

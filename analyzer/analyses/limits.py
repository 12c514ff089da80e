"""How far attention heads are from the norms that allow almost-linear time: from arrays in memory.

J. Hu et al., "Computational Limits of Low-Rank Adaptation", arXiv 2406.03136.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from analyzer.analyses.limits_arrays import Array, LayerArrays, Linear, Lora, Norms
from analyzer.analyses.limits_bounds import data_free_limits
from analyzer.analyses.limits_measured import measured_limits
from analyzer.analyses.limits_tokens import base_tokens
from analyzer.analyses.limits_typical import spherical_limits
from analyzer.analyses.limits_verdicts import Length
from analyzer.analyses.rows_limits import HeadLimits
from analyzer.checkpoints.attention.types import AttentionLayer, Projection, Rotary
from analyzer.errors import UsageError
from theory.lora_limits.normed_rows import NormLayer
from theory.lora_limits.projections import LowRankUpdate, Update


def lora_limits(
    q_weight: ArrayLike,
    k_weight: ArrayLike,
    v_weight: ArrayLike | None = None,
    *,
    n_heads: int,
    n_kv_heads: int | None = None,
    q_bias: ArrayLike | None = None,
    k_bias: ArrayLike | None = None,
    v_bias: ArrayLike | None = None,
    q_update: Update | None = None,
    k_update: Update | None = None,
    v_update: Update | None = None,
    lora_alpha: float | None = None,
    rank_stabilised: bool = False,
    x: ArrayLike | None = None,
    padded: ArrayLike | None = None,
    norm: NormLayer | None = None,
    length: int | None = None,
    beta: float | None = None,
    causal: bool = True,
    rotary: Rotary | None = None,
    c: float = 1.0,
) -> tuple[HeadLimits, ...]:
    """Norms, ratios and verdict of every query head of a layer; weights (n, d) as torch's `Linear`.

    With `x` (L, d) or (N, L, d), the input of the projections, `padded` (N, L) True where there is
    no token, rows of source ``activations`` with L that of the longest sample. With `norm`, the
    layer whose output `x` is, rows ``data_free`` (upper bounds for every text) and ``spherical``
    (typical values) at `length`. Query head h uses key head h // (n_heads / n_kv_heads). β is
    1/√d_h by default. `lora_alpha` opens the question how far alpha may be raised. Raises
    UsageError for neither `x` nor `norm`, a `norm` without a length, and shapes or numbers that do
    not fit.
    """
    if x is None and norm is None:
        raise UsageError("limits need hidden states x, or the norm layer in front")
    kv_heads = n_kv_heads or n_heads
    try:
        arrays = LayerArrays(
            query=_linear(q_weight, q_bias, q_update),
            key=_linear(k_weight, k_bias, k_update),
            value=None if v_weight is None else _linear(v_weight, v_bias, v_update),
            norms=Norms(norm, norm),
            tuned_norms=Norms(norm, norm),
        )
        layer = _layer(arrays, n_heads, kv_heads, beta, causal, rotary)
        lora = _lora(q_update, lora_alpha, rank_stabilised)
        rows: list[HeadLimits] = []
        if x is not None:
            states = np.asarray(x, dtype=np.float64)
            states = states[None] if states.ndim == 2 else states
            marks = None if padded is None else np.atleast_2d(np.asarray(padded, dtype=bool))
            rows += measured_limits(layer, arrays, base_tokens(arrays, states, marks), c, lora)[0]
        if norm is not None:
            if length is None and x is None:
                raise UsageError("bounds need the length L of the threshold")
            at = Length(length or rows[0].L, "assumed", c)
            rows += data_free_limits(layer, arrays, at, lora)
            rows += spherical_limits(layer, arrays, at, lora)
    except ValueError as error:
        raise UsageError(str(error)) from None
    return tuple(rows)


def _linear(weight: ArrayLike, bias: ArrayLike | None, update: Update | None) -> Linear:
    return Linear(
        np.asarray(weight, dtype=np.float64),
        None if bias is None else np.asarray(bias, dtype=np.float64),
        update,
    )


def _layer(
    arrays: LayerArrays,
    n_heads: int,
    n_kv_heads: int,
    beta: float | None,
    causal: bool,
    rotary: Rotary | None,
) -> AttentionLayer:
    width = _head_width(arrays.query.weight, n_heads, "query")
    if n_heads % n_kv_heads or _head_width(arrays.key.weight, n_kv_heads, "key") != width:
        raise UsageError(
            f"{n_heads} query heads of width {width} do not fit {n_kv_heads} key heads of "
            f"{arrays.key.weight.shape[0]} rows"
        )
    return AttentionLayer(
        name="",
        stack=None,
        layer=0,
        query=Projection("q", "q", None, ()),
        key=Projection("k", "k", None, ()),
        value=None,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_width=width,
        beta=1.0 / math.sqrt(width) if beta is None else beta,
        causal=causal,
        norm=None,
        rotary=rotary,
    )


def _head_width(weight: Array, heads: int, name: str) -> int:
    if weight.ndim != 2 or heads < 1 or weight.shape[0] % heads:
        raise UsageError(f"{heads} {name} heads do not divide a weight of shape {weight.shape}")
    return weight.shape[0] // heads


def _lora(update: Update | None, alpha: float | None, rank_stabilised: bool) -> Lora | None:
    if not isinstance(update, LowRankUpdate):
        return None
    return Lora(int(np.shape(update.lora_A)[0]), update.scaling, alpha, rank_stabilised)

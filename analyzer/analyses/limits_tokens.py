"""The tokens of a text through the base's projections: once, for everything tuned from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyzer.analyses.limits_arrays import Array, LayerArrays, Linear, normalised
from analyzer.checkpoints.attention.types import AttentionLayer
from theory.lora_limits.projections import project, project_update

Samples = tuple[slice, ...]
States = NDArray[np.float32] | NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BaseTokens:
    """Inputs (T, d) of the query and key projections and their base outputs, samples in a row."""

    x: Array
    key_x: Array  # the same array in self-attention
    samples: Samples
    key_samples: Samples
    q: Array  # (T, H·d_h)
    k: Array
    v: Array | None

    @property
    def longest(self) -> int:
        """Number of keys of the longest sample."""
        return max(sample.stop - sample.start for sample in self.key_samples)


@dataclass(frozen=True, slots=True)
class HeadTokens:
    """Queries and keys of all heads as they enter the product before RoPE, base and tuned.

    `dq`, `dk` are the changes; None without an update. `v`, `v_base` are plain projections.
    """

    q_base: Array
    q: Array
    dq: Array | None
    k_base: Array
    k: Array
    dk: Array | None
    v_base: Array | None
    v: Array | None


def base_tokens(
    arrays: LayerArrays,
    x: States,
    padded: NDArray[np.bool_] | None = None,
    key_x: States | None = None,
    key_padded: NDArray[np.bool_] | None = None,
) -> BaseTokens:
    """x (N, L, d), padded (N, L) True where there is no token; keys of cross-attention apart.

    Raises ValueError for NaN or infinity, shapes that do not fit, or a sample without a token.
    """
    tokens, samples = _kept(x, padded)
    keys, key_samples = (tokens, samples) if key_x is None else _kept(key_x, key_padded)
    value = arrays.value
    return BaseTokens(
        x=tokens,
        key_x=keys,
        samples=samples,
        key_samples=key_samples,
        q=project(tokens, arrays.query.weight, arrays.query.bias).base,
        k=project(keys, arrays.key.weight, arrays.key.bias).base,
        v=None if value is None else project(keys, value.weight, value.bias).base,
    )


def head_tokens(layer: AttentionLayer, arrays: LayerArrays, base: BaseTokens) -> HeadTokens:
    """Base and tuned queries and keys; an update costs L·r·(d + n) and is never merged."""
    width, own, tuned = layer.head_width, arrays.norms, arrays.tuned_norms
    dq = _change(base.x, arrays.query)
    dk = _change(base.key_x, arrays.key)
    q_base, k_base = normalised(base.q, own.q, width), normalised(base.k, own.k, width)
    q, k = q_base, k_base
    if dq is not None or tuned.q is not own.q:
        q = normalised(base.q if dq is None else base.q + dq, tuned.q, width)
        dq = dq if tuned.q is None else q - q_base
    if dk is not None or tuned.k is not own.k:
        k = normalised(base.k if dk is None else base.k + dk, tuned.k, width)
        dk = dk if tuned.k is None else k - k_base
    dv = None if arrays.value is None else _change(base.key_x, arrays.value)
    v = base.v if dv is None or base.v is None else base.v + dv
    return HeadTokens(q_base, q, dq, k_base, k, dk, base.v, v)


def _change(x: Array, linear: Linear) -> Array | None:
    if linear.update is None:
        return None
    rows, cols = linear.weight.shape
    return project_update(x, (rows, cols), linear.update)


def _kept(x: States, padded: NDArray[np.bool_] | None) -> tuple[Array, Samples]:
    """(T, d) float64 without padding, and the slice of each sample."""
    if x.ndim != 3:
        raise ValueError(f"hidden states must be (samples, tokens, width), got shape {x.shape}")
    if padded is not None and padded.shape != x.shape[:2]:
        raise ValueError(f"padding of shape {padded.shape} does not fit {x.shape}")
    parts, samples, start = [], [], 0
    for n, sample in enumerate(x):
        part = sample if padded is None else sample[~padded[n]]
        if not len(part):
            raise ValueError(f"sample {n} has no token")
        parts.append(part)
        samples.append(slice(start, start + len(part)))
        start += len(part)
    return np.concatenate(parts).astype(np.float64), tuple(samples)

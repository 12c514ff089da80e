"""One attention layer in arrays: projections, what was tuned of them, norms before and after."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.lora_limits.normed_rows import NormKind, NormLayer
from theory.lora_limits.projections import DenseUpdate, Update, merged_weight
from theory.lora_limits.rotary import head_normalised

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Linear:
    """y = x Wᵀ + b with W (n, d), heads one below another, and its update."""

    weight: Array
    bias: Array | None = None
    update: Update | None = None

    @property
    def tuned_weight(self) -> Array:
        """(n, d) W + ΔW."""
        return merged_weight(self.weight, self.update)

    @property
    def tuned_bias(self) -> Array | None:
        """(n,) b + Δb; None without either."""
        change = self.update.bias if isinstance(self.update, DenseUpdate) else None
        if change is None:
            return self.bias
        moved = np.asarray(change, dtype=np.float64)
        return moved if self.bias is None else self.bias + moved


@dataclass(frozen=True, slots=True)
class HeadGain:
    """A norm on queries or keys: gain and bias (d_h,) `per_head`, else (n,) of all heads at once.

    Its output is gain ∘ z + bias with ‖z‖₂ ≤ √(size of the gain).
    """

    kind: NormKind
    gain: Array
    bias: Array | None
    eps: float
    per_head: bool

    def of_head(self, head: int, width: int) -> tuple[Array, Array]:
        """Gain and bias (d_h,) of one head."""
        place = slice(None) if self.per_head else slice(head * width, (head + 1) * width)
        bias = np.zeros_like(self.gain) if self.bias is None else self.bias
        return self.gain[place], bias[place]


@dataclass(frozen=True, slots=True)
class Norms:
    """In front of the query and key projections, and behind them; None where there is none."""

    queries: NormLayer | None = None
    keys: NormLayer | None = None
    q: HeadGain | None = None
    k: HeadGain | None = None


@dataclass(frozen=True, slots=True)
class LayerArrays:
    """Base and tuned layer; `tuned_norms` are those of the base under an adapter."""

    query: Linear
    key: Linear
    value: Linear | None
    norms: Norms
    tuned_norms: Norms
    position_bias: Array | None = None  # (buckets, n_heads) learned, of the tuned layer

    @property
    def touches_qk(self) -> bool:
        return self.query.update is not None or self.key.update is not None


@dataclass(frozen=True, slots=True)
class Lora:
    """Numbers of the adapter on the queries, where its update is s·lora_B·lora_A."""

    r: int
    scaling: float
    lora_alpha: float | None
    rank_stabilised: bool


def normalised(values: Array, gain: HeadGain | None, width: int) -> Array:
    """Queries or keys (L, n) after their own norm."""
    if gain is None:
        return values
    heads = values.reshape(-1, width) if gain.per_head else values
    return head_normalised(heads, gain.gain, gain.kind, gain.eps, gain.bias).reshape(values.shape)

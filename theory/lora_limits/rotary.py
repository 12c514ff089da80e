"""What happens to queries and keys between their projection and the logits: norms and rotations.

Rotary embedding: J. Su et al., "RoFormer", arXiv 2104.09864, eq. 34. Channels (c, c') of a pair
turn by the angle m·ω_c at position m, so that q_m·k_n depends on m - n only:

    q̃_c = q_c cos(mω) - q_c' sin(mω),   q̃_c' = q_c' cos(mω) + q_c sin(mω)

Queries and keys are normalised, if at all, before they turn.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from theory.lora_limits.arrays import Array, Positions, finite_matrix, finite_vector, positive
from theory.lora_limits.normed_rows import NormKind, half_split_pairs

PairLayout = Literal["half", "adjacent"]


def rotary_pairs(width: int, layout: PairLayout) -> Positions:
    """Channels that turn together, shape (w/2, 2): (c, c + w/2) for half, (2c, 2c + 1) for
    adjacent. Raises ValueError unless w is even and at least 2, and for another layout."""
    half = half_split_pairs(width)
    if layout == "half":
        return half
    if layout == "adjacent":
        return np.arange(width).reshape(-1, 2)
    raise ValueError(f"the layout of the pairs must be half or adjacent, got {layout!r}")


def rotated(
    heads: ArrayLike,
    positions: ArrayLike,
    frequencies: ArrayLike,
    layout: PairLayout,
    factor: float = 1.0,
) -> Array:
    """Queries or keys of one head (L, d_h) at positions (L,), in a new array.

    `frequencies` (w/2,) in radians per position turn the first w channels, the others stay.
    `factor` multiplies the channels that turn (YaRN's attention factor). Raises ValueError for
    NaN or infinity, w > d_h, shapes that do not fit, an unknown layout and a factor that is not
    positive.
    """
    turned = finite_matrix(heads, "the heads").copy()
    omega = finite_vector(frequencies, "the frequencies")
    where = finite_vector(positions, "the positions", turned.shape[0])
    if 2 * omega.size > turned.shape[1]:
        raise ValueError(
            f"{omega.size} frequencies turn {2 * omega.size} channels, the head has "
            f"{turned.shape[1]}"
        )
    first, second = rotary_pairs(2 * omega.size, layout).T
    angles = np.outer(where, omega)
    scale = positive(factor, "the factor")
    cos, sin = scale * np.cos(angles), scale * np.sin(angles)
    x, y = turned[:, first], turned[:, second]
    turned[:, first], turned[:, second] = x * cos - y * sin, y * cos + x * sin
    return turned


def head_normalised(
    values: ArrayLike,
    gain: ArrayLike | None,
    kind: NormKind,
    eps: float,
    bias: ArrayLike | None = None,
) -> Array:
    """Each row of (L, n) over its root mean square, less its mean first for LayerNorm; then gain
    and bias (n,).

    n is d_h where a norm acts on each head, or the channels of all heads where it acts on all at
    once. `gain` is what multiplies: 1 + weight for Gemma. Raises ValueError for NaN or infinity, a
    negative eps, an unknown kind, shapes that do not fit, and a row without scale at eps = 0.
    """
    rows = finite_matrix(values, "the values")
    if kind not in ("layernorm", "rmsnorm"):
        raise ValueError(f"the norm must be layernorm or rmsnorm, got {kind!r}")
    if not 0.0 <= eps < np.inf:
        raise ValueError(f"eps must be finite and not negative, got {eps}")
    centred = rows - rows.mean(axis=1, keepdims=True) if kind == "layernorm" else rows
    square = np.mean(centred**2, axis=1, keepdims=True) + eps
    if not square.all():
        raise ValueError("a row is zero, which no norm can scale at eps = 0")
    normed = centred / np.sqrt(square)
    if gain is not None:
        normed = normed * finite_vector(gain, "the gain", rows.shape[1])
    if bias is not None:
        normed = normed + finite_vector(bias, "the bias", rows.shape[1])
    return normed

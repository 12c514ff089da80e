"""Changing the width of a permutation group: what happens to the tensors that write and read it.

A producing axis (output channels, biases, norm parameters) becomes P W; a consuming axis becomes
W Cᵀ, so that a layer's sum over n channels turns into one over m. Where C does not follow from the
operator by the Riemann rule C = (n/m)·E it is chosen so that the network's function is kept:
T. Chen et al., "Net2Net", arXiv 1511.05641, ICLR 2016, for duplication.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from theory.resampling.operators import Array, Operator, selection, shape
from theory.resampling.operators import merge as merge_operator


@dataclass(frozen=True, slots=True)
class WidthChange:
    """n channels to m: both operators are (m, n), to be applied along an axis by `along`."""

    producing: Operator
    consuming: Operator


def riemann(operator: Operator) -> WidthChange:
    """P = E and C = (n/m)·E: a sum over channels is a Riemann sum of one integral (fan-in rule)."""
    m, n = shape(operator)
    return WidthChange(operator, operator * (n / m))


def duplicate(n: int, m: int) -> WidthChange:
    """Copies channel floor(j·n/m); readers divide by the number of copies (Net2Net, eq. 4-5).

    Exactly function preserving for any pointwise activation. Raises ValueError unless m ≥ n ≥ 1.
    """
    if not 1 <= n <= m:
        raise ValueError(f"duplication widens: needs 1 <= n <= m, got {n} -> {m}")
    source = np.arange(m) * n // m
    copies = np.bincount(source, minlength=n)
    chosen = selection(source, n)
    return WidthChange(chosen, sparse.csr_array(chosen / copies[source][:, None]))


def merge(labels: NDArray[np.integer], weights: NDArray[np.floating]) -> WidthChange:
    """Parts of a partition become one channel each: weighted mean written, sum read.

    Equal channels are merged exactly. Arguments and errors as `operators.merge`.
    """
    mean = merge_operator(labels, weights)
    indicator = selection(np.asarray(labels), shape(mean)[0]).T
    return WidthChange(mean, sparse.csr_array(indicator))


def prune(kept: NDArray[np.integer], n: int) -> WidthChange:
    """Keeps the named channels, and their readers' weights as they are.

    Raises ValueError for an index outside 0..n-1.
    """
    chosen = selection(kept, n)
    return WidthChange(chosen, chosen)


def along(operator: Operator, tensor: ArrayLike, axis: int, block: int = 1) -> Array:
    """The operator (m, n) applied to an axis of n·block entries, `block` consecutive ones each.

    Blocks are attention heads, key-value groups, or the pixels of a flattened convolution channel.
    Returns float64. Raises ValueError where the axis does not have n·block entries.
    """
    values = np.asarray(tensor, dtype=np.float64)
    m, n = shape(operator)
    if values.shape[axis] != n * block:
        raise ValueError(f"axis {axis} of {values.shape} must have {n} x {block} entries")
    front = np.moveaxis(values, axis, 0)
    mixed = operator @ front.reshape(n, -1)
    return np.moveaxis(np.asarray(mixed).reshape(m * block, *front.shape[1:]), 0, axis)

"""A tensor as a smooth function of its channel indices: cosines, or values at knots.

Cosine fit: W ≈ Σ c_kl φ_k(u_a) φ_l(v_b), orthonormal at cell centres, so the best coefficients are
the discrete cosine transform (DCT-II) and what truncation loses is exactly the energy left out
(Parseval). Knot fit: least squares on piecewise constant, linear or cubic functions, the bases of
K. Solodskikh et al., "Integral Neural Networks", CVPR 2023. Only the axes named are smoothed:
inputs, classes, vocabulary and kernel taps keep every index of theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.fft import dctn

from theory.resampling.operators import Array, area, cosines, cubic, linear
from theory.resampling.width_change import along

Mask = NDArray[np.bool_]
Interpolation = Literal["area", "linear", "cubic"]
INTERPOLATIONS: dict[Interpolation, Callable[[int, int], sparse.csr_array]] = {
    "area": area,
    "linear": linear,
    "cubic": cubic,
}


@dataclass(frozen=True, slots=True)
class CosineFit:
    """Coefficients of φ_k φ_l over the smoothed axes, cut to the box that holds the kept ones."""

    coefficients: Array  # the tensor's axes; smoothed ones shortened to the highest kept order
    axes: tuple[int, ...]
    stored: int  # numbers kept
    rel_fro: float | None  # ‖W - Ŵ‖_F/‖W‖_F by Parseval; None for a zero tensor


@dataclass(frozen=True, slots=True)
class KnotFit:
    """Values at knots; along a smoothed axis the tensor is interpolated between them."""

    knots: Array
    axes: tuple[int, ...]
    kind: Interpolation
    stored: int


def rectangle(sizes: Sequence[int], shape: Sequence[int]) -> Mask:
    """Keeps orders k < K on each axis. Raises ValueError unless 1 ≤ K ≤ length."""
    if len(sizes) != len(shape) or any(not 1 <= k <= n for k, n in zip(sizes, shape, strict=False)):
        raise ValueError(f"kept orders {tuple(sizes)} must lie in 1..{tuple(shape)}")
    mask = np.zeros(tuple(shape), dtype=np.bool_)
    mask[tuple(slice(k) for k in sizes)] = True
    return mask


def hyperbolic(budget: int, shape: Sequence[int]) -> Mask:
    """Largest set {Π(k_j + 1) ≤ c} of at most `budget` orders: high in one index, low in the other.

    Raises ValueError for a budget below 1.
    """
    if budget < 1:
        raise ValueError(f"a fit needs at least 1 stored number, got {budget}")
    product = np.ones(tuple(shape), dtype=np.int64)
    for axis, n in enumerate(shape):
        order = np.arange(1, n + 1).reshape([-1 if a == axis else 1 for a in range(len(shape))])
        product = product * order
    if budget >= product.size:
        return np.ones(product.shape, dtype=np.bool_)
    # whole level sets only: the first level that no longer fits is left out
    return product < np.partition(product.ravel(), budget)[budget]


def fit_cosines(tensor: ArrayLike, axes: Sequence[int], keep: Mask) -> CosineFit:
    """Best fit with the orders that `keep` marks; `keep` has the shape of the smoothed axes.

    Raises ValueError for values that are not finite or a mask of another shape.
    """
    W, axes = _smoothed(tensor, axes)
    lengths = tuple(W.shape[a] for a in axes)
    if keep.shape != lengths or not keep.any():
        raise ValueError(
            f"the kept orders must be a mask of {lengths}, not empty; got {keep.shape}"
        )
    unit = np.asarray(dctn(W, type=2, axes=axes, norm="ortho"))  # c·√(Π lengths)
    spread = _spread(keep, axes, W.ndim)
    kept = np.where(spread, unit, 0.0)
    energy = float(np.sum(unit**2))
    lost = float(np.sum(np.where(spread, 0.0, unit) ** 2))
    box: list[slice] = [slice(None)] * W.ndim
    for position, axis in enumerate(axes):
        others = tuple(p for p in range(keep.ndim) if p != position)
        box[axis] = slice(int(np.flatnonzero(keep.any(axis=others))[-1]) + 1)
    return CosineFit(
        coefficients=kept[tuple(box)] / np.sqrt(np.prod(lengths)),
        axes=axes,
        stored=int(keep.sum()) * (W.size // int(np.prod(lengths))),
        rel_fro=float(np.sqrt(lost / energy)) if energy > 0.0 else None,
    )


def sample_cosines(fit: CosineFit, widths: Sequence[int]) -> Array:
    """The fitted function at the cell centres of new widths, one a smoothed axis.

    Orders that the new grid cannot hold (k ≥ width) are left out: there they would alias.
    """
    W = fit.coefficients
    for axis, width in zip(fit.axes, widths, strict=True):
        orders = min(W.shape[axis], width)
        W = along(cosines(width, orders), np.take(W, np.arange(orders), axis=axis), axis)
    return W


def fit_knots(
    tensor: ArrayLike, axes: Sequence[int], knots: Sequence[int], kind: Interpolation
) -> KnotFit:
    """Least-squares values at `knots` positions along each smoothed axis.

    Raises ValueError for values that are not finite, or more knots than channels.
    """
    W, axes = _smoothed(tensor, axes)
    rectangle(knots, [W.shape[a] for a in axes])
    for axis, count in zip(axes, knots, strict=True):
        basis = INTERPOLATIONS[kind](count, W.shape[axis]).toarray()
        W = along(np.linalg.pinv(basis), W, axis)
    return KnotFit(W, axes, kind, W.size)


def sample_knots(fit: KnotFit, widths: Sequence[int]) -> Array:
    """The interpolated function at the cell centres of new widths, one a smoothed axis."""
    W = fit.knots
    for axis, width in zip(fit.axes, widths, strict=True):
        W = along(INTERPOLATIONS[fit.kind](W.shape[axis], width), W, axis)
    return W


def _smoothed(tensor: ArrayLike, axes: Sequence[int]) -> tuple[Array, tuple[int, ...]]:
    W = np.asarray(tensor, dtype=np.float64)
    if not np.all(np.isfinite(W)):
        raise ValueError("a weight fit needs finite values")
    chosen = tuple(a % W.ndim for a in axes)
    if not chosen or list(chosen) != sorted(set(chosen)):
        raise ValueError(f"smoothed axes must be distinct and ascending, got {tuple(axes)}")
    return W, chosen


def _spread(keep: Mask, axes: tuple[int, ...], ndim: int) -> Mask:
    """The mask with axes of length 1 where the tensor is not smoothed."""
    shape = [1] * ndim
    for axis, length in zip(axes, keep.shape, strict=True):
        shape[axis] = length
    return keep.reshape(shape)

"""Arguments of a fit, checked and brought to one form before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer.errors import UsageError
from theory.state_space import MATERN

Array = NDArray[np.float64]
KERNELS: tuple[str, ...] = (*MATERN, "iid")


class BadInput(UsageError, ValueError):
    """An argument of a fit or a prediction that makes no sense."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Finite float64 entries; `n_missing` counts the NaN values that were dropped."""

    indexes: Array  # (N, K), user units
    values: Array  # (N,)
    n_missing: int


def observed(indexes: ArrayLike, values: ArrayLike) -> Observed:
    """Raises BadInput for lengths that differ, infinite entries, or nothing to fit."""
    x, y = as_indexes(indexes), np.asarray(values, dtype=np.float64)
    if y.ndim != 1 or x.shape[0] != y.size:
        raise BadInput(f"values {y.shape} must hold one number a row of indexes {x.shape}")
    if x.shape[1] < 2:
        raise BadInput(f"indexes need at least 2 columns, one a mode, got {x.shape[1]}")
    if np.isinf(y).any():
        raise BadInput(f"values: {int(np.isinf(y).sum())} are infinite")
    present = ~np.isnan(y)
    x, y = x[present], y[present]
    if y.size < 2:
        raise BadInput(f"values: at least 2 that are not NaN are needed, got {y.size}")
    if y.min() == y.max():
        raise BadInput(f"values: all {y.size} equal {y[0]:g}, there is nothing to fit")
    return Observed(x, y, int((~present).sum()))


def as_indexes(indexes: ArrayLike, n_modes: int | None = None) -> Array:
    """(N, K) finite float64. Raises BadInput."""
    x = np.asarray(indexes, dtype=np.float64)
    if x.ndim != 2 or (n_modes is not None and x.shape[1] != n_modes):
        wanted = "K" if n_modes is None else n_modes
        raise BadInput(f"indexes must have shape (N, {wanted}), got {x.shape}")
    if not np.isfinite(x).all():
        raise BadInput(f"indexes: {int((~np.isfinite(x)).sum())} are not finite")
    return x


def each_mode(name: str, given: object, n_modes: int) -> list[object]:
    """One setting a mode, from one for all or a sequence of K. Raises BadInput."""
    if isinstance(given, str) or not isinstance(given, Sequence | np.ndarray):
        return [given] * n_modes
    if len(given) != n_modes:
        raise BadInput(f"{name}: {len(given)} given for {n_modes} modes")
    return list(given)


def kernels(given: str | Sequence[str], n_modes: int) -> list[str]:
    """Raises BadInput for an unknown kernel."""
    found = [str(kernel) for kernel in each_mode("kernel", given, n_modes)]
    for kernel in found:
        if kernel not in KERNELS:
            raise BadInput(f"kernel: {kernel!r} is none of {', '.join(KERNELS)}")
    return found


def ranks(given: int | Sequence[int], indexes: Array, diagonal: bool) -> list[int]:
    """Raises BadInput for a rank below 1 or above the number of distinct indexes."""
    found: list[int] = []
    for k, rank in enumerate(each_mode("ranks", given, indexes.shape[1])):
        if isinstance(rank, bool) or not isinstance(rank, int | np.integer):
            raise BadInput(f"ranks: {rank!r} is not an integer")
        distinct = np.unique(indexes[:, k]).size
        if not 1 <= rank <= distinct:
            raise BadInput(f"ranks: {rank} in mode {k}, which has {distinct} distinct indexes")
        found.append(int(rank))
    if diagonal and len(set(found)) > 1:
        raise BadInput(f"ranks: a diagonal core needs one rank for all modes, got {found}")
    return found


def lengthscales(given: object, n_modes: int) -> list[float | None]:
    """Raises BadInput unless each is None or positive."""
    found: list[float | None] = []
    for length in each_mode("lengthscales", given, n_modes):
        if length is None:
            found.append(None)
            continue
        value = float(length)  # type: ignore[arg-type]
        if not (isfinite(value) and value > 0.0):
            raise BadInput(f"lengthscales: {value} is not positive and finite")
        found.append(value)
    return found

"""Matching of two networks' units by what they return for the same inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer.errors import UsageError
from analyzer.models.manifold.groups import PermutationGroup
from theory.alignment import correlations, match_units

Indices = NDArray[np.int64]


def match_activations(
    groups: Sequence[PermutationGroup],
    a: Mapping[str, ArrayLike],
    b: Mapping[str, ArrayLike],
) -> dict[str, Indices]:
    """Orders of B's units by the correlation of what they return for the same inputs.

    a, b: by group, (samples, units). A unit that never varies has correlation 0 with all. Groups
    without activations get no order. Raises UsageError for a name that is no group's, shapes that
    differ or are not the group's, or values that are not finite.
    """
    sizes = {group.name: group.size for group in groups}
    if unknown := (set(a) | set(b)) - set(sizes):
        raise UsageError(f"no group is named {min(unknown)!r}")
    if alone := set(a) ^ set(b):
        raise UsageError(f"activations of {min(alone)} are given for one checkpoint only")
    orders: dict[str, Indices] = {}
    for name in a:
        za, zb = np.asarray(a[name], dtype=np.float64), np.asarray(b[name], dtype=np.float64)
        if za.ndim != 2 or za.shape != zb.shape or za.shape[1] != sizes[name]:
            raise UsageError(
                f"activations of {name} must be two arrays (samples, {sizes[name]}), "
                f"got {za.shape} and {zb.shape}"
            )
        if not (np.isfinite(za).all() and np.isfinite(zb).all()):
            raise UsageError(f"activations of {name} are not finite")
        orders[name] = match_units(correlations(za, zb))
    return orders

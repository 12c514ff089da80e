"""Which units a width change mixes: by copies, by merging, or along the group's order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analyzer.errors import UsageError
from analyzer.models.manifold.features import Read, blocks
from analyzer.models.manifold.groups import PLAIN, PermutationGroup
from theory.resampling import operators, width_change
from theory.resampling.certificate import certificate
from theory.resampling.merging import kmeans_labels
from theory.resampling.segmentation import path_segments
from theory.resampling.width_change import WidthChange

Array = NDArray[np.float64]
Operator = Literal["duplicate", "merge", "path", "area", "linear", "dct", "prune"]
ALONG_ORDER: tuple[Operator, ...] = ("path", "area", "linear", "dct")
NARROWING: tuple[Operator, ...] = ("merge", "path", "area", "dct", "prune")
_ONLY_NARROWING = ("merge", "path", "prune")


@dataclass(frozen=True, slots=True)
class UnitWeights:
    """Rows a unit: the weights that produce it (n, d) and those that consume it (n, e)."""

    incoming: Array
    outgoing: Array

    @property
    def sizes(self) -> Array:
        """‖a_i‖₂ of the outgoing weights."""
        return np.linalg.norm(self.outgoing, axis=1)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A width change in few numbers, from which its operators are built when they are needed.

    `index`: the part each unit belongs to (merge, path), the units kept (prune), or the order
    (area, linear, dct); `weights`: of the units in a part.
    """

    operator: Operator
    n: int
    m: int
    index: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    weights: Array = field(default_factory=lambda: np.zeros(0))

    def change(self) -> WidthChange:
        """The operators of the producing and the consuming axes."""
        match self.operator:
            case "duplicate":
                return width_change.duplicate(self.n, self.m)
            case "merge" | "path":
                return width_change.merge(self.index, self.weights)
            case "prune":
                return width_change.prune(self.index, self.n)
            case "area" | "linear":
                resample = getattr(operators, self.operator)(self.n, self.m)
            case "dct":
                resample = _dct(self.n, self.m)
        return width_change.riemann(resample[:, np.argsort(self.index)])


def unit_weights(read: Read, group: PermutationGroup) -> UnitWeights:
    """The weights of a group's units, float64.

    Raises NonFinite and QuantUnknown naming the tensor, UsageError for a group without both sides.
    """
    sides: dict[str, list[Array]] = {"produces": [], "consumes": []}
    for block in blocks(read, group):
        sides[block.role].append(np.asarray(block.values, dtype=np.float64))
    if not sides["produces"] or not sides["consumes"]:
        raise UsageError(f"{group.name} has no inputs or no outputs whose width could change")
    return UnitWeights(*(np.concatenate(found, axis=1) for found in sides.values()))


def recipe(
    operator: Operator, units: UnitWeights, m: int, order: Sequence[int] | None, *, seed: int = 0
) -> Recipe:
    """How `operator` takes n units to m.

    ``merge`` is k-means on the incoming weights, ``path`` the best cut of the order, both weighted
    by the size of the outgoing ones; ``prune`` keeps the units of largest incoming L1 norm (H. Li
    et al., arXiv 1608.08710). Raises UsageError for a direction the operator has not, or without
    the order that it needs.
    """
    n, sizes = len(units.incoming), units.sizes
    if (operator == "duplicate" and m < n) or (operator in _ONLY_NARROWING and m > n):
        raise UsageError(f"{operator} cannot take {n} units to {m}")
    if operator in ALONG_ORDER and (order is None or len(order) != n):
        raise UsageError(f"{operator} needs the order of all {n} units")
    along = np.asarray(order if order is not None else range(n), dtype=np.int64)
    match operator:
        case "duplicate":
            return Recipe(operator, n, m)
        case "merge":
            return Recipe(operator, n, m, kmeans_labels(units.incoming, sizes, m, seed=seed), sizes)
        case "path":
            labels = np.empty(n, dtype=np.int64)
            labels[along] = path_segments(units.incoming[along], sizes[along], m)
            return Recipe(operator, n, m, labels, sizes)
        case "prune":
            largest = np.argsort(-np.abs(units.incoming).sum(axis=1), kind="stable")[:m]
            return Recipe(operator, n, m, np.sort(largest))
        case _:
            return Recipe(operator, n, m, along)


def change_bound(units: UnitWeights, made: Recipe) -> float:
    """`theory.resampling.certificate` of a recipe: smaller is nearer to the original function."""
    return certificate(units.incoming, units.outgoing.T, made.change())


def is_one_hidden_layer(group: PermutationGroup, dims: dict[str, int]) -> bool:
    """Whether the certificate bounds ‖f - f'‖: matrices in and out, a bias at most between them.

    Gates, norms, heads and convolutions compute more than one activation of one inner product; for
    them the same number only ranks. `dims`: number of axes of each tensor.
    """
    sites = [site for site in group.sites if site.tied_to is None]
    incoming = sorted(dims[site.tensor] for site in sites if site.role == "produces")
    plain = all(site.layout == PLAIN and site.index is None for site in sites)
    readers = all(dims[site.tensor] == 2 for site in sites if site.role == "consumes")
    return plain and readers and incoming in ([2], [1, 2]) and group.kind != "residual"


@lru_cache(maxsize=1)
def _dct(n: int, m: int) -> Array:
    """Layers share one: it takes n·m·min(n, m) products."""
    return operators.dct(n, m)

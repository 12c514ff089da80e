"""Weight matching of two checkpoints, by coordinate ascent over their groups."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.errors import UsageError
from analyzer.models.manifold.align.pair import Pair, paired
from analyzer.models.manifold.features import Read, blocks
from analyzer.models.manifold.geometry import Progress
from analyzer.models.manifold.groups import PermutationGroup, permutation_groups
from analyzer.models.manifold.reordering import reordered
from analyzer.models.manifold.shared import finite
from theory.alignment import match_units

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

# Gains below this share of ‖A‖‖B‖ are rounding.
_GAIN = 1e-12


@dataclass(frozen=True, slots=True)
class Matching:
    """Orders of B's units by group, for `apply_orders`; groups whose order stays are there too."""

    orders: dict[str, Indices]
    objective: tuple[float, ...]  # Σ⟨A, π·B⟩ over grouped tensors, at the start and after each pass
    converged: bool  # the last pass changed nothing


def match_weights(
    a: Checkpoint,
    b: Checkpoint,
    groups: Sequence[PermutationGroup] | None = None,
    *,
    seed: int = 0,
    starts: int = 1,
    max_passes: int = 100,
    progress: Progress | None = None,
) -> Matching:
    """Coordinate ascent over groups in random order until a pass improves none: a local optimum.

    `groups` are A's, by default what its config.json tells. Of several `starts`, which differ in
    the order of groups, the best is kept. Raises ShapeMismatch where the two have other
    tensors, NonFinite and QuantUnknown naming the tensor, UsageError as
    `permutation_groups`. Groups within a unit are matched where every unit has one.
    """
    if starts < 1 or max_passes < 1:
        raise UsageError(f"starts = {starts} and max_passes = {max_passes} must be at least 1")
    groups = permutation_groups(a)[0] if groups is None else groups
    pair = paired(a, b, groups)
    found: list[Matching] = []
    for start in range(starts):
        ascent = _Ascent(pair, groups)
        found.append(ascent.run(np.random.default_rng((seed, start)), max_passes, progress))
    return max(found, key=lambda matching: matching.objective[-1])


class _Ascent:
    """The state of one coordinate ascent: orders of B's units, counted as B stores them."""

    def __init__(self, pair: Pair, groups: Sequence[PermutationGroup]) -> None:
        self.pair, self.groups = pair, groups
        self.orders: dict[str, Indices] = {g.name: np.arange(g.size) for g in groups}
        whole = {group.name: group for group in groups}
        self.roots = [group for group in groups if group.parent not in whole]
        self.inner: dict[str, dict[int, PermutationGroup]] = {}
        for parent in self.roots:
            inner = {
                group.parent_unit: _in_one_order(group, parent)
                for group in groups
                if group.parent == parent.name and group.parent_unit is not None
            }
            self.inner[parent.name] = inner if len(inner) == parent.size else {}

    def run(self, rng: np.random.Generator, max_passes: int, progress: Progress | None) -> Matching:
        names, a, b = self.tensors, self.pair.a.read, self.pair.read_b
        values = [self.objective(names, a, b)]
        sizes = self.objective(names, a, a) * self.objective(names, b, b)
        least = _GAIN * math.sqrt(sizes)
        for done in range(max_passes):
            gains = [self.improve(self.roots[i], least) for i in rng.permutation(len(self.roots))]
            values.append(values[-1] + sum(gains))
            if progress is not None:
                progress(done + 1, max_passes)
            if not any(gains):
                return Matching(self.orders, tuple(values), converged=True)
        return Matching(self.orders, tuple(values), converged=False)

    @property
    def tensors(self) -> list[str]:
        tied = {s.tensor for group in self.groups for s in group.sites if s.tied_to is not None}
        names = dict.fromkeys(name for group in self.groups for name in group.tensors())
        return [name for name in names if name not in tied]

    def moved(self, orders: Mapping[str, Indices]) -> Read:
        return reordered(self.pair.read_b, self.groups, orders)

    def objective(self, names: Iterable[str], first: Read, second: Read) -> float:
        a, b = self.pair.a.path, self.pair.b.path
        pairs = ((finite(first(n), n, a), finite(second(n), n, b)) for n in names)
        return math.fsum(float(np.vdot(x, y)) for x, y in pairs)

    def improve(self, group: PermutationGroup, least: float) -> float:
        """Takes the best move of one group and what lies in its units; its gain, 0 without one."""
        read, moved = self.pair.a.read, self.moved(self.orders)
        C = _products(read, moved, group, group)
        now = float(np.trace(C))
        inside: dict[tuple[int, int], Indices] = {}
        children = self.inner[group.name]
        for u, child in children.items():
            for v, other in children.items():
                pair = _products(read, moved, child, other)
                inside[u, v] = match_units(pair)
                # C counted what is inside as it stands
                C[u, v] += pair[np.arange(child.size), inside[u, v]].sum() - np.trace(pair)
        step = match_units(C)
        gain = float(C[np.arange(group.size), step].sum()) - now
        orders = dict(self.orders) | {group.name: self.orders[group.name][step]}
        for u in children:
            v = int(step[u])
            source = children[int(self.orders[group.name][v])].name
            orders[source] = self.orders[source][inside[u, v]]
        tensors = [site.tensor for site in group.sites if site.tied_to is None]
        if len(set(tensors)) < len(tensors):  # both axes of one tensor: C is only the slope
            names = group.tensors()
            after = self.objective(names, read, self.moved(orders))
            gain = after - self.objective(names, read, moved)
        if gain <= least:
            return 0.0
        self.orders = orders
        return gain


def _products(
    read_a: Read, read_b: Read, group: PermutationGroup, other: PermutationGroup
) -> Array:
    """⟨a_i, b_j⟩ of all units (n, n) of a group in A and one in B."""
    pairs = zip(blocks(read_a, group), blocks(read_b, other), strict=True)
    return np.asarray(sum(a.values @ b.values.T for a, b in pairs), dtype=np.float64)


def _in_one_order(group: PermutationGroup, parent: PermutationGroup) -> PermutationGroup:
    """Sites sorted alike for the units of a parent, however their tensors are named and filed."""
    stacks = {name: stack[0] for stack in parent.stacks for name in stack}
    ordered = sorted(group.sites, key=lambda s: (stacks.get(s.tensor, s.tensor), s.axis))
    return replace(group, sites=tuple(ordered))

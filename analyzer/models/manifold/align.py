"""Orders of one checkpoint's units that bring its weights, or its activations, to another's.

Weight matching: S. Ainsworth, J. Hayase & S. Srinivasa, "Git Re-Basin", arXiv 2209.04836, ICLR
2023, algorithm 1, as in `theory.alignment`, on permutation groups of files: a tensor is read and
reordered when it is needed, so that one pair of tensors is in memory. Units that hold units of
their own (key heads with their query heads, experts with their hidden units) are matched on the
best match of what is inside, for every pair of them.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.matching import match_names
from analyzer.checkpoints.parameters import is_parameter, untied
from analyzer.errors import ShapeMismatch, UsageError
from analyzer.models.manifold.features import Read, blocks
from analyzer.models.manifold.geometry import Progress
from analyzer.models.manifold.groups import PermutationGroup, permutation_groups
from analyzer.models.manifold.merging import Orders, described, new_folder, reordered, write_like
from analyzer.models.manifold.shared import finite, module_of
from theory.alignment import correlations, match_units

if TYPE_CHECKING:
    import torch

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


@dataclass(frozen=True, slots=True)
class Distance:
    """‖A - B‖, ‖A - B‖/√(‖A‖‖B‖) and cos(A, B); None where a norm is zero."""

    distance: float
    relative: float | None
    cosine: float | None


@dataclass(frozen=True, slots=True)
class Alignment:
    """The checkpoint in `folder` is B with its units in other orders.

    `before` and `after`: over all parameters; `modules`: by block, before and after.
    """

    folder: Path
    orders: dict[str, Indices]
    before: Distance
    after: Distance
    modules: dict[str, tuple[Distance, Distance]]


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
    pair = _paired(a, b, groups)
    found: list[Matching] = []
    for start in range(starts):
        ascent = _Ascent(pair, groups)
        found.append(ascent.run(np.random.default_rng((seed, start)), max_passes, progress))
    return max(found, key=lambda matching: matching.objective[-1])


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


def align(
    a: Checkpoint,
    b: Checkpoint,
    folder: str | Path,
    orders: Orders,
    groups: Sequence[PermutationGroup] | None = None,
    *,
    progress: Progress | None = None,
) -> Alignment:
    """Writes B with its units in `orders`, bit by bit the same numbers, and measures the gain.

    `groups` as in `match_weights`. Raises as that, and UsageError for orders that do not fit the
    groups or a folder that exists.
    """
    target = new_folder(folder)
    groups = permutation_groups(a)[0] if groups is None else groups
    pair = _paired(a, b, groups)
    read, known = reordered(pair.read_b, groups, orders), pair.own_names()
    before, after, modules = _distances(pair, read)
    write_like(
        target,
        b,
        lambda own: read(known[own]) if own in known else b.read(own),
        described("align", [a, b], None, {"groups": sorted(orders)}),
        progress,
    )
    kept = {name: np.asarray(order, dtype=np.int64) for name, order in orders.items()}
    return Alignment(target, kept, before, after, modules)


class _Ascent:
    """The state of one coordinate ascent: orders of B's units, counted as B stores them."""

    def __init__(self, pair: _Pair, groups: Sequence[PermutationGroup]) -> None:
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


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two checkpoints of the same parameters; `names` gives B's name of a tensor of A."""

    a: Checkpoint
    b: Checkpoint
    names: dict[str, str]

    def read_b(self, name: str) -> torch.Tensor:
        return self.b.read(self.names[name])

    def own_names(self) -> dict[str, str]:
        """A's name of every tensor of B that has one; of tied ones, that of the matched one."""
        named = {own: name for name, own in self.names.items()}
        places = {(t.storage_id, t.shape): named[t.name] for t in self.b.stored if t.name in named}
        known = {
            t.name: named.get(t.name, places.get((t.storage_id, t.shape))) for t in self.b.stored
        }
        return {own: name for own, name in known.items() if name is not None}


def _paired(a: Checkpoint, b: Checkpoint, groups: Iterable[PermutationGroup]) -> _Pair:
    """Raises ShapeMismatch listing parameters, and tensors of the groups, that are not in both with
    one shape."""
    for one in (a, b):
        if one.kind == "adapter":
            raise UsageError("an adapter has no channels of its own: merge it", path=one.path)
    stored = {tensor.name: tensor for tensor in b.stored}
    matched = match_names((tensor.name for tensor in a.stored), stored)
    names = {name: own for own, name in matched.items()}
    wrong: list[str] = []
    grouped = {name for group in groups for name in group.tensors()}
    for tensor in untied(a.stored):
        if not is_parameter(tensor) and tensor.name not in grouped:
            continue
        own = stored.get(names.get(tensor.name, ""))
        if own is None or own.shape != tensor.shape:
            found = "absent" if own is None else str(own.shape)
            wrong.append(f"{tensor.name} {tensor.shape} and {found}")
    pair = _Pair(a, b, names)
    known = pair.own_names()
    wrong += [
        f"{t.name} absent and {t.shape}"
        for t in b.stored
        if is_parameter(t) and t.name not in known
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        listed = ", ".join(wrong[:4])
        raise ShapeMismatch(f"other tensors than {a.name}: {listed}{more}", path=b.path)
    return pair


def _distances(
    pair: _Pair, moved: Read
) -> tuple[Distance, Distance, dict[str, tuple[Distance, Distance]]]:
    """Of all parameters and by module, as stored and with B moved."""
    # ‖A‖², ‖B‖², then ⟨A, B⟩ and ‖A - B‖² as stored and as moved
    sums: defaultdict[str, Array] = defaultdict(lambda: np.zeros(6))
    for tensor in filter(is_parameter, untied(pair.a.stored)):
        x = finite(pair.a.read(tensor.name), tensor.name, pair.a.path)
        found = [float(np.vdot(x, x))]
        for read in (pair.read_b, moved):
            y = finite(read(tensor.name), tensor.name, pair.b.path)
            found += [] if len(found) > 1 else [float(np.vdot(y, y))]
            found += [float(np.vdot(x, y)), float(np.sum((x - y) ** 2))]
        sums[module_of(tensor.name)] += found
    before, after = _both(sum(sums.values(), start=np.zeros(6)))
    return before, after, {module: _both(found) for module, found in sums.items()}


def _both(sums: Array) -> tuple[Distance, Distance]:
    square_a, square_b, *rest = sums.tolist()
    scale = math.sqrt(square_a * square_b)
    first, second = (
        Distance(
            distance=math.sqrt(apart),
            relative=math.sqrt(apart / scale) if scale > 0.0 else None,
            cosine=min(1.0, max(-1.0, inner / scale)) if scale > 0.0 else None,
        )
        for inner, apart in (rest[:2], rest[2:])
    )
    return first, second

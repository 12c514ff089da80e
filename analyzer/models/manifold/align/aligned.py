"""One checkpoint written with its units in another's order, and how much nearer that is."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.parameters import is_parameter, untied
from analyzer.models.manifold.align.pair import Pair, paired
from analyzer.models.manifold.features import Read
from analyzer.models.manifold.geometry import Progress
from analyzer.models.manifold.groups import PermutationGroup, permutation_groups
from analyzer.models.manifold.reordering import Orders, reordered
from analyzer.models.manifold.shared import finite, module_of
from analyzer.models.manifold.writing import described, new_folder, write_like

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


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
    pair = paired(a, b, groups)
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


def _distances(
    pair: Pair, moved: Read
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

"""How smooth a group's weights become in their best order, beside what chance would give.

X. Yang & X. Wang, "Neural Metamorphosis", arXiv 2410.11878, section 3.3: the order of least total
variation is a shortest Hamiltonian path. Any data in many dimensions can be ordered to some gain;
the null ratio says how much, for the same values without their relations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from analyzer.errors import UsageError
from analyzer.models.manifold.features import Block, Read, Scale, blocks, width
from analyzer.models.manifold.groups.types import Kind, PermutationGroup
from theory.seriation import distances as metrics
from theory.seriation.lower_bounds import held_karp
from theory.seriation.paths import EXACT, Path, short_path, short_path_of_rows
from theory.seriation.total_variation import (
    mean_path_length,
    path_length,
    shuffle_columns,
    smoothness,
)

Metric = Literal["l1", "l2", "function"]
Floats = NDArray[np.floating]

L1_WORK = 2e10  # most n²d for which distances are L1 unless asked for
SKETCH_ABOVE, SKETCH = 200_000, 2048  # columns that L2 keeps as they are; else Gaussian mixtures
_HELD = 1 << 26  # entries of features that are kept between passes


@dataclass(frozen=True, slots=True)
class GroupSmoothness:
    """The order of a group and its path lengths; None is what cannot be computed.

    `tv_random` is the exact mean over all orders, `ratio` = tv_after/tv_random, `null_ratio` the
    mean ratio of features whose columns were shuffled independently, `smoothness` = 1 -
    ratio/null_ratio. No order is shorter than `lower_bound`; `gap` = tv_after/lower_bound - 1.
    `sketched`: distances are those of random mixtures of the columns. `order`: new[i] =
    old[order[i]].
    """

    group: str
    kind: Kind
    n: int
    d: int
    tv_before: float
    tv_after: float
    tv_random: float
    ratio: float | None
    null_ratio: float | None
    smoothness: float | None
    lower_bound: float | None
    gap: float | None
    exact: bool
    solver: str
    metric: Metric
    scale: Scale
    sketched: bool
    seed: int
    order: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Solved:
    path: Path
    mean: float
    before: float
    matrix: Floats | None


def group_smoothness(
    read: Read,
    group: PermutationGroup,
    *,
    metric: Metric | None = None,
    scale: Scale = "none",
    k_neighbors: int | None = None,
    null_reps: int = 3,
    seed: int = 0,
) -> GroupSmoothness:
    """Orders the units of a group and measures how much smoother that is than by chance.

    `read` gives a tensor by name. `metric` None is ``l1`` up to n²d = 2·10¹⁰ and ``l2`` beyond;
    ``function`` weighs the distance of two units' inputs by the size of their outputs. The search
    uses 10 neighbours, 20 beyond 8192 units. Raises NonFinite and QuantUnknown naming the tensor,
    UsageError where `metric` or `null_reps` cannot be used.
    """
    if null_reps < 1:
        raise UsageError(f"null_reps = {null_reps} must be at least 1")
    n, d = group.size, width(read, group)
    chosen: Metric = metric or ("l1" if n * n * d <= L1_WORK else "l2")
    if chosen == "function" and {site.role for site in group.sites} != {"produces", "consumes"}:
        raise UsageError(f"{group.name} has no inputs or no outputs for the metric 'function'")
    sketched = chosen == "l2" and d > SKETCH_ABOVE
    features = _repeatable(lambda: blocks(read, group, scale), keep=n * d <= _HELD)

    def solve(rep: int | None) -> _Solved:
        found = features() if rep is None else _shuffled(features(), (seed, rep))
        if sketched:
            found = _sketch(found, n, seed)
        return _solve(found, n, chosen, k_neighbors)

    own = solve(None)
    random = own.mean if n > 1 else 0.0
    ratio = own.path.length / random if random > 0.0 else None
    nulls: list[float] = []
    if ratio is not None:
        chance = [solve(rep) for rep in range(null_reps)]
        nulls = [found.path.length / found.mean for found in chance if found.mean > 0.0]
    null_ratio = float(np.mean(nulls)) if nulls else None
    exact = own.path.solver == EXACT
    bound = own.path.length if exact else None
    if bound is None and own.matrix is not None:
        bound = held_karp(own.matrix)
    return GroupSmoothness(
        group=group.name,
        kind=group.kind,
        n=n,
        d=d,
        tv_before=own.before,
        tv_after=own.path.length,
        tv_random=random,
        ratio=ratio,
        null_ratio=null_ratio,
        smoothness=smoothness(ratio, null_ratio),
        lower_bound=bound,
        gap=own.path.length / bound - 1.0 if bound else None,
        exact=exact,
        solver=own.path.solver,
        metric=chosen,
        scale=scale,
        sketched=sketched,
        seed=seed,
        order=tuple(own.path.order.tolist()),
    )


def _solve(found: Iterable[Block], n: int, metric: Metric, k: int | None) -> _Solved:
    """The path through rows that come in blocks, its start and the mean over all orders."""
    plain: metrics.Metric = "l1" if metric == "l1" else "l2"
    outgoing = np.zeros(n)
    incoming = _incoming(found, outgoing) if metric == "function" else (b.values for b in found)
    if n <= metrics.MAX_DENSE:
        # Σ of the blocks comes first: it fills `outgoing`
        matrix = metrics.distance_matrix(incoming, n, plain)
        if metric == "function":
            sizes = np.sqrt(outgoing).astype(matrix.dtype)
            matrix *= (sizes[:, None] + sizes) / 2
        path = short_path(matrix, k=k or 10)
        return _Solved(path, mean_path_length(matrix), path_length(matrix, np.arange(n)), matrix)
    x = np.concatenate([values.astype(np.float32) for values in incoming], axis=1)
    weights = np.sqrt(outgoing) if metric == "function" else None
    path, mean = short_path_of_rows(x, plain, weights, k=k or 20)
    here = np.arange(n)
    before = metrics.RowDistances(x, plain, weights).pairs(here[:-1], here[1:]).sum()
    return _Solved(path, mean, float(before), None)


def _incoming(found: Iterable[Block], outgoing: NDArray[np.float64]) -> Iterator[Floats]:
    """Blocks that produce the units; the squared norms of the others are added to `outgoing`."""
    for block in found:
        if block.role == "produces":
            yield block.values
        else:
            outgoing += np.einsum("ij,ij->i", block.values, block.values)


def _repeatable(
    make: Callable[[], Iterator[Block]], *, keep: bool
) -> Callable[[], Iterable[Block]]:
    """`make`, or what it gave once where that is to be kept."""
    if not keep:
        return make
    kept = list(make())
    return lambda: kept


def _shuffled(found: Iterable[Block], seed: tuple[int, int]) -> Iterator[Block]:
    for number, block in enumerate(found):
        yield Block(block.tensor, block.role, shuffle_columns(block.values, (*seed, number)))


def _sketch(found: Iterable[Block], n: int, seed: int) -> Iterator[Block]:
    """All columns as 2048 Gaussian mixtures, which keep Euclidean distances to about 1.6 %.

    W. B. Johnson & J. Lindenstrauss, 1984: one standard deviation is 1/√(2·2048).
    """
    mixed = np.zeros((n, SKETCH), dtype=np.float32)
    for number, block in enumerate(found):
        rng = np.random.default_rng((seed, number))
        for begin in range(0, block.values.shape[1], 2 * SKETCH):
            part = block.values[:, begin : begin + 2 * SKETCH].astype(np.float32)
            mixed += part @ rng.standard_normal((part.shape[1], SKETCH), dtype=np.float32)
    yield Block("sketch", "produces", mixed.astype(np.float64) / np.sqrt(SKETCH))

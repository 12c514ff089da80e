"""One rank a matrix: the smallest total size whose total truncation error stays in a budget.

Three solvers of L-GreCo's problem (theory.rank_choices; arXiv 2210.17357):

    allocate_exact      merges Pareto frontiers layer by layer; the optimum
    allocate_greedy     convex hulls in order of size saved per error; any number of layers
    allocate_published  the paper's dynamic program over rounded-up error buckets

Rounding errors up keeps the published result within the budget but excludes allocations that just
meet it, the uniform one at α = 1 among them. The other two compare sums of errors with the budget
to a few parts in 1e12, since the order of a sum must not decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.rank_choices import RankChoices

ROUNDING = 1e-12
_MERGE_LIMIT = 20_000_000  # sums formed in one merge, about 1 GB


@dataclass(frozen=True, slots=True)
class Allocation:
    """Ranks with error ≤ budget. No allocation in the budget is smaller than `size_bound`."""

    ranks: tuple[int, ...]
    size: int
    error: float
    budget: float
    size_bound: float  # the size itself if proved optimal, else the LP relaxation's

    @property
    def gap(self) -> float:
        """size/size_bound - 1; 0 where the allocation is proved optimal."""
        return self.size / self.size_bound - 1.0


def allocate_exact(layers: Sequence[RankChoices], budget: float) -> Allocation:
    """The smallest size within the budget; of equal sizes, the smallest error.

    Partial sums that another one beats in size and error are dropped, as are those that cannot
    end within the budget or below the greedy size. Time grows with the number of distinct total
    sizes: seconds for 30 layers, or any number of layers of one shape. Raises ValueError if no
    allocation meets the budget, or if the frontier outgrows memory (use `allocate_greedy`).
    """
    upper = allocate_greedy(layers, budget).size
    limit = _with_rounding(_with_rounding(budget))  # the greedy sum in another order still fits
    least_error = np.cumsum([np.min(c.errors) for c in layers][::-1])[::-1]
    least_size = np.cumsum([np.min(c.sizes) for c in layers][::-1])[::-1]
    sizes, errors = np.zeros(1, dtype=np.int64), np.zeros(1)
    trace: list[NDArray[np.int64]] = []  # of each kept point: parent·choices + choice
    for index, layer in enumerate(layers):
        rest_error = least_error[index + 1] if index + 1 < len(layers) else 0.0
        rest_size = least_size[index + 1] if index + 1 < len(layers) else 0
        sums = sizes.size * layer.ranks.size
        if sums > _MERGE_LIMIT:
            raise ValueError(
                f"layer {index + 1} of {len(layers)} forms {sums} sums, limit {_MERGE_LIMIT}"
            )
        new_sizes = (sizes[:, None] + layer.sizes[None, :]).ravel()
        new_errors = (errors[:, None] + layer.errors[None, :]).ravel()
        alive = np.flatnonzero(
            (new_errors + rest_error <= limit) & (new_sizes + rest_size <= upper)
        )
        order = alive[np.lexsort((new_errors[alive], new_sizes[alive]))]
        best = np.minimum.accumulate(new_errors[order])
        kept = order[np.concatenate([[True], new_errors[order][1:] < best[:-1]])]
        sizes, errors = new_sizes[kept], new_errors[kept]
        trace.append(kept)
    return _allocation(layers, _walk_back(layers, trace), budget, size_bound=float(sizes[0]))


def allocate_greedy(layers: Sequence[RankChoices], budget: float) -> Allocation:
    """Shrinks the choices of largest size saved per error added while the budget lasts.

    Every layer starts at its least error and goes down the lower convex hull of (size, error); the
    first hull step that does not fit, taken in part, gives the LP relaxation and with it
    `size_bound`. What budget is left is then spent on single changes, largest saving first.
    Raises ValueError if even the least total error exceeds the budget.
    """
    pick = [int(np.lexsort((c.sizes, c.errors))[0]) for c in layers]
    spent = _check_feasible(layers, budget)
    limit = _with_rounding(budget)
    steps = [
        (ratio, index, choice)
        for index, layer in enumerate(layers)
        for ratio, choice in _hull_steps(layer, pick[index])
    ]
    size = sum(int(c.sizes[p]) for c, p in zip(layers, pick, strict=True))
    bound: float | None = None
    closed: set[int] = set()
    for ratio, index, choice in sorted(steps, key=lambda step: -step[0]):
        if index in closed:
            continue
        layer, now = layers[index], pick[index]
        added = float(layer.errors[choice] - layer.errors[now])
        if spent + added > limit:
            bound = size - ratio * max(limit - spent, 0.0) if bound is None else bound
            closed.add(index)
            continue
        spent += added
        size -= int(layer.sizes[now] - layer.sizes[choice])
        pick[index] = choice
    _spend_rest(layers, pick, limit)
    found = _allocation(layers, pick, budget, size_bound=0.0)
    size_bound = float(found.size) if bound is None else min(bound, float(found.size))
    return Allocation(found.ranks, found.size, found.error, budget, size_bound)


def allocate_published(
    layers: Sequence[RankChoices], budget: float, buckets: int = 10_000
) -> Allocation:
    """L-GreCo's dynamic program: errors in units of budget/`buckets`, rounded up.

    Raises ValueError if no allocation is left after rounding, though one may exist without it.
    """
    if buckets < 1:
        raise ValueError(f"buckets must be at least 1, got {buckets}")
    bound = allocate_greedy(layers, budget).size_bound
    if budget <= 0.0:
        raise ValueError(f"error buckets need a positive budget, got {budget}")
    never = np.iinfo(np.int64).max // 2
    best = np.zeros(buckets + 1, dtype=np.int64)  # least size with at most that many units
    choices: list[NDArray[np.int64]] = []
    units = [np.ceil(c.errors / budget * buckets).astype(np.int64) for c in layers]
    for layer, cost in zip(layers, units, strict=True):
        grown = np.full((layer.ranks.size, buckets + 1), never)
        for choice, unit in enumerate(cost):
            if unit <= buckets:
                grown[choice, unit:] = best[: buckets + 1 - unit] + layer.sizes[choice]
        choices.append(np.argmin(grown, axis=0))
        best = np.minimum(np.min(grown, axis=0), never)
    if best[buckets] >= never:
        raise ValueError(f"no allocation keeps its rounded-up errors within budget {budget}")
    pick, left = [0] * len(layers), buckets
    for index in range(len(layers) - 1, -1, -1):
        pick[index] = int(choices[index][left])
        left -= int(units[index][pick[index]])
    return _allocation(layers, pick, budget, size_bound=bound)


def _with_rounding(budget: float) -> float:
    return budget * (1.0 + ROUNDING)


def _check_feasible(layers: Sequence[RankChoices], budget: float) -> float:
    if not layers:
        raise ValueError("at least one layer is needed, got 0")
    least = sum(float(np.min(c.errors)) for c in layers)
    if not least <= _with_rounding(budget):
        raise ValueError(f"the least total error {least} exceeds the budget {budget}")
    return least


def _hull_steps(layer: RankChoices, start: int) -> list[tuple[float, int]]:
    """(size saved per error added, choice) down the hull from `start`, ratios not increasing."""
    steps: list[tuple[float, int]] = []
    now = start
    while True:
        saved = layer.sizes[now] - layer.sizes
        added = layer.errors - layer.errors[now]
        smaller = np.flatnonzero(saved > 0)
        if smaller.size == 0:
            return steps
        # `start` has the least error of the smallest size, so that every smaller choice adds some
        ratios = saved[smaller] / added[smaller]
        top = np.flatnonzero(ratios == ratios.max())
        now = int(smaller[top[np.argmin(saved[smaller][top])]])
        steps.append((float(ratios.max()), now))


def _spend_rest(layers: Sequence[RankChoices], pick: list[int], limit: float) -> None:
    """Changes single layers in place, largest saving first, while one fits the limit."""
    spent = sum(float(c.errors[p]) for c, p in zip(layers, pick, strict=True))
    while True:
        best = (0, -1, -1)
        for index, layer in enumerate(layers):
            saved = layer.sizes[pick[index]] - layer.sizes
            fits = spent + layer.errors - layer.errors[pick[index]] <= limit
            choice = int(np.argmax(np.where(fits, saved, 0)))
            if fits[choice] and saved[choice] > best[0]:
                best = (int(saved[choice]), index, choice)
        if best[0] == 0:
            return
        _, index, choice = best
        spent += float(layers[index].errors[choice] - layers[index].errors[pick[index]])
        pick[index] = choice


def _walk_back(layers: Sequence[RankChoices], trace: list[NDArray[np.int64]]) -> list[int]:
    """Choices of the smallest point of the last frontier."""
    pick, point = [0] * len(layers), 0
    for index in range(len(layers) - 1, -1, -1):
        point, pick[index] = divmod(int(trace[index][point]), layers[index].ranks.size)
    return pick


def _allocation(
    layers: Sequence[RankChoices], pick: Sequence[int], budget: float, size_bound: float
) -> Allocation:
    chosen = list(zip(layers, pick, strict=True))
    return Allocation(
        ranks=tuple(int(c.ranks[p]) for c, p in chosen),
        size=sum(int(c.sizes[p]) for c, p in chosen),
        error=sum(float(c.errors[p]) for c, p in chosen),
        budget=budget,
        size_bound=size_bound,
    )

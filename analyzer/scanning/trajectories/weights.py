"""What the checkpoints of a run say about one matrix: weights and what changed between them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from analyzer.analyses.cosines import Cosines, of_blocks, of_products, of_sketches
from analyzer.analyses.observations import Observation, Origin, Product, observe
from analyzer.analyses.series import Series
from analyzer.analyses.thinning import MOST_STEPS, evenly
from analyzer.scanning.drafts import Entry
from analyzer.scanning.matrices import floor_of, read_weight
from analyzer.scanning.trajectories.adapters import adapter_change
from analyzer.scanning.trajectories.units import TrajectoryUnit, blocks_of
from analyzer.spectral import Backend, count_sketch
from analyzer.spectral.difference import Difference
from theory.storage_noise import difference_floor

SKETCH_WIDTH = 4096  # for updates that are rebuilt from factors and held one at a time


@dataclass(frozen=True, slots=True)
class Pair:
    """Two states of a matrix, the later minus the earlier of which is an update."""

    step: int
    later: Entry
    earlier: Entry | None  # None for the start of an adapter, whose update is zero there


def delta_series(unit: TrajectoryUnit, rank: int, backend: Backend) -> Iterator[Series]:
    """`delta_prev` and `delta_init`, where there are two states to compare."""
    entries = [step.entry for step in unit.steps]
    numbers = [step.number for step in unit.steps]
    adapter = unit.entry.adapter is not None
    first = unit.start if unit.start is not None and numbers[0] > 0 else None
    flags = unit.flags
    if adapter or first is not None:
        previous = [first if not adapter else None, *entries[:-1]]
        initial = [first if not adapter else None] * len(entries)
        kept = slice(0, None)
        flags += () if adapter else ("starts at the base",)
    else:
        previous, initial, kept = [None, *entries[:-1]], [entries[0]] * len(entries), slice(1, None)
        flags += (
            () if numbers[0] == 0 else (f"starts at step {numbers[0]}, the first that is kept",)
        )
    for source, earlier in (("delta_prev", previous), ("delta_init", initial)):
        pairs = [Pair(*one) for one in zip(numbers, entries, earlier, strict=True)][kept]
        if pairs:
            yield _series(source, pairs, unit, flags, rank, backend)


def weight_observations(
    unit: TrajectoryUnit, rank: int, backend: Backend
) -> tuple[Observation, ...]:
    """The leading subspaces of the weights themselves; none for an adapter."""
    if unit.entry.adapter is not None:
        return ()
    return tuple(
        observe(read_weight(step.entry), step=step.number, rank=rank, backend=backend)
        for step in unit.steps
    )


def _series(
    source: str,
    pairs: list[Pair],
    unit: TrajectoryUnit,
    flags: tuple[str, ...],
    rank: int,
    backend: Backend,
) -> Series:
    if unit.entry.adapter is None:
        observations = [_of_weights(pair, rank, backend) for pair in pairs]
        cosines = _cosines_of_weights(pairs, observations)
        return Series(source, None, tuple(observations), cosines, flags=flags)
    observations, products, sketches = [], [], []
    for pair in pairs:
        change = adapter_change(pair.later, pair.earlier, unit.start, backend)
        found = observe(
            change.matrix, step=pair.step, rank=rank, blocks=blocks_of(pair.later), backend=backend
        )
        origin, floor = Origin(found.origin.dtype, _sha(pair)), max(found.floor, change.floor)
        observations.append(replace(found, floor=floor, origin=origin))
        if isinstance(change.matrix, Product):
            products.append(change.matrix)
        else:
            sketches.append(count_sketch(change.matrix, SKETCH_WIDTH).numpy())
    kept = evenly([i for i, o in enumerate(observations) if o.is_finite], MOST_STEPS)
    steps = [pairs[i].step for i in kept]
    cosines = None
    if kept and len(products) == len(pairs):
        cosines = of_products(steps, [products[i] for i in kept])
    elif kept and len(sketches) == len(pairs):
        cosines = of_sketches(steps, [sketches[i] for i in kept])
    return Series(source, None, tuple(observations), cosines, flags=flags)


def _of_weights(pair: Pair, rank: int, backend: Backend) -> Observation:
    assert pair.earlier is not None
    later, earlier = read_weight(pair.later), read_weight(pair.earlier)
    delta = Difference(later, earlier)
    found = observe(delta, step=pair.step, rank=rank, blocks=blocks_of(pair.later), backend=backend)
    floor = difference_floor(floor_of(later), floor_of(earlier))
    dtype = str(later.dtype).removeprefix("torch.")
    return replace(found, floor=max(floor, found.floor), origin=Origin(dtype, _sha(pair)))


def _cosines_of_weights(pairs: list[Pair], observations: list[Observation]) -> Cosines | None:
    """Exact, from some entries of all weights at a time."""
    known = [pair for pair, o in zip(pairs, observations, strict=True) if o.is_finite]
    kept = evenly(known, MOST_STEPS)
    if not kept:
        return None
    flat = [(_flat(pair.later), _flat(pair.earlier)) for pair in kept if pair.earlier is not None]
    return of_blocks(
        [pair.step for pair in kept],
        flat[0][0].numel(),
        lambda part: [later[part].double() - earlier[part].double() for later, earlier in flat],
    )


def _flat(entry: Entry) -> torch.Tensor:
    """The stored entries in their own order: transposing would copy."""
    matrix = read_weight(entry)
    assert entry.matrix is not None
    return (matrix.T if entry.matrix.transposed else matrix).reshape(-1)


def _sha(pair: Pair) -> str:
    """Of the content hashes of both states."""
    hashes = [e.row.content_sha256 for e in (pair.later, pair.earlier) if e is not None]
    return hashlib.sha256("".join(map(str, hashes)).encode()).hexdigest()

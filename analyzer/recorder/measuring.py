"""What is computed from gradient matrices, and what earlier records of them leave behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from analyzer.errors import NonFinite
from analyzer.recorder.schema import Arrays, Entry, Staleness
from analyzer.recorder.staleness import ages
from analyzer.recorder.targets import Target
from analyzer.spectral.count_sketch import count_sketch
from analyzer.spectral.product_range import full_precision
from analyzer.spectral.warm_start import LeadingSubspace, Side, default_side, leading_subspaces

# A basis is kept for each of these numbers of records and renewed after as many: the captured
# energy at all ages up to the largest, for one product with the gradient.
REFRESH_EVERY = (1, 2, 4, 8)
GROUPED = 2**21  # entries of the matrices measured together; larger ones gain nothing from it
SEED_STRIDE = 0x9E3779B97F4A7C15  # odd, so that no two steps share the seed of their fresh columns


@dataclass(frozen=True, slots=True)
class Settings:
    """What is the same for every matrix and step."""

    rank: int
    sketch_width: int
    side: Side | None
    seed: int

    def side_of(self, target: Target) -> Side:
        """The one asked for, else GaLore's."""
        return self.side or default_side(target.rows, target.cols)


@dataclass(slots=True)
class Memory:
    """Bases (d, l) of earlier records of one matrix on one batch."""

    previous: Tensor | None = None
    epsilon_ratio: float | None = None
    count: int = 0
    kept: dict[int, tuple[int, Tensor]] = field(default_factory=dict)  # renewal → step, basis
    next_step: Staleness | None = None  # of the latest basis, on the single step after it

    def earlier_bases(self, step: int) -> dict[int, Tensor]:
        """Bases of all ages, keyed by their age at `step`."""
        return {step - made: basis for made, basis in self.kept.values() if made < step}

    def latest_basis(self, step: int) -> dict[int, Tensor]:
        """That of the latest record alone, keyed like these."""
        made, basis = self.kept[1]
        return {step - made: basis}


@dataclass(frozen=True, slots=True)
class Gradient:
    """What a backward pass left for a target, and what earlier ones did."""

    target: Target
    values: Tensor
    memory: Memory


def entry_of(
    target: Target, batch: str, dtype: torch.dtype, n_tokens: int | None, settings: Settings
) -> Entry:
    """What an entry says of a target before its gradient is looked at."""
    return Entry(
        name=target.name,
        batch=batch,
        rows=target.rows,
        cols=target.cols,
        side=settings.side_of(target),
        fro=None,
        epsilon=None,
        n_tokens=n_tokens,
        dtype=str(dtype).partition(".")[2],
        method=None,
    )


def measure(
    gradients: Sequence[Gradient],
    batch: str,
    *,
    step: int,
    n_tokens: int | None,
    settings: Settings,
    scale: float = 1.0,
) -> dict[str, tuple[Entry, Arrays | None]]:
    """Entries and arrays, by name, of gradients divided by `scale`; memories are brought on."""
    measured: dict[str, tuple[Entry, Arrays | None]] = {}
    for group in _groups(gradients):
        side = settings.side_of(group[0].target)
        matrices = [_scaled(g.target.matrix(g.values), scale) for g in group]
        with full_precision(matrices[0].device.type):
            found = _subspaces(group, matrices, side, step, settings)
            bases = [g.memory.earlier_bases(step) for g in group]
            lines = ages(matrices, side, bases, found)
            for one, G, result, aged in zip(group, matrices, found, lines, strict=True):
                entry = entry_of(one.target, batch, one.values.dtype, n_tokens, settings)
                arrays = None
                if isinstance(result, NonFinite):
                    counts = {"n_nan": result.n_nan, "n_inf": result.n_inf}
                    entry = replace(entry, flags=("non_finite",), **counts)
                elif result.fro == 0.0:
                    entry = replace(entry, fro=0.0, epsilon=0.0, flags=("zero_gradient",))
                else:
                    entry = _certified(entry, result, aged, one.memory.next_step)
                    sketch = count_sketch(G, settings.sketch_width, settings.seed).cpu().numpy()
                    basis = result.basis.float().cpu().numpy()
                    arrays = Arrays(result.sigma, basis, sketch)
                    _remember(step, result, one.memory)
                measured[one.target.name] = entry, arrays
    return measured


def measure_next_step(
    gradients: Sequence[Gradient], *, step: int, settings: Settings, scale: float = 1.0
) -> None:
    """How the latest bases fit the gradients of the step after them: drift apart from noise.

    Both this gradient's subspace and that of the next record start from the same basis, so that
    their overlaps with it can be compared.
    """
    for group in _groups([g for g in gradients if 1 in g.memory.kept]):
        side = settings.side_of(group[0].target)
        matrices = [_scaled(g.target.matrix(g.values), scale) for g in group]
        with full_precision(matrices[0].device.type):
            found = _subspaces(group, matrices, side, step, settings)
            bases = [g.memory.latest_basis(step) for g in group]
            for gradient, lines in zip(group, ages(matrices, side, bases, found), strict=True):
                if lines:
                    (gradient.memory.next_step,) = lines


def _groups(gradients: Sequence[Gradient]) -> list[list[Gradient]]:
    """Gradients of one shape, precision and device, of which GROUPED entries may be together."""
    groups: list[list[Gradient]] = []
    latest: dict[tuple[int, int, torch.dtype, torch.device], list[Gradient]] = {}
    for one in gradients:
        rows, cols = one.target.rows, one.target.cols
        kind = rows, cols, one.values.dtype, one.values.device
        if kind not in latest or (len(latest[kind]) + 1) * rows * cols > GROUPED:
            latest[kind] = []
            groups.append(latest[kind])
        latest[kind].append(one)
    return groups


def _scaled(G: Tensor, scale: float) -> Tensor:
    return G if scale == 1.0 else G / scale


def _subspaces(
    group: Sequence[Gradient], matrices: Sequence[Tensor], side: Side, step: int, settings: Settings
) -> list[LeadingSubspace | NonFinite]:
    return leading_subspaces(
        matrices,
        settings.rank,
        previous=[g.memory.previous for g in group],
        previous_epsilon_ratios=[g.memory.epsilon_ratio for g in group],
        side=side,
        seed=(settings.seed + (step + 1) * SEED_STRIDE) % 2**63,
    )


def _certified(
    entry: Entry, found: LeadingSubspace, lines: list[Staleness], next_step: Staleness | None
) -> Entry:
    """Staleness by rising lag; the single step after the last record comes first."""
    if next_step is not None:
        lines = [*lines, next_step]
    return replace(
        entry,
        fro=found.fro,
        epsilon=found.epsilon,
        method=found.method,
        flags=("restarted",) if found.restarted else (),
        staleness=tuple(sorted(lines, key=lambda line: line.lag_steps)),
    )


def _remember(step: int, found: LeadingSubspace, memory: Memory) -> None:
    for renewal in REFRESH_EVERY:
        if memory.count % renewal == 0:
            memory.kept[renewal] = step, found.basis
    memory.count += 1
    memory.previous, memory.next_step = found.basis, None
    memory.epsilon_ratio = found.epsilon / found.fro**2

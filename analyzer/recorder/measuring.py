"""What is computed from one gradient matrix, and what earlier records of it leave behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from analyzer.errors import NonFinite
from analyzer.recorder.schema import Arrays, Entry, Staleness
from analyzer.recorder.targets import Target
from analyzer.spectral.count_sketch import count_sketch
from analyzer.spectral.warm_start import (
    LeadingSubspace,
    Side,
    full_precision,
    leading_subspace,
)

# A basis is kept for each of these numbers of records and renewed after as many: the captured
# energy at all ages up to the largest, for one product with the gradient.
REFRESH_EVERY = (1, 2, 4, 8)
BLOCK = 2**20  # entries taken to float64 at once
SEED_STRIDE = 0x9E3779B97F4A7C15  # odd, so that no two steps share the seed of their fresh columns


@dataclass(frozen=True, slots=True)
class Settings:
    """What is the same for every matrix and step."""

    rank: int
    sketch_width: int
    side: Side | None
    seed: int

    def side_of(self, target: Target) -> Side:
        """The shorter side, left for a square matrix: J. Zhao et al., GaLore, arXiv 2403.03507."""
        return self.side or ("left" if target.rows <= target.cols else "right")


@dataclass(slots=True)
class Memory:
    """Bases (d, l) of earlier records of one matrix on one batch."""

    previous: Tensor | None = None
    epsilon_ratio: float | None = None
    count: int = 0
    kept: dict[int, tuple[int, Tensor]] = field(default_factory=dict)  # renewal → step, basis
    next_step: Staleness | None = None  # of the latest basis, on the single step after it


def measure(
    target: Target,
    batch: str,
    gradient: Tensor | None,
    *,
    step: int,
    n_tokens: int | None,
    settings: Settings,
    memory: Memory,
    scale: float = 1.0,
) -> tuple[Entry, Arrays | None]:
    """The entry and arrays of a gradient, which is divided by `scale`; `memory` is brought on."""
    side = settings.side_of(target)
    entry = Entry(
        name=target.name,
        batch=batch,
        rows=target.rows,
        cols=target.cols,
        side=side,
        fro=None,
        epsilon=None,
        n_tokens=n_tokens,
        dtype=str((target.parameter if gradient is None else gradient).dtype).partition(".")[2],
        method=None,
    )
    if gradient is None:
        return replace(entry, flags=("no_gradient",)), None
    G = _scaled(target.matrix(gradient), scale)
    with full_precision(G.device.type):
        try:
            found = _subspace(G, side, step, settings, memory)
        except NonFinite as error:
            flags, counts = ("non_finite",), {"n_nan": error.n_nan, "n_inf": error.n_inf}
            return replace(entry, flags=flags, **counts), None
        if found.fro == 0.0:
            return replace(entry, fro=0.0, epsilon=0.0, flags=("zero_gradient",)), None
        staleness = _staleness(G, side, step, found, memory)
        sketch = count_sketch(G, settings.sketch_width, settings.seed).cpu().numpy()
    _remember(step, found, memory)
    entry = replace(
        entry,
        fro=found.fro,
        epsilon=found.epsilon,
        method=found.method,
        flags=("restarted",) if found.restarted else (),
        staleness=staleness,
    )
    return entry, Arrays(found.sigma, found.basis.float().cpu().numpy(), sketch)


def measure_next_step(
    target: Target,
    gradient: Tensor | None,
    *,
    step: int,
    settings: Settings,
    memory: Memory,
    scale: float = 1.0,
) -> None:
    """How the latest basis fits the gradient of the step after it: drift apart from noise.

    Both this gradient's subspace and that of the next record start from the same basis, so that
    their overlaps with it can be compared.
    """
    if gradient is None or 1 not in memory.kept:
        return
    G, side = _scaled(target.matrix(gradient), scale), settings.side_of(target)
    last, basis = memory.kept[1]
    with full_precision(G.device.type):
        try:
            found = _subspace(G, side, step, settings, memory)
        except NonFinite:
            return
        if found.fro > 0.0:
            (memory.next_step,) = age(G, side, {step - last: basis}, found)


def age(
    G: Tensor, side: Side, bases: Mapping[int, Tensor], found: LeadingSubspace
) -> list[Staleness]:
    """How earlier bases P (d, l), keyed by their age in steps, fit G and its own basis Q (`found`).

    One product with all of them at once: (PᵀG, or GP on the right) and QᵀP.
    """
    if not bases:
        return []
    P = torch.cat([basis.to(G) for basis in bases.values()], dim=1)
    widths = [basis.shape[1] for basis in bases.values()]
    starts = np.cumsum([0, *widths[:-1]])
    inside = project(G, side, P).double().square_().sum(1).cpu().numpy()
    shared = (found.basis.T @ P).double().square_().sum(0).cpu().numpy()
    return [
        Staleness(
            lag_steps=lag,
            captured=min(float(energy) / found.fro**2, 1.0),
            overlap=min(float(both) / min(width, found.sigma.size), 1.0),
        )
        for lag, width, energy, both in zip(
            bases,
            widths,
            np.add.reduceat(inside, starts),
            np.add.reduceat(shared, starts),
            strict=True,
        )
    ]


def project(G: Tensor, side: Side, P: Tensor) -> Tensor:
    """PᵀG (l, n), or (GP)ᵀ (l, m) on the right."""
    return P.to(G).T @ G if side == "left" else (G @ P.to(G)).T


def inner_product(A: Tensor, B: Tensor) -> float:
    """⟨A, B⟩ in float64, a block of rows at a time."""
    rows = max(1, BLOCK // max(A.shape[1], 1))
    blocks = zip(A.split(rows), B.split(rows), strict=True)
    return float(sum(torch.sum(a.double() * b.double()) for a, b in blocks))


def _scaled(G: Tensor, scale: float) -> Tensor:
    return G if scale == 1.0 else G / scale


def _subspace(
    G: Tensor, side: Side, step: int, settings: Settings, memory: Memory
) -> LeadingSubspace:
    return leading_subspace(
        G,
        settings.rank,
        previous=memory.previous,
        previous_epsilon_ratio=memory.epsilon_ratio,
        side=side,
        seed=(settings.seed + (step + 1) * SEED_STRIDE) % 2**63,
    )


def _staleness(
    G: Tensor, side: Side, step: int, found: LeadingSubspace, memory: Memory
) -> tuple[Staleness, ...]:
    """By rising lag; the single step after the last record comes first."""
    bases = {step - made: basis for made, basis in memory.kept.values() if made < step}
    lines = age(G, side, bases, found)
    if memory.next_step is not None:
        lines.append(memory.next_step)
    return tuple(sorted(lines, key=lambda line: line.lag_steps))


def _remember(step: int, found: LeadingSubspace, memory: Memory) -> None:
    for renewal in REFRESH_EVERY:
        if memory.count % renewal == 0:
            memory.kept[renewal] = step, found.basis
    memory.count += 1
    memory.previous, memory.next_step = found.basis, None
    memory.epsilon_ratio = found.epsilon / found.fro**2

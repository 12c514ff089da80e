"""What follows from one source of one matrix along a run: spectra, saturation, ceiling, advice.

J. Zhao et al., "GaLore", arXiv 2403.03507; A. Jaiswal et al., "From GaLore to WeLore",
arXiv 2407.11239. The same summary serves everything that stands for a gradient: see
`analyzer.analyses.gradient_sources`.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from analyzer.analyses.gradient_metrics import ENERGY, Metrics, metrics
from analyzer.analyses.observations import Observation
from analyzer.analyses.series import Noise, Overlap, Series, overlaps
from theory.galore_advice import (
    Advice,
    Motion,
    Worth,
    largest_gap,
    smallest_rank,
    subspace_motion,
    worth_projecting,
)
from theory.gradient_maps import Saturation, saturation
from theory.gradient_noise import Estimate, cross_validated_energy, signal_fraction

NO_NOISE = "no independent batches were recorded"
NO_LAGS = "no gradients of neighbouring steps were recorded"
NO_GRADIENT = "needs gradients, not what an optimizer made of them"


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Signal in the recorded minibatch gradients, averaged over the second half of the steps."""

    signal_fraction: Estimate
    energy_in: float | None  # what the leading directions of a batch hold of itself,
    energy_out: float | None  # of another batch,
    energy_cv: Estimate  # and of the expected gradient


@dataclass(frozen=True, slots=True)
class Emergence:
    """One source of one matrix along a run.

    `metrics` has an entry a step, `overlaps` one a pair of steps; `advice_rank`, `advice_gap`,
    `motion` and `worth` name the measurement they rest on, or what is missing.
    """

    series: Series
    rank: int
    metrics: tuple[Metrics, ...]
    overlaps: tuple[Overlap, ...]
    saturation: Saturation
    overlap_adjacent: float | None
    overlap_late: float | None
    ceiling: Ceiling | None
    advice_rank: Advice
    advice_gap: Advice
    motion: Motion
    worth: Worth | None

    @property
    def measured(self) -> tuple[Metrics, ...]:
        """The steps at which there is a finite non-zero matrix."""
        return tuple(m for m in self.metrics if m.stable_rank is not None)


def summarise_series(series: Series, rank: int) -> Emergence:
    """Everything that follows from a series; `rank` is that of energies and overlaps."""
    rows = tuple(metrics(o, rank) for o in series.observations)
    pairs = tuple(overlaps(series.observations, rank))
    cosines = series.cosines
    ceiling = _ceiling(series.noise, rank) if series.noise else None
    by_rank, worth = _advised_rank(series)
    gap, motion = _advised_gap(series)
    return Emergence(
        series=series,
        rank=rank,
        metrics=rows,
        overlaps=pairs,
        saturation=saturation(cosines.values, steps=cosines.steps)
        if cosines is not None and len(cosines.steps) > 1
        else Saturation(None, None, None, None),
        overlap_adjacent=_mean(_adjacent(pairs)),
        overlap_late=_mean(_late(pairs)),
        ceiling=ceiling,
        advice_rank=by_rank,
        advice_gap=gap,
        motion=motion,
        worth=worth,
    )


def late_noise(noise: Sequence[Noise]) -> Sequence[Noise]:
    """Those of the second half of the steps."""
    return noise[len(noise) // 2 :]


def _ceiling(noise: Sequence[Noise], rank: int) -> Ceiling:
    late = late_noise(noise)
    at = [min(rank, n.cv.size) - 1 for n in late]
    dots = np.array([n.dot_bc for n in late])
    squares = np.array([n.norm_b**2 for n in late])
    out = np.array([n.out[i] for n, i in zip(late, at, strict=True)])
    inside = _mean(float(n.energy_in[i]) for n, i in zip(late, at, strict=True))
    return Ceiling(
        signal_fraction=signal_fraction(dots, [n.norm_b for n in late], [n.norm_c for n in late]),
        energy_in=inside,
        energy_out=float(out.sum() / squares.sum()) if squares.sum() else None,
        energy_cv=cross_validated_energy([n.cv[i] for n, i in zip(late, at, strict=True)], dots),
    )


def _advised_rank(series: Series) -> tuple[Advice, Worth | None]:
    """From another batch's energy where it was measured, else from the gradient's own."""
    if series.source != "grad":
        return Advice(None, NO_GRADIENT, "no_gradient"), None
    late = late_noise(series.noise)
    if late:
        energies = _out_of_sample(late)
        advice = smallest_rank(energies, ENERGY)
    else:
        energies = {}
        in_sample = smallest_rank(_in_sample(series.observations), ENERGY, "in_sample")
        advice = replace(in_sample, rests_on=f"{in_sample.rests_on}; {NO_NOISE}")
    if advice.value is None:
        return advice, None
    shape = series.observations[0].rows, series.observations[0].cols
    return advice, worth_projecting(advice.value, *shape, energies.get(advice.value), ENERGY)


def _out_of_sample(noise: Sequence[Noise]) -> dict[int, float | None]:
    """Rank → share of another batch's energy, over several steps."""
    squares = sum(n.norm_b**2 for n in noise)
    width = min(n.out.size for n in noise)
    captured = sum((n.out[:width] for n in noise), np.zeros(width))
    return {r + 1: float(captured[r] / squares) if squares else None for r in range(width)}


def _in_sample(observations: Sequence[Observation]) -> dict[int, float | None]:
    """Rank → mean share of the gradient's own energy in the second half of the steps."""
    known = [o for o in observations if not o.is_empty and o.fro]
    late = known[len(known) // 2 :]
    if not late:
        return {}
    width = min(o.sigma.size for o in late)
    shares = np.mean([np.cumsum((o.sigma / _fro(o)) ** 2)[:width] for o in late], axis=0)
    return {r + 1: float(shares[r]) for r in range(width)}


def _advised_gap(series: Series) -> tuple[Advice, Motion]:
    if series.source != "grad":
        return Advice(None, NO_GRADIENT, "no_gradient"), Motion(None, None, NO_GRADIENT)
    captured: dict[int, list[float]] = defaultdict(list)
    overlap: dict[int, list[float]] = defaultdict(list)
    for lag in series.lags:
        captured[lag.steps].append(lag.captured)
        if lag.overlap is not None:
            overlap[lag.steps].append(lag.overlap)
    if not captured:
        return Advice(None, NO_LAGS, "lag_one_missing"), Motion(None, None, NO_LAGS)
    gap = largest_gap({steps: _mean(values) for steps, values in captured.items()})
    later = [steps for steps in overlap if steps > 1]
    if 1 not in overlap or not later:
        return gap, Motion(None, None, NO_LAGS)
    first, last = (_mean(min(phi, 1.0) for phi in overlap[at]) for at in (1, max(later)))
    return gap, subspace_motion(first, last, max(later))


def _adjacent(pairs: Sequence[Overlap]) -> Iterable[float]:
    steps = sorted({p.step_a for p in pairs} | {p.step_b for p in pairs})
    following = dict(itertools.pairwise(steps))
    return [p.overlap for p in pairs if following.get(p.step_a) == p.step_b]


def _late(pairs: Sequence[Overlap]) -> Iterable[float]:
    steps = sorted({p.step_a for p in pairs} | {p.step_b for p in pairs})
    late = set(steps[len(steps) // 2 :])
    return [p.overlap for p in pairs if p.step_a in late]


def _fro(observation: Observation) -> float:
    assert observation.fro
    return observation.fro


def _mean(values: Iterable[float]) -> float | None:
    known = list(values)
    return float(np.mean(known)) if known else None

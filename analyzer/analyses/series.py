"""One source of one matrix along a run: its observations, and how they compare with each other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from analyzer.analyses.cosines import Cosines
from analyzer.analyses.observations import Observation
from analyzer.analyses.thinning import MOST_STEPS, evenly
from analyzer.spectral.results import FloatArray
from theory import subspaces


@dataclass(frozen=True, slots=True)
class Noise:
    """Independent batches B and C at one step against the leading directions of batch A.

    `energy_in` (l,) is the share of ‖G_A‖² in the first 1 … l directions of G_A; `out` (l,)
    ‖PᵀG_B‖² and `cv` (l,) tr(PᵀG_B G_CᵀP) are absolute.
    """

    step: int
    n_tokens: int | None
    dot_bc: float
    norm_b: float
    norm_c: float
    energy_in: FloatArray
    out: FloatArray
    cv: FloatArray


@dataclass(frozen=True, slots=True)
class Lag:
    """How an earlier basis fits a gradient `steps` later."""

    steps: int
    captured: float
    overlap: float | None


@dataclass(frozen=True, slots=True)
class Series:
    """All that is known of one source (and recorded batch), steps ascending."""

    source: str
    batch_id: str | None
    observations: tuple[Observation, ...]
    cosines: Cosines | None = None
    noise: tuple[Noise, ...] = ()
    lags: tuple[Lag, ...] = ()
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Overlap:
    """Overlap of the r leading directions at two steps; `error` None where they are not known."""

    step_a: int
    step_b: int
    r: int
    overlap: float
    error: float | None
    chance: float
    corrected: float | None
    theta_max: float


def overlaps(observations: Sequence[Observation], rank: int) -> list[Overlap]:
    """Every pair of steps, of at most 40 at even distances, in order of steps.

    Steps with fewer than the usual number of directions are left out.
    """
    known = [o for o in observations if o.directions]
    if len(known) < 2:
        return []
    r = min(rank, max(o.directions for o in known))
    kept = evenly([o for o in known if o.directions >= r], MOST_STEPS)
    phi, theta = subspaces.pairwise([_basis(o)[:, :r] for o in kept])
    return [
        _overlap(kept[a], kept[b], r, float(phi[a, b]), float(theta[a, b]))
        for a in range(len(kept))
        for b in range(a + 1, len(kept))
    ]


def crosswise(pairs: Iterable[tuple[Observation, Observation]], rank: int) -> Iterator[Overlap]:
    """Overlaps of observations of two sources, pair by pair."""
    for a, b in pairs:
        r = min(rank, a.directions, b.directions)
        if r < 1 or a.side != b.side:
            continue
        phi, theta = subspaces.pairwise([_basis(a)[:, :r], _basis(b)[:, :r]])
        yield _overlap(a, b, r, float(phi[0, 1]), float(theta[0, 1]))


def _overlap(a: Observation, b: Observation, r: int, phi: float, theta: float) -> Overlap:
    d = a.rows if a.side == "left" else a.cols
    known = None
    whole = r == _basis(a).shape[1] == _basis(b).shape[1]
    if a.angle is not None and b.angle is not None and whole:
        known = min(1.0, a.angle + b.angle)
    chance = subspaces.chance_overlap(r, d)
    corrected = subspaces.chance_corrected(phi, r, d)
    return Overlap(a.step, b.step, r, phi, known, chance, corrected, theta)


def _basis(observation: Observation) -> FloatArray:
    assert observation.basis is not None
    return observation.basis

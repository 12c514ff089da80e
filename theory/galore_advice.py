"""From measured energies and overlaps to GaLore's rank, refresh gap and choice of matrices.

J. Zhao et al., arXiv 2403.03507, ICML 2024: the projector is taken from one minibatch every T
steps, so what counts is the energy it captures of other batches (out of sample) and later (at a
lag), not of its own batch. Every result names the measurement it rests on; thresholds that are
conventions of this module are its constants.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.welore import param_ratio

Array = NDArray[np.float64]
Sample = Literal["in_sample", "out_of_sample"]

STABLE_LOSS = 0.1  # overlap above 1 - this at the late lag: the subspace does not move
MOSTLY_NOISE, MOSTLY_DRIFT = 0.25, 0.5  # drift's share of the lost overlap


@dataclass(frozen=True, slots=True)
class Advice:
    """A rank or gap; None with `reason` where the measurements do not give one."""

    value: int | None
    rests_on: str
    reason: str | None  # not_reached, lag_one_missing, no_later_lag, zero_gradient
    is_limit: bool = False  # a gap: the longest lag measured still held, longer ones may too


@dataclass(frozen=True, slots=True)
class Staleness:
    """Captured energy after a refresh; None where that lag is missing or the gradient was zero."""

    fresh: float | None  # lag 0, the batch of the projector itself
    first: float | None  # lag 1, the next batch
    last: float | None  # the longest lag
    last_lag: int | None
    sampling_loss: float | None  # fresh - first: what the projector owes to its own batch
    drift_loss: float | None  # first - last: what moving on costs
    rests_on: str


@dataclass(frozen=True, slots=True)
class Motion:
    """Why the subspace of one refresh differs from that of a later one."""

    verdict: Literal["stable", "sampling_noise", "drift", "both"] | None
    drift_share: float | None  # (φ_1 - φ_T)/(1 - φ_T)
    rests_on: str


@dataclass(frozen=True, slots=True)
class Worth:
    """Is a low-rank method worth it for this matrix? None without a measured energy."""

    verdict: bool | None
    saves_parameters: bool  # r < mn/(m + n)
    holds_energy: bool | None
    rests_on: str


def energy_by_rank(
    basis: ArrayLike, gradient: ArrayLike, side: Literal["left", "right"]
) -> Array | None:
    """‖P_rᵀG‖_F²/‖G‖_F² (k,) of the first r = 1..k columns of an orthonormal basis, leading first.

    G (m, n), basis (m, k) on the left, (n, k) on the right. In sample if the basis comes from G
    itself, out of sample if from another batch. None for a zero gradient. Raises ValueError for
    shapes that do not match, NaN or Inf.
    """
    P, G = np.asarray(basis, dtype=np.float64), np.asarray(gradient, dtype=np.float64)
    if G.ndim == 2 and side == "right":
        G = G.T
    if P.ndim != 2 or G.ndim != 2 or P.shape[0] != G.shape[0]:
        raise ValueError(f"a {side} basis of shape {P.shape} does not fit {np.shape(gradient)}")
    largest = float(np.max(np.abs(G), initial=0.0))
    if not (np.isfinite(largest) and np.all(np.isfinite(P))):
        raise ValueError("basis and gradient must be finite")
    if largest == 0.0:
        return None
    scaled = G / largest
    captured = np.cumsum(np.sum((P.T @ scaled) ** 2, axis=1))
    return np.minimum(captured / float(np.sum(scaled**2)), 1.0)


def smallest_rank(
    energies: Mapping[int, float | None], q: float = 0.9, sample: Sample = "out_of_sample"
) -> Advice:
    """The smallest measured rank with energy ≥ q. Raises ValueError for q outside (0, 1]."""
    if not 0.0 < q <= 1.0:
        raise ValueError(f"q must lie in (0, 1], got {q}")
    known = _known(energies)
    kind = sample.replace("_", "-")
    basis = f"{kind} energy at {_list('rank', list(known))}"
    if sample == "in_sample":
        basis += ", which overstates what other batches see"
    if not known:
        return Advice(None, basis, "zero_gradient")
    enough = [rank for rank, energy in known.items() if energy >= q]
    if enough:
        rank = enough[0]
        return Advice(rank, f"{basis}: {known[rank]:.3g} at rank {rank}, asked {q:.3g}", None)
    best = max(known, key=lambda rank: known[rank])
    return Advice(
        None, f"{basis}: at most {known[best]:.3g}, at rank {best}, asked {q:.3g}", "not_reached"
    )


def staleness(energies: Mapping[int, float | None]) -> Staleness:
    """Summary of the captured energy at lags of j steps after a refresh; lag 0 is in sample."""
    known = _known(energies)
    later = [lag for lag in known if lag > 1]
    fresh, first = known.get(0), known.get(1)
    last_lag = later[-1] if later else None
    last = None if last_lag is None else known[last_lag]
    return Staleness(
        fresh=fresh,
        first=first,
        last=last,
        last_lag=last_lag,
        sampling_loss=None if fresh is None or first is None else fresh - first,
        drift_loss=None if first is None or last is None else first - last,
        rests_on=f"captured energy at {_list('lag', list(known))}",
    )


def largest_gap(energies: Mapping[int, float | None], tolerance: float = 0.05) -> Advice:
    """The longest lag T up to which every measured energy is ≥ (1 - tolerance) of that at lag 1.

    A loss between lags 0 and 1 is sampling noise, which no refresh cures, so lag 0 is left out.
    Raises ValueError for a tolerance outside [0, 1).
    """
    if not 0.0 <= tolerance < 1.0:
        raise ValueError(f"tolerance must lie in [0, 1), got {tolerance}")
    known = {lag: energy for lag, energy in _known(energies).items() if lag >= 1}
    basis = f"captured energy at {_list('lag', list(known))}"
    if not known:
        return Advice(None, basis, "zero_gradient" if energies else "lag_one_missing")
    if 1 not in known:
        return Advice(None, basis, "lag_one_missing")
    if len(known) == 1:
        return Advice(None, basis, "no_later_lag")
    gap = 1
    for lag, energy in known.items():
        if energy < (1.0 - tolerance) * known[1]:
            note = f"{energy:.3g} at lag {lag} against {known[1]:.3g} at lag 1"
            return Advice(gap, f"{basis}: {note}", None)
        gap = lag
    note = f"{known[gap]:.3g} at lag {gap} against {known[1]:.3g} at lag 1"
    return Advice(gap, f"{basis}: {note}, the longest measured", None, is_limit=True)


def subspace_motion(overlap_first: float | None, overlap_late: float | None, lag: int) -> Motion:
    """Drift or sampling noise, from overlaps φ with the subspace 1 and `lag` steps later.

    One step of training hardly moves a subspace: what is lost at lag 1, with a new batch, is
    sampling noise; what is lost between lag 1 and T is drift. Its share (φ_1 - φ_T)/(1 - φ_T) of
    the whole loss is the same for chance-corrected overlaps. Up to 0.25 a shorter T cannot help
    (a larger batch can), from 0.5 on it can. Raises ValueError for a lag below 2 or an overlap
    outside [0, 1].
    """
    if lag < 2:
        raise ValueError(f"the late lag must be at least 2, got {lag}")
    if overlap_first is None or overlap_late is None:
        return Motion(None, None, "an overlap is missing")
    for phi in (overlap_first, overlap_late):
        if not 0.0 <= phi <= 1.0:
            raise ValueError(f"an overlap must lie in [0, 1], got {phi}")
    basis = f"overlap {overlap_first:.3g} at lag 1 and {overlap_late:.3g} at lag {lag}"
    loss = 1.0 - overlap_late
    if loss <= STABLE_LOSS:
        return Motion("stable", None, basis)
    share = max(overlap_first - overlap_late, 0.0) / loss
    if share <= MOSTLY_NOISE:
        return Motion("sampling_noise", share, basis)
    return Motion("drift" if share >= MOSTLY_DRIFT else "both", share, basis)


def worth_projecting(
    rank: int, rows: int, cols: int, energy: float | None, q: float = 0.9
) -> Worth:
    """r < mn/(m + n), so that two factors are smaller than the matrix, and energy ≥ q at rank r.

    `energy` is the out-of-sample one. Raises ValueError for a rank outside 1..min(m, n).
    """
    if not 1 <= rank <= min(rows, cols):
        raise ValueError(f"rank must lie in 1..{min(rows, cols)}, got {rank}")
    saves = param_ratio(rank, rows, cols) < 1.0
    limit = f"rank {rank} against mn/(m + n) = {rows * cols / (rows + cols):.4g}"
    if energy is None:
        return Worth(None if saves else False, saves, None, f"{limit}; no energy measured")
    holds = energy >= q
    return Worth(
        saves and holds, saves, holds, f"{limit}; out-of-sample energy {energy:.3g}, asked {q:.3g}"
    )


def _known(energies: Mapping[int, float | None]) -> dict[int, float]:
    """Ascending keys of the energies that exist."""
    return {key: energy for key, energy in sorted(energies.items()) if energy is not None}


def _list(noun: str, keys: list[int]) -> str:
    """`no rank`, `rank 4`, `ranks 4, 8, 16` or `ranks 1 … 64 (64 of them)`."""
    if not keys:
        return f"no {noun}"
    if len(keys) == 1:
        return f"{noun} {keys[0]}"
    if len(keys) <= 6:
        return f"{noun}s {', '.join(map(str, keys))}"
    return f"{noun}s {keys[0]} … {keys[-1]} ({len(keys)} of them)"

"""The subspace that all gradients of a run share, against those of the weights they made."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from analyzer.analyses.observations import Observation, from_ritz
from analyzer.analyses.series import Series
from analyzer.scanning.trajectories.moments import saved_gradient
from analyzer.scanning.trajectories.units import TrajectoryUnit
from analyzer.spectral.frequent_directions import FrequentDirections, empty, extend

RESOLVED = 1e-6  # of the largest row's norm: the square root of what float64 leaves of its square
FEWEST_DIRECTIONS = 32  # of the sketch; four times the rank asked for, if that is more


def cumulative_series(
    unit: TrajectoryUnit, gradients: Sequence[Series], rank: int
) -> Series | None:
    """Σ G Gᵀ (left) or Σ Gᵀ G (right) after every step with a gradient, by Frequent Directions.

    From the minibatch's records, else the probe's, else saved gradients. `epsilon` is δ of the
    sketch where whole gradients were summed, None where only their leading directions were.
    """
    chosen = min(
        (s for s in gradients if s.source == "grad"),
        key=lambda s: ("train", "probe", "saved").index(s.batch_id or "saved"),
        default=None,
    )
    if chosen is None:
        return None
    whole = {step.number: step for step in unit.steps if step.gradient is not None}
    state: FrequentDirections | None = None
    energy, found, summed = 0.0, [], hashlib.sha256()
    for observation in chosen.observations:
        if observation.is_empty or observation.basis is None or not observation.fro:
            continue
        side = observation.side
        if chosen.batch_id == "saved":
            G = saved_gradient(whole[observation.step])
            rows = G.T if side == "left" else G
        else:
            rows = torch.from_numpy((observation.basis * observation.sigma).T)
        if state is None:
            size = max(FEWEST_DIRECTIONS, 4 * rank)
            state = empty(min(size, rows.shape[1]), rows.shape[1])
        state = extend(state, rows)
        energy += observation.fro**2
        summed.update(str(observation.origin.sha256).encode())
        complete = chosen.batch_id == "saved"
        seen = _observed(observation, state, math.sqrt(energy), complete)
        found.append(replace(seen, origin=replace(observation.origin, sha256=summed.hexdigest())))
    if not found:
        return None
    return Series("cumulative", chosen.batch_id, tuple(found), flags=chosen.flags)


def beside_weights(
    cumulative: Series, weights: Sequence[Observation]
) -> Iterator[tuple[Observation, Observation]]:
    """Each checkpoint with the last cumulated subspace before it."""
    for weight in weights:
        earlier = [o for o in cumulative.observations if o.step < weight.step]
        if earlier and not weight.is_empty:
            yield earlier[-1], weight


def _observed(
    last: Observation, state: FrequentDirections, fro: float, complete: bool
) -> Observation:
    norms = torch.linalg.vector_norm(state.sketch, dim=1)
    kept = norms > RESOLVED * norms.max()
    basis = (state.sketch[kept] / norms[kept, None]).T.numpy()
    return from_ritz(
        norms[kept].numpy(), basis, step=last.step, shape=(last.rows, last.cols), side=last.side,
        fro=fro, epsilon=state.shrink if complete else None, method="frequent_directions",
        precision="float64",
    )  # fmt: skip

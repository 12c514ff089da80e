"""One matrix along one run → rows of everything that stands for its gradient."""

from __future__ import annotations

from collections.abc import Iterator

from analyzer.analyses.emergence_rows import Place, crosswise_rows, emergence_rows
from analyzer.analyses.series import Series, crosswise
from analyzer.analyses.series_summary import Emergence, summarise_series
from analyzer.scanning.trajectories.cumulative import beside_weights, cumulative_series
from analyzer.scanning.trajectories.moments import gradient_series, moment_series
from analyzer.scanning.trajectories.records import record_series
from analyzer.scanning.trajectories.units import TrajectoryUnit
from analyzer.scanning.trajectories.weights import delta_series, weight_observations
from analyzer.spectral import Backend
from analyzer.store.columns import Row
from analyzer.store.writing import SpectrumValues


def trajectory_rows(
    unit: TrajectoryUnit, rank: int, backend: Backend
) -> Iterator[Row | SpectrumValues]:
    """Rows of every source of a unit. Raises WorkbenchError if something cannot be read."""
    row = unit.entry.row
    by_step = {step.number: step.entry.matrix_id for step in unit.steps}
    place = Place(unit.run, unit.entry.matrix_id, row.name, row.role, row.layer, by_step)
    gradients = [*record_series(unit), *gradient_series(unit, rank, backend)]
    deltas = list(delta_series(unit, rank, backend))
    for series in (*gradients, *moment_series(unit, rank, backend), *deltas):
        yield from emergence_rows(place, summarise_series(series, rank))
    cumulative = cumulative_series(unit, gradients, rank)
    if cumulative is not None:
        found = summarise_series(cumulative, rank)
        yield from emergence_rows(place, found)
        yield from _against_weights(place, found, unit, deltas, rank, backend)


def _against_weights(
    place: Place,
    found: Emergence,
    unit: TrajectoryUnit,
    deltas: list[Series],
    rank: int,
    backend: Backend,
) -> Iterator[Row]:
    """Does the subspace of all gradients show in the update and in the weight itself?"""
    others = {s.source: s.observations for s in deltas if s.source == "delta_init"}
    others["weight"] = weight_observations(unit, rank, backend)
    for name, observations in others.items():
        pairs = beside_weights(found.series, observations)
        yield from crosswise_rows(place, found, name, list(crosswise(pairs, rank)))

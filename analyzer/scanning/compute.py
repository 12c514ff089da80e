"""A job → rows: one base matrix and all its tuned counterparts, or one matrix along a run.

Matrix-major: the base matrix is read and decomposed once, every counterpart is scored against
it, then it is dropped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from analyzer.analyses.intruder_tracks import track_rows
from analyzer.analyses.judging import intruder_rows, leading_vectors
from analyzer.analyses.spectra import noise_floor, spectrum_info
from analyzer.analyses.tails import tail_row
from analyzer.errors import WorkbenchError
from analyzer.scanning.jobs import Job, Unit, resting_on
from analyzer.scanning.limits.rows import BaseLayer, limits_rows
from analyzer.scanning.limits.units import LimitsJob, LimitsUnit
from analyzer.scanning.matrices import (
    BaseMatrix,
    TunedMatrix,
    floor_of,
    read_weight,
    tuned_matrix,
    update_alone,
)
from analyzer.scanning.nulls import Nulls
from analyzer.scanning.options import Options
from analyzer.scanning.steps import LastStep, vectors_of
from analyzer.scanning.trajectories.rows import trajectory_rows
from analyzer.scanning.trajectories.units import TrajectoryJob, TrajectoryUnit
from analyzer.spectral import Backend, LowRankUpdate, Spectrum, svdvals
from analyzer.store.columns import Row
from analyzer.store.schema import DoneRow
from analyzer.store.writing import SpectrumValues

AnyUnit = Unit | TrajectoryUnit | LimitsUnit
U = TypeVar("U", TrajectoryUnit, LimitsUnit)


@dataclass(frozen=True, slots=True)
class Tools:
    """What every job of a scan is computed with."""

    options: Options
    backend: Backend
    nulls: Nulls


@dataclass(frozen=True, slots=True)
class Outcome:
    """Rows of one finished unit, or `status` and `detail` of why there are none."""

    unit: AnyUnit
    rows: tuple[Row | SpectrumValues, ...]
    status: str
    detail: str | None

    @property
    def failed(self) -> bool:
        return self.status not in ("ok", "zero_delta")


def finish_job(job: Job | TrajectoryJob | LimitsJob, tools: Tools) -> tuple[list[Outcome], Nulls]:
    """Every unit of a job, and the nulls: a worker process draws on a copy of its own.

    A matrix that fails becomes an outcome with a status.
    """
    if isinstance(job, TrajectoryJob):
        found = _each(job.units, lambda u: trajectory_rows(u, tools.options.rank, tools.backend))
    elif isinstance(job, LimitsJob):
        base = BaseLayer(job)
        found = _each(job.units, lambda u: limits_rows(u, base, job))
    else:
        found = _outcomes(job, tools)
    return list(found), tools.nulls


def crashed(unit: AnyUnit) -> Outcome:
    """A unit whose job killed its process; not marked as done, so that the next scan tries."""
    return Outcome(unit, (), "crashed", f"{unit.entry.row.name}: its process was killed")


def _outcomes(job: Job, tools: Tools) -> Iterator[Outcome]:
    judged = any("intruders" in unit.params for unit in job.units)
    base = (
        BaseMatrix(job.base, tools.backend, with_vectors=judged) if job.base is not None else None
    )
    last = LastStep(base, tools.options.k, tools.backend) if base is not None else None
    for unit in job.units:
        try:
            yield _outcome(unit, base, last, tools)
        except WorkbenchError as error:
            if last is not None:
                last.skip(unit.entry)
            error.tensor = error.tensor or unit.entry.row.name
            yield Outcome(unit, (*_alone(unit, tools), *_done(unit)), error.status, str(error))
        except Exception as error:
            yield _fallen(unit, error)


def _each(
    units: Sequence[U], rows: Callable[[U], Iterable[Row | SpectrumValues]]
) -> Iterator[Outcome]:
    """Units that are of no matter to the status of a matrix: their failures are events."""
    for unit in units:
        try:
            yield Outcome(unit, (*rows(unit), *_done(unit)), "ok", None)
        except WorkbenchError as error:
            error.tensor = error.tensor or unit.entry.row.name
            yield Outcome(unit, (), error.status, str(error))
        except Exception as error:
            yield _fallen(unit, error)


def _fallen(unit: AnyUnit, error: Exception) -> Outcome:
    """One matrix must not end the scan of the others; unlike a bad matrix, a failing machine may do
    better next time, so the unit is not marked as done."""
    status = "unreadable" if isinstance(error, OSError) else "crashed"
    return Outcome(unit, (), status, f"{unit.entry.row.name}: {type(error).__name__}: {error}")


def _alone(unit: Unit, tools: Tools) -> tuple[Row | SpectrumValues, ...]:
    """What a fine-tuned matrix says without its base, where that is broken or of another shape."""
    if unit.entry.matrix is None or "tails" not in unit.params:
        return ()
    try:
        weight = read_weight(unit.entry)
        spectrum = svdvals(weight, backend=tools.backend)
        return tuple(_described(unit, "weight", spectrum, floor_of(weight), tools))
    except WorkbenchError:
        return ()


def _done(unit: AnyUnit) -> tuple[DoneRow, ...]:
    number = unit.entry.matrix_id
    return tuple(DoneRow(number, name, params) for name, params in unit.params.items())


def _outcome(unit: Unit, base: BaseMatrix | None, last: LastStep | None, tools: Tools) -> Outcome:
    entry = unit.entry
    if base is None and entry.matrix is None:
        return _update_alone(unit, tools)
    is_base = base is not None and base.entry.matrix_id == entry.matrix_id
    if base is None or last is None or is_base:
        weight = base.weight if base is not None else read_weight(entry)
        spectrum = base.spectrum if base is not None else svdvals(weight, backend=tools.backend)
        rows = list(_described(unit, "weight", spectrum, floor_of(weight), tools))
        return Outcome(unit, (*rows, *_done(unit)), "ok", None)
    tuned = tuned_matrix(entry, base, tools.backend)
    rows = []
    if "tails" in unit.params:
        weight_spectrum = _tuned_spectrum(tuned, base, tools.backend)
        rows += _described(unit, "weight", weight_spectrum, tuned.weight_floor, tools)
        rows += _described(unit, "delta", tuned.delta, tuned.delta_floor, tools)
    if "intruders" in unit.params:
        unit, found = _intruders(unit, tuned, base, last, tools)
        rows += found
    status, detail = ("zero_delta", "equal to the base") if tuned.is_zero else ("ok", None)
    return Outcome(unit, (*rows, *_done(unit)), status, detail)


def _intruders(
    unit: Unit, tuned: TunedMatrix, base: BaseMatrix, last: LastStep, tools: Tools
) -> tuple[Unit, list[Row]]:
    """Rows of a matrix against its base and the step before, and the unit with what they rest on.

    A matrix that equals its base has no track: its vectors are the base's.
    """
    options, number, sigma = tools.options, unit.entry.matrix_id, tuned.delta.singular_values
    top = leading_vectors(base.svd, tuned.update, sigma, options.k, backend=tools.backend)
    rows = list(
        intruder_rows(
            number, base.svd, tuned.update, top, sigma,
            base.thresholds(options.k, options.epsilon),
            k=options.k, epsilon=options.epsilon, backend=tools.backend,
        )
    )  # fmt: skip
    if tuned.is_zero:
        last.skip(unit.entry)
        return unit, rows
    previous, vectors = last.before(unit.earlier), vectors_of(tuned, top)
    last.keep(unit.entry, vectors)
    if previous.matrix_id is not None and previous.vectors is not None:
        rows += track_rows(number, vectors, previous.matrix_id, previous.vectors)
    return resting_on(unit, previous.seen), rows


def _update_alone(unit: Unit, tools: Tools) -> Outcome:
    """ΔW of an adapter whose base is not there: an exact function of the stored factors."""
    delta = update_alone(unit.entry, tools.backend)
    rows = _described(unit, "delta", delta, 0.0, tools)
    is_zero = not delta.singular_values.any()
    status, detail = ("zero_delta", "the update is zero") if is_zero else ("ok", None)
    return Outcome(unit, (*rows, *_done(unit)), status, detail)


def _described(
    unit: Unit, kind: str, spectrum: Spectrum, floor: float, tools: Tools
) -> Iterator[Row | SpectrumValues]:
    """Singular values, their summaries and their tail."""
    entry = unit.entry
    sigma = spectrum.singular_values
    yield SpectrumValues(entry.matrix_id, kind, sigma)
    rows, cols, seed = entry.row.rows, entry.row.cols, tools.options.seed
    yield spectrum_info(entry.matrix_id, kind, spectrum, floor, max(rows, cols))
    # A low-rank update is no matrix that a random one could be compared with.
    is_whole = sigma.size == min(rows, cols)
    yield tail_row(
        sigma, rows=rows, cols=cols, storage_floor=noise_floor(spectrum, floor),
        matrix_id=entry.matrix_id, kind=kind, full=tools.options.full, seed=seed,
        null=tools.nulls.of(rows, cols, seed) if is_whole else None,
    )  # fmt: skip


def _tuned_spectrum(tuned: TunedMatrix, base: BaseMatrix, backend: Backend) -> Spectrum:
    if tuned.is_zero:
        return base.spectrum
    if isinstance(tuned.update, LowRankUpdate):
        return tuned.update.singular_values()
    return svdvals(tuned.update.tuned, backend=backend)

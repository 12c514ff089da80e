"""Training runs: which matrices to follow along which steps."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from analyzer.checkpoints.discover import Collection
from analyzer.checkpoints.fused import fused_rows
from analyzer.checkpoints.matching import match_names
from analyzer.checkpoints.names import is_block_linear
from analyzer.checkpoints.optimizer_state import ParameterState
from analyzer.checkpoints.stored import StoredTensor
from analyzer.recorder.records import RecordFile
from analyzer.scanning.drafts import Entry, Problem
from analyzer.scanning.jobs import is_judged
from analyzer.scanning.options import Options
from analyzer.scanning.trajectories.runs import (
    Beside,
    Run,
    any_beside,
    find_beside,
    find_runs,
    fingerprint,
    has_distinct_steps,
    read_records,
    step_number,
)
from analyzer.scanning.trajectories.stored import stored_units, superseded


@dataclass(frozen=True, slots=True)
class Step:
    """One matrix at one checkpoint of a run, with what was saved beside the weights."""

    number: int
    entry: Entry
    moments: ParameterState | None
    gradient: StoredTensor | None


@dataclass(frozen=True, slots=True)
class TrajectoryUnit:
    """One matrix along one run: checkpoints and recorded steps, both ascending.

    `entry` is the matrix of the last checkpoint, `start` the matrix that training began with where
    that is no step of the run. Each of `records` speaks of this matrix only.
    """

    run: str
    entry: Entry
    start: Entry | None
    steps: tuple[Step, ...]
    records: tuple[RecordFile, ...]
    flags: tuple[str, ...]
    params: dict[str, str]
    matrix_ids: tuple[int, ...]  # which rows of this unit, or of those it takes the place of, have


@dataclass(frozen=True, slots=True)
class TrajectoryJob:
    """A unit as a job of its own; `cost` in flops, roughly."""

    units: tuple[TrajectoryUnit, ...]
    cost: float


@dataclass(frozen=True, slots=True)
class TrajectoryPlan:
    """What is left to do, how much is stored, and what could not be read."""

    jobs: tuple[TrajectoryJob, ...]
    n_stored: int
    runs: tuple[str, ...]
    problems: tuple[Problem, ...]


def plan_trajectories(
    collection: Collection,
    entries: Sequence[Entry],
    options: Options,
    done: set[tuple[int, str, str]],
    known: set[tuple[int, str, str]],
) -> TrajectoryPlan:
    """Units of every run with something to follow; reads headers and pickles, no tensors.

    What is `done` is left alone, what is `known` to the store makes room: with ``--force``, nothing
    is done.
    """
    of_checkpoint: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        of_checkpoint[entry.checkpoint.name].append(entry)
    in_blocks = any(is_block_linear(entry.row.role) for entry in entries)
    base = of_checkpoint.get(collection.base.name, []) if collection.base else []
    earlier = stored_units(known)
    present = {entry.matrix_id for entry in entries}
    jobs: list[TrajectoryJob] = []
    problems: list[Problem] = []
    names: list[str] = []
    stored = 0
    for run in find_runs(collection, problems):
        beside = {c.name: find_beside(c, problems) for c in run.checkpoints}
        if len(run.checkpoints) < 2 and not run.records and not any_beside(beside):
            continue
        names.append(run.name)
        records = read_records(run, problems)
        if not has_distinct_steps(run, problems):
            continue
        units = _units(run, of_checkpoint, beside, records, base, options, in_blocks, problems)
        for unit in units:
            if (unit.entry.matrix_id, "emergence", unit.params["emergence"]) in done:
                stored += 1
            else:
                gone = superseded(set(unit.matrix_ids), earlier) - present
                unit = replace(unit, matrix_ids=(*unit.matrix_ids, *sorted(gone)))
                jobs.append(TrajectoryJob((unit,), _cost(unit)))
    jobs.sort(key=lambda job: -job.cost)
    return TrajectoryPlan(tuple(jobs), stored, tuple(names), tuple(problems))


def _units(
    run: Run,
    of_checkpoint: dict[str, list[Entry]],
    beside: dict[str, Beside],
    records: Sequence[RecordFile],
    base: Sequence[Entry],
    options: Options,
    in_blocks: bool,
    problems: list[Problem],
) -> Iterator[TrajectoryUnit]:
    """One unit a matrix that is in blocks or was recorded, aligned over steps by name."""
    by_name: dict[str, dict[int, Entry]] = defaultdict(dict)
    numbers = {c.name: step_number(c, beside[c.name], run.records) for c in run.checkpoints}
    for checkpoint in run.checkpoints:
        for entry in of_checkpoint.get(checkpoint.name, []):
            if _is_whole(entry):
                by_name[entry.row.name][numbers[checkpoint.name]] = entry
    recorded = _recorded_names(run, by_name, records, problems)
    starts = {entry.row.name: entry for entry in base}
    side_files = fingerprint([path for one in beside.values() for path in one.files])
    record_files = fingerprint(list(run.records))
    for name, at in by_name.items():
        last = at[max(at)]
        theirs = recorded.get(name, ())
        if not (theirs or is_judged(last, in_blocks)):
            continue
        kept = {n: e for n, e in sorted(at.items()) if _shape(e) == _shape(last)}
        start = starts.get(last.base.name) if last.base is not None else None
        flags = list(_flags(at, kept, numbers))
        if start is not None and not (_is_whole(start) and _shape(start) == _shape(last)):
            flags.append(f"the base holds {start.row.rows}×{start.row.cols} ({start.row.status})")
            start = None
        steps = tuple(_step(n, e, beside[e.checkpoint.name]) for n, e in kept.items())
        matrix_ids = tuple(sorted(e.matrix_id for e in kept.values()))
        content = [e.row.content_sha256 for e in (*kept.values(), *([start] if start else []))]
        params = {
            **options.chosen("emergence"),
            "run": run.name,
            "steps": list(kept),
            "matrices": list(matrix_ids),
            "content": hashlib.sha256("".join(map(str, content)).encode()).hexdigest(),
            "beside": side_files,
            "records": record_files if theirs else None,
        }
        yield TrajectoryUnit(
            run=run.name,
            entry=last,
            start=start,
            steps=steps,
            records=_of_matrix(records, theirs),
            flags=tuple(flags),
            params={"emergence": json.dumps(params, sort_keys=True)},
            matrix_ids=matrix_ids,
        )


def _recorded_names(
    run: Run,
    by_name: dict[str, dict[int, Entry]],
    records: Sequence[RecordFile],
    problems: list[Problem],
) -> dict[str, set[str]]:
    """Matrix of the checkpoint → the names it has in the records."""
    names = {entry.name for record in records for entry in record.header.entries}
    names |= {noise.name for record in records for noise in record.header.noise}
    tensors = {_tensor(at[max(at)]): name for name, at in by_name.items()}
    matched = match_names(tensors, names)
    missing = sorted(names - set(matched))
    if missing and by_name:
        shown = ", ".join(missing[:3]) + (" …" if len(missing) > 3 else "")
        text = f"{len(missing)} recorded matrices are none of the checkpoint's: {shown}"
        problems.append(Problem(run.name, "warning", text))
    found: dict[str, set[str]] = defaultdict(set)
    for name, tensor in matched.items():
        found[tensors[tensor]].add(name)
    return found


def _tensor(entry: Entry) -> str:
    return entry.matrix.tensor if entry.matrix is not None else entry.row.name


def _of_matrix(
    records: Sequence[RecordFile], names: set[str] | tuple[()]
) -> tuple[RecordFile, ...]:
    """The records cut down to one matrix."""
    cut = []
    for record in records if names else ():
        header = record.header
        entries = tuple(entry for entry in header.entries if entry.name in names)
        noise = tuple(one for one in header.noise if one.name in names)
        if entries or noise:
            cut.append(RecordFile(record.path, replace(header, entries=entries, noise=noise)))
    return tuple(cut)


def _step(number: int, entry: Entry, beside: Beside) -> Step:
    tensor = entry.matrix.tensor if entry.matrix is not None else None
    moments = beside.moments.get(tensor) if tensor is not None else None
    gradient = beside.gradients.get(tensor) if tensor is not None else None
    return Step(number, entry, moments, gradient)


def blocks_of(entry: Entry) -> dict[str, slice]:
    """Rows of queries, keys and values, where they are stored as one matrix."""
    if entry.matrix is not None:
        return fused_rows(entry.matrix, entry.checkpoint.config)
    return fused_rows(entry.base, {}) if entry.base is not None else {}


def _flags(at: dict[int, Entry], kept: dict[int, Entry], numbers: dict[str, int]) -> Iterator[str]:
    if reshaped := sorted(set(at) - set(kept)):
        yield f"another shape at steps {', '.join(map(str, reshaped))}"
    if missing := sorted(set(numbers.values()) - set(at)):
        yield f"not in the checkpoints of steps {', '.join(map(str, missing))}"


def _is_whole(entry: Entry) -> bool:
    return entry.row.status in ("ok", "zero_delta")


def _shape(entry: Entry) -> tuple[int, int]:
    return entry.row.rows, entry.row.cols


def _cost(unit: TrajectoryUnit) -> float:
    short, long = sorted(_shape(unit.entry))
    whole = sum(2 + 2 * (s.moments is not None) + (s.gradient is not None) for s in unit.steps)
    return 1.0 + 2.0 * long * short**2 * whole + 64.0 * (short + long) * 16 * len(unit.records)

"""Training runs: which matrices to follow along which steps, and what lies beside them."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from analyzer.analyses.thinning import evenly
from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.discover import Collection
from analyzer.checkpoints.folder import RECORDS_FOLDER
from analyzer.checkpoints.matching import match_names
from analyzer.checkpoints.names import is_block_linear
from analyzer.checkpoints.optimizer_state import ParameterState, open_optimizer
from analyzer.checkpoints.saved_gradients import saved_gradients
from analyzer.checkpoints.stored import StoredTensor
from analyzer.errors import WorkbenchError
from analyzer.recorder.records import RecordFile, list_records, open_record
from analyzer.scanning.drafts import Entry, Problem
from analyzer.scanning.jobs import is_judged
from analyzer.scanning.options import Options

MOST_RECORDS = 400  # of a run; of more, as many at even distances


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

    @property
    def matrix_ids(self) -> tuple[int, ...]:
        """Every matrix that rows of this unit may belong to."""
        return tuple(sorted({self.entry.matrix_id, *(s.entry.matrix_id for s in self.steps)}))


@dataclass(frozen=True, slots=True)
class TrajectoryJob:
    """A unit as a job of its own; `cost` in flops, roughly."""

    units: tuple[TrajectoryUnit, ...]
    cost: float


@dataclass(frozen=True, slots=True)
class Run:
    """A training run: its checkpoints, steps ascending, and the folder of its records."""

    name: str
    checkpoints: tuple[Checkpoint, ...]
    records: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class TrajectoryPlan:
    """What is left to do, how much is stored, and what could not be read."""

    jobs: tuple[TrajectoryJob, ...]
    n_stored: int
    runs: tuple[str, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class _Beside:
    """What lies beside the weights of one checkpoint: tensor name → state, gradient."""

    moments: dict[str, ParameterState]
    gradients: dict[str, StoredTensor]
    files: tuple[Path, ...]


def plan_trajectories(
    collection: Collection,
    entries: Sequence[Entry],
    options: Options,
    done: set[tuple[int, str, str]],
) -> TrajectoryPlan:
    """Units of every run with something to follow; reads headers and pickles, no tensors."""
    of_checkpoint: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        of_checkpoint[entry.checkpoint.name].append(entry)
    in_blocks = any(is_block_linear(entry.row.role) for entry in entries)
    base = of_checkpoint.get(collection.base.name, []) if collection.base else []
    jobs: list[TrajectoryJob] = []
    problems: list[Problem] = []
    names: list[str] = []
    stored = 0
    for run in _runs(collection, problems):
        beside = {c.name: _beside(c, problems) for c in run.checkpoints}
        if len(run.checkpoints) < 2 and not run.records and not _any(beside):
            continue
        names.append(run.name)
        records = _records(run, problems)
        if not _distinct_steps(run, problems):
            continue
        units = _units(run, of_checkpoint, beside, records, base, options, in_blocks, problems)
        for unit in units:
            if (unit.entry.matrix_id, "emergence", unit.params["emergence"]) in done:
                stored += 1
            else:
                jobs.append(TrajectoryJob((unit,), _cost(unit)))
    jobs.sort(key=lambda job: -job.cost)
    return TrajectoryPlan(tuple(jobs), stored, tuple(names), tuple(problems))


def _runs(collection: Collection, problems: list[Problem]) -> Iterator[Run]:
    """Trajectories, and single checkpoints, each with the records of its folder."""
    taken: dict[Path, str] = {}
    stepped: set[str] = set()
    for name, checkpoints in collection.trajectories.items():
        stepped |= {c.name for c in checkpoints}
        yield Run(name, checkpoints, _listed(checkpoints[-1].path.parent, name, taken, problems))
    for checkpoint in collection.checkpoints:
        if checkpoint.name not in stepped:
            folder = checkpoint.path if checkpoint.path.is_dir() else checkpoint.path.parent
            records = _listed(folder, checkpoint.name, taken, problems)
            yield Run(checkpoint.name, (checkpoint,), records)


def _listed(
    folder: Path, run: str, taken: dict[Path, str], problems: list[Problem]
) -> tuple[Path, ...]:
    """The records in `folder`, which belong to one run only."""
    place = folder / RECORDS_FOLDER
    if not place.is_dir():
        return ()
    if place in taken:
        text = f"{place} lies beside several runs and is counted to {taken[place]}"
        problems.append(Problem(run, "warning", text))
        return ()
    taken[place] = run
    try:
        return tuple(list_records(place))
    except (WorkbenchError, OSError) as error:
        problems.append(Problem(run, "unreadable", f"{run}: {error}"))
        return ()


def _beside(checkpoint: Checkpoint, problems: list[Problem]) -> _Beside:
    """Optimizer state and gradients; what cannot be read is a problem and is left out."""
    moments: dict[str, ParameterState] = {}
    gradients: dict[str, StoredTensor] = {}
    files: list[Path] = []
    try:
        # The moments of an adapter are those of its factors, not of ΔW.
        state = open_optimizer(checkpoint) if checkpoint.kind != "adapter" else None
        if state is not None:
            moments = {p.name: p for p in state.parameters}
            files.append(state.path)
            problems += [Problem(checkpoint.name, "warning", text) for text in state.warnings]
    except (WorkbenchError, OSError) as error:
        problems.append(Problem(checkpoint.name, "unreadable", f"{checkpoint.name}: {error}"))
    try:
        gradients = saved_gradients(checkpoint)
        files += sorted({stored.path for stored in gradients.values()})
    except (WorkbenchError, OSError) as error:
        problems.append(Problem(checkpoint.name, "unreadable", f"{checkpoint.name}: {error}"))
    return _Beside(moments, gradients, tuple(files))


def _any(beside: dict[str, _Beside]) -> bool:
    return any(one.moments or one.gradients for one in beside.values())


def _records(run: Run, problems: list[Problem]) -> list[RecordFile]:
    found: list[RecordFile] = []
    if len(run.records) > MOST_RECORDS:
        text = f"{len(run.records)} recorded steps; {MOST_RECORDS} at even distances are used"
        problems.append(Problem(run.name, "warning", text))
    for path in evenly(run.records, MOST_RECORDS):
        try:
            found.append(open_record(path))
        except (WorkbenchError, OSError) as error:
            problems.append(Problem(run.name, "unreadable", f"{run.name}: {error}"))
    return found


def _distinct_steps(run: Run, problems: list[Problem]) -> bool:
    steps: dict[int | None, str] = {}
    for checkpoint in run.checkpoints:
        if checkpoint.step in steps and len(run.checkpoints) > 1:
            text = (
                f"{run.name}: {steps[checkpoint.step]} and {checkpoint.name} are both step "
                f"{checkpoint.step}; leave one out with --exclude"
            )
            problems.append(Problem(run.name, "duplicate_step", text))
            return False
        steps[checkpoint.step] = checkpoint.name
    return True


def _units(
    run: Run,
    of_checkpoint: dict[str, list[Entry]],
    beside: dict[str, _Beside],
    records: Sequence[RecordFile],
    base: Sequence[Entry],
    options: Options,
    in_blocks: bool,
    problems: list[Problem],
) -> Iterator[TrajectoryUnit]:
    """One unit a matrix that is in blocks or was recorded, aligned over steps by name."""
    by_name: dict[str, dict[int, Entry]] = defaultdict(dict)
    numbers = {c.name: _number(c, beside[c.name]) for c in run.checkpoints}
    for checkpoint in run.checkpoints:
        for entry in of_checkpoint.get(checkpoint.name, []):
            if entry.row.status in ("ok", "zero_delta"):
                by_name[entry.row.name][numbers[checkpoint.name]] = entry
    recorded = _recorded_names(run, by_name, records, problems)
    starts = {entry.row.name: entry for entry in base}
    side_files = _fingerprint([path for one in beside.values() for path in one.files])
    record_files = _fingerprint(list(run.records))
    for name, at in by_name.items():
        last = at[max(at)]
        theirs = recorded.get(name, ())
        if not (theirs or is_judged(last, in_blocks)):
            continue
        kept = {n: e for n, e in sorted(at.items()) if _shape(e) == _shape(last)}
        start = starts.get(last.base.name) if last.base is not None else None
        steps = tuple(_step(n, e, beside[e.checkpoint.name]) for n, e in kept.items())
        content = [e.row.content_sha256 for e in (*kept.values(), *([start] if start else []))]
        params = {
            **options.chosen("emergence"),
            "run": run.name,
            "steps": list(kept),
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
            flags=tuple(_flags(at, kept, numbers)),
            params={"emergence": json.dumps(params, sort_keys=True)},
        )


def _number(checkpoint: Checkpoint, beside: _Beside) -> int:
    """The step of a checkpoint, which an optimizer may know where no name tells."""
    if checkpoint.step is not None:
        return checkpoint.step
    return max((p.step for p in beside.moments.values() if p.step is not None), default=0)


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


def _step(number: int, entry: Entry, beside: _Beside) -> Step:
    tensor = entry.matrix.tensor if entry.matrix is not None else None
    moments = beside.moments.get(tensor) if tensor is not None else None
    gradient = beside.gradients.get(tensor) if tensor is not None else None
    return Step(number, entry, moments, gradient)


def _flags(at: dict[int, Entry], kept: dict[int, Entry], numbers: dict[str, int]) -> Iterator[str]:
    if reshaped := sorted(set(at) - set(kept)):
        yield f"another shape at steps {', '.join(map(str, reshaped))}"
    if missing := sorted(set(numbers.values()) - set(at)):
        yield f"not in the checkpoints of steps {', '.join(map(str, missing))}"


def _shape(entry: Entry) -> tuple[int, int]:
    return entry.row.rows, entry.row.cols


def _cost(unit: TrajectoryUnit) -> float:
    short, long = sorted(_shape(unit.entry))
    whole = sum(2 + 2 * (s.moments is not None) + (s.gradient is not None) for s in unit.steps)
    return 1.0 + 2.0 * long * short**2 * whole + 64.0 * (short + long) * 16 * len(unit.records)


def _fingerprint(paths: Sequence[Path]) -> str:
    """SHA-256 over name, size and modification time of side files."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        try:
            status = path.stat()
        except OSError:
            continue  # named when it is read
        digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()

"""Training runs as they lie on disk: checkpoints, what is beside their weights, and records."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from analyzer.analyses.thinning import evenly
from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.discover import Collection
from analyzer.checkpoints.folder import RECORDS_FOLDER
from analyzer.checkpoints.optimizer_state import ParameterState, open_optimizer
from analyzer.checkpoints.saved_gradients import saved_gradients
from analyzer.checkpoints.stored import StoredTensor
from analyzer.errors import UnsupportedFormat, WorkbenchError
from analyzer.recorder.records import RecordFile, list_records, open_record, step_of_record
from analyzer.scanning.drafts import Problem

MOST_RECORDS = 400  # of a run; of more, as many at even distances


@dataclass(frozen=True, slots=True)
class Run:
    """A training run: its checkpoints, steps ascending, and the folder of its records."""

    name: str
    checkpoints: tuple[Checkpoint, ...]
    records: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Beside:
    """What lies beside the weights of one checkpoint: tensor name → state, gradient."""

    moments: dict[str, ParameterState]
    gradients: dict[str, StoredTensor]
    files: tuple[Path, ...]


def find_runs(collection: Collection, problems: list[Problem]) -> Iterator[Run]:
    """Trajectories, and single checkpoints, each with the records of its folder."""
    taken: dict[Path, str] = {}
    stepped: set[str] = set()
    for name, checkpoints in collection.trajectories.items():
        stepped |= {c.name for c in checkpoints}
        yield Run(name, checkpoints, _listed(checkpoints[-1].path.parent, name, taken, problems))
    for checkpoint in collection.checkpoints:
        if checkpoint.name not in stepped:
            own = checkpoint.path.is_dir()
            folder = checkpoint.path if own else checkpoint.path.parent
            # The last weights of a run may lie in its own folder, beside its steps.
            ended = own and folder / RECORDS_FOLDER in taken
            records = () if ended else _listed(folder, checkpoint.name, taken, problems)
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


def find_beside(checkpoint: Checkpoint, problems: list[Problem]) -> Beside:
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
        problems.append(_left_out(checkpoint, error))
    try:
        gradients = saved_gradients(checkpoint)
        files += sorted({stored.path for stored in gradients.values()})
    except (WorkbenchError, OSError) as error:
        problems.append(_left_out(checkpoint, error))
    return Beside(moments, gradients, tuple(files))


def _left_out(checkpoint: Checkpoint, error: Exception) -> Problem:
    """A warning where nothing is wrong with the file: the state of another optimizer than Adam."""
    if isinstance(error, UnsupportedFormat):
        return Problem(checkpoint.name, "warning", str(error))
    return Problem(checkpoint.name, "unreadable", f"{checkpoint.name}: {error}")


def any_beside(beside: dict[str, Beside]) -> bool:
    return any(one.moments or one.gradients for one in beside.values())


def read_records(run: Run, problems: list[Problem]) -> list[RecordFile]:
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


def has_distinct_steps(run: Run, problems: list[Problem]) -> bool:
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


def step_number(checkpoint: Checkpoint, beside: Beside, records: Sequence[Path]) -> int:
    """The step of a checkpoint, which an optimizer may know where no name tells.

    Without one the weights are at least those after the last recorded step.
    """
    if checkpoint.step is not None:
        return checkpoint.step
    last = step_of_record(records[-1]) + 1 if records else 0
    return max((p.step for p in beside.moments.values() if p.step is not None), default=last)


def fingerprint(paths: Sequence[Path]) -> str:
    """SHA-256 over name, size and modification time of side files."""
    digest = hashlib.sha256()
    for path in sorted(paths):
        try:
            status = path.stat()
        except OSError:
            continue  # named when it is read
        digest.update(f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode())
    return digest.hexdigest()

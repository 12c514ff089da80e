"""Which units of work a scan has left, grouped so that every base matrix is decomposed once."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from analyzer.checkpoints.names import is_block_linear
from analyzer.scanning.drafts import Entry
from analyzer.scanning.options import Options

# No linear map between features, hence nothing an update's singular vectors could intrude on.
_NEVER_JUDGED = frozenset({"embed", "unembed", "norm", "router"})
# In a mark of intruders: the steps before that its rows rest on.
PREVIOUS, UNREAD = "previous", "unread"


@dataclass(frozen=True, slots=True)
class Unit:
    """One matrix and the analyses still to be run on it, with what their rows depend on.

    `earlier` are the same matrix at the steps before of its run, the nearest first.
    """

    entry: Entry
    params: dict[str, str]  # analysis → parameters
    earlier: tuple[Entry, ...] = ()

    @property
    def matrix_ids(self) -> tuple[int, ...]:
        """The matrices that rows of this unit may belong to."""
        return (self.entry.matrix_id,)


@dataclass(frozen=True, slots=True)
class Job:
    """A base matrix (or a matrix without a base) and the units scored against it."""

    base: Entry | None
    units: tuple[Unit, ...]
    cost: float  # in flops, roughly


@dataclass(frozen=True, slots=True)
class Plan:
    """Jobs, longest first, and the number of units that are stored already."""

    jobs: tuple[Job, ...]
    n_stored: int


def make_plan(
    entries: Sequence[Entry],
    analyses: Sequence[str],
    options: Options,
    done: set[tuple[int, str, str]],
) -> Plan:
    """What is left to do for `entries`; `done` holds (matrix_id, analysis, params)."""
    bases = {e.row.name: e for e in entries if e.checkpoint.kind == "base"}
    in_blocks = any(is_block_linear(e.row.role) for e in entries)
    groups: dict[int, list[Unit]] = defaultdict(list)
    anchors: dict[int, Entry] = {}
    earlier = _earlier_steps(entries) if "intruders" in analyses else {}
    marks = {(number, name): params for number, name, params in done}
    stored = 0
    for entry in entries:
        if entry.row.status != "ok":
            continue
        base = bases.get(entry.base.name) if entry.base is not None else None
        sha = base.row.content_sha256 if base is not None else None
        wanted = {
            name: options.params(name, sha)
            for name in analyses
            if name == "tails"
            or (name == "intruders" and base is not None and is_judged(entry, in_blocks))
        }
        before = earlier.get(entry.matrix_id, ())
        left = {
            name: params
            for name, params in wanted.items()
            if not _is_stored(marks.get((entry.matrix_id, name)), params, before)
        }
        stored += len(wanted) - len(left)
        if left:
            anchor = base or entry
            anchors[anchor.matrix_id] = anchor
            groups[anchor.matrix_id].append(Unit(entry, left, before))
    jobs = [_job(anchors[number], units) for number, units in groups.items()]
    return Plan(tuple(sorted(jobs, key=lambda job: -job.cost)), stored)


def resting_on(unit: Unit, seen: int | None) -> Unit:
    """The unit whose mark says which of its `earlier` steps its rows rest on: the first `seen`.

    More than there are: on there being none before. None: a step could not be read, and the next
    scan is to try again.
    """
    rests = UNREAD if seen is None else _before(unit.earlier, seen)
    params = json.loads(unit.params["intruders"]) | {PREVIOUS: rests}
    return replace(unit, params=unit.params | {"intruders": json.dumps(params, sort_keys=True)})


def _is_stored(mark: str | None, params: str, earlier: Sequence[Entry]) -> bool:
    """Whether a mark stands for these parameters, and for rows that rest on these steps if any."""
    if mark is None or mark == params:
        return mark is not None
    held = json.loads(mark)
    rests = held.pop(PREVIOUS, UNREAD)
    return rests != UNREAD and rests == _before(earlier, len(rests)) and held == json.loads(params)


def _before(earlier: Sequence[Entry], seen: int) -> list[list[int | str | None] | None]:
    """What tells the first `seen` of these steps from others; None stands for the run's start."""
    steps: list[list[int | str | None] | None] = [
        [entry.matrix_id, entry.row.content_sha256] for entry in earlier[:seen]
    ]
    return [*steps, None] if seen > len(earlier) else steps


def _earlier_steps(entries: Sequence[Entry]) -> dict[int, tuple[Entry, ...]]:
    """The same matrix at smaller steps of its run, the nearest first, by matrix."""
    followed: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        run, base = entry.checkpoint.run, entry.base
        if entry.row.status == "ok" and run is not None and base is not None:
            followed[run, base.name].append(entry)
    earlier: dict[int, tuple[Entry, ...]] = {}
    for steps in followed.values():
        steps.sort(key=_step, reverse=True)
        passed = 0
        for _, same in groupby(list(steps), key=_step):
            members = list(same)
            passed += len(members)
            earlier |= {entry.matrix_id: tuple(steps[passed:]) for entry in members}
    return earlier


def _step(entry: Entry) -> int:
    return entry.checkpoint.step or 0


def _job(anchor: Entry, units: list[Unit]) -> Job:
    is_base = anchor.checkpoint.kind == "base"
    short, long = sorted((anchor.row.rows, anchor.row.cols))
    return Job(anchor if is_base else None, tuple(units), 1.0 + long * short**2 * len(units))


def is_judged(entry: Entry, in_blocks: bool) -> bool:
    """Linear maps inside blocks; all but embeddings and heads where no name tells of blocks."""
    if is_block_linear(entry.row.role):
        return True
    if entry.row.role in _NEVER_JUDGED:
        return False
    return entry.row.layer is not None or not in_blocks

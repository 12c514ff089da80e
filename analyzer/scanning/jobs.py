"""Which units of work a scan has left, grouped so that every base matrix is decomposed once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from analyzer.checkpoints.names import is_block_linear
from analyzer.scanning.drafts import Entry
from analyzer.scanning.options import Options

# No linear map between features, hence nothing an update's singular vectors could intrude on.
_NEVER_JUDGED = frozenset({"embed", "unembed", "norm", "router"})


@dataclass(frozen=True, slots=True)
class Unit:
    """One matrix and the analyses still to be run on it, with what their rows depend on."""

    entry: Entry
    params: dict[str, str]  # analysis → parameters

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
        left = {n: p for n, p in wanted.items() if (entry.matrix_id, n, p) not in done}
        stored += len(wanted) - len(left)
        if left:
            anchor = base or entry
            anchors[anchor.matrix_id] = anchor
            groups[anchor.matrix_id].append(Unit(entry, left))
    jobs = [_job(anchors[number], units) for number, units in groups.items()]
    return Plan(tuple(sorted(jobs, key=lambda job: -job.cost)), stored)


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

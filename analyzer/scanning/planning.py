"""What a scan has left to do, analysis by analysis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from analyzer.checkpoints.discover import Collection
from analyzer.scanning.drafts import Entry, Problem
from analyzer.scanning.jobs import make_plan
from analyzer.scanning.limits.units import plan_limits
from analyzer.scanning.options import Options
from analyzer.scanning.pool import AnyJob
from analyzer.scanning.trajectories.units import plan_trajectories


@dataclass(frozen=True, slots=True)
class ScanPlan:
    """Jobs, units stored already, what could not be read, and analyses without input."""

    jobs: tuple[AnyJob, ...]
    n_stored: int
    problems: list[Problem]
    not_run: dict[str, str]  # analysis → why it could not run on this collection


def plan_scan(
    collection: Collection,
    entries: Sequence[Entry],
    chosen: Sequence[str],
    options: Options,
    stored: set[tuple[int, str, str]],
    identities: Mapping[int, str],
    activations: Path | None,
    *,
    force: bool,
) -> ScanPlan:
    """Everything but what rests on results of this very scan; reads headers, no tensors.

    `stored` holds (matrix_id, analysis, params) of what the store has, `identities` the hash of
    each checkpoint by its number.
    """
    done = set() if force else stored
    # a fit rests on spectra, which come with tails
    needed = (*chosen, "tails") if "tucker" in chosen and "tails" not in chosen else chosen
    plan = make_plan(entries, needed, options, done)
    jobs: tuple[AnyJob, ...] = plan.jobs
    n_stored = plan.n_stored
    problems: list[Problem] = []
    reasons: dict[str, str] = {}
    if "intruders" in chosen and not collection.pairs():
        reasons["intruders"] = (
            "no base model to compare with; give --base"
            if collection.base is None
            else "nothing was tuned from the base"
        )
    if "emergence" in chosen:
        followed = plan_trajectories(collection, entries, options, done, stored)
        jobs += followed.jobs
        n_stored += followed.n_stored
        problems += followed.problems
        if not followed.runs:
            reasons["emergence"] = (
                "no training run: it needs checkpoint-N folders, optimizer.pt, saved gradients"
                " or analyzer-records"
            )
    if "limits" in chosen:
        heads = plan_limits(collection, entries, identities, options, done, activations)
        jobs += heads.jobs
        n_stored += heads.n_stored
        problems += heads.problems
        if heads.reason is not None:
            reasons["limits"] = heads.reason
    return ScanPlan(jobs, n_stored, problems, reasons)

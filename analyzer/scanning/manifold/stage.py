"""The data-free part of weight manifolds as one stage of a scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from analyzer.checkpoints.discover import Collection
from analyzer.errors import WorkbenchError
from analyzer.scanning.drafts import Entry, Problem
from analyzer.scanning.manifold.fits import stored_fits, write_fits
from analyzer.scanning.manifold.geometry import (
    FEWEST,
    geometry_inputs,
    has_geometry,
    write_geometry,
)
from analyzer.scanning.manifold.groups import (
    Mapped,
    Report,
    map_groups,
    order_groups,
    stored_groups,
    whole_checkpoints,
)
from analyzer.store.connection import reader


@dataclass(frozen=True, slots=True)
class ManifoldPlan:
    """Groups to order, checkpoints to fit, checkpoints to compare; `problems` met on the way.

    `reason` says why there is nothing to do at all.
    """

    mapped: tuple[Mapped, ...]
    left_groups: int
    left_fits: tuple[Mapped, ...]
    numbers: dict[str, int]  # checkpoint_id by name, of all that are compared
    inputs: str | None  # hash of what is compared; None where that is stored or too few
    n_stored: int
    problems: tuple[Problem, ...]
    reason: str | None

    @property
    def n_left(self) -> int:
        return self.left_groups + len(self.left_fits) + (self.inputs is not None)


def plan_manifold(
    db: Path,
    collection: Collection,
    entries: Sequence[Entry],
    identities: dict[int, str],
    seed: int,
    *,
    force: bool,
) -> ManifoldPlan:
    """What of groups, fits and geometry the store does not have; reads headers only."""
    problems: list[Problem] = []
    mapped = map_groups(whole_checkpoints(collection, entries, identities), problems)
    every = [(one, group) for one in mapped for group in one.groups]
    with reader(db) as connection:
        done = set() if force else stored_groups(connection, mapped, seed)
    left = [p for p in every if (p[0].whole.checkpoint_id, p[1].name) not in done]
    fitted = set() if force else stored_fits(db)
    to_fit = [
        one
        for one in mapped
        if one.groups and (one.whole.checkpoint_id, one.whole.identity) not in fitted
    ]
    # New orders make old fits stale.
    moved = {one.whole.checkpoint_id for one, _ in left}
    to_fit += [o for o in mapped if o.whole.checkpoint_id in moved and o not in to_fit]
    numbers = {entry.checkpoint.name: entry.row.checkpoint_id for entry in entries}
    inputs, compared = None, 0
    if len(numbers) >= FEWEST:
        wanted = geometry_inputs([identities[number] for number in numbers.values()])
        compared = int(not force and has_geometry(db, wanted))
        inputs = None if compared else wanted
    reason = None
    if not every and len(numbers) < FEWEST:
        reason = problems[0].message if problems else "one checkpoint, of no known architecture"
    n_stored = len(every) - len(left) + len(mapped) - len(to_fit) + compared
    return ManifoldPlan(
        tuple(mapped), len(left), tuple(to_fit), numbers, inputs, n_stored, tuple(problems), reason
    )


def run_manifold(
    db: Path, collection: Collection, plan: ManifoldPlan, seed: int, report: Report, *, force: bool
) -> tuple[int, list[Problem]]:
    """Order, fit and compare; the number of results and what failed, the rest going on."""
    computed, problems = order_groups(db, plan.mapped, seed, report, force=force)
    for mapped in plan.left_fits:
        name = mapped.whole.checkpoint.name
        try:
            write_fits(db, mapped, report)
            computed += 1
        except WorkbenchError as error:
            number = mapped.whole.checkpoint_id
            problems.append(Problem(name, error.status, f"{name}: {error}", number))
    if plan.inputs is not None:
        compared = [c for c in collection.checkpoints if c.name in plan.numbers]
        try:
            left_out = write_geometry(
                db, compared, collection.base, plan.numbers, plan.inputs, report
            )
            computed += 1
            for first in left_out[:1]:
                more = f", and {len(left_out) - 1} more" if len(left_out) > 1 else ""
                text = f"not compared: {first}{more}"
                problems.append(Problem("geometry", "warning", text))
        except WorkbenchError as error:
            problems.append(Problem("geometry", error.status, f"geometry: {error}"))
    return computed, problems

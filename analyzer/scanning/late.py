"""What a scan does last: fits of the spectra it stored, and the manifold of whole checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from analyzer.checkpoints.discover import Collection
from analyzer.models.spectral_tensor.settings import Settings
from analyzer.scanning.drafts import Entry, Problem
from analyzer.scanning.pool import Progress
from analyzer.scanning.tucker.stored import FEWEST_DEPTHS, pending_fits

if TYPE_CHECKING:
    from analyzer.scanning.manifold.stage import ManifoldPlan


@dataclass(frozen=True, slots=True)
class LatePlan:
    """`fits` None: not asked for. `fits_left`, `fits_stored`: runs without and with a fit of the
    spectra stored so far."""

    db: Path
    collection: Collection
    fits: Settings | None
    fits_left: int
    fits_stored: int
    manifold: ManifoldPlan | None
    seed: int
    force: bool

    @property
    def is_pending(self) -> bool:
        return bool(self.fits_left or (self.manifold and self.manifold.n_left))

    @property
    def problems(self) -> tuple[Problem, ...]:
        return self.manifold.problems if self.manifold else ()


@dataclass(frozen=True, slots=True)
class LateResults:
    """How many results came of it, what failed, and why an analysis could not run."""

    computed: int
    problems: tuple[Problem, ...]
    not_run: dict[str, str]


def plan_late(
    db: Path,
    collection: Collection,
    entries: Sequence[Entry],
    identities: dict[int, str],
    chosen: Sequence[str],
    seed: int,
    *,
    force: bool,
) -> LatePlan:
    """What is left of the analyses among `chosen` that belong here; reads headers only."""
    fits = Settings(seed=seed) if "tucker" in chosen else None
    left, fitted = pending_fits(db, fits, force=force) if fits else ([], 0)
    manifold = None
    if "manifold" in chosen:
        # Only where asked for: it needs SciPy.
        from analyzer.scanning.manifold.stage import plan_manifold

        manifold = plan_manifold(db, collection, entries, identities, seed, force=force)
    return LatePlan(db, collection, fits, len(left), fitted, manifold, seed, force)


def run_late(plan: LatePlan, report: Callable[[Progress], None]) -> LateResults:
    """Fit, order and compare; each result is stored as soon as it is there."""
    computed, problems, not_run = 0, [], {}
    if plan.fits is not None:
        from analyzer.scanning.tucker.fits import fit_pending

        computed, unfit = fit_pending(plan.db, plan.fits, report, force=plan.force)
        if unfit:
            not_run["tucker"] = "; ".join(unfit)
    if plan.manifold is not None:
        from analyzer.scanning.manifold.stage import run_manifold

        more, problems = run_manifold(
            plan.db, plan.collection, plan.manifold, plan.seed,
            lambda done, what: report(Progress(done, what)), force=plan.force,
        )  # fmt: skip
        computed += more
    return LateResults(computed, tuple(problems), not_run)


def stored_late(plan: LatePlan) -> tuple[int, dict[str, str]]:
    """Results of these analyses that the store had before, and why there can be none."""
    stored, reasons = 0, {}
    if plan.fits is not None:
        stored += plan.fits_stored
        if not pending_fits(plan.db, plan.fits)[1]:
            reasons["tucker"] = f"no weights scanned at {FEWEST_DEPTHS} depths or more"
    if plan.manifold is not None:
        stored += plan.manifold.n_stored
        if plan.manifold.reason:
            reasons["manifold"] = plan.manifold.reason
    return stored, reasons

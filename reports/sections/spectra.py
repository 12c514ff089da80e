"""Singular values of base, tuned and update, and how large the updates are."""

from __future__ import annotations

from collections import Counter

from analyzer.store.reading import Store
from analyzer.views import collection, compare, heat, history, spectra
from reports.document import Column, Paragraph, Picture, Section, Table
from reports.figures import heat as heat_figures
from reports.figures import spectra as figures
from reports.numbers import number, text, whole
from reports.scope import Scope
from reports.sections.parts import pictures, present, spread

MOST_GRIDS = 2  # a page each
MOST_MAPS = 4
MOST_RUNS = 6
_COLUMNS = (
    Column("checkpoint", "checkpoint", text, is_number=False),
    Column("n_matrices", "matrices", whole),
    Column("delta_fro_ratio", "‖ΔW‖/‖W0‖", number),
    Column("delta_effective_rank", "effective rank ΔW", number),
    Column("delta_stable_rank", "stable rank ΔW", number),
    Column("stable_rank", "stable rank W", number),
    Column("critical_multiplier", "critical multiplier", number),
    Column("alpha", "alpha", number),
)


def section(store: Store, scope: Scope) -> Section | None:
    """None where no checkpoint has a base in the store."""
    if scope.base is None or not scope.shown:
        return None
    view = compare.several(store, scope.shown)
    if not present(view.column("delta_fro_ratio")):
        return None
    return Section(
        "spectra",
        "Spectra and updates",
        paragraphs=(
            Paragraph(
                "Singular values are computed in float64; those below the storage floor, the "
                "rounding of the stored format, say nothing about the model. The effective rank is "
                "exp(-Σ p ln p) with p = σ/Σσ, the stable rank ‖W‖²/σ₁² in the Frobenius norm.",
                ("roy2007",),
            ),
        ),
        tables=(Table(view, _COLUMNS, "Medians over the matrices."),),
        pictures=_pictures(store, scope),
        metrics=("delta_fro_ratio", "stable_rank", "effective_rank", "storage_floor"),
    )


def _pictures(store: Store, scope: Scope) -> tuple[Picture, ...]:
    assert scope.base is not None
    found: list[Picture] = []
    for name in scope.focus[:MOST_GRIDS]:
        found += pictures(spectra.grid(store, name, scope.base), figures.grid, name)
    for name in scope.focus[:MOST_MAPS]:
        view = heat.heat(store, name, "intruder.delta_fro_ratio", (("side", "left"),))
        seen = f"Over the matrices: {spread(view.column('value'))}."
        found += pictures(view, heat_figures.heat, name, seen=seen)
    runs = (scope.run,) if scope.run else tuple(runs_of(store, scope))[:MOST_RUNS]
    for metric in ("intruder.delta_fro_ratio", "intruder.delta_effective_rank"):
        view = history.history(store, runs, metric, (("side", "left"),))
        found += pictures(view, heat_figures.history, metric)
    return tuple(found)


def runs_of(store: Store, scope: Scope) -> list[str]:
    """The runs that the scope's checkpoints are steps of, where more than one step is in it."""
    rows = [row for row in collection.checkpoints(store).rows() if row["name"] in scope.tuned]
    steps = Counter(row["run"] for row in rows if row["run"])
    return [run for run, count in steps.items() if count > 1]

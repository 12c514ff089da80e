"""Weight manifolds: how smooth channels can be ordered, and where checkpoints lie."""

from __future__ import annotations

from analyzer.store.reading import Store
from analyzer.views import geometry, manifold, manifold_fits
from reports.document import Column, Equation, Paragraph, Picture, Section, Table
from reports.figures import geometry as geometry_figures
from reports.figures import manifold as figures
from reports.numbers import number, text, whole, yes_no
from reports.scope import Scope
from reports.sections.parts import pictures

MOST_PLACED = 40  # checkpoints in one map of distances
_GROUPS = (
    Column("group", "group", text, is_number=False),
    Column("kind", "kind", text, is_number=False),
    Column("n", "n", whole),
    Column("before", "as stored", number),
    Column("after", "best order", number),
    Column("null_ratio", "chance", number),
    Column("bound", "bound", number),
    Column("smoothness", "smoothness", number),
    Column("exact", "exact", yes_no),
)
_DIMENSIONS = (
    Column("of", "of", text, is_number=False),
    Column("method", "method", text, is_number=False),
    Column("n", "points", whole),
    Column("d", "dimension", number),
    Column("lo", "from", number),
    Column("hi", "to", number),
    Column("status", "status", text, is_number=False),
    Column("warnings", "caution", text, is_number=False),
)
_EQUATION = Equation(
    '"TV"(pi) = sum_i norm(w_(pi(i+1)) - w_(pi(i)))',
    r"\mathrm{TV}(\pi) = \sum_i \|w_{\pi(i+1)} - w_{\pi(i)}\|",
    "Total variation of a group's units w in the order π; reordering units does not change the "
    "network's function.",
)


def section(store: Store, scope: Scope) -> Section | None:
    """None where no channels were ordered and no distances measured."""
    measured = manifold.measured(store)
    subject = next((name for name in scope.names if name in measured), None)
    groups = manifold.groups(store, subject) if subject else None
    dimensions = geometry.dimensions(store)
    tables = [Table(groups, _GROUPS, f"Groups of {subject}. {groups.method}")] if groups else []
    tables += [] if dimensions.is_empty else [Table(dimensions, _DIMENSIONS, dimensions.method)]
    drawn = _pictures(store, subject)
    if not tables and not drawn:
        return None
    said = manifold.groups_in_words(groups) if groups else ""
    fitted = manifold_fits.fits_in_words(manifold_fits.tensors(store, subject)) if subject else ""
    return Section(
        "manifold",
        "Weight manifolds and the geometry of checkpoints",
        findings=tuple(f"{subject}: {sentence}" for sentence in (said, fitted) if sentence),
        paragraphs=(
            Paragraph(
                "Orders of channels that make the weights smooth are a function-preserving choice; "
                "the best order of noise is smooth too, hence the comparison with chance.",
                ("yang2024", "ainsworth2022"),
            ),
        ),
        equations=(_EQUATION,),
        tables=tuple(tables),
        pictures=drawn,
        metrics=(
            "smoothness",
            "null_ratio",
            "manifold_fit.rel_fro",
            "checkpoint_geometry.distance",
        ),
    )


def _pictures(store: Store, subject: str | None) -> tuple[Picture, ...]:
    found: list[Picture] = []
    if subject is not None:
        groups = manifold.groups(store, subject)
        found += pictures(groups, figures.total_variation, subject)
        errors = manifold_fits.fit_errors(store, subject)
        found += pictures(errors, figures.fit_errors, subject)
    placed = geometry.placed(store)[:MOST_PLACED]
    found += pictures(geometry.embedding(store), geometry_figures.embedding)
    found += pictures(geometry.explained(store), geometry_figures.explained)
    if placed:
        distances = geometry.distances(store, placed)
        found += pictures(distances, geometry_figures.distances)
    return tuple(found)

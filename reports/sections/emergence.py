"""Low-rank gradients along training: what one batch shows, what is noise, what is advised."""

from __future__ import annotations

import dataclasses

from analyzer.store.reading import Store
from analyzer.views import emergence, emergence_curves, emergence_maps, emergence_summary
from analyzer.views.emergence_words import run_words
from analyzer.views.view import View
from reports.document import Column, Equation, Paragraph, Picture, Section, Table
from reports.figures import emergence as figures
from reports.figures import emergence_curves as curve_figures
from reports.numbers import number, text, whole, without_weight, yes_no
from reports.scope import Scope
from reports.sections.parts import median, pictures, present, slug

MOST_RUNS = 2  # followed in one report; `--trajectory` follows one
_SOURCES = (
    Column("source", "source", text, is_number=False),
    Column("batch_id", "batch", text, is_number=False),
    Column("n_steps", "steps", whole),
    Column("stable_rank_first", "stable rank first", number),
    Column("stable_rank_max", "max", number),
    Column("stable_rank_end", "end", number),
    Column("energy_r_end", "energy in r", number),
    Column("cos_late", "cosine late", number),
    Column("overlap_late", "overlap late", number),
)
_ADVICE = (
    Column("matrix", "matrix", without_weight, is_number=False),
    Column("advised_rank", "rank", whole),
    Column("advised_gap", "gap", whole),
    Column("worth_projecting", "pays", yes_no),
    Column("signal_fraction", "signal", number),
    Column("energy_in", "energy own", number),
    Column("energy_cv", "energy cv", number),
    Column("overlap_late", "overlap", number),
    Column("overlap_chance", "chance", number),
    Column("motion", "motion", text, is_number=False),
)
_EQUATIONS = (
    Equation(
        'E_r (G) = (sum_(i <= r) sigma_i^2) / norm(G)_F^2, quad "sr"(G) = norm(G)_F^2 / sigma_1^2',
        r"E_r(G) = \frac{\sum_{i\le r}\sigma_i^2}{\|G\|_F^2}, \quad"
        r" \mathrm{sr}(G) = \frac{\|G\|_F^2}{\sigma_1^2}",
        "Energy in the r leading directions of a gradient G, and its stable rank. Energy cv: what "
        "the directions of one batch hold of the expected gradient, from independent batches.",
    ),
)


def section(store: Store, scope: Scope) -> Section | None:
    """None where no run was followed."""
    runs = [run for run in emergence.runs(store) if scope.run in (None, run)][:MOST_RUNS]
    followed = [(run, source) for run in runs for source in emergence.sources(store, run)[:1]]
    if not followed:
        return None
    tables, drawn, words = [], [], []
    for run, source in followed:
        tables += _tables(store, run, source)
        drawn += _pictures(store, run, source)
        words.append(Paragraph(f"Run {run}. {run_words(store, run)}", ("zhao2024",)))
    return Section(
        "emergence",
        "Low-rank gradients along training",
        findings=tuple(f for run, source in followed for f in _findings(store, run, source)),
        paragraphs=(
            Paragraph(
                "A gradient of one batch is signal and sampling noise. A rank read off one batch "
                "is too optimistic; where independent batches were recorded, energies are cross-"
                "validated and subspaces are held against chance.",
                ("zhao2024", "jaiswal2024"),
            ),
            *words,
        ),
        equations=_EQUATIONS,
        tables=tuple(tables),
        pictures=tuple(drawn),
        metrics=("emergence.advised_rank", "emergence.advised_gap", "signal_fraction", "energy_cv",
                 "overlap_chance", "motion"),
    )  # fmt: skip


def _findings(store: Store, run: str, source: str) -> list[str]:
    rows = emergence_summary.advice(store, run, source).rows()
    signal = present([row["signal_fraction"] for row in rows])
    if not signal:
        return []
    inside, valid = (median([row[name] for row in rows]) for name in ("energy_in", "energy_cv"))
    pays = sum(bool(row["worth_projecting"]) for row in rows)
    return [
        f"Run {run}: {median(signal)} of a batch gradient is signal (median over {len(signal)} "
        f"matrices); its leading directions hold {inside} of their own batch and {valid} of the "
        f"expected gradient. Projecting pays for {pays} of {len(rows)} matrices."
    ]


def _tables(store: Store, run: str, source: str) -> list[Table]:
    sources = emergence.source_summary(store, run)
    advice = emergence_summary.advice(store, run, source)
    found = [
        (sources, _SOURCES, f"Run {run}. Medians over the matrices."),
        (advice, _ADVICE, f"Run {run}, source {source}. Empty: not reached or not measured."),
    ]
    return [
        Table(_named(view, run), columns, caption)
        for view, columns, caption in found
        if not view.is_empty
    ]


def _named(view: View, run: str) -> View:
    return dataclasses.replace(view, name=slug(view.name, run))


def _pictures(store: Store, run: str, source: str) -> list[Picture]:
    matrix = next(iter(emergence.matrices(store, run, source)), None)
    found = [
        *pictures(emergence_curves.rank_curves(store, run, source, "stable rank"),
                  curve_figures.rank_curves, run),
        *pictures(emergence_curves.noise_ceiling(store, run), curve_figures.noise_ceiling, run),
        *pictures(emergence_curves.signal_fraction(store, run), curve_figures.signal_fraction, run),
        *pictures(emergence_curves.staleness(store, run), curve_figures.staleness, run),
    ]  # fmt: skip
    if matrix is not None:
        found += pictures(emergence_maps.gradient_spectrum_map(store, run, source, matrix),
                          figures.spectrum_map, run)  # fmt: skip
        found += pictures(emergence_maps.cosine_map(store, run, source, matrix),
                          figures.cosine_map, run)  # fmt: skip
        found += pictures(emergence_maps.overlap_curves(store, run, source, matrix),
                          figures.overlap_curves, run)  # fmt: skip
    best = _correlation(store, run, source)
    if best is not None:
        found += pictures(emergence_summary.correlation_scatter(store, run, source, *best),
                          curve_figures.correlation_scatter, run)  # fmt: skip
    ranks = emergence_summary.ranks(store, run)
    if ranks:
        found += pictures(emergence_summary.memory(store, run, ranks[0]), curve_figures.memory, run)
    return found


def _correlation(store: Store, run: str, source: str) -> tuple[str, str] | None:
    """The pair that is asked of every run alike, so that none is picked for its p-value."""
    asked = ("stable_rank_end", "weight_erank_ratio")
    rows = emergence_summary.correlations(store, run, source).rows()
    there = {(row["x"], row["y"]) for row in rows if row["rho"] is not None}
    return asked if asked in there else None

"""Intruder dimensions: which leading directions of the tuned weights are new."""

from __future__ import annotations

from typing import Any

from analyzer.store.reading import Store
from analyzer.views import intruders, intruders_strength, intruders_vectors
from reports.document import Column, Equation, Number, Paragraph, Picture, Section, Table
from reports.figures import heat as heat_figures
from reports.figures import intruders as figures
from reports.figures import intruders_strength as strength_figures
from reports.figures import intruders_vectors as vector_figures
from reports.numbers import number, percent, text, whole
from reports.scope import Scope
from reports.sections.parts import pictures

_COLUMNS = (
    Column("checkpoint", "checkpoint", text, is_number=False),
    Column("n_intruders", "intruders", whole),
    Column("n_judged", "of vectors", whole),
    Column("n_matrices_with", "matrices with", whole),
    Column("n_matrices", "of matrices", whole),
    Column("n_open", "undecided", whole),
    Column("energy_share", "energy share", percent),
)
_EQUATIONS = (
    Equation(
        "max_(i <= min(m, n)) |chevron.l u_j, u_i^((0)) chevron.r| < epsilon, quad j <= k",
        r"\max_{i \le \min(m,n)} \bigl|\langle u_j, u_i^{(0)}\rangle\bigr| < \epsilon,"
        r" \quad j \le k",
        "Left singular vectors u of the tuned (m × n) matrix by falling singular value, against "
        "all those of the base (0); right vectors likewise.",
    ),
    Equation(
        'sigma_1(Delta W) >= theta^star (epsilon, "spectrum of" W_0)',
        r"\sigma_1(\Delta W) \ge \theta^\star(\epsilon, \text{spectrum of } W_0)",
        "Predicted threshold θ*: the strength at which a component of a generic update shows as an "
        "intruder among the k leading vectors, from the base's own spectrum.",
    ),
)


def section(store: Store, scope: Scope) -> Section | None:
    """None where no checkpoint was compared with a base."""
    scanned = intruders.scanned(store)
    asked = {"epsilon": scanned.epsilon, "k": scanned.k}
    totals = intruders.totals(store, scope.shown, "left", **asked)
    if totals.is_empty:
        return None
    return Section(
        "intruders",
        "Intruder dimensions",
        findings=tuple(_finding(row, asked) for row in totals.rows()),
        paragraphs=(
            Paragraph(
                "An intruder dimension is a leading singular vector of the tuned matrix that "
                "resembles no singular vector of the base. Of two fine-tunes that are equally good "
                "at their task, the one with fewer of them has been reported to forget less.",
                ("shuttleworth2024",),
            ),
            Paragraph(
                "Cosines carry error bounds; a vector whose |cosine| lies nearer to ε than its "
                "bound is counted as undecided, not as an intruder or none.",
                ("benaych2012",),
            ),
        ),
        equations=_EQUATIONS,
        tables=(Table(totals, _COLUMNS, _caption(asked)),),
        pictures=_pictures(store, scope, asked),
        numbers=_numbers(totals.rows()),
        metrics=("intruder.n_intruders", "intruder.epsilon", "intruder.k", "maxcos", "theta_star",
                 "critical_multiplier", "energy_share"),
    )  # fmt: skip


def _caption(asked: dict[str, Any]) -> str:
    return (
        f"Of the k = {asked['k']} leading left singular vectors of every matrix, those with all "
        f"|cosines| below ε = {asked['epsilon']:g}. Energy share: Σσ² of the intruders over Σσ² of "
        "the k, mean over the matrices."
    )


def _finding(row: dict[str, Any], asked: dict[str, Any]) -> str:
    undecided = f", {row['n_open']} undecided" if row["n_open"] else ""
    return (
        f"{row['checkpoint']}: {row['n_intruders']} intruder dimensions in "
        f"{row['n_matrices_with']} of {row['n_matrices']} matrices{undecided} "
        f"(k = {asked['k']}, ε = {asked['epsilon']:g}, left vectors)."
    )


def _numbers(rows: list[dict[str, Any]]) -> tuple[Number, ...]:
    most = max(rows, key=lambda row: row["n_intruders"])
    return (
        Number("nIntruders", str(sum(r["n_intruders"] for r in rows)), "of all checkpoints shown"),
        Number("mostIntruders", str(most["n_intruders"]), f"of {most['checkpoint']}"),
        Number("mostIntrudersShare", number(most["n_matrices_with"] / most["n_matrices"]),
               f"share of the matrices of {most['checkpoint']} that have one"),
    )  # fmt: skip


def _pictures(store: Store, scope: Scope, asked: dict[str, Any]) -> tuple[Picture, ...]:
    names, epsilon, k = scope.shown, asked["epsilon"], asked["k"]
    strongest = _most_intruded(store, scope)
    found = [
        *pictures(intruders.count_against_epsilon(store, names, "left", k),
                  figures.count_against_epsilon),
        *pictures(intruders.count_against_k(store, names, "left", epsilon),
                  figures.count_against_k),
        *pictures(intruders_vectors.maxcos_against_rank(store, names, "left", epsilon),
                  vector_figures.maxcos_against_rank),
        *pictures(intruders_strength.predicted_against_strength(store, names),
                  strength_figures.predicted_against_strength),
        *pictures(intruders_strength.critical_multipliers(store, names),
                  strength_figures.critical_multipliers),
        *pictures(intruders_strength.update_ranks(store, names), strength_figures.update_ranks),
    ]  # fmt: skip
    if strongest is not None:
        matrices = intruders_vectors.most_intruded(store, strongest)
        found += pictures(
            intruders_vectors.cosine_maps(store, matrices, "left", epsilon),
            vector_figures.cosine_maps, strongest,
        )  # fmt: skip
        found += pictures(
            intruders.by_place(store, strongest, "left", epsilon, k), heat_figures.heat, strongest
        )
        run = _run_of(store, strongest)
        if run is not None and matrices:
            found += pictures(
                intruders_vectors.dynamics(store, run, matrices[0][1], "left", epsilon),
                vector_figures.dynamics, run,
            )  # fmt: skip
    return tuple(found)


def _most_intruded(store: Store, scope: Scope) -> str | None:
    rows = intruders.totals(store, scope.shown).rows()
    best = max(rows, key=lambda row: row["n_intruders"], default=None)
    return best["checkpoint"] if best else None


def _run_of(store: Store, checkpoint: str) -> str | None:
    found = store.sql("SELECT run FROM checkpoint WHERE name = ?", [checkpoint])
    return found.column(0).to_pylist()[0] if found.num_rows else None

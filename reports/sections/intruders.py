"""Intruder dimensions: which leading directions of the tuned weights are new."""

from __future__ import annotations

from analyzer.store.reading import Store
from analyzer.views import intruders
from reports.document import Equation, Paragraph, Picture, Section
from reports.figures import intruders as figures
from reports.scope import Scope


def section(store: Store, scope: Scope) -> Section | None:
    """None where no checkpoint was compared with a base."""
    counts = intruders.count_against_epsilon(store, scope.shown)
    if counts.is_empty:
        return None
    return Section(
        "intruders",
        "Intruder dimensions",
        paragraphs=(
            Paragraph(
                "An intruder dimension is a leading singular vector of the tuned matrix that "
                "resembles no singular vector of the base.",
                ("shuttleworth2024",),
            ),
        ),
        equations=(
            Equation(
                "max_i |chevron.l u_j, u^0_i chevron.r| < epsilon, quad j <= k",
                r"\max_i |\langle u_j, u^0_i\rangle| < \epsilon, \quad j \le k",
                "u_j: left singular vectors of the tuned matrix by falling singular value; "
                "u⁰_i: all left singular vectors of the base.",
            ),
        ),
        pictures=(Picture("count_against_epsilon", counts, figures.count_against_epsilon),),
        metrics=("n_intruders", "epsilon", "k", "maxcos"),
    )

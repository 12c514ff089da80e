"""Every matrix of the compared checkpoints in a row each."""

from __future__ import annotations

from analyzer.store.reading import Store
from analyzer.views.every_matrix import every_matrix
from reports.document import Column, Section, Table
from reports.numbers import number, text, whole, without_weight
from reports.scope import Scope

_COLUMNS = (
    Column("checkpoint", "checkpoint", text, is_number=False),
    Column("matrix", "matrix", without_weight, is_number=False),
    Column("alpha", "alpha", number),
    Column("null_q", "noise", number),
    Column("rank_kept", "rank kept", whole),
    Column("delta_fro_ratio", "‖ΔW‖/‖W0‖", number),
    Column("delta_spectral_norm", "σ₁(ΔW)", number),
    Column("theta_star", "θ*", number),
    Column("n_intruders", "intruders", whole),
    Column("critical_multiplier", "×critical", number),
    Column("status", "status", text, is_number=False),
)


def section(store: Store, scope: Scope) -> Section | None:
    """None where the scope has no matrix."""
    names = scope.shown or scope.names
    view = every_matrix(store, names)
    if view.is_empty:
        return None
    caption = (
        "Tail exponent and its share of smaller values among random matrices, rank kept under "
        "WeLore, size and strength of the update beside the predicted threshold, intruder "
        "dimensions, and the smallest multiple of the update that has one."
    )
    return Section("appendix", "Every matrix", tables=(Table(view, _COLUMNS, caption),))

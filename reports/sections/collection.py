"""What was analysed: the checkpoints, with the hashes that identify them."""

from __future__ import annotations

import dataclasses

import pyarrow as pa

from analyzer.store.reading import Store
from analyzer.views import collection
from analyzer.views.view import View
from reports.document import Column, Number, Section, Table
from reports.numbers import number, plural, text, whole
from reports.scope import Scope

_COLUMNS = (
    Column("name", "checkpoint", text, is_number=False),
    Column("kind", "kind", text, is_number=False),
    Column("step", "step", whole),
    Column("n_params", "parameters", whole),
    Column("n_matrices", "matrices", whole),
    Column("n_failed", "failed", whole),
    Column("n_intruders", "intruders", whole),
    Column("delta_fro_ratio", "‖ΔW‖/‖W0‖", number),
    Column("median_alpha", "alpha", number),
    Column("identity_sha256", "SHA-256", lambda value: text(value)[:10], is_number=False),
)


def section(store: Store, scope: Scope) -> Section | None:
    """The table of checkpoints. None for a store without any."""
    every = collection.checkpoints(store)
    view = of_scope(every, scope)
    if view.is_empty:
        return None
    rows = view.rows()
    matrices = sum(row["n_matrices"] for row in rows)
    failed = sum(row["n_failed"] for row in rows)
    finding = (
        f"{plural(len(rows), 'checkpoint')} with {plural(matrices, 'matrix', 'matrices')}; "
        f"{plural(failed, 'matrix', 'matrices')} could not be analysed."
    )
    return Section(
        "collection",
        "Collection",
        findings=(finding,),
        tables=(
            Table(
                view,
                _COLUMNS,
                "Checkpoints. Intruders are summed, ‖ΔW‖/‖W0‖ (Frobenius norms) and alpha are "
                "medians over a checkpoint's matrices. SHA-256: first digits of the hash of the "
                "checkpoint's tensors.",
            ),
        ),
        numbers=(
            Number("nCheckpoints", str(len(rows)), "checkpoints"),
            Number("nMatrices", str(matrices), "matrices of all checkpoints"),
            Number("nFailed", str(failed), "matrices that could not be analysed"),
        ),
        metrics=("delta_fro_ratio", "alpha"),
    )


def of_scope(view: View, scope: Scope, column: str = "name", *, strangers: bool = False) -> View:
    """The rows of a view that belong to the scope's checkpoints; with `strangers` those of none."""
    names = {*scope.names, None} if strangers else set(scope.names)
    mask = pa.array([name in names for name in view.column(column)], pa.bool_())
    return dataclasses.replace(view, table=view.table.filter(mask))

"""Cosine fits of every matrix along its checkpoint's orders."""

from __future__ import annotations

from pathlib import Path

from analyzer.checkpoints.names import describe
from analyzer.models.manifold.fit import fit_manifold
from analyzer.models.manifold.tables import ManifoldFitRow
from analyzer.scanning.manifold.groups import Mapped, Report
from analyzer.store.connection import reader, writer
from analyzer.store.writing import insert

BASIS = "dct"


def stored_fits(db: Path) -> set[tuple[int, str]]:
    """(checkpoint_id, identity) of checkpoints that were fitted."""
    with reader(db) as connection:
        found = connection.execute(
            "SELECT DISTINCT checkpoint_id, inputs_sha256 FROM manifold_fit"
        ).fetchall()
    return set(found)


def write_fits(db: Path, mapped: Mapped, report: Report) -> None:
    """Fit one checkpoint along the stored orders of its groups. Raises WorkbenchError."""
    whole = mapped.whole
    with reader(db) as connection:
        found = connection.execute(
            'SELECT "group", list(idx ORDER BY pos) FROM manifold_order WHERE checkpoint_id = ?'
            " GROUP BY ALL",
            [whole.checkpoint_id],
        ).fetchall()
    orders = dict(found)
    rows = []
    for fit in fit_manifold(whole.checkpoint, mapped.groups, orders, basis=BASIS):
        report(0.0, f"{whole.checkpoint.name}: fitting {fit.tensor}")
        place = describe(fit.tensor)
        rows.append(
            ManifoldFitRow(
                checkpoint_id=whole.checkpoint_id,
                tensor=fit.tensor,
                layer=place.layer,
                role=place.role,
                basis=fit.basis,
                permuted=fit.permuted,
                n_params=fit.weights,
                stored=fit.stored,
                rel_fro=fit.rel_fro,
                unpermuted_rel_fro=fit.unpermuted_rel_fro,
                sv_rel=fit.sv_rel,
                s1_rel=fit.s1_rel,
                svd_rank=fit.svd_rank,
                svd_rel_fro=fit.svd_rel_fro,
                precision="float64",
                inputs_sha256=whole.identity,
            )
        )
    with writer(db) as connection:
        connection.execute(
            "DELETE FROM manifold_fit WHERE checkpoint_id = ?", [whole.checkpoint_id]
        )
        insert(connection, rows)

"""Sampled checkpoints in the store of the checkpoint they come from."""

from __future__ import annotations

from pathlib import Path

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.errors import UsageError
from analyzer.models.manifold.sample import SampledCheckpoint
from analyzer.models.manifold.tables import MANIFOLD_TABLES, ManifoldSampleRow
from analyzer.scanning.drafts import place
from analyzer.store.connection import create, reader, writer
from analyzer.store.writing import insert


def number_of(db: Path, checkpoint: Checkpoint) -> int:
    """The checkpoint's number in a store. Raises UsageError where it was not scanned."""
    with reader(db) as connection:
        found = connection.execute(
            "SELECT checkpoint_id FROM checkpoint WHERE path = ?", [place(checkpoint)]
        ).fetchone()
    if found is None:
        raise UsageError(f"{checkpoint.name} is not in the store", path=db, hint="scan it first")
    return found[0]


def write_sample(db: Path, checkpoint_id: int, made: SampledCheckpoint) -> None:
    """One row a resized group; those of an earlier sample at the same place go."""
    create(db, MANIFOLD_TABLES)
    path = str(made.path.absolute())
    rows = [
        ManifoldSampleRow(
            checkpoint_id=checkpoint_id,
            path=path,
            group=one.group,
            operator=one.operator,
            n=one.n,
            m=one.m,
            certificate=one.certificate,
            certified=one.certified,
            gamma_width=one.gamma_width,
            gamma_params=made.gamma_params,
            smoothness=one.smoothness,
            source_sha256=made.source_sha256,
            order_sha256=made.order_sha256,
        )
        for one in made.groups
    ]
    with writer(db) as connection:
        connection.execute("DELETE FROM manifold_sample WHERE path = ?", [path])
        insert(connection, rows)

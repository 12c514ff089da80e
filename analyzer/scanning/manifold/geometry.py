"""Distances, components and intrinsic dimension of all checkpoints of a collection."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.models.manifold.geometry import CheckpointGeometry, checkpoint_geometry
from analyzer.models.manifold.tables import (
    CheckpointEmbeddingRow,
    CheckpointGeometryRow,
    IntrinsicDimensionRow,
)
from analyzer.scanning.manifold.groups import Report
from analyzer.store.columns import Row
from analyzer.store.connection import reader, writer
from analyzer.store.writing import insert

FEWEST = 2
TABLES = (CheckpointGeometryRow, CheckpointEmbeddingRow, IntrinsicDimensionRow)


def geometry_inputs(identities: Sequence[str]) -> str:
    """Hash over the identities of all checkpoints compared."""
    return hashlib.sha256("".join(sorted(identities)).encode()).hexdigest()


def has_geometry(db: Path, inputs: str) -> bool:
    with reader(db) as connection:
        found = connection.execute(
            "SELECT 1 FROM checkpoint_geometry WHERE inputs_sha256 = ? LIMIT 1", [inputs]
        ).fetchall()
    return bool(found)


def write_geometry(
    db: Path,
    checkpoints: Sequence[Checkpoint],
    base: Checkpoint | None,
    numbers: dict[str, int],
    inputs: str,
    report: Report,
) -> tuple[str, ...]:
    """Compare all checkpoints; the rows of an earlier comparison go. What was left out, in words.

    Raises WorkbenchError.
    """
    found = checkpoint_geometry(
        checkpoints,
        base=base,
        progress=lambda done, total: report(done / total, "comparing checkpoints"),
    )
    with writer(db) as connection:
        for table in TABLES:
            connection.execute(f'DELETE FROM "{table.TABLE}"')
        insert(connection, list(geometry_rows(found, numbers, inputs)))
    return tuple(map(str, found.left_out))


def geometry_rows(found: CheckpointGeometry, numbers: dict[str, int], inputs: str) -> Iterator[Row]:
    """Rows of a comparison; `numbers` is the checkpoint_id by name."""
    names = found.names
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            about = found.cosines_from_base
            yield CheckpointGeometryRow(
                a=numbers[names[i]],
                b=numbers[names[j]],
                distance=float(found.distances[i, j]),
                cosine=float(found.cosines[i, j]),
                cosine_from_mean=float(found.cosines_from_mean[i, j]),
                cosine_from_base=None if about is None else float(about[i, j]),
                relative=float(found.relative[i, j]),
                n_params=found.n_params,
                precision="float64",
                inputs_sha256=inputs,
            )
    embedding = found.embedding
    for component, explained in enumerate(embedding.explained.tolist()):
        for place, name in enumerate(names):
            yield CheckpointEmbeddingRow(
                checkpoint_id=numbers[name],
                component=component + 1,
                score=float(embedding.scores[place, component]),
                explained=explained,
                random_walk=float(found.random_walk[component]),
                inputs_sha256=inputs,
            )
    yield from _dimensions(found, inputs)


def _dimensions(found: CheckpointGeometry, inputs: str) -> Iterator[IntrinsicDimensionRow]:
    two, mle = found.dimension.two_nn, found.dimension.mle
    estimates = (
        ("two_nn", None, two.n, two.ml, two.low, two.high, two.refused, two.warnings),
        ("two_nn_fit", None, two.n, two.linear_fit, None, None, two.refused, two.warnings),
        ("mle_mean", mle.k, mle.n, mle.mean, None, None, mle.refused, mle.warnings),
        ("mle_harmonic", mle.k, mle.n, mle.harmonic, None, None, mle.refused, mle.warnings),
    )
    for method, k, n, d, low, high, refused, warnings in estimates:
        yield IntrinsicDimensionRow(
            of="collection", method=method, k=k, n=n, d=d, lo=low, hi=high,
            status=refused or "ok", warnings="; ".join(warnings) or None, inputs_sha256=inputs,
        )  # fmt: skip

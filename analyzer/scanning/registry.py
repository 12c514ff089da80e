"""Checkpoints and matrices of a collection get their numbers in the store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import duckdb

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.scanning.drafts import Draft, Entry, place
from analyzer.store.schema import CheckpointRow
from analyzer.store.writing import insert


def register(
    connection: duckdb.DuckDBPyConnection, drafts: Sequence[Draft], base: Checkpoint | None
) -> tuple[Entry, ...]:
    """Number every checkpoint and matrix; a changed checkpoint loses its old rows.

    Reads only, if the store knows all of them.
    """
    entries: list[Entry] = []
    base_id: int | None = None
    for draft in drafts:
        path = place(draft.checkpoint)
        if draft.moved_from is not None:
            _move(connection, draft)
        found = connection.execute(
            "SELECT checkpoint_id, base_checkpoint_id FROM checkpoint"
            " WHERE path = ? AND fingerprint = ? AND kind = ?",
            [path, draft.fingerprint, draft.checkpoint.kind],
        ).fetchall()
        if not found:
            checkpoint_id = _insert(connection, draft, base_id)
        else:
            ((checkpoint_id, old_base_id),) = found
            if old_base_id != base_id:
                connection.execute(
                    "UPDATE checkpoint SET base_checkpoint_id = ? WHERE checkpoint_id = ?",
                    [base_id, checkpoint_id],
                )
        if draft.checkpoint is base:
            base_id = checkpoint_id
        entries += _numbered(connection, checkpoint_id, draft)
    return tuple(entries)


def _insert(connection: duckdb.DuckDBPyConnection, draft: Draft, base_id: int | None) -> int:
    """Write a checkpoint and its matrices; what was stored for the same path goes."""
    checkpoint = draft.checkpoint
    hashes = draft.hashes or {}
    _forget(connection, place(checkpoint))
    checkpoint_id = _next(connection, "checkpoint", "checkpoint_id")
    first = _next(connection, "matrix", "matrix_id")
    identity = hashlib.sha256("".join(f"{n}:{hashes[n]}\n" for n in sorted(hashes)).encode())
    row = CheckpointRow(
        checkpoint_id, checkpoint.name, place(checkpoint), checkpoint.kind, checkpoint.format,
        checkpoint.run, checkpoint.step, None if checkpoint.kind == "base" else base_id,
        checkpoint.n_params, identity.hexdigest(), draft.fingerprint,
    )  # fmt: skip
    matrices = [
        replace(
            entry.row,
            matrix_id=first + offset,
            checkpoint_id=checkpoint_id,
            content_sha256=_content(entry, hashes),
        )
        for offset, entry in enumerate(draft.entries)
    ]
    insert(connection, [row, *matrices])
    return checkpoint_id


def _move(connection: duckdb.DuckDBPyConnection, draft: Draft) -> None:
    """The same files at another place: their rows stay, whatever was stored for the place goes."""
    checkpoint = draft.checkpoint
    _forget(connection, place(checkpoint))
    connection.execute(
        "UPDATE checkpoint SET path = ?, name = ?, run = ?, step = ? WHERE path = ? AND kind = ?",
        [place(checkpoint), checkpoint.name, checkpoint.run, checkpoint.step, draft.moved_from,
         checkpoint.kind],
    )  # fmt: skip


def _content(entry: Entry, hashes: dict[str, str]) -> str | None:
    """The tensor's hash; for an adapter's target the hash of its tensors' hashes."""
    if entry.matrix is not None:
        whole = hashes[entry.matrix.tensor]
        if entry.matrix.index is None:
            return whole
        return hashlib.sha256(f"{whole}[{entry.matrix.index}]".encode()).hexdigest()
    assert entry.target is not None
    parts = [hashes[name] for name in entry.target.tensor_names if name in hashes]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def _forget(connection: duckdb.DuckDBPyConnection, path: str) -> None:
    """Delete every row of the checkpoint stored for `path`."""
    tables = connection.execute(
        "SELECT table_name FROM duckdb_columns() WHERE column_name = 'matrix_id'"
        " AND database_name = 'store' AND table_name <> 'matrix'"
    ).fetchall()
    old = "SELECT matrix_id FROM matrix JOIN checkpoint USING (checkpoint_id) WHERE path = ?"
    for (table,) in tables:
        connection.execute(f'DELETE FROM "{table}" WHERE matrix_id IN ({old})', [path])
    ids = "SELECT checkpoint_id FROM checkpoint WHERE path = ?"
    connection.execute(f"DELETE FROM matrix WHERE checkpoint_id IN ({ids})", [path])
    connection.execute("DELETE FROM checkpoint WHERE path = ?", [path])


def _numbered(
    connection: duckdb.DuckDBPyConnection, checkpoint_id: int, draft: Draft
) -> list[Entry]:
    """The draft's entries with the numbers and hashes the store holds."""
    found = connection.execute(
        "SELECT name, matrix_id, content_sha256 FROM matrix WHERE checkpoint_id = ?",
        [checkpoint_id],
    ).fetchall()
    stored = {name: (matrix_id, sha) for name, matrix_id, sha in found}
    return [
        replace(
            entry,
            row=replace(
                entry.row,
                matrix_id=stored[entry.row.name][0],
                checkpoint_id=checkpoint_id,
                content_sha256=stored[entry.row.name][1],
            ),
        )
        for entry in draft.entries
        if entry.row.name in stored
    ]


def _next(connection: duckdb.DuckDBPyConnection, table: str, key: str) -> int:
    query = f'SELECT coalesce(max("{key}"), 0) + 1 FROM "{table}"'
    ((number,),) = connection.execute(query).fetchall()
    return number

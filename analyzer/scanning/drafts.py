"""Checkpoints and matrices of a collection as their headers tell, before anything is written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from analyzer.checkpoints.adapters import (
    Adapter,
    AdapterTarget,
    match_targets,
    open_adapter,
    standalone_matrix,
)
from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.discover import Collection
from analyzer.checkpoints.matching import match_names
from analyzer.checkpoints.names import describe
from analyzer.checkpoints.tensors import MatrixInfo
from analyzer.errors import WorkbenchError
from analyzer.store.connection import reader
from analyzer.store.schema import MatrixRow


@dataclass(frozen=True, slots=True)
class Entry:
    """A matrix to analyse: where it is stored, its row, its counterpart in the base."""

    row: MatrixRow
    checkpoint: Checkpoint
    matrix: MatrixInfo | None  # None for an adapter's target
    adapter: Adapter | None
    target: AdapterTarget | None
    base: MatrixInfo | None  # for an adapter without a base: the matrix its factors describe

    @property
    def matrix_id(self) -> int:
        return self.row.matrix_id


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that could not be read; the scan goes on without it."""

    name: str
    code: str
    message: str
    checkpoint_id: int | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A checkpoint as read from its headers, with the hashes of its tensors if it is new."""

    checkpoint: Checkpoint
    entries: tuple[Entry, ...]
    fingerprint: str
    hashes: dict[str, str] | None  # tensor name → SHA-256; None if the store knows the files
    moved_from: str | None = None  # where the store knows the same files from, if no longer there


def read_drafts(
    collection: Collection, db: Path, hashing: Callable[[str], None]
) -> tuple[list[Draft], list[Problem]]:
    """Headers of every checkpoint, and hashes of those the store at `db` does not know.

    Nothing is locked meanwhile. A checkpoint whose files have the same names, sizes and times as
    last time is not read again; one that cannot be read becomes a problem.
    """
    with reader(db) as connection:
        found = connection.execute("SELECT path, kind, fingerprint FROM checkpoint").fetchall()
    known = set(found)
    gone = {(kind, mark): old for old, kind, mark in found if is_gone(old)}
    drafts: list[Draft] = []
    problems: list[Problem] = []
    base = collection.base
    base_matrices: tuple[MatrixInfo, ...] = ()
    for checkpoint in sorted(collection.checkpoints, key=lambda c: c is not base):
        try:
            if checkpoint is base:
                base_matrices = checkpoint.matrices()
                entries = _full_entries(checkpoint, base_matrices, ())
            elif checkpoint.kind == "adapter":
                entries, notes = _adapter_entries(checkpoint, base_matrices)
                problems += [Problem(checkpoint.name, "warning", note) for note in notes]
            else:
                entries = _full_entries(checkpoint, checkpoint.matrices(), base_matrices)
            fingerprint = _fingerprint(checkpoint, base)
            hashes, moved_from = None, None
            if (place(checkpoint), checkpoint.kind, fingerprint) not in known:
                moved_from = gone.pop((checkpoint.kind, fingerprint), None)
                if moved_from is None:
                    hashing(checkpoint.name)
                    hashes = {
                        t.name: checkpoint.content_sha256(t.name) for t in checkpoint.tensors()
                    }
            drafts.append(Draft(checkpoint, entries, fingerprint, hashes, moved_from))
            problems += [Problem(checkpoint.name, "warning", text) for text in checkpoint.warnings]
        except (WorkbenchError, OSError) as error:
            status = error.status if isinstance(error, WorkbenchError) else "unreadable"
            problems.append(Problem(checkpoint.name, status, f"{checkpoint.name}: {error}"))
    return drafts, problems


def place(checkpoint: Checkpoint) -> str:
    """Absolute path, the same from every working directory; links stay links.

    Bytes that are no UTF-8, which the store cannot hold, are written as ``\\xNN``.
    """
    return os.fsencode(os.path.abspath(checkpoint.path)).decode("utf-8", "backslashreplace")


def is_gone(path: str) -> bool:
    """Whether nothing is at a stored `place` any more; False where its name cannot be told."""
    return "\\x" not in path and not os.path.exists(path)


def _fingerprint(checkpoint: Checkpoint, base: Checkpoint | None) -> str:
    """What decides whether a checkpoint is as it was: an adapter's matrices are its base's too."""
    if checkpoint.kind != "adapter" or base is None:
        return checkpoint.fingerprint()
    both = f"{checkpoint.fingerprint()} on {base.fingerprint()}"
    return hashlib.sha256(both.encode()).hexdigest()


def _full_entries(
    checkpoint: Checkpoint, matrices: Sequence[MatrixInfo], base: Sequence[MatrixInfo]
) -> tuple[Entry, ...]:
    by_name = {m.name: m for m in base}
    partner = match_names(list(by_name), [m.name for m in matrices]) if base else {}
    entries = []
    for m in matrices:
        row = MatrixRow(
            -1, -1, m.name, m.stack, m.layer, m.role, m.expert, m.rows, m.cols, m.dtype,
            False, None, m.status, m.detail,
        )  # fmt: skip
        entries.append(Entry(row, checkpoint, m, None, None, by_name.get(partner.get(m.name, ""))))
    return tuple(entries)


def _adapter_entries(
    checkpoint: Checkpoint, base: Sequence[MatrixInfo]
) -> tuple[tuple[Entry, ...], tuple[str, ...]]:
    adapter = open_adapter(checkpoint)
    entries = []
    for target, match in match_targets(adapter, base):
        status, detail = target.status, None
        if match is None and not base:
            match = standalone_matrix(adapter, target)
        if status != "ok":
            detail = f"{target.name}: {target.detail}"
        elif match is None:
            status, detail = _unmatched(target, base)
        name = match.name if match else target.name
        role = describe(name)
        row = MatrixRow(
            -1, -1, name, role.stack, role.layer, role.role, match.expert if match else role.expert,
            match.rows if match else 0, match.cols if match else 0,
            match.dtype if match else "", False, None, status, detail,
        )  # fmt: skip
        entries.append(Entry(row, checkpoint, None, adapter, target, match))
    return tuple(entries), adapter.warnings


def _unmatched(target: AdapterTarget, base: Sequence[MatrixInfo]) -> tuple[str, str]:
    if target.kind == "saved":
        return "new_module", "a whole weight beside the adapter; the base has no such tensor"
    return "no_base", (
        "the base has no such tensor" if base else "its change depends on the base; give --base"
    )

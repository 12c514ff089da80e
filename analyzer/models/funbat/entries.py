"""The observed entries y_n at indexes i_n in R^K, sorted once for every mode.

Indexes come in the user's units and are scaled to [0, 1] a mode; values are standardised. Entries
that share an index are merged by sums in `messages`, so that an entry costs its row numbers alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from theory.gp_regression import merge_indexes

Array = NDArray[np.float64]
Rows = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Mode:
    """One index: its kernel, its rank r, and its n distinct positions."""

    kernel: str  # one of theory.state_space.MATERN, or "iid" for labels
    rank: int
    grid: Array  # (n,) ascending, scaled
    offset: float  # user units = offset + span · scaled
    span: float

    def scaled(self, indexes: Array) -> Array:
        return (indexes - self.offset) / self.span

    def in_units(self, scaled: Array) -> Array:
        return self.offset + self.span * scaled


@dataclass(frozen=True, slots=True)
class Sorted:
    """All N entries in ascending order of their row in one mode."""

    starts: Rows  # (n + 1,) first entry of every row
    rows: tuple[Rows, ...]  # a mode: row (N,) of every entry
    values: Array  # y (N,)


def make_mode(kernel: str, rank: int, indexes: Array) -> tuple[Mode, Rows]:
    """The mode and the row (N,) of every entry, from indexes (N,) in user units.

    Labels are not scaled: their distances have no meaning.
    """
    if kernel == "iid":
        grid, rows = np.unique(indexes, return_inverse=True)
        return Mode(kernel, rank, grid, 0.0, 1.0), rows.astype(np.int32)
    offset = float(indexes.min())
    span = float(indexes.max()) - offset or 1.0
    grid, rows = merge_indexes((indexes - offset) / span)
    return Mode(kernel, rank, grid, offset, span), rows.astype(np.int32)


def sort_entries(rows: Sequence[Rows], values: Array, sizes: Sequence[int]) -> tuple[Sorted, ...]:
    """One order of the entries a mode; within a row by the other modes, for the cache's sake."""
    tables: list[Sorted] = []
    for mode, size in enumerate(sizes):
        keys = [other for k, other in enumerate(rows) if k != mode]
        order = np.lexsort((*keys, rows[mode]))
        starts = np.searchsorted(rows[mode][order], np.arange(size + 1)).astype(np.int32)
        tables.append(Sorted(starts, tuple(r[order] for r in rows), values[order]))
    return tuple(tables)

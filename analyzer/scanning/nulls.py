"""Random matrices to compare tails with, drawn once for every shape a store has seen."""

from __future__ import annotations

from collections import defaultdict

import duckdb
import numpy as np

from analyzer.analyses.rows_tails import TailNullRow
from analyzer.store.writing import insert
from theory.wishart_null import MIN_SIZE, NullStatistics, null_statistics

Shape = tuple[int, int, int]  # short side, long side, seed


class Nulls:
    """Null statistics by shape: what the store knows, and what was drawn since."""

    def __init__(self, known: dict[Shape, NullStatistics]) -> None:
        self._known = known
        self._fresh: dict[Shape, NullStatistics] = {}
        self._saving: dict[Shape, NullStatistics] = {}

    @classmethod
    def load(cls, connection: duckdb.DuckDBPyConnection) -> Nulls:
        columns: dict[Shape, list[tuple[float, ...]]] = defaultdict(list)
        query = """SELECT DISTINCT short_side, long_side, seed, rank, alpha, ks_d, pl_alpha_hill, xi
                   FROM tail_null ORDER BY ALL"""
        for short, long, seed, _, *values in connection.execute(query).fetchall():
            columns[short, long, seed].append(tuple(values))
        return cls({shape: _statistics(rows) for shape, rows in columns.items()})

    def of(self, rows: int, cols: int, seed: int) -> NullStatistics | None:
        """Statistics of the shape; None where it is too small to have any."""
        shape = min(rows, cols), max(rows, cols), seed
        if shape[0] < MIN_SIZE:
            return None
        if shape not in self._known:
            self._known[shape] = self._fresh[shape] = null_statistics(rows, cols, seed=seed)
        return self._known[shape]

    def add(self, other: Nulls) -> None:
        """Take over what another worker drew."""
        for shape, drawn in other._fresh.items():
            if shape not in self._known:
                self._known[shape] = self._fresh[shape] = drawn

    def save(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Store what was drawn since the last time; `saved` says that it was committed."""
        self._saving = dict(self._fresh)
        query = "SELECT DISTINCT short_side, long_side, seed FROM tail_null"
        # A scan beside this one may have been first.
        stored = set(connection.execute(query).fetchall()) if self._saving else set()
        new = {shape: drawn for shape, drawn in self._saving.items() if shape not in stored}
        insert(connection, [row for item in new.items() for row in _rows(*item)])

    def saved(self) -> None:
        for shape in self._saving:
            self._fresh.pop(shape, None)


def _statistics(rows: list[tuple[float, ...]]) -> NullStatistics:
    alpha, ks_d, hill, xi = (
        np.array([v for v in c if v is not None]) for c in zip(*rows, strict=True)
    )
    return NullStatistics(alpha=alpha, ks_d=ks_d, hill=hill, xi=xi)


def _rows(shape: Shape, drawn: NullStatistics) -> list[TailNullRow]:
    short, long, seed = shape
    return [
        TailNullRow(
            short_side=short,
            long_side=long,
            seed=seed,
            rank=index + 1,
            alpha=float(drawn.alpha[index]),
            ks_d=float(drawn.ks_d[index]),
            pl_alpha_hill=float(drawn.hill[index]),
            xi=float(drawn.xi[index]) if index < drawn.xi.size else None,
        )
        for index in range(drawn.alpha.size)
    ]

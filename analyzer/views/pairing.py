"""Checkpoints and matrices by name: which matrix of one checkpoint is which of another."""

from __future__ import annotations

from dataclasses import dataclass

from analyzer.checkpoints.matching import match_names
from analyzer.store.reading import Store

# The checkpoint of a name, as an SQL expression with one parameter; of several (two folders in
# one store) the newest.
CHECKPOINT = "(SELECT max(checkpoint_id) FROM checkpoint WHERE name = ?)"


@dataclass(frozen=True, slots=True)
class Pairs:
    """Matrices of two checkpoints: numbers of those that belong together, and of the others.

    `first[i]` and `second[i]` are one matrix in both; `only_first` and `only_second` are without
    a counterpart; `named` are all matrices of the second checkpoint by name. `is_update`: the
    second was scanned against the first as its base; `is_adapter`: it is an adapter.
    """

    first: tuple[int, ...]
    second: tuple[int, ...]
    only_first: tuple[int, ...]
    only_second: tuple[int, ...]
    named: dict[str, int]
    is_update: bool
    is_adapter: bool

    def partner(self, number: int) -> int | None:
        """The matrix of the first checkpoint that belongs to one of the second."""
        return self.first[self.second.index(number)] if number in self.second else None


def pairs(store: Store, first: str, second: str) -> Pairs:
    """Match the matrices of two checkpoints by their names alone."""
    found = store.sql(
        f"""
        WITH ids AS (SELECT {CHECKPOINT} AS a, {CHECKPOINT} AS b)
        SELECT m.name, matrix_id, m.checkpoint_id = b AS is_second,
               coalesce(c.base_checkpoint_id = a, false) AS is_update, c.kind = 'adapter' AS adapter
        FROM ids JOIN checkpoint c ON c.checkpoint_id = b
        JOIN matrix m ON m.checkpoint_id IN (a, b) ORDER BY matrix_id
        """,
        [first, second],
    ).to_pylist()
    one = {row["name"]: row["matrix_id"] for row in found if not row["is_second"]}
    other = {row["name"]: row["matrix_id"] for row in found if row["is_second"]}
    partner = match_names(list(one), list(other))
    taken = set(partner.values())
    both = [(one[partner[name]], number) for name, number in other.items() if name in partner]
    return Pairs(
        tuple(a for a, _ in both),
        tuple(b for _, b in both),
        tuple(number for name, number in one.items() if name not in taken),
        tuple(number for name, number in other.items() if name not in partner),
        other,
        is_update=bool(found) and found[0]["is_update"],
        is_adapter=bool(found) and found[0]["adapter"],
    )

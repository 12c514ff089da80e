"""Units of runs that are in the store: which of them a new one takes the place of."""

from __future__ import annotations

import json
from collections import defaultdict


def stored_units(done: set[tuple[int, str, str]]) -> dict[int, list[frozenset[int]]]:
    """Matrix → the matrices of every stored unit that it belongs to."""
    units: dict[int, list[frozenset[int]]] = defaultdict(list)
    for _, analysis, params in done:
        if analysis == "emergence":
            numbers = frozenset(json.loads(params).get("matrices", ()))
            for number in numbers:
                units[number].append(numbers)
    return units


def superseded(numbers: set[int], units: dict[int, list[frozenset[int]]]) -> set[int]:
    """Matrices of stored units that a unit takes the place of: runs lose checkpoints.

    Not those that a unit of other matrices has as well: numbers are used again.
    """
    candidates = {other for n in numbers for unit in units.get(n, ()) for other in unit}
    return {n for n in candidates if all(unit & numbers for unit in units[n])}

"""Long runs: which of many steps are compared pairwise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

MOST_STEPS = 40  # compared pairwise; of more, as many at even distances
T = TypeVar("T")


def evenly(items: Sequence[T], most: int) -> list[T]:
    """At most `most` of the items, first and last among them, at even distances."""
    if len(items) <= most:
        return list(items)
    places = np.unique(np.round(np.linspace(0, len(items) - 1, most)).astype(int))
    return [items[place] for place in places]

"""Units of a checkpoint in other orders, one tensor at a time as it is read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer.errors import UsageError
from analyzer.models.manifold.features import Read
from analyzer.models.manifold.groups import PermutationGroup, Site, reorder

if TYPE_CHECKING:
    import torch

Orders = Mapping[str, ArrayLike]  # group → order, new[i] = old[order[i]]


def reordered(read: Read, groups: Sequence[PermutationGroup], orders: Orders) -> Read:
    """`read` of the same checkpoint after `apply_orders`, one tensor at a time.

    Raises UsageError for a name that is no group's or an order that is no permutation of its units.
    """
    if unknown := set(orders) - {group.name for group in groups}:
        raise UsageError(f"no group is named {min(unknown)!r}")
    sources: dict[str, str] = {}
    moves: defaultdict[str, list[tuple[Site, NDArray[np.intp]]]] = defaultdict(list)
    for group in sorted(groups, key=lambda group: group.parent is None):
        if group.name not in orders:
            continue
        units = np.asarray(orders[group.name])
        if not np.array_equal(np.sort(units), np.arange(group.size)):
            raise UsageError(f"the order of {group.name} permutes other than {group.size} units")
        for site in group.sites:
            moves[site.tensor].append((site, units))
        for stack in group.stacks:
            sources |= {name: stack[unit] for name, unit in zip(stack, units, strict=True)}

    def moved(name: str) -> torch.Tensor:
        source = sources.get(name, name)
        tensor = read(source)
        for site, units in moves.get(source, ()):
            tensor = reorder(tensor, site, units)
        return tensor

    return moved

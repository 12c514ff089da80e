"""Tensor axes that share one permutation, and the effect of permuting them.

A group lists its sites (tensor, axis), all of one length. Convention: new[i] = old[pi[i]]. Groups
of grouped-query attention are nested: a key-value group moves as a whole, and the query heads in
it move among themselves, so that reshaped query tensors have two permuted axes. S. Ainsworth,
J. Hayase & S. Srinivasa, "Git Re-Basin", arXiv 2209.04836, ICLR 2023, for the unnested case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Tensors = Mapping[str, Array]
Site: TypeAlias = tuple[str, int]


@dataclass(frozen=True, slots=True)
class NestedGroup:
    """`shared` sites (tensor, axis) move with the outer index only (keys, values).

    `nested` sites (tensor, outer axis, inner axis) also have an inner order for each outer index
    (queries and the output projection, reshaped so that both are axes).
    """

    shared: tuple[Site, ...]
    nested: tuple[tuple[str, int, int], ...]


@dataclass(frozen=True, slots=True)
class NestedPermutation:
    """new[g, h] = old[outer[g], inner[g, h]]."""

    outer: Indices  # (G,)
    inner: Indices  # (G, H)


Group: TypeAlias = Sequence[Site] | NestedGroup
Permutation: TypeAlias = Indices | NestedPermutation


def sites(group: Group) -> list[tuple[str, tuple[int, ...]]]:
    """(tensor, permuted axes) of every site: one axis, or the outer and the inner one."""
    if isinstance(group, NestedGroup):
        shared = [(name, (axis,)) for name, axis in group.shared]
        return shared + [(name, (outer, inner)) for name, outer, inner in group.nested]
    return [(name, (axis,)) for name, axis in group]


def group_shape(group: Group, tensors: Tensors) -> tuple[int, ...]:
    """(n,), or (G, H) of a nested group.

    Raises ValueError for an empty group or sites of different lengths, naming two of them.
    """
    found: dict[int, tuple[int, str]] = {}
    for name, axes in sites(group):
        for level, axis in enumerate(axes):
            length = tensors[name].shape[axis]
            first = found.setdefault(level, (length, name))
            if first[0] != length:
                raise ValueError(
                    f"one group holds axes of length {first[0]} ({first[1]}) and {length} ({name})"
                )
    if not found or (isinstance(group, NestedGroup) and 1 not in found):
        raise ValueError("a permutation group needs at least one site, a nested one a nested site")
    return tuple(found[level][0] for level in sorted(found))


def identity(shape: tuple[int, ...]) -> Permutation:
    """The permutation that moves nothing, for a group of this shape."""
    if len(shape) == 1:
        return np.arange(shape[0])
    return NestedPermutation(np.arange(shape[0]), np.tile(np.arange(shape[1]), (shape[0], 1)))


def compose(first: Permutation, then: Permutation) -> Permutation:
    """`first` applied to a tensor, and `then` to the result, as one permutation."""
    if isinstance(first, NestedPermutation) and isinstance(then, NestedPermutation):
        rows = first.inner[then.outer]
        return NestedPermutation(
            first.outer[then.outer], np.take_along_axis(rows, then.inner, axis=1)
        )
    if isinstance(first, NestedPermutation) or isinstance(then, NestedPermutation):
        raise ValueError("a nested and a plain permutation do not compose")
    return first[then]


def permute(tensor: Array, axes: tuple[int, ...], permutation: Permutation) -> Array:
    """One site of a group permuted; a site of one axis takes the outer order of a nested one."""
    if not isinstance(permutation, NestedPermutation):
        return np.take(tensor, permutation, axis=axes[0])
    if len(axes) == 1:
        return np.take(tensor, permutation.outer, axis=axes[0])
    front = np.moveaxis(tensor, axes, (0, 1))
    moved = front[permutation.outer[:, None], permutation.inner]
    return np.moveaxis(moved, (0, 1), axes)


def apply(
    tensors: Tensors, groups: Mapping[str, Group], permutations: Mapping[str, Permutation]
) -> dict[str, Array]:
    """All tensors, with every site of the named groups permuted."""
    result = dict(tensors)
    for name, permutation in permutations.items():
        for tensor, axes in sites(groups[name]):
            result[tensor] = permute(result[tensor], axes, permutation)
    return result

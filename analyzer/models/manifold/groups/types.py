"""Groups of tensor axes that one permutation may reorder without changing the network's function.

A group has n units (channels, heads, experts). Each `Site` says where those units lie along one
axis of one tensor. An order o of the units means new[i] = old[o[i]] at every site at once.
S. Ainsworth, J. Hayase & S. Srinivasa, "Git Re-Basin", arXiv 2209.04836, section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Kind = Literal[
    "mlp",  # hidden units of an MLP, or of one expert
    "heads",  # attention heads; with grouped queries a key head and all its query heads
    "query_heads",  # the query heads of one key head
    "experts",
    "channels",  # hidden channels of a convolutional block, or of a pooler
    "residual",  # the stream that blocks read and add to
]
Role = Literal["produces", "consumes"]


@dataclass(frozen=True, slots=True)
class Layout:
    """Where n units lie along an axis: in each part (start, size), unit i fills
    ``start + i·size … start + (i+1)·size - 1``. What no part covers stays in place."""

    parts: tuple[tuple[int, int], ...]

    def stop(self, n: int) -> int:
        """First index behind every part."""
        return max(start + n * size for start, size in self.parts)

    def index(self, order: ArrayLike, length: int) -> NDArray[np.intp]:
        """(length,) source of every position of the axis once the units stand in `order`."""
        units = np.asarray(order, dtype=np.intp)
        index = np.arange(length, dtype=np.intp)
        for start, size in self.parts:
            moved = start + units[:, None] * size + np.arange(size)
            index[start : start + units.size * size] = moved.ravel()
        return index


PLAIN = Layout(((0, 1),))


def blocks(size: int, start: int = 0) -> Layout:
    """Units of `size` consecutive entries: heads, or the pixels of a flattened channel."""
    return Layout(((start, size),))


def fused(n: int, *sizes: int) -> Layout:
    """Parts one after the other, n units each, with these sizes of a unit: q | k | v, gate | up."""
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]) * n
    return Layout(tuple((int(start), size) for start, size in zip(starts, sizes, strict=True)))


@dataclass(frozen=True, slots=True)
class Site:
    """One axis of one tensor that a group's order acts on.

    `role`: the tensor ``produces`` the units (an output axis, a bias, the parameters of a norm) or
    ``consumes`` them (an input axis). `index`: only the slice ``tensor[index]`` of the first axis,
    one expert of a stack; `axis` still counts the whole tensor's axes. `tied_to`: another name of
    the same parameter that has a site of its own, so that this one adds nothing new.
    """

    tensor: str
    axis: int
    layout: Layout = PLAIN
    role: Role = "produces"
    index: int | None = None
    tied_to: str | None = None


@dataclass(frozen=True, slots=True)
class PermutationGroup:
    """All sites of one index space of `size` units, and tensors that are units as a whole.

    Each of `stacks` names `size` tensors of one shape, of which unit i is the i-th: experts that
    are stored one by one. `parent` and `parent_unit`: this group lies within one unit of another
    (query heads of a key head, hidden units of an expert), so it is to be reordered before that
    one is.
    """

    name: str
    kind: Kind
    size: int
    sites: tuple[Site, ...]
    stacks: tuple[tuple[str, ...], ...] = ()
    layer: int | None = None
    parent: str | None = None
    parent_unit: int | None = None

    def tensors(self) -> tuple[str, ...]:
        """Names of every tensor the group's order changes, each once."""
        names = [site.tensor for site in self.sites]
        return tuple(dict.fromkeys([*names, *(name for stack in self.stacks for name in stack)]))


@dataclass(frozen=True, slots=True)
class UnmappedAxis:
    """An axis of which it is not known whether units of a group lie along it; None: any axis."""

    tensor: str
    axis: int | None
    reason: str

    def __str__(self) -> str:
        return f"unmapped axis of {self.tensor}: {self.reason}"

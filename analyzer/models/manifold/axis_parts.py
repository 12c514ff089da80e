"""An axis cut into the stretches that hold units of groups, and resizing tensors along them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyzer.errors import ShapeMismatch, UsageError
from analyzer.models.manifold.groups import Site
from theory.resampling.operators import shape
from theory.resampling.width_change import WidthChange, along

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class AxisPart:
    """Positions start..stop-1 of an axis: `units` equal blocks of the group that owns `site`, or
    (`site` None) positions without units."""

    start: int
    stop: int
    units: int = 1
    site: Site | None = None


@dataclass(frozen=True, slots=True)
class Resized:
    """One site whose group goes from `n` to `m` units."""

    site: Site
    n: int
    m: int


def axis_parts(length: int, sites: Iterable[tuple[Site, int]]) -> list[AxisPart]:
    """All of an axis in order, from its sites and their numbers of units.

    Raises UsageError where two groups share positions, ShapeMismatch where units do not fit.
    """
    taken = sorted(
        (
            AxisPart(start, start + units * size, units, site)
            for site, units in sites
            for start, size in site.layout.parts
        ),
        key=lambda part: (part.start, part.stop),
    )
    parts: list[AxisPart] = []
    here = 0
    for part in taken:
        tensor = part.site.tensor if part.site else None
        if part.start < here:
            raise UsageError("two groups share positions of one axis: change one", tensor=tensor)
        if part.stop > length:
            raise ShapeMismatch(f"{part.units} units do not fit in {length} entries", tensor=tensor)
        parts += [AxisPart(here, part.start)] * (part.start > here) + [part]
        here = part.stop
    return parts + [AxisPart(here, length)] * (here < length)


def resized_shape(shape: tuple[int, ...], sites: Sequence[Resized]) -> tuple[int, ...]:
    """The shape of a tensor once its groups have their new widths.

    Raises ShapeMismatch where slices of a stack would have different shapes.
    """
    result = list(shape)
    grown: defaultdict[tuple[int, int | None], int] = defaultdict(int)
    for entry in sites:
        size = sum(size for _, size in entry.site.layout.parts)
        grown[entry.site.axis, entry.site.index] += (entry.m - entry.n) * size
    for (axis, index), more in grown.items():
        if index is None or index == 0:
            result[axis] += more
        if index is not None and any(grown.get((axis, i)) != more for i in range(shape[0])):
            raise ShapeMismatch(
                "its slices would get different widths: resize the groups of all of them alike",
                tensor=sites[0].site.tensor,
            )
    return tuple(result)


def resize(array: Array, changes: Sequence[tuple[Site, WidthChange]]) -> Array:
    """A tensor with new widths: its producing axes written, its consuming axes read.

    Raises as `axis_parts`.
    """
    stacked: defaultdict[int, list[tuple[int, Site, WidthChange]]] = defaultdict(list)
    whole: list[tuple[int, Site, WidthChange]] = []
    for site, change in changes:
        if site.index is None:
            whole.append((site.axis, site, change))
        else:
            stacked[site.index].append((site.axis - 1, site, change))
    if stacked:
        array = np.stack([_along_axes(part, stacked[i]) for i, part in enumerate(array)])
    return _along_axes(array, whole)


def _along_axes(array: Array, changes: Sequence[tuple[int, Site, WidthChange]]) -> Array:
    for axis in {axis for axis, _, _ in changes}:
        operators = {
            site: change.producing if site.role == "produces" else change.consuming
            for at, site, change in changes
            if at == axis
        }
        units = [(site, shape(operator)[1]) for site, operator in operators.items()]
        pieces: list[Array] = []
        for part in axis_parts(array.shape[axis], units):
            piece = np.take(array, range(part.start, part.stop), axis=axis)
            if part.site is not None:
                block = (part.stop - part.start) // part.units
                piece = along(operators[part.site], piece, axis, block=block)
            pieces.append(piece)
        array = pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=axis)
    return array

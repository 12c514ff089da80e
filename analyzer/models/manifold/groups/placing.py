"""Where the units of each group lie along one axis of one tensor."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from analyzer.models.manifold.groups.axes import Axis
from analyzer.models.manifold.groups.types import Kind, Layout, blocks, fused

_KINDS: tuple[tuple[re.Pattern[str], Kind], ...] = (
    (re.compile(r"res|stem|out_.*"), "residual"),
    (re.compile(r"mlp_.*"), "mlp"),
    (re.compile(r"experts_.*"), "experts"),
)
_EXPERT = re.compile(r"mlp_(.+)_expert_(\d+)")


class Misfit(ValueError):
    """Units that cannot lie along an axis; says why."""


@dataclass(frozen=True, slots=True)
class Placement:
    """`n` units of a group along an axis, `width` entries each in every head of it; `index` is the
    slice of the first axis that is meant, None for all."""

    group: str
    kind: Kind
    n: int
    layout: Layout
    width: int = 1
    index: int | None = None
    parent: str | None = None
    parent_unit: int | None = None

    @property
    def layer(self) -> int | None:
        """The number behind the first underscore of the group's name."""
        match = re.match(r"[a-z]+_(\d+)(?:_|$)", self.group)
        return int(match[1]) if match else None


def place_units(axis: Axis, length: int, space: str, stacked: int) -> Iterator[Placement]:
    """Where units of a plain space lie; of `stacked` slices, each with a space of its own, where
    the name of the space holds an ``@``. Raises Misfit if the length is no multiple of the parts.
    """
    n, rest = divmod(length, axis.parts * axis.size)
    if rest or not n:
        raise Misfit(f"{length} entries do not hold {axis.parts} parts of units of {axis.size}")
    layout = blocks(axis.size) if axis.parts == 1 else fused(n, *[axis.size] * axis.parts)
    indices = range(stacked) if "@" in space else (None,)
    for index in indices:
        name = space.replace("@", str(index))
        parent, unit = _parent(name)
        yield Placement(name, kind_of(name), n, layout, 1, index, parent, unit)


def kind_of(space: str) -> Kind:
    """Residual streams, MLPs and experts have names of their own; the rest are channels."""
    for pattern, kind in _KINDS:
        if pattern.fullmatch(space):
            return kind
    return "channels"


def _parent(space: str) -> tuple[str | None, int | None]:
    match = _EXPERT.fullmatch(space)
    return (f"experts_{match[1]}", int(match[2])) if match else (None, None)

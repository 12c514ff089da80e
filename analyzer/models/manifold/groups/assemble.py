"""From axes to groups: spaces that are one are joined, sizes compared, doubtful groups left out."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from analyzer.errors import ShapeMismatch
from analyzer.models.manifold.groups.axes import Axis, TensorAxes
from analyzer.models.manifold.groups.heads import group_of, is_attention, place_heads
from analyzer.models.manifold.groups.placing import Misfit, Placement, place_units
from analyzer.models.manifold.groups.types import PermutationGroup, Site, UnmappedAxis

_EXPERT = re.compile(r"(experts\.)(\d+)(\.)")
_OUTPUT = "the network returns its units, or what reads them is not stored"

Stacks = dict[str, dict[int, str]]  # name with * for the number of the unit → unit → name


@dataclass(slots=True)
class _Draft:
    """What was found of one group."""

    placed: list[tuple[Placement, Site]] = field(default_factory=list)
    stacks: Stacks = field(default_factory=lambda: defaultdict(dict))


@dataclass(frozen=True, slots=True)
class Description:
    """What is known about a set of tensors.

    `shapes` and `axes` by the tensors' names without wrappers; `axes` None where no rule knows the
    name. `links` are pairs of spaces that are one. `tied` gives, for a second name of a parameter,
    the first. `outputs` are spaces whose units the network returns.
    """

    shapes: Mapping[str, tuple[int, ...]]
    axes: Mapping[str, TensorAxes | None]
    config: Mapping[str, Any] = field(default_factory=dict)
    links: Iterable[tuple[str, str]] = ()
    tied: Mapping[str, str] = field(default_factory=dict)
    outputs: frozenset[str] = frozenset()


def assemble(known: Description) -> tuple[tuple[PermutationGroup, ...], tuple[UnmappedAxis, ...]]:
    """The groups, those within a unit before their parents, and the axes that are not mapped.

    A tensor that no rule knows may read what others of its block do: every group of that block,
    and every one that is not within one block, is left out. Raises ShapeMismatch, naming both
    tensors, where one group has two sizes.
    """
    joined = _joined(known.links)
    drafts: defaultdict[str, _Draft] = defaultdict(_Draft)
    unmapped: list[UnmappedAxis] = []
    broken: set[str] = set()
    for tensor, shape in known.shapes.items():
        axes = known.axes.get(tensor)
        if axes is None or len(axes.axes) != len(shape):
            reason = "no rule knows this name" if axes is None else f"unexpected shape {shape}"
            unmapped.append(UnmappedAxis(tensor, None, reason))
            continue
        if axes.unit_of and (match := _EXPERT.search(tensor)):
            key = _EXPERT.sub(r"\1*\3", tensor, count=1)
            drafts[axes.unit_of].stacks[key][int(match[2])] = tensor
        for number, axis in enumerate(axes.axes):
            if axis is None:
                continue
            space = group_of(axis) if is_attention(axis) else joined.get(axis.space, axis.space)
            try:
                places = _placements(axis, shape, number, space, known.config)
            except Misfit as misfit:
                unmapped.append(UnmappedAxis(tensor, number, str(misfit)))
                broken.add(space)
                continue
            tied = known.tied.get(tensor)
            for place in places:
                site = Site(tensor, number, place.layout, axis.role, place.index, tied)
                drafts[place.group].placed.append((place, site))
    strangers = [axis.tensor for axis in unmapped if axis.axis is None]
    outputs = {joined.get(space, space) for space in known.outputs}
    groups: list[PermutationGroup] = []
    for name, draft in drafts.items():
        if not draft.placed:
            unmapped.append(UnmappedAxis(_members(draft)[0], None, f"{name} has no router"))
            continue
        first, site = draft.placed[0]
        if stranger := _stranger(draft, strangers):
            why = f"{stranger} may belong to it"
        elif {name, first.parent} & broken:
            why = "others of its axes do not fit"
        else:
            why = _open_end(draft, returned=name in outputs)
        if why:
            unmapped.append(UnmappedAxis(site.tensor, site.axis, f"no group {name}, for {why}"))
        else:
            groups.append(_group(name, draft))
    return tuple(sorted(groups, key=lambda group: group.parent is None)), tuple(unmapped)


def _placements(
    axis: Axis, shape: tuple[int, ...], number: int, space: str, config: Mapping[str, Any]
) -> list[Placement]:
    if is_attention(axis):
        return list(place_heads(axis, shape[number], config))
    return list(place_units(axis, shape[number], space, shape[0]))


def _joined(links: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Space → the name of the space it is one with; streams give theirs first."""
    sets: dict[str, set[str]] = {}
    for one, other in links:
        together = sets.get(one, {one}) | sets.get(other, {other})
        sets |= dict.fromkeys(together, together)
    return {space: min(together, key=_rank) for space, together in sets.items()}


def _rank(space: str) -> tuple[bool, list[int], str]:
    stream = space in ("res", "stem") or space.startswith("out_")
    return not stream, [int(digits) for digits in re.findall(r"\d+", space)], space


def _members(draft: _Draft) -> list[str]:
    return [name for stack in draft.stacks.values() for name in stack.values()]


def _block(names: Iterable[str]) -> str:
    """What the names have in common, up to the first number: ``model.layers.3.``; "" without."""
    parts = [name.split(".") for name in names]
    shared: list[str] = []
    for column in zip(*parts, strict=False):
        if len(set(column)) > 1:
            break
        shared.append(column[0])
        if column[0].isdigit():
            return ".".join(shared) + "."
    return ""


def _stranger(draft: _Draft, strangers: Iterable[str]) -> str | None:
    """An unknown tensor in the block of a group, or any one if the group lies in no block."""
    block = _block([site.tensor for _, site in draft.placed] + _members(draft))
    return next((name for name in strangers if name.startswith(block)), None)


def _open_end(draft: _Draft, *, returned: bool) -> str | None:
    """Why a group's order would change what the network returns, or that it is not whole."""
    roles = {site.role for _, site in draft.placed}
    first = draft.placed[0][0]
    if returned or (roles != {"produces", "consumes"} and first.kind != "experts"):
        return _OUTPUT
    if any(sorted(stack) != list(range(first.n)) for stack in draft.stacks.values()):
        return f"its stored units are not 0 to {first.n - 1}"
    return None


def _group(name: str, draft: _Draft) -> PermutationGroup:
    """Raises ShapeMismatch where two axes hold different numbers of units."""
    first, site = draft.placed[0]
    for place, other in draft.placed:
        if (place.n, place.width) != (first.n, first.width):
            raise ShapeMismatch(
                f"axis {other.axis} holds {place.n} units of {place.width}, but axis {site.axis} "
                f"of {site.tensor} {first.n} of {first.width}: both belong to {name}",
                tensor=other.tensor,
            )
    return PermutationGroup(
        name=name,
        kind=first.kind,
        size=first.n,
        sites=tuple(site for _, site in draft.placed),
        stacks=tuple(
            tuple(stack[unit] for unit in range(first.n)) for stack in draft.stacks.values()
        ),
        layer=first.layer,
        parent=first.parent,
        parent_unit=first.parent_unit,
    )

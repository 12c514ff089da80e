"""Reordering the units of a group in a set of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer.errors import CheckpointError, ShapeMismatch, UsageError
from analyzer.models.manifold.groups.types import PermutationGroup, Site

if TYPE_CHECKING:
    import torch


def apply_order(
    tensors: Mapping[str, torch.Tensor], group: PermutationGroup, order: ArrayLike
) -> dict[str, torch.Tensor]:
    """All tensors, with new[i] = old[order[i]] at every site of the group.

    Tensors of the group are copies with the same values and dtype; the others, and the argument,
    stay as they are. Names that share storage share it afterwards. Raises UsageError unless `order`
    is a permutation, CheckpointError for a tensor that is not there, ShapeMismatch for an axis that
    is too short.
    """
    units = _permutation(order, group)
    result = dict(tensors)
    for site in sorted(group.sites, key=lambda site: site.tied_to is not None):
        if site.tied_to in result and _same_storage(tensors, site.tensor, site.tied_to):
            result[site.tensor] = result[site.tied_to]
        else:
            result[site.tensor] = reorder(_find(result, site.tensor), site, units)
    for stack in group.stacks:
        for name, source in zip(stack, (stack[unit] for unit in units), strict=True):
            result[name] = _find(tensors, source)
    return result


def apply_orders(
    tensors: Mapping[str, torch.Tensor],
    groups: Sequence[PermutationGroup],
    orders: Mapping[str, ArrayLike],
) -> dict[str, torch.Tensor]:
    """`apply_order` for every group named in `orders`, groups within a unit before their parents.

    Each order counts units as they are in `tensors`. Raises as `apply_order`, and UsageError for
    a name that is no group's.
    """
    if unknown := set(orders) - {group.name for group in groups}:
        raise UsageError(f"no group is named {min(unknown)!r}")
    result = dict(tensors)
    for group in sorted(groups, key=lambda group: group.parent is None):
        if group.name in orders:
            result = apply_order(result, group, orders[group.name])
    return result


def reorder(tensor: torch.Tensor, site: Site, order: ArrayLike) -> torch.Tensor:
    """A copy of one tensor with the units of `site` in another order. Raises ShapeMismatch."""
    import torch

    units = np.asarray(order, dtype=np.intp)
    if site.axis >= tensor.ndim or site.layout.stop(units.size) > tensor.shape[site.axis]:
        raise ShapeMismatch(
            f"{units.size} units do not fit along axis {site.axis} of shape {tuple(tensor.shape)}",
            tensor=site.tensor,
        )
    index = torch.from_numpy(site.layout.index(units, tensor.shape[site.axis])).to(tensor.device)
    if site.index is None:
        return tensor.index_select(site.axis, index)
    result = tensor.clone()
    result[site.index] = tensor[site.index].index_select(site.axis - 1, index)
    return result


def _permutation(order: ArrayLike, group: PermutationGroup) -> NDArray[np.intp]:
    units = np.asarray(order)
    if units.shape != (group.size,) or not np.array_equal(np.sort(units), np.arange(group.size)):
        raise UsageError(f"the order of {group.name} is no permutation of its {group.size} units")
    return units.astype(np.intp)


def _find(tensors: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in tensors:
        raise CheckpointError("there is no such tensor to reorder", tensor=name)
    return tensors[name]


def _same_storage(tensors: Mapping[str, torch.Tensor], one: str, other: str | None) -> bool:
    first, second = tensors.get(one), tensors.get(other or "")
    if first is None or second is None:
        return False
    return first.data_ptr() == second.data_ptr() and first.shape == second.shape

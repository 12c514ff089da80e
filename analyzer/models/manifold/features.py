"""The numbers that belong to each unit of a group: one row a unit, a block of columns a site."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from analyzer.errors import NonFinite, QuantUnknown, ShapeMismatch
from analyzer.models.manifold.groups.types import PermutationGroup, Role, Site

if TYPE_CHECKING:
    import torch

Read = Callable[[str], "torch.Tensor"]  # Checkpoint.read, or a dict's __getitem__
Scale = Literal["none", "fro"]
Floats = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Block:
    """Columns of one site or stack: `values` (n, columns), float64 as read."""

    tensor: str
    role: Role
    values: Floats


def blocks(read: Read, group: PermutationGroup, scale: Scale = "none") -> Iterator[Block]:
    """The blocks of a group's features, one tensor in memory at a time; tied tensors once.

    `scale` ``fro`` divides each block by its Frobenius norm. Raises NonFinite and QuantUnknown
    naming the tensor, ShapeMismatch for an axis that is too short.
    """
    for site in group.sites:
        if site.tied_to is None:
            values = unit_rows(numbers_of(read(site.tensor), site.tensor), site, group.size)
            yield Block(site.tensor, site.role, _scaled(values, scale))
    for stack in group.stacks:
        rows = [numbers_of(read(name), name).ravel() for name in stack]
        if len({row.size for row in rows}) > 1:
            raise ShapeMismatch(f"its siblings in {group.name} have another size", tensor=stack[0])
        yield Block(stack[0], "produces", _scaled(np.stack(rows), scale))


def width(read: Read, group: PermutationGroup) -> int:
    """Number of columns of all blocks, from shapes alone."""
    columns = 0
    for site in group.sites:
        if site.tied_to is None:
            shape = read(site.tensor).shape
            others = shape if site.index is None else shape[1:]
            along = sum(size for _, size in site.layout.parts)
            columns += int(np.prod(others)) // shape[site.axis] * along
    return columns + sum(read(stack[0]).numel() for stack in group.stacks)


def unit_rows(array: Floats, site: Site, n: int) -> Floats:
    """(n, columns): all entries of `array` that lie at unit i, in row i. Raises ShapeMismatch."""
    axis = site.axis
    if site.layout.stop(n) > array.shape[axis]:
        raise ShapeMismatch(
            f"{n} units do not fit along axis {axis} of shape {array.shape}", tensor=site.tensor
        )
    if site.index is not None:
        array, axis = array[site.index], axis - 1
    first = np.moveaxis(array, axis, 0)
    parts = [first[start : start + n * size].reshape(n, -1) for start, size in site.layout.parts]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def numbers_of(tensor: torch.Tensor, name: str) -> Floats:
    """float64; half precision loses nothing by that."""
    import torch

    if not tensor.is_floating_point() or tensor.element_size() == 1:
        raise QuantUnknown(
            f"{tensor.dtype} values have no order to smooth", tensor=name, hint="dequantise first"
        )
    array = tensor.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(array).all():
        n_nan = int(np.isnan(array).sum())
        bad = np.flatnonzero(~np.isfinite(array))
        raise NonFinite(n_nan, bad.size - n_nan, int(bad[0]), tensor=name)
    return array


def _scaled(values: Floats, scale: Scale) -> Floats:
    norm = float(np.linalg.norm(values)) if scale == "fro" else 1.0
    return values / norm if norm > 0.0 else values

"""Tensors that several checkpoints have alike, each read as its deviation from a reference.

An adapter's deviation is its ΔW, as factors where it is of low rank.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analyzer.checkpoints.adapters import (
    Adapter,
    AdapterTarget,
    LowRankDelta,
    dense_weight,
    match_targets,
    open_adapter,
    target_update,
)
from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.matching import match_names
from analyzer.checkpoints.matrices import FLOATS
from analyzer.checkpoints.names import strip_wrappers
from analyzer.checkpoints.parameters import is_parameter, untied
from analyzer.checkpoints.stored import StoredTensor
from analyzer.checkpoints.tensors import MatrixInfo
from analyzer.errors import NonFinite, UsageError

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A tensor that is not compared, the checkpoint that differs, and how."""

    tensor: str
    checkpoint: str
    reason: str

    def __str__(self) -> str:
        return f"{self.tensor} of {self.checkpoint}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Member:
    """One checkpoint beside the reference: its own `names`, or an adapter's `changes`, by the
    reference's name of the tensor."""

    checkpoint: Checkpoint
    names: Mapping[str, str] = field(default_factory=dict)
    adapter: Adapter | None = None
    changes: Mapping[str, Sequence[tuple[AdapterTarget, MatrixInfo]]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Shared:
    """Checkpoints and the floating-point tensors, buffers too, that all of them have alike.

    `reference` is the number of the member that the others deviate from and name tensors after.
    """

    members: tuple[Member, ...]
    reference: int
    tensors: tuple[StoredTensor, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def origin(self) -> Checkpoint:
        return self.members[self.reference].checkpoint


def share(points: Sequence[Checkpoint], base: Checkpoint | None) -> Shared:
    """What the checkpoints have in common, by names up to wrappers and one prefix, and by shape.

    The reference is the base, else the first. Raises UsageError for adapters without a base, or
    of whose changes nothing is left.
    """
    reference = 0 if base is None else points.index(base)
    origin = points[reference]
    adapters = [point for point in points if point.kind == "adapter"]
    if adapters and base is None:
        raise UsageError("an adapter is compared through its base: pass it", path=adapters[0].path)
    own = {tensor.name: tensor for tensor in untied(origin.stored)}
    out = [
        LeftOut(name, origin.name, f"{tensor.dtype} is no plain floating-point number")
        for name, tensor in own.items()
        if tensor.dtype not in FLOATS and is_parameter(tensor)
    ]
    members: list[Member] = []
    for point in points:
        if point is origin:
            members.append(Member(point, {name: name for name in own}))
            continue
        member, differing = (_adapted if point.kind == "adapter" else _full)(point, origin, own)
        members.append(member)
        out += differing
    absent = {item.tensor for item in out}
    absent |= {
        name for member in members if not member.adapter for name in own.keys() - member.names
    }
    kept = tuple(t for name, t in own.items() if t.dtype in FLOATS and name not in absent)
    for member in members:
        if member.adapter and not any(tensor.name in member.changes for tensor in kept):
            why = next((item for item in out if item.tensor in member.changes), out[-1])
            raise UsageError(
                f"nothing that it changes can be compared: {why}", path=member.checkpoint.path
            )
    return Shared(tuple(members), reference, kept, tuple(out))


class Unchanged:
    """The member has the reference's tensor."""


Factors = tuple[Array, Array]  # left (a, r), right (b, r): left @ right.T is ΔW as stored, flat
Change = Unchanged | Factors | Array | None  # None: to be read from the checkpoint itself


def change_of(shared: Shared, member: Member, tensor: StoredTensor) -> Change:
    """A member's deviation in one tensor: factors, dense in the tensor's shape, or to be read."""
    if member.checkpoint is shared.origin:
        return Unchanged()
    if member.adapter is None:
        return None
    pairs = member.changes.get(tensor.name, ())
    if not pairs:
        return Unchanged()
    import torch

    total = torch.zeros(tensor.shape, dtype=torch.float64)
    for target, matrix in pairs:
        base = torch.from_numpy(numbers(shared.origin, tensor.name))
        own = matrix.select(base)
        update = target_update(member.adapter, target, matrix, own)
        alone = len(pairs) == 1 and matrix.index is None
        if alone and isinstance(update, LowRankDelta) and update.minus_base_rank == 0:
            return (update.Q, update.P) if matrix.transposed else (update.P, update.Q)
        tuned = torch.from_numpy(dense_weight(update, own.numpy()))
        matrix.select(total).add_(tuned - own)
    return total.numpy()


def deviation(
    shared: Shared,
    member: Member,
    tensor: StoredTensor,
    change: Change,
    rows: slice | None,
    r: Array,
) -> Array:
    """δ (the shape of r) in some rows of a tensor, r being the reference's numbers there."""
    if isinstance(change, Unchanged):
        return np.zeros_like(r)
    if change is None:
        return numbers(member.checkpoint, member.names[tensor.name], rows) - r
    part = slice(None) if rows is None else rows
    if isinstance(change, tuple):
        return (change[0][part] @ change[1].T).reshape(r.shape)
    return change[part] if change.ndim else change


def numbers(checkpoint: Checkpoint, name: str, rows: slice | None = None) -> Array:
    """A tensor, or some of its rows, in float64. Raises NonFinite naming file and tensor."""
    first = 0 if rows is None else rows.start
    return finite(checkpoint.read(name, rows), name, checkpoint.path, first)


def finite(tensor: torch.Tensor, name: str, path: Path, first_row: int = 0) -> Array:
    """float64. Raises NonFinite, its index counted from row `first_row` of the whole tensor."""
    array = tensor.detach().cpu().double().numpy()
    if not np.isfinite(array).all():
        index = int(np.argmin(np.isfinite(array))) + first_row * math.prod(array.shape[1:])
        n_nan, n_inf = int(np.isnan(array).sum()), int(np.isinf(array).sum())
        error = NonFinite(n_nan, n_inf, index, tensor=name)
        error.path = path
        raise error
    return array


def module_of(name: str) -> str:
    """The block a tensor belongs to (``model.layers.3``), or the module outside every block."""
    parts = strip_wrappers(name).split(".")
    number = next((place for place, part in enumerate(parts) if part.isdigit()), None)
    if number is not None and number < len(parts) - 1:
        return ".".join(parts[: number + 1])
    return ".".join(parts[:-1]) or parts[0]


def _full(
    point: Checkpoint, origin: Checkpoint, own: Mapping[str, StoredTensor]
) -> tuple[Member, list[LeftOut]]:
    """A checkpoint that stores all its tensors."""
    stored = {tensor.name: tensor for tensor in point.stored}
    matched = {mine: stored[name] for name, mine in match_names(own, stored).items()}
    names: dict[str, str] = {}
    out: list[LeftOut] = []
    for mine, tensor in own.items():
        other = matched.get(mine)
        if other is None:
            reason = f"absent, {origin.name} has it"
        elif other.shape != tensor.shape:
            reason = f"shape {other.shape}, {tensor.shape} in {origin.name}"
        elif (other.dtype in FLOATS) != (tensor.dtype in FLOATS):
            reason = f"{other.dtype}, {tensor.dtype} in {origin.name}"
        else:
            names[mine] = other.name
            continue
        out += [LeftOut(mine, point.name, reason)] if is_parameter(tensor) else []
    places = {(tensor.storage_id, tensor.shape) for tensor in matched.values()}
    out += [
        LeftOut(tensor.name, point.name, f"{origin.name} has no such tensor")
        for tensor in untied(point.stored)
        if (tensor.storage_id, tensor.shape) not in places and is_parameter(tensor)
    ]
    return Member(point, names), out


def _adapted(
    point: Checkpoint, origin: Checkpoint, own: Mapping[str, StoredTensor]
) -> tuple[Member, list[LeftOut]]:
    """An adapter; a tensor that it changes in a way that cannot be computed is left out."""
    adapter = open_adapter(point)
    changes: defaultdict[str, list[tuple[AdapterTarget, MatrixInfo]]] = defaultdict(list)
    out: list[LeftOut] = []
    for target, matrix in match_targets(adapter, origin.matrices()):
        if target.status == "ok" and matrix is not None and matrix.tensor in own:
            changes[matrix.tensor].append((target, matrix))
        else:
            name = target.name if matrix is None else matrix.tensor
            reason = target.detail or f"{origin.name} has no such matrix"
            out.append(LeftOut(name, point.name, reason))
    return Member(point, adapter=adapter, changes=dict(changes)), out

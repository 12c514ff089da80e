"""Where checkpoints on disk lie in weight space: distances, components, paths, dimension.

Every checkpoint is read as its deviation from a reference, some rows of a tensor at a time, and
only inner products are kept. An adapter's deviation is its ΔW: low-rank updates of one matrix
have ⟨P_i Q_iᵀ, P_j Q_jᵀ⟩ = Σ (P_iᵀP_j) ∘ (Q_iᵀQ_j) and are never made dense where no checkpoint
stores that matrix anew. `theory.checkpoint_geometry` and `theory.intrinsic_dimension` say what the
measures are and whose.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from theory.checkpoint_geometry import (
    Embedding,
    Trajectory,
    centred_gram,
    displacement_shares,
    distances,
    principal_components,
    random_walk_ratios,
    trajectory,
)
from theory.intrinsic_dimension import NeighbourMLE, TwoNN, neighbour_mle, two_nn

if TYPE_CHECKING:
    pass

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]  # tensors done, tensors in all

_BLOCK = 1 << 17  # entries of each checkpoint that are in memory at once


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A tensor that is not compared, the checkpoint that differs, and how."""

    tensor: str
    checkpoint: str
    reason: str

    def __str__(self) -> str:
        return f"{self.tensor} of {self.checkpoint}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Dimension:
    """Intrinsic dimension of a set, each estimate with its refusal and its warnings."""

    two_nn: TwoNN
    mle: NeighbourMLE


@dataclass(frozen=True, slots=True)
class RunGeometry:
    """The checkpoints of one training run, by step.

    `random_walk` (K,): what `embedding.explained` would be without any drift. `layer_shares`: by
    module, of ‖θ_T - θ_0‖²; None where nothing moved. `final_angles` (T,): between each step and
    the final direction, radians; NaN at a step of zero length.
    """

    run: str
    names: tuple[str, ...]
    steps: tuple[int | None, ...]
    embedding: Embedding
    random_walk: Array
    trajectory: Trajectory
    final_angles: Array
    from_base: Array | None
    layer_shares: dict[str, float] | None
    dimension: Dimension


@dataclass(frozen=True, slots=True)
class CheckpointGeometry:
    """N checkpoints; matrices are (N, N) in the order of `names`.

    `relative`: ‖θ_i - θ_j‖/√(‖θ_i‖‖θ_j‖). `cosines` are those of the weights, the others of
    their differences from the mean of all and from the base; NaN where a norm is zero. What is
    from the base is None without one. `random_walk` (K,) stands beside `embedding.explained`.
    """

    names: tuple[str, ...]
    base: str | None
    n_params: int
    left_out: tuple[LeftOut, ...]
    norms: Array
    distances: Array
    relative: Array
    cosines: Array
    cosines_from_mean: Array
    cosines_from_base: Array | None
    from_base: Array | None
    embedding: Embedding
    random_walk: Array
    runs: tuple[RunGeometry, ...]
    dimension: Dimension


def checkpoint_geometry(
    checkpoints: Sequence[Checkpoint],
    *,
    base: Checkpoint | None = None,
    progress: Progress | None = None,
) -> CheckpointGeometry:
    """Geometry of the parameters that all checkpoints share, tied ones once, buffers left out.

    `base` is by default the checkpoint of kind ``base``; one that is not among `checkpoints` joins
    them in front. Adapters need it. Runs are those of at least two checkpoints with one `run`.
    Raises UsageError for fewer than two checkpoints, adapters without a base, or nothing shared;
    NonFinite naming checkpoint and tensor; AdapterError for an update that cannot be computed.
    """
    base = base or next((one for one in checkpoints if one.kind == "base"), None)
    points = list(checkpoints)
    if base is not None and base not in points:
        points.insert(0, base)
    if len(points) < 2:
        raise UsageError(f"geometry needs at least 2 checkpoints, got {len(points)}")
    shared = share(points, base)
    weights = [tensor for tensor in shared.tensors if is_parameter(tensor)]
    if not weights:
        raise UsageError(f"no parameter is shared by all checkpoints: {shared.left_out[0]}")
    runs = {name: order for name, order in _runs(points).items() if len(order) > 1}
    layers: dict[str, dict[str, Array]] = {
        run: defaultdict(lambda: np.zeros((2, 2))) for run in runs
    }
    products = Products.none(len(points))
    for number, tensor in enumerate(weights):
        found = tensor_products(shared, tensor)
        products = products + found
        for run, order in runs.items():
            layers[run][module_of(tensor.name)] += _part(found.gram, [order[0], order[-1]])
        if progress is not None:
            progress(number + 1, len(weights))
    gram, about = products.gram, products.about(shared.reference)
    raw = products.uncentred(shared.reference)
    norms = np.sqrt(np.maximum(np.diag(raw), 0.0))
    apart = distances(gram)
    scale = np.sqrt(np.outer(norms, norms))
    embedding = principal_components(gram)
    from_base = None if base is None else apart[shared.reference]
    return CheckpointGeometry(
        names=tuple(point.name for point in points),
        base=None if base is None else base.name,
        n_params=sum(math.prod(tensor.shape) for tensor in weights),
        left_out=shared.left_out,
        norms=norms,
        distances=apart,
        relative=np.divide(apart, scale, out=np.full(apart.shape, np.nan), where=scale > 0.0),
        cosines=_cosines(raw, norms),
        cosines_from_mean=_cosines(gram, np.sqrt(np.maximum(np.diag(gram), 0.0))),
        cosines_from_base=None if from_base is None else _cosines(about, from_base),
        from_base=from_base,
        embedding=embedding,
        random_walk=random_walk_ratios(embedding.explained.size, len(points)),
        runs=tuple(
            _run(run, order, points, gram, from_base, layers[run]) for run, order in runs.items()
        ),
        dimension=_dimension(apart),
    )


@dataclass(frozen=True, slots=True)
class Products:
    """Of N deviations δ from a reference r: centred Gram (N, N), ⟨r, δ_i⟩ (N,) and ⟨r, r⟩."""

    gram: Array
    with_reference: Array
    square: float

    @classmethod
    def none(cls, n: int) -> Products:
        return cls(np.zeros((n, n)), np.zeros(n), 0.0)

    def __add__(self, other: Products) -> Products:
        return Products(
            self.gram + other.gram,
            self.with_reference + other.with_reference,
            self.square + other.square,
        )

    def about(self, reference: int) -> Array:
        """⟨δ_i, δ_j⟩, `reference` being the number of the point that is r itself."""
        row = self.gram[reference]
        return self.gram - row - row[:, None] + row[reference]

    def uncentred(self, reference: int) -> Array:
        """⟨r + δ_i, r + δ_j⟩."""
        along = self.with_reference
        return self.about(reference) + along + along[:, None] + self.square


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


def tensor_products(shared: Shared, tensor: StoredTensor) -> Products:
    """Inner products of all members in one tensor."""
    changes = [change_of(shared, member, tensor) for member in shared.members]
    n = len(changes)
    gram, along, square = np.zeros((n, n)), np.zeros(n), 0.0
    dense = any(change is None or isinstance(change, np.ndarray) for change in changes)
    moved = [i for i, change in enumerate(changes) if not isinstance(change, Unchanged)]
    for rows in _row_blocks(tensor.shape):
        r = numbers(shared.origin, tensor.name, rows)
        block = np.zeros((n if dense else 0, r.size))
        for i in moved:
            delta = deviation(shared, shared.members[i], tensor, changes[i], rows, r)
            along[i] += float(np.vdot(r, delta))
            if dense:
                block[i] = delta.ravel()
        square += float(np.vdot(r, r))
        gram += centred_gram([block]) if dense else 0.0
    if not dense:
        factors = {i: change for i, change in enumerate(changes) if isinstance(change, tuple)}
        for i, (left, right) in factors.items():
            for j, (other_left, other_right) in factors.items():
                gram[i, j] = np.vdot(left.T @ other_left, right.T @ other_right)
        gram = _centred(gram)
    return Products(gram, along, square)


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


def _row_blocks(shape: tuple[int, ...]) -> Iterator[slice | None]:
    """Slices of the first axis; None where there is no axis."""
    if not shape:
        yield None
        return
    step = max(1, _BLOCK // max(1, math.prod(shape[1:])))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))


def _runs(points: Sequence[Checkpoint]) -> dict[str, list[int]]:
    """Numbers of the checkpoints of each run, by step."""
    found: defaultdict[str, list[int]] = defaultdict(list)
    for number, point in enumerate(points):
        if point.run is not None:
            found[point.run].append(number)
    return {
        run: sorted(order, key=lambda number: -1 if (s := points[number].step) is None else s)
        for run, order in found.items()
    }


def _run(
    run: str,
    order: Sequence[int],
    points: Sequence[Checkpoint],
    gram: Array,
    from_base: Array | None,
    layers: Mapping[str, Array],
) -> RunGeometry:
    own = _part(gram, order)
    embedding, path = principal_components(own), trajectory(own)
    return RunGeometry(
        run=run,
        names=tuple(points[number].name for number in order),
        steps=tuple(points[number].step for number in order),
        embedding=embedding,
        random_walk=random_walk_ratios(embedding.explained.size, len(order)),
        trajectory=path,
        final_angles=np.arccos(path.final_cosines),
        from_base=None if from_base is None else from_base[list(order)],
        layer_shares=displacement_shares(layers),
        dimension=_dimension(distances(own)),
    )


def _part(gram: Array, order: Sequence[int]) -> Array:
    """The centred Gram matrix of some of the points."""
    return _centred(gram[np.ix_(order, order)])


def _centred(gram: Array) -> Array:
    means = gram.mean(axis=0)
    return gram - means - means[:, None] + means.mean()


def _cosines(inner: Array, norms: Array) -> Array:
    product = np.outer(norms, norms)
    exact = np.divide(inner, product, out=np.full(inner.shape, np.nan), where=product > 0.0)
    return np.clip(exact, -1.0, 1.0)


def _dimension(distance: Array) -> Dimension:
    return Dimension(two_nn(distance), neighbour_mle(distance))

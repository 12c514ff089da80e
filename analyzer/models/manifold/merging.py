"""Several checkpoints merged into one that is written to disk.

Linear and spherical interpolation, the mean on the sphere (`theory.paths`), sequential merging by
orthogonal projection (`theory.opcm`) and averages of aligned checkpoints (N. Saadati et al.,
"DIMAT", CVPR 2024). All compute in float64, a tensor at a time, and save every tensor under the
name, in the dtype and in the order of the reference: the base, else the first checkpoint. Floating
buffers, such as the running statistics of batch norms, are averaged linearly by every method;
integers are the reference's.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.parameters import is_parameter
from analyzer.checkpoints.stored import StoredTensor
from analyzer.checkpoints.writing import Planned, tensor_bytes, write_checkpoint
from analyzer.errors import AnalysisError, QuantUnknown, ShapeMismatch, UsageError
from analyzer.models.manifold.features import Read
from analyzer.models.manifold.geometry import Progress
from analyzer.models.manifold.groups import PermutationGroup, Site, reorder
from analyzer.models.manifold.products import Products, tensor_products
from analyzer.models.manifold.shared import (
    Shared,
    change_of,
    deviation,
    finite,
    numbers,
    share,
)
from theory.opcm import project
from theory.paths import karcher_weights, slerp_weights

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float64]
Orders = Mapping[str, ArrayLike]  # group → order, new[i] = old[order[i]]


@dataclass(frozen=True, slots=True)
class Merged:
    """What was written to `folder`.

    `coefficients`: of the checkpoints, or of their differences from the base; None for a merge
    that is not linear. `norm` and `norms`: of what these multiply, merged and one by one; None
    where they were not needed. `scale`: OPCM's last λ. `degenerate`: tensors in which equal
    singular values, or several that are zero, leave OPCM's projection undetermined.
    """

    folder: Path
    method: str
    coefficients: tuple[float, ...] | None = None
    norm: float | None = None
    norms: tuple[float, ...] | None = None
    scale: float | None = None
    degenerate: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ingredients:
    """Checkpoints of the same tensors, as deviations from the reference, which is the base if
    there is one: `points` are the members to combine, `first` gives, for every name of the
    reference, the first name of the same storage."""

    shared: Shared
    points: tuple[int, ...]
    has_base: bool
    first: Mapping[str, str]
    tensors: Mapping[str, StoredTensor]

    def gram(self, progress: Progress | None = None) -> Array:
        """Inner products of the differences from the base, or of the weights without one."""
        weights = [tensor for tensor in self.shared.tensors if is_parameter(tensor)]
        total = Products.none(len(self.shared.members))
        for number, tensor in enumerate(weights):
            total = total + tensor_products(self.shared, tensor)
            if progress is not None:
                progress(number + 1, len(weights))
        reference = self.shared.reference
        G = total.about(reference) if self.has_base else total.uncentred(reference)
        return G[np.ix_(self.points, self.points)]

    def differences(self, name: str) -> Iterator[tuple[Array, Array]]:
        """The reference's numbers of a tensor, and each point's difference from them."""
        tensor = self.tensors[self.first[name]]
        r = numbers(self.shared.origin, tensor.name)
        for number in self.points:
            member = self.shared.members[number]
            change = change_of(self.shared, member, tensor)
            yield r, deviation(self.shared, member, tensor, change, None, r)

    def combined(
        self, name: str, coefficients: Sequence[float], averages: Sequence[float]
    ) -> torch.Tensor:
        """Σ c_i x_i, or base + Σ c_i (x_i - base), as stored; a buffer takes `averages` for c."""
        tensor = self.tensors.get(self.first[name])
        if tensor is None:
            return self.shared.origin.read(name)
        weights = coefficients if is_parameter(tensor) else averages
        kept = 1.0 if self.has_base else math.fsum(weights)
        total = np.zeros(tensor.shape)
        for number, (r, delta) in enumerate(self.differences(name)):
            total += weights[number] * delta + (kept * r if number == 0 else 0.0)
        return as_stored(total, tensor)


def ingredients(checkpoints: Sequence[Checkpoint], base: Checkpoint | None) -> Ingredients:
    """Checks that all checkpoints hold the same tensors; adapters need the base.

    Raises ShapeMismatch listing those that differ, QuantUnknown for weights that are no plain
    floating-point numbers, UsageError for fewer than two checkpoints.
    """
    if len(checkpoints) < 2:
        raise UsageError(f"merging needs at least 2 checkpoints, got {len(checkpoints)}")
    points = [*checkpoints] if base is None else [base, *(c for c in checkpoints)]
    shared = share(points, base)
    if shared.left_out:
        listed = "; ".join(map(str, shared.left_out[:4]))
        more = f"; and {len(shared.left_out) - 4} more" if len(shared.left_out) > 4 else ""
        packed = [item for item in shared.left_out if "floating-point" in item.reason]
        if packed:
            raise QuantUnknown(str(packed[0]), hint="dequantise first")
        raise ShapeMismatch(f"the checkpoints hold different tensors: {listed}{more}")
    origin = shared.origin
    places: dict[object, str] = {}
    first = {
        tensor.name: places.setdefault(
            (tensor.storage_id, tensor.shape, tensor.stride), tensor.name
        )
        for tensor in origin.stored
    }
    return Ingredients(
        shared=shared,
        points=tuple(range(0 if base is None else 1, len(points))),
        has_base=base is not None,
        first=first,
        tensors={tensor.name: tensor for tensor in shared.tensors},
    )


def merge_lerp(
    a: Checkpoint,
    b: Checkpoint,
    t: float,
    folder: str | Path,
    *,
    base: Checkpoint | None = None,
    progress: Progress | None = None,
) -> Merged:
    """(1 - t) a + t b. The base is needed for adapters only. Raises as `ingredients`."""
    target, parts = new_folder(folder), ingredients([a, b], base)
    return _write_linear(parts, "lerp", (1.0 - t, t), (1.0 - t, t), target, progress, {"t": t})


def merge_slerp(
    a: Checkpoint,
    b: Checkpoint,
    t: float,
    folder: str | Path,
    *,
    base: Checkpoint | None = None,
    progress: Progress | None = None,
) -> Merged:
    """Along the great circle between the differences from the base, all tensors as one vector.

    Linear where these have an angle below 1e-4 or one of them is zero. Without a base the weights
    themselves are interpolated. Raises as `ingredients`, and UsageError for opposite vectors.
    """
    target, parts = new_folder(folder), ingredients([a, b], base)
    gram = parts.gram()
    c = spherical(gram, t)
    return _write_linear(parts, "slerp", c, (1.0 - t, t), target, progress, {"t": t}, gram)


def merge_karcher(
    checkpoints: Sequence[Checkpoint],
    folder: str | Path,
    *,
    base: Checkpoint | None = None,
    progress: Progress | None = None,
) -> Merged:
    """Mean direction on the sphere of the differences from the base, their mean norm.

    Without a base, of the weights themselves. Raises as `ingredients`, and UsageError where the
    mean is not defined.
    """
    target, parts = new_folder(folder), ingredients(checkpoints, base)
    gram = parts.gram()
    try:
        c = tuple(karcher_weights(gram).tolist())
    except ValueError as error:
        raise UsageError(str(error)) from None
    equal = (1.0 / len(c),) * len(c)
    return _write_linear(parts, "karcher", c, equal, target, progress, {}, gram)


def merge_opcm(
    checkpoints: Sequence[Checkpoint],
    base: Checkpoint,
    folder: str | Path,
    *,
    alpha: float = 0.5,
    progress: Progress | None = None,
) -> Merged:
    """The differences from the base added one after the other, each projected off those before.

    Since the projection depends on directions alone, each tensor goes through the whole sequence
    at once, S ← S + P(S, Δ_t), and is divided at the end by λ = ‖S‖/mean ‖Δ_i‖ over all tensors:
    the same as rescaling after every step. Raises as `ingredients`, and UsageError for alpha
    outside [0, 1) or updates that cancel.
    """
    if not 0.0 <= alpha < 1.0:
        raise UsageError(f"alpha = {alpha} must lie in [0, 1)")
    target, parts = new_folder(folder), ingredients(checkpoints, base)
    weights = [tensor for tensor in parts.shared.tensors if is_parameter(tensor)]
    squares, total = np.zeros(len(checkpoints)), 0.0
    equal = (1.0 / len(checkpoints),) * len(checkpoints)
    flagged: list[str] = []
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".opcm.") as scratch:
        sums: dict[str, Path] = {}
        for number, tensor in enumerate(weights):
            deltas = (delta for _, delta in parts.differences(tensor.name))
            merged, lengths, degenerate = _in_sequence(deltas, alpha)
            squares += lengths
            total += float(np.vdot(merged, merged))
            flagged += [tensor.name] if degenerate else []
            sums[tensor.name] = Path(scratch) / f"{number}.npy"
            np.save(sums[tensor.name], merged)
            if progress is not None:
                progress(number + 1, len(weights))
        norms = np.sqrt(squares)
        if total == 0.0 or not norms.any():
            raise UsageError("the updates cancel: nothing is left to rescale")
        scale = math.sqrt(total) / float(norms.mean())

        def rescaled(name: str) -> torch.Tensor:
            first = parts.first[name]
            if first not in sums:
                return parts.combined(name, equal, equal)
            values = numbers(base, first) + np.load(sums[first]) / scale
            return as_stored(values, parts.tensors[first])

        metadata = described("opcm", checkpoints, base, {"alpha": alpha, "scale": scale})
        write_like(target, base, rescaled, metadata)
    return Merged(
        folder=target,
        method="opcm",
        norm=float(norms.mean()),
        norms=tuple(norms.tolist()),
        scale=scale,
        degenerate=tuple(flagged),
    )


def _in_sequence(deltas: Iterator[Array], alpha: float) -> tuple[Array, Array, bool]:
    """S of one tensor, ‖Δ_t‖² of each update, and whether a projection was undetermined."""
    merged: Array | float = 0.0
    squares: list[float] = []
    degenerate = False
    for number, delta in enumerate(deltas):
        squares.append(float(np.vdot(delta, delta)))
        if number and delta.ndim == 2:
            projection = project(merged, delta, alpha)
            # Beyond the rank of a sum of adapters singular vectors are arbitrary too.
            rank, full = int(np.linalg.matrix_rank(merged)), min(delta.shape)
            degenerate |= projection.degenerate or 0 < rank < full - 1
            delta = projection.update
        merged = merged + delta
    return np.asarray(merged), np.array(squares), degenerate


def merge_dimat(
    checkpoints: Sequence[Checkpoint],
    groups: Sequence[PermutationGroup],
    orders: Sequence[Orders],
    folder: str | Path,
    *,
    progress: Progress | None = None,
) -> Merged:
    """Mean of the first checkpoint and of the others with their units in the given orders.

    `orders`: one mapping for each checkpoint after the first, as matching to the first gives it.
    Raises as `ingredients`, UsageError for adapters or another number of orders.
    """
    if any(checkpoint.kind == "adapter" for checkpoint in checkpoints):
        raise UsageError("an adapter has no channels of its own: merge it first")
    if len(orders) != len(checkpoints) - 1:
        raise UsageError(f"{len(checkpoints)} checkpoints need {len(checkpoints) - 1} orders")
    target, parts = new_folder(folder), ingredients(checkpoints, None)
    origin, n = parts.shared.origin, len(checkpoints)
    reads: list[Read] = []
    for member, order in zip(parts.shared.members, ({}, *orders), strict=True):
        own, names = member.checkpoint, member.names
        reads.append(reordered(lambda name, c=own, m=names: c.read(m[name]), groups, order))

    def averaged(name: str) -> torch.Tensor:
        stored = parts.tensors.get(parts.first[name])
        if stored is None:
            return origin.read(name)
        total = np.zeros(stored.shape)
        for read, member in zip(reads, parts.shared.members, strict=True):
            total += finite(read(stored.name), stored.name, member.checkpoint.path)
        return as_stored(total / n, stored)

    metadata = described("dimat", checkpoints, None, {})
    written = write_like(target, origin, averaged, metadata, progress)
    return Merged(written, "dimat", coefficients=(1.0 / n,) * n)


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


def write_like(
    folder: str | Path,
    like: Checkpoint,
    read: Read,
    metadata: Mapping[str, str],
    progress: Progress | None = None,
) -> Path:
    """Tensors named, shaped and typed as in `like`, with its config. Raises UsageError if the
    folder exists or cannot be written."""
    planned = [Planned(tensor.name, tensor.dtype, tensor.shape) for tensor in like.stored]
    done = 0

    def chunks(name: str) -> Iterator[bytes | memoryview]:
        nonlocal done
        yield tensor_bytes(read(name))
        done += 1
        if progress is not None:
            progress(done, len(planned))

    target = Path(folder)
    header = {"format": "pt", **metadata}
    write_checkpoint(target, planned, chunks, metadata=header, config=like.config)
    return target


def spherical(gram: Array, t: float) -> tuple[float, float]:
    """`slerp_weights`, its refusal as UsageError."""
    try:
        return slerp_weights(gram, t)
    except ValueError as error:
        raise UsageError(str(error)) from None


def as_stored(values: Array, tensor: StoredTensor) -> torch.Tensor:
    """Numbers in the dtype of a stored tensor. Raises AnalysisError where they overflow it."""
    import torch

    result = torch.from_numpy(np.ascontiguousarray(values)).to(getattr(torch, tensor.dtype))
    if not torch.isfinite(result).all():
        raise AnalysisError(f"the result overflows {tensor.dtype}", tensor=tensor.name)
    return result


def source_sha256(checkpoint: Checkpoint) -> str:
    """SHA-256 over the sorted names of all tensors and the hashes of their contents."""
    digest = hashlib.sha256()
    for name in sorted(tensor.name for tensor in checkpoint.stored):
        digest.update(f"{name}:{checkpoint.content_sha256(name)}\n".encode())
    return digest.hexdigest()


def _write_linear(
    parts: Ingredients,
    method: str,
    coefficients: Sequence[float],
    averages: Sequence[float],
    folder: Path,
    progress: Progress | None,
    options: Mapping[str, float],
    gram: Array | None = None,
) -> Merged:
    origin = parts.shared.origin
    sources = [parts.shared.members[number].checkpoint for number in parts.points]
    base = origin if parts.has_base else None
    c = np.asarray(coefficients)
    metadata = described(method, sources, base, {**options, "coefficients": c.tolist()})
    written = write_like(
        folder,
        origin,
        lambda name: parts.combined(name, coefficients, averages),
        metadata,
        progress,
    )
    return Merged(
        folder=written,
        method=method,
        coefficients=tuple(c.tolist()),
        norm=None if gram is None else math.sqrt(max(float(c @ gram @ c), 0.0)),
        norms=None if gram is None else tuple(np.sqrt(np.diag(gram)).tolist()),
    )


def described(
    method: str,
    sources: Sequence[Checkpoint],
    base: Checkpoint | None,
    options: Mapping[str, object],
) -> dict[str, str]:
    """Metadata of the file: the method, its options, and what it was made from."""
    listed = [{"name": one.name, "sha256": source_sha256(one)} for one in sources]
    text = {"method": method, "sources": json.dumps(listed), "options": json.dumps(options)}
    if base is not None:
        text["base"] = json.dumps({"name": base.name, "sha256": source_sha256(base)})
    return text


def new_folder(folder: str | Path) -> Path:
    """A folder that does not exist yet, its parent made, before anything long begins."""
    target = Path(folder)
    if target.exists():
        raise UsageError("exists already", path=target, hint="name a new folder")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"cannot be written: {error.strerror}", path=target) from None
    return target

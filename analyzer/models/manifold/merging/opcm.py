"""Sequential merging by orthogonal projection (`theory.opcm`), a tensor at a time."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.parameters import is_parameter
from analyzer.errors import UsageError
from analyzer.models.manifold.geometry import Progress
from analyzer.models.manifold.merging.result import Merged
from analyzer.models.manifold.merging.sources import Ingredients, ingredients
from analyzer.models.manifold.shared import numbers
from analyzer.models.manifold.writing import as_stored, described, new_folder, write_like
from theory.opcm import project

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float64]


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
    equal = (1.0 / len(checkpoints),) * len(checkpoints)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".opcm.") as scratch:
        sums = _sum_up(parts, alpha, Path(scratch), progress)
        scale = sums.norm / float(sums.norms.mean())

        def rescaled(name: str) -> torch.Tensor:
            first = parts.first[name]
            if first not in sums.files:
                return parts.combined(name, equal, equal)
            values = numbers(base, first) + np.load(sums.files[first]) / scale
            return as_stored(values, parts.tensors[first])

        metadata = described("opcm", checkpoints, base, {"alpha": alpha, "scale": scale})
        write_like(target, base, rescaled, metadata)
    return Merged(
        folder=target,
        method="opcm",
        norm=float(sums.norms.mean()),
        norms=tuple(sums.norms.tolist()),
        scale=scale,
        degenerate=sums.degenerate,
    )


@dataclass(frozen=True, slots=True)
class _Sums:
    """S of every tensor, in a file; ‖S‖ and each ‖Δ_t‖ (checkpoints,) over all of them."""

    files: dict[str, Path]
    norm: float
    norms: Array
    degenerate: tuple[str, ...]


def _sum_up(parts: Ingredients, alpha: float, scratch: Path, progress: Progress | None) -> _Sums:
    """Raises UsageError where the updates cancel."""
    weights = [tensor for tensor in parts.shared.tensors if is_parameter(tensor)]
    squares, total = np.zeros(len(parts.points)), 0.0
    files: dict[str, Path] = {}
    flagged: list[str] = []
    for number, tensor in enumerate(weights):
        deltas = (delta for _, delta in parts.differences(tensor.name))
        merged, lengths, degenerate = _in_sequence(deltas, alpha)
        squares += lengths
        total += float(np.vdot(merged, merged))
        flagged += [tensor.name] if degenerate else []
        files[tensor.name] = scratch / f"{number}.npy"
        np.save(files[tensor.name], merged)
        if progress is not None:
            progress(number + 1, len(weights))
    if total == 0.0 or not squares.any():
        raise UsageError("the updates cancel: nothing is left to rescale")
    return _Sums(files, math.sqrt(total), np.sqrt(squares), tuple(flagged))


def _in_sequence(deltas: Iterator[Array], alpha: float) -> tuple[Array, Array, bool]:
    """S of one tensor, ‖Δ_t‖² of each update, and whether a projection was undetermined."""
    merged: Array | float = 0.0
    squares: list[float] = []
    degenerate = False
    for number, delta in enumerate(deltas):
        squares.append(float(np.vdot(delta, delta)))
        if number and delta.ndim == 2:
            projection = project(merged, delta, alpha)
            degenerate |= projection.degenerate
            delta = projection.update
        merged = merged + delta
    return np.asarray(merged), np.array(squares), degenerate

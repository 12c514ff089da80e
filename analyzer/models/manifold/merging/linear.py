"""Merges that are one linear combination: on a line, on a circle, or the mean on a sphere."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.errors import UsageError
from analyzer.models.manifold.geometry import Progress
from analyzer.models.manifold.merging.result import Merged
from analyzer.models.manifold.merging.sources import Ingredients, ingredients
from analyzer.models.manifold.writing import described, new_folder, write_like
from theory.paths import karcher_weights, slerp_weights

Array = NDArray[np.float64]


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


def spherical(gram: Array, t: float) -> tuple[float, float]:
    """`slerp_weights`, its refusal as UsageError."""
    try:
        return slerp_weights(gram, t)
    except ValueError as error:
        raise UsageError(str(error)) from None


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

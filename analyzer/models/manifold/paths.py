"""Losses along a path between two checkpoints, measured by a function of the user.

Linear and spherical paths (`theory.paths`), and both definitions of the barrier on them
(`theory.barriers`). Between networks whose units are in different orders a barrier says little:
align one to the other first.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.errors import AnalysisError, UsageError
from analyzer.models.manifold.geometry import Progress
from analyzer.models.manifold.merging import ingredients, spherical
from theory.barriers import Barriers, barriers, default_grid

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float64]
Evaluate = Callable[[dict[str, "torch.Tensor"]], Mapping[str, float]]
Kind = Literal["lerp", "slerp"]

_RUNNING = re.compile(r"(?:^|\.)running_(?:mean|var)$")


@dataclass(frozen=True, slots=True)
class LossPath:
    """Losses at t (T,), 0 being the first checkpoint and 1 the second, and their barriers.

    `accuracies` (T,) and `accuracy_drop`, the barriers of the negated accuracies, are None where
    the evaluation gives none.
    """

    kind: Kind
    t: Array
    losses: Array
    barriers: Barriers
    accuracies: Array | None
    accuracy_drop: Barriers | None
    warnings: tuple[str, ...]


def loss_path(
    a: Checkpoint,
    b: Checkpoint,
    eval_fn: Evaluate,
    *,
    n_points: int = 25,
    kind: Kind = "lerp",
    base: Checkpoint | None = None,
    progress: Progress | None = None,
) -> LossPath:
    """Evaluates `n_points` networks evenly spaced between two, both included.

    `eval_fn` gets the tensors by name, in the dtypes of the base, else of `a`, and returns ``loss``
    and, if it likes, ``acc``. Adapters need the base, and ``slerp`` turns about it. Raises
    ShapeMismatch for checkpoints of different tensors, UsageError for fewer than two points, a
    result without a loss or opposite vectors, AnalysisError for a loss that is no number.
    """
    if n_points < 2:
        raise UsageError(f"a path needs its two endpoints, got n_points = {n_points}")
    parts = ingredients([a, b], base)
    gram = parts.gram() if kind == "slerp" else None
    t = default_grid(n_points)
    names = [tensor.name for tensor in parts.shared.origin.stored]
    found: list[Mapping[str, float]] = []
    for number, place in enumerate(t.tolist()):
        averages = (1.0 - place, place)
        weights = averages if gram is None else spherical(gram, place)
        found.append(eval_fn({name: parts.combined(name, weights, averages) for name in names}))
        if "loss" not in found[-1]:
            raise UsageError("eval_fn must return a mapping with the key 'loss'")
        if progress is not None:
            progress(number + 1, n_points)
    losses = np.array([float(result["loss"]) for result in found])
    accuracies = None
    if all(result.get("acc") is not None for result in found):
        accuracies = np.array([float(result["acc"]) for result in found])
    return LossPath(
        kind=kind,
        t=t,
        losses=losses,
        barriers=_barriers(losses, t, "loss"),
        accuracies=accuracies,
        accuracy_drop=None if accuracies is None else _barriers(-accuracies, t, "accuracy"),
        warnings=_warnings(names),
    )


def _barriers(values: Array, t: Array, what: str) -> Barriers:
    for number, value in enumerate(values.tolist()):
        ends = number in (0, values.size - 1)
        if np.isnan(value) or (ends and not np.isfinite(value)):
            raise AnalysisError(f"the {what} is {value} at t = {t[number]:g}")
    return barriers(values, t)


def _warnings(names: list[str]) -> tuple[str, ...]:
    """K. Jordan et al., "REPAIR", arXiv 2211.08403: averaged statistics are not those of the
    averaged network."""
    if not any(map(_RUNNING.search, names)):
        return ()
    return (
        "running statistics of batch norms are interpolated: unless eval_fn estimates them anew, "
        "the losses between the ends are unreliable",
    )

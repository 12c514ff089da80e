"""Mean of checkpoints whose units are in line (N. Saadati et al., "DIMAT", CVPR 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.errors import UsageError
from analyzer.models.manifold.features import Read
from analyzer.models.manifold.geometry import Progress
from analyzer.models.manifold.groups import PermutationGroup
from analyzer.models.manifold.merging.result import Merged
from analyzer.models.manifold.merging.sources import ingredients
from analyzer.models.manifold.reordering import Orders, reordered
from analyzer.models.manifold.shared import finite
from analyzer.models.manifold.writing import as_stored, described, new_folder, write_like

if TYPE_CHECKING:
    import torch


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

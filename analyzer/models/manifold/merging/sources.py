"""What is merged: checkpoints of the same tensors, as deviations from one of them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.parameters import is_parameter
from analyzer.checkpoints.stored import StoredTensor
from analyzer.errors import QuantUnknown, ShapeMismatch, UsageError
from analyzer.models.manifold.geometry import Progress
from analyzer.models.manifold.products import Products, tensor_products
from analyzer.models.manifold.shared import Shared, change_of, deviation, numbers, share
from analyzer.models.manifold.writing import as_stored

if TYPE_CHECKING:
    import torch

Array = NDArray[np.float64]


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

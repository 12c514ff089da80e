"""Where checkpoints on disk lie in weight space: distances, components, paths, dimension.

`theory.checkpoint_geometry` and `theory.intrinsic_dimension` say what the measures are and whose.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.parameters import is_parameter
from analyzer.errors import UsageError
from analyzer.models.manifold.products import Products, centred, tensor_products
from analyzer.models.manifold.shared import LeftOut, module_of, share
from theory.checkpoint_geometry import (
    Embedding,
    Trajectory,
    displacement_shares,
    distances,
    principal_components,
    random_walk_ratios,
    trajectory,
)
from theory.intrinsic_dimension import NeighbourMLE, TwoNN, neighbour_mle, two_nn

Array = NDArray[np.float64]
Progress = Callable[[int, int], None]  # tensors done, tensors in all


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
    return centred(gram[np.ix_(order, order)])


def _cosines(inner: Array, norms: Array) -> Array:
    product = np.outer(norms, norms)
    exact = np.divide(inner, product, out=np.full(inner.shape, np.nan), where=product > 0.0)
    return np.clip(exact, -1.0, 1.0)


def _dimension(distance: Array) -> Dimension:
    return Dimension(two_nn(distance), neighbour_mle(distance))

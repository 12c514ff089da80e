"""How well a smooth function of the channel positions stands for the weights of a checkpoint.

K. Solodskikh et al., "Integral Neural Networks", CVPR 2023; X. Yang & X. Wang, "Neural
Metamorphosis", arXiv 2410.11878, ECCV 2024. A fit stores fewer numbers than the weights, so it
stands beside the truncated SVD with as many, which no matrix of its rank beats, and beside the fit
in the stored order.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.errors import UsageError
from analyzer.models.manifold.axis_parts import AxisPart, axis_parts
from analyzer.models.manifold.features import Read, numbers_of
from analyzer.models.manifold.groups import PermutationGroup, Site, reorder
from analyzer.spectral.gram import svdvals
from theory.resampling.bases import (
    Interpolation,
    fit_cosines,
    fit_knots,
    hyperbolic,
    sample_cosines,
    sample_knots,
)
from theory.resampling.fit_errors import svd_rank_for

Array = NDArray[np.float64]
Basis = Literal["dct", "area", "linear", "cubic"]
Sites = Sequence[tuple[Site, PermutationGroup]]


@dataclass(frozen=True, slots=True)
class TensorFit:
    """Errors relative to the tensor W (None for one that is zero); `stored` of `weights` numbers.

    A convolution is one matrix a kernel tap and a stack of experts one a slice; norms and spectra
    run over all of them. `sv_rel` = ‖s - ŝ‖/‖s‖ ≤ `rel_fro` (L. Mirsky, 1960), `s1_rel` =
    |s_1 - ŝ_1|/s_1 of the largest singular value. `svd_rel_fro`: the truncated SVD with at most as
    many stored numbers a matrix. `unpermuted_rel_fro`: the same fit in the stored order.
    """

    tensor: str
    basis: Basis | Literal["inr"]
    permuted: bool
    weights: int
    stored: int
    rel_fro: float | None
    sv_rel: float | None
    s1_rel: float | None
    svd_rank: int
    svd_rel_fro: float | None
    unpermuted_rel_fro: float | None

    @property
    def stored_per_weight(self) -> float:
        return self.stored / self.weights


def fit_manifold(
    checkpoint: Checkpoint,
    groups: Sequence[PermutationGroup],
    orders: Mapping[str, ArrayLike],
    *,
    basis: Basis = "dct",
    budget: float = 0.25,
) -> Iterator[TensorFit]:
    """Fits every matrix that holds units of a group, a tensor at a time; tied ones once.

    Only axes of groups are smoothed, over whole units: the channels of a head, kernel taps, inputs,
    classes and the vocabulary keep every index, and so do query heads within a key head. `orders`
    by group; a group without one stays as it is stored. `budget`: most stored numbers per weight;
    ``dct`` spends it on the orders {Π(k_j + 1) ≤ c} and the others on knots in equal shares of the
    axes. Raises UsageError for a budget outside (0, 1] or an order that fits no group, NonFinite
    and QuantUnknown naming the tensor.
    """
    if not 0.0 < budget <= 1.0:
        raise UsageError(f"budget = {budget} must lie in (0, 1]: stored numbers per weight")
    for tensor, sites in grouped_matrices(checkpoint, groups, orders):
        pair = stored_and_ordered(checkpoint.read, tensor, sites, orders)
        yield _fit_tensor(tensor, sites, pair, basis, budget)


def fit_by_cosines(
    tensor: str, sites: Sites, pair: tuple[Array, Array], budget: float
) -> TensorFit:
    """The ``dct`` fit of one tensor, as stored and in order (`stored_and_ordered`)."""
    return _fit_tensor(tensor, sites, pair, "dct", budget)


def _fit_tensor(
    tensor: str, sites: Sites, pair: tuple[Array, Array], basis: Basis, budget: float
) -> TensorFit:
    W, moved = pair
    fitted, count = _fitted(moved, sites, basis, budget)
    unpermuted = fitted if moved is W else _fitted(W, sites, basis, budget)[0]
    return with_errors(tensor, basis, pair, fitted, unpermuted, count)


def grouped_matrices(
    checkpoint: Checkpoint, groups: Sequence[PermutationGroup], orders: Mapping[str, ArrayLike]
) -> Iterator[tuple[str, Sites]]:
    """Names of the tensors of more than one axis that hold units, in file order, tied ones once,
    and where they do. Raises UsageError for an order that fits no group."""
    if unknown := set(orders) - {group.name for group in groups}:
        raise UsageError(f"no group is named {min(unknown)!r}")
    found: defaultdict[str, list[tuple[Site, PermutationGroup]]] = defaultdict(list)
    for group in groups:
        if group.name in orders:
            order = np.asarray(orders[group.name])
            if not np.array_equal(np.sort(order, axis=None), np.arange(group.size)):
                raise UsageError(f"the order of {group.name} is no permutation of {group.size}")
        for site in group.sites:
            if site.tied_to is None:
                found[site.tensor].append((site, group))
    for tensor in checkpoint.tensors():
        if tensor.name in found and len(tensor.shape) > 1:
            yield tensor.name, found[tensor.name]


def stored_and_ordered(
    read: Read, name: str, sites: Sites, orders: Mapping[str, ArrayLike]
) -> tuple[Array, Array]:
    """A tensor in float64 as it is stored and with its units in order; one array if no group of it
    has an order. Raises NonFinite and QuantUnknown naming the tensor."""
    stored = read(name)
    W = np.asarray(numbers_of(stored, name), dtype=np.float64)
    ordered = stored
    for site, group in sorted(sites, key=lambda pair: pair[1].parent is None):
        if group.name in orders:
            ordered = reorder(ordered, site, orders[group.name])
    if ordered is stored:
        return W, W
    return W, np.asarray(numbers_of(ordered, name), dtype=np.float64)


def with_errors(
    name: str,
    basis: Basis | Literal["inr"],
    pair: tuple[Array, Array],
    fitted: Array,
    unpermuted: Array,
    count: int,
) -> TensorFit:
    """The errors of `fitted` to the ordered tensor of `pair` and of `unpermuted` to the stored
    one, with `count` stored numbers each."""
    W, moved = pair
    exact, approx = _matrices(moved), _matrices(fitted)
    s, s_fit = (
        np.array([svdvals(X, method="gram").singular_values for X in each])
        for each in (exact, approx)
    )
    energy, s1 = float(np.linalg.norm(W)), float(s.max())
    rank = svd_rank_for(count // len(exact), (exact.shape[1], exact.shape[2]))

    def relative(error: Array) -> float | None:
        return float(np.linalg.norm(error)) / energy if energy > 0.0 else None

    return TensorFit(
        tensor=name,
        basis=basis,
        permuted=moved is not W,
        weights=W.size,
        stored=count,
        rel_fro=relative(moved - fitted),
        sv_rel=relative(s - s_fit),
        s1_rel=abs(s1 - float(s_fit.max())) / s1 if s1 > 0.0 else None,
        svd_rank=rank,
        svd_rel_fro=relative(s[:, rank:]),
        unpermuted_rel_fro=relative(W - unpermuted),
    )


def _fitted(W: Array, sites: Sites, basis: Basis, budget: float) -> tuple[Array, int]:
    """The fit at the tensor's own widths, and how many numbers it stores."""
    smooth = [(s, g.size) for s, g in sites if g.kind != "query_heads" and g.size > 1]
    stacked = sorted({s.index for s, _ in smooth if s.index is not None})
    if stacked:
        whole = [(s, n) for s, n in smooth if s.index is None and s.axis > 0]
        result, count = W.copy(), 0
        for index in range(W.shape[0]):
            own = [(s, n) for s, n in smooth if s.index == index] + whole
            result[index], numbers_here = _fit_parts(
                W[index], [(s.axis - 1, s, n) for s, n in own], basis, budget
            )
            count += numbers_here
        return result, count
    return _fit_parts(W, [(s.axis, s, n) for s, n in smooth], basis, budget)


def _fit_parts(
    W: Array, smooth: Sequence[tuple[int, Site, int]], basis: Basis, budget: float
) -> tuple[Array, int]:
    """Every combination of stretches (q | k | v, gate | up, head blocks) has a fit of its own."""
    axes = [
        axis_parts(length, [(site, n) for at, site, n in smooth if at == axis])
        for axis, length in enumerate(W.shape)
    ]
    result, count = np.empty_like(W), 0
    for parts in itertools.product(*axes):
        where = tuple(slice(part.start, part.stop) for part in parts)
        result[where], stored = _fit_part(W[where], parts, basis, budget)
        count += stored
    return result, count


def _fit_part(
    W: Array, parts: Sequence[AxisPart], basis: Basis, budget: float
) -> tuple[Array, int]:
    """One fit over the units; entries within a unit keep an index of their own."""
    shape: list[int] = []
    units: list[int] = []  # the axes to smooth
    for part in parts:
        length = part.stop - part.start
        if part.site is not None:
            units.append(len(shape))
            shape += [part.units, length // part.units]
        else:
            shape.append(length)
    if not units:
        return W, W.size
    split = W.reshape(shape)
    widths = [shape[axis] for axis in units]
    if basis == "dct":
        most = max(1, int(budget * np.prod(widths)))
        cosines = fit_cosines(split, units, hyperbolic(most, widths))
        return sample_cosines(cosines, widths).reshape(W.shape), cosines.stored
    knots = [max(1, int(n * budget ** (1 / len(widths)))) for n in widths]
    kind: Interpolation = basis
    found = fit_knots(split, units, knots, kind)
    return sample_knots(found, widths).reshape(W.shape), found.stored


def _matrices(W: Array) -> Array:
    """(count, rows, columns): a matrix a kernel tap of a convolution, or a slice of a stack."""
    if W.ndim <= 3:
        return W.reshape(-1, *W.shape[-2:])
    return np.moveaxis(W.reshape(*W.shape[:2], -1), 2, 0)

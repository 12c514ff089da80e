"""Permutations that bring one network's channels into line with another's.

Weight matching: S. Ainsworth, J. Hayase & S. Srinivasa, "Git Re-Basin", arXiv 2209.04836, ICLR
2023, algorithm 1. It maximises Σ_k ⟨A_k, (π·B)_k⟩ one group at a time: with the others fixed, the
objective is Σ_i C[i, π(i)] with C the inner products of the group's slices, a linear assignment
problem. Activation matching assigns on correlations of units instead.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import linear_sum_assignment

from theory.tied_axes import (
    Array,
    Group,
    Indices,
    NestedGroup,
    NestedPermutation,
    Permutation,
    Tensors,
    compose,
    group_shape,
    identity,
    permute,
    sites,
)

# Gains below this share of ‖A‖‖B‖ are rounding.
_GAIN = 1e-12


@dataclass(frozen=True, slots=True)
class Matching:
    """π by group, to be applied to B by `theory.tied_axes.apply`."""

    permutations: dict[str, Permutation]
    objective: tuple[float, ...]  # Σ⟨A, π·B⟩ at the start and after every pass; ascending
    converged: bool  # the last pass changed nothing


def weight_matching(
    A: Mapping[str, ArrayLike],
    B: Mapping[str, ArrayLike],
    groups: Mapping[str, Group],
    *,
    seed: int = 0,
    max_passes: int = 100,
) -> Matching:
    """Coordinate ascent over groups in random order until a pass improves none: a local optimum.

    A, B: tensors of equal names and shapes; those in no group do not move and do not count.
    A group that sits on two axes of one tensor makes the objective quadratic in its permutation:
    the assignment then solves the linearised problem, and is taken only where the objective itself
    grows, so that it always ascends. Raises ValueError for shapes that differ, values that are not
    finite, or one axis in two groups.
    """
    fixed, current = _checked(A, B, groups)
    rng = np.random.default_rng(seed)
    found = {name: identity(group_shape(group, fixed)) for name, group in groups.items()}
    names = list(groups)
    values = [_objective(fixed, current)]
    least = _GAIN * float(np.sqrt(_objective(fixed, fixed) * _objective(current, current)))
    for _ in range(max_passes):
        improved = False
        for index in rng.permutation(len(names)):
            group = groups[names[index]]
            step = _assignment(group, fixed, current)
            touched = {name for name, _ in sites(group)}
            moved = {name: current[name] for name in touched}
            for name, axes in sites(group):
                moved[name] = permute(moved[name], axes, step)
            gain = sum(float(np.vdot(fixed[t], moved[t] - current[t])) for t in touched)
            if gain > least:
                found[names[index]] = compose(found[names[index]], step)
                current.update(moved)
                improved = True
        values.append(max(values[-1], _objective(fixed, current)))
        if not improved:
            return Matching(found, tuple(values), converged=True)
    return Matching(found, tuple(values), converged=False)


def match_units(similarity: ArrayLike) -> Indices:
    """π maximising Σ_i similarity[i, π(i)]; rows are A's units, columns B's, so that B[π] fits A.

    Raises ValueError for a matrix that is not square or not finite.
    """
    C = np.asarray(similarity, dtype=np.float64)
    if C.ndim != 2 or C.shape[0] != C.shape[1] or not np.all(np.isfinite(C)):
        raise ValueError(f"matching needs a finite square matrix, got {C.shape}")
    return linear_sum_assignment(C, maximize=True)[1].astype(np.int64)


def correlations(za: ArrayLike, zb: ArrayLike, eps: float = 1e-12) -> Array:
    """Pearson correlation (n, n) of A's and B's units over the same samples (s, n).

    Units whose deviation is below eps of their largest magnitude are constant: correlation 0.
    Raises ValueError for different shapes or values that are not finite.
    """
    a, b = np.asarray(za, dtype=np.float64), np.asarray(zb, dtype=np.float64)
    if a.ndim != 2 or a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError(f"finite activations of one shape (s, n), got {a.shape} and {b.shape}")
    return _standardised(a, eps).T @ _standardised(b, eps)


def cosine_and_distance(A: Tensors, B: Tensors) -> tuple[float | None, float | None]:
    """cos(A, B) over all tensors and ‖A - B‖/√(‖A‖‖B‖); None where one of them is zero."""
    inner, distance = 0.0, 0.0
    size_a = size_b = 0.0
    for name, a in A.items():
        a, b = np.asarray(a, dtype=np.float64), np.asarray(B[name], dtype=np.float64)
        inner += float(np.vdot(a, b))
        distance += float(np.sum((a - b) ** 2))
        size_a, size_b = size_a + float(np.vdot(a, a)), size_b + float(np.vdot(b, b))
    if size_a == 0.0 or size_b == 0.0:
        return None, None
    product = float(np.sqrt(size_a) * np.sqrt(size_b))
    return inner / product, float(np.sqrt(distance / product))


def _assignment(group: Group, fixed: Tensors, current: Tensors) -> Permutation:
    """The best move of one group, as a permutation of the current tensors."""
    if not isinstance(group, NestedGroup):
        return match_units(sum(_products(fixed[t], current[t], axes) for t, axes in sites(group)))
    G, H = group_shape(group, fixed)
    shared = [_products(fixed[t], current[t], (axis,)) for t, axis in group.shared]
    heads = sum(_products(fixed[t], current[t], (outer, inner)) for t, outer, inner in group.nested)
    heads = np.asarray(heads).reshape(G, H, G, H).transpose(0, 2, 1, 3)
    inner = np.array([[match_units(heads[g, h]) for h in range(G)] for g in range(G)])
    best = np.take_along_axis(heads, inner[..., None], axis=3).sum(axis=(2, 3))
    outer = match_units(sum(shared, start=best))
    return NestedPermutation(outer, inner[np.arange(G), outer])


def _products(a: Array, b: Array, axes: tuple[int, ...]) -> Array:
    """⟨a_i, b_j⟩ of all slices along the axes, which count as one."""
    front = tuple(range(len(axes)))
    count = int(np.prod([a.shape[axis] for axis in axes]))
    left, right = (np.moveaxis(x, axes, front).reshape(count, -1) for x in (a, b))
    return left @ right.T


def _objective(a: Tensors, b: Tensors) -> float:
    return float(sum(np.vdot(value, b[name]) for name, value in a.items()))


def _standardised(z: Array, eps: float) -> Array:
    """Columns of mean 0 and norm 1; constant ones 0."""
    centred = z - z.mean(axis=0)
    norm = np.linalg.norm(centred, axis=0)
    varies = norm > eps * np.sqrt(len(z)) * np.max(np.abs(z), axis=0, initial=0.0)
    return np.where(varies, centred / np.where(varies, norm, 1.0), 0.0)


def _checked(
    A: Mapping[str, ArrayLike], B: Mapping[str, ArrayLike], groups: Mapping[str, Group]
) -> tuple[dict[str, Array], dict[str, Array]]:
    """The tensors that some group holds, in float64."""
    taken: set[tuple[str, int]] = set()
    fixed: dict[str, Array] = {}
    moved: dict[str, Array] = {}
    wrong: dict[str, str] = {}
    for name, axes in (site for group in groups.values() for site in sites(group)):
        fixed[name] = np.asarray(A[name], dtype=np.float64)
        moved[name] = np.asarray(B[name], dtype=np.float64)
        if fixed[name].shape != moved[name].shape:
            wrong[name] = f"{name} {fixed[name].shape} and {moved[name].shape}"
        for axis in (axis % fixed[name].ndim for axis in axes):
            if (name, axis) in taken:
                raise ValueError(f"axis {axis} of {name} is in two groups")
            taken.add((name, axis))
    if wrong:
        raise ValueError("tensors of different shapes: " + ", ".join(wrong.values()))
    for name in fixed:
        if not (np.all(np.isfinite(fixed[name])) and np.all(np.isfinite(moved[name]))):
            raise ValueError(f"{name} has values that are not finite")
    return fixed, moved

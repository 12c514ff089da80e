"""Mean and variance of f at any indexes, from the posterior of core and functions.

E[f] = ⟨E[W], ⊗ m^k⟩,   E[f²] = ⟨E[wwᵀ], ⊗ S^k⟩,   var y = var f + E[1/τ]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyzer.models.funbat.messages import Core, Moments

Array = NDArray[np.float64]

_CHUNK_NUMBERS = 4_000_000  # largest intermediate array, in float64 numbers


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted values in the units of the data; unpacks as (mean, sd).

    mean ± 1.96 sd is meant to hold a new observation 95 times in 100. It includes the noise and
    the uncertainty of functions and core within the model; it does not include the choice of ranks,
    kernel and lengthscales, nor dependence between modes' posteriors, which mean-field inference
    drops. Where `extrapolated`, some index lies outside the observed ones and intervals are
    optimistic.
    """

    mean: Array  # (M,)
    sd: Array  # (M,) of an observation
    sd_function: Array  # (M,) of f alone, without observation noise
    extrapolated: NDArray[np.bool_]  # (M,)

    def __iter__(self) -> Iterator[Array]:
        return iter((self.mean, self.sd))


def function_moments(
    core: Core | None, known: Sequence[Moments], rows: Sequence[NDArray[np.intp]]
) -> tuple[Array, Array]:
    """E[f] and var f (M,) where entry i takes row rows[k][i] of mode k's moments."""
    if core is None:
        first = np.ones((rows[0].size, known[0].mean.shape[1]))
        second = np.ones((rows[0].size, known[0].second.shape[1]))
        for moment, row in zip(known, rows, strict=True):
            first *= moment.mean[row]
            second *= moment.second[row]
        # the packed second moments hold i < j once; the sum over all pairs holds them twice
        r = first.shape[1]
        i, j = np.triu_indices(r)
        mean, square = first.sum(1), second @ np.where(i == j, 1.0, 2.0)
    else:
        mean = _contract_rows(core.mean, [m.mean for m in known], rows)
        square = _contract_rows(core.packed_second_moment(), [m.second for m in known], rows)
    return mean, np.maximum(square - mean * mean, 0.0)


def _contract_rows(
    tensor: Array, columns: Sequence[Array], rows: Sequence[NDArray[np.intp]]
) -> Array:
    """⟨tensor (c_1, …, c_K), ⊗ columns_k[rows_k[i]]⟩ for every i, the first mode by one product."""
    size = tensor.shape[0]
    rest = tensor.reshape(size, -1)
    step = max(1, _CHUNK_NUMBERS // rest.shape[1])
    out = np.empty(rows[0].size)
    for begin in range(0, out.size, step):
        part = slice(begin, begin + step)
        left = columns[0][rows[0][part]] @ rest
        for column, row in zip(columns[1:], rows[1:], strict=True):
            chosen = column[row[part]]
            left = left.reshape(len(left), chosen.shape[1], -1)
            left = (chosen[:, None, :] @ left)[:, 0, :]
        out[part] = left[:, 0]
    return out

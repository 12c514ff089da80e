"""Gradients of the two parts of a weight-normalised matrix, W = g·V/‖V‖ row by row.

T. Salimans & D. P. Kingma, "Weight Normalization", arXiv 1602.07868, 2016, eq. 3. GradNormLoRP
(J.-H. Huang et al., arXiv 2412.19616, AAAI 2025) applies GaLore's projection to the gradient of V.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from theory.galore_projection import as_matrix

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WeightNormGradients:
    """∂L/∂g (m,) and ∂L/∂V (m, n); every row of the latter is orthogonal to its row of V."""

    magnitude: Array
    direction: Array


def weight_norm_gradients(
    direction: ArrayLike, magnitude: ArrayLike, gradient: ArrayLike
) -> WeightNormGradients:
    """From V (m, n), g (m,) and G = ∂L/∂W (m, n).

        ∂L/∂g_i = ⟨G_i, V_i⟩/‖V_i‖,   ∂L/∂V_i = g_i/‖V_i‖·(G_i - ∂L/∂g_i · V_i/‖V_i‖)

    Raises ValueError for shapes that do not agree or a zero row of V.
    """
    V, G = as_matrix(direction), as_matrix(gradient)
    g = np.asarray(magnitude, dtype=np.float64)
    if V.shape != G.shape or g.shape != V.shape[:1]:
        raise ValueError(f"shapes do not agree: V {V.shape}, g {g.shape}, gradient {G.shape}")
    norms = np.linalg.norm(V, axis=1)
    if not np.all(norms > 0.0):
        raise ValueError(f"row {int(np.argmin(norms))} of V is zero: it has no direction")
    unit = V / norms[:, None]
    along = np.sum(G * unit, axis=1)
    return WeightNormGradients(along, (g / norms)[:, None] * (G - along[:, None] * unit))

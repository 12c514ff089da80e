"""(IA)³: W' = W0 ∘ l (Liu et al., arXiv 2205.05638): outputs scaled, or inputs (feed-forward).

Linear: l (out, 1) or (1, in). Convolution: l (1, channels, 1, …) in both cases, so where input
and output channels are as many, `feedforward_modules` decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from analyzer.checkpoints.adapters.factors import Factors, shape_mismatch
from analyzer.checkpoints.adapters.patterns import fully_matches
from analyzer.checkpoints.adapters.types import FloatArray, TunedWeight
from analyzer.checkpoints.tensors import MatrixInfo


def tuned(factors: Factors, matrix: MatrixInfo, base: FloatArray) -> TunedWeight:
    """W0 ∘ l. Raises ShapeMismatch."""
    scale = factors["ia3_l"]
    config = factors.source.config
    if scale.ndim > 2:
        inputs = matrix.shape[1]
        outwards = scale.size == matrix.rows and (
            scale.size != inputs or not is_feedforward(config, factors.target.module)
        )
    else:
        inputs, outwards = matrix.cols, scale.ndim == 2 and scale.shape[0] == matrix.rows
        if scale.shape == (1, 1):
            outwards = matrix.rows == 1
    if outwards:
        return TunedWeight(base * scale.reshape(-1, 1))
    if scale.size != inputs:
        raise shape_mismatch(factors.target.tensor_names[0], scale.shape, matrix)
    return TunedWeight(base * np.repeat(scale.ravel(), matrix.cols // inputs))


def is_feedforward(config: Mapping[str, Any], path: str) -> bool:
    """Whether PEFT scales this module's inputs: the whole pattern, or one of several endings."""
    modules = config.get("feedforward_modules")
    if isinstance(modules, str):
        return fully_matches(modules, path)
    return isinstance(modules, list) and any(path.endswith(str(module)) for module in modules)

"""A target and its base matrix → the change, as low-rank factors or as the tuned matrix."""

from __future__ import annotations

from typing import TYPE_CHECKING

from analyzer.checkpoints.adapters import dora, hadamard, ia3, kronecker, lora, vera
from analyzer.checkpoints.adapters.factors import Factors, as_matrix, shape_mismatch
from analyzer.checkpoints.adapters.initialisers import (
    base_shift,
    minus_initial,
    minus_olora,
    without_leading,
)
from analyzer.checkpoints.adapters.scaling import adalora_scaling
from analyzer.checkpoints.adapters.types import (
    Adapter,
    AdapterTarget,
    FloatArray,
    LowRankDelta,
    TunedWeight,
)
from analyzer.checkpoints.tensors import MatrixInfo
from analyzer.errors import AdapterError, WorkbenchError

if TYPE_CHECKING:
    import torch


def target_update(
    adapter: Adapter, target: AdapterTarget, matrix: MatrixInfo, base: torch.Tensor | None
) -> LowRankDelta | TunedWeight:
    """What `target` makes of the base matrix (rows, cols), rows = output features, float64.

    `base` is the matrix as `matrix` describes it, any dtype; without it only changes that do not
    depend on it can be given. Raises AdapterError (refused target, base needed), ShapeMismatch
    (both shapes named), NonFinite (the factor named).
    """
    try:
        if target.status != "ok":
            raise AdapterError(target.detail, tensor=target.name)
        W0 = None if base is None else _checked(base, target, matrix)
        factors = Factors(adapter.source, target)
        if target.kind == "saved":
            return TunedWeight(as_matrix(factors["saved"], matrix, target.name))
        if target.kind == "ia3":
            return ia3.tuned(factors, matrix, _needed(W0, target))
        change = _change(adapter, factors, matrix, W0)
        if target.kind != "dora":
            return change
        return dora.rescaled(factors, dense_weight(change, _needed(W0, target)), matrix)
    except WorkbenchError as error:
        error.path = error.path or adapter.source.path
        raise
    except (ValueError, IndexError):  # NumPy's word for shapes that cannot be multiplied
        raise AdapterError(
            f"factors do not fit together: {', '.join(target.tensor_names)}",
            path=adapter.source.path,
            tensor=target.name,
        ) from None


def scaling_at(adapter: Adapter, target: AdapterTarget) -> float | None:
    """`target.scaling`, read from the stored alpha or rank number where it is None."""
    factors = Factors(adapter.source, target)
    if target.scaling is not None:
        return target.scaling
    if "alpha" in factors and target.rank:
        return factors.scalar("alpha") / target.rank
    if "ranknum" in factors:
        return adalora_scaling(adapter.source.config, factors.scalar("ranknum"))
    return None


def _change(
    adapter: Adapter, factors: Factors, matrix: MatrixInfo, base: FloatArray | None
) -> LowRankDelta | TunedWeight:
    target = factors.target
    if "vera_lambda_b" in factors:
        return vera.low_rank(factors, matrix)
    scaling = scaling_at(adapter, target)
    if any(part.startswith(("hada_", "lokr_")) for part, _ in target.parts):
        known = lora.known(scaling, target.name)
        if "hada_w1_a" in factors:
            change = hadamard.change(factors, matrix, known)
        else:
            peft = adapter.source.config.get("peft_type") is not None
            change = kronecker.change(factors, matrix, known, style="peft" if peft else "kohya")
        if isinstance(change, LowRankDelta):
            return change
        return TunedWeight(_needed(base, target) + change)
    return _without_start(adapter, factors, matrix, base, scaling)


def _without_start(
    adapter: Adapter,
    factors: Factors,
    matrix: MatrixInfo,
    base: FloatArray | None,
    scaling: float | None,
) -> LowRankDelta | TunedWeight:
    """LoRA's s B A, less what its initialiser took out of the base."""
    target, delta = factors.target, lora.low_rank(factors, matrix, scaling)
    if "E" in factors:
        return delta
    linear = "A" in factors and len(matrix.shape) == 2
    shift = base_shift(adapter.source.config, linear=linear)
    if shift is None:
        return delta
    if "base_weight" in factors:  # the residual that training started from
        return TunedWeight(_dense(delta) + as_matrix(factors["base_weight"], matrix, target.name))
    if adapter.initial is not None:
        return minus_initial(delta, _initial(adapter.initial, target, matrix))
    rank = delta.P.shape[1]
    if shift == "pissa":
        return LowRankDelta(delta.P, delta.Q, minus_base_rank=rank)
    known = lora.known(scaling, target.name)
    return minus_olora(delta, rank, known, _needed(base, target), matrix)


def _initial(initial: Adapter, target: AdapterTarget, matrix: MatrixInfo) -> LowRankDelta:
    start = next((t for t in initial.targets if t.module == target.module), None)
    if start is None:
        raise AdapterError("the initial adapter does not hold this module", tensor=target.name)
    return lora.low_rank(Factors(initial.source, start), matrix, scaling_at(initial, start))


def _checked(base: torch.Tensor, target: AdapterTarget, matrix: MatrixInfo) -> FloatArray:
    if tuple(base.shape) != (matrix.rows, matrix.cols):
        raise shape_mismatch(target.name, tuple(base.shape), matrix)
    return base.detach().cpu().double().numpy()


def _needed(base: FloatArray | None, target: AdapterTarget) -> FloatArray:
    if base is None:
        raise AdapterError(f"{target.kind} needs the base matrix", tensor=target.name)
    return base


def dense_weight(change: LowRankDelta | TunedWeight, base: FloatArray) -> FloatArray:
    """The tuned matrix, dense."""
    if isinstance(change, TunedWeight):
        return change.W
    return without_leading(base, change.minus_base_rank) + _dense(change)


def _dense(delta: LowRankDelta) -> FloatArray:
    return delta.P @ delta.Q.T

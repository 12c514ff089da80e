"""The factor s in front of an adapter's product.

PEFT: s = α/r, or α/√r with `use_rslora` (Kalajdzievski, arXiv 2312.03732), r and α from the
patterns first; AdaLoRA: s = α/(init_r + 1e-5), which pruning does not change. A stored ``alpha``
(kohya, LyCORIS, diffusers): s = alpha/r, and 1 where none is stored. MLX: `scale` as it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from analyzer.checkpoints.adapters.patterns import finite, for_module, number
from analyzer.checkpoints.adapters.types import Module
from analyzer.errors import AdapterError

_PEFT_DEFAULT = 8.0  # r, lora_alpha and alpha alike, in LoraConfig, LoHaConfig and LoKrConfig
_MLX_SCALE = 20.0
_ADALORA_INIT_R = 12.0
_ADALORA_EPSILON = 1e-5


def scaling_of(config: Mapping[str, Any], module: Module, rank: int) -> float | None:
    """s of a LoRA, LoHa or LoKr module of this rank; None if a stored alpha decides it."""
    if "alpha" in module.tensors:
        return None
    if module.style == "mlx":
        return _mlx_scale(config)
    if module.style == "kohya":
        return 1.0
    lora = "A" in module.tensors or "embedding_A" in module.tensors
    return peft_scaling(config, module.path, rank, alpha="lora_alpha" if lora else "alpha")


def peft_scaling(
    config: Mapping[str, Any], path: str, rank: int, *, alpha: str = "lora_alpha"
) -> float:
    """α/r or α/√r of the module at `path`. Raises AdapterError for values that are no numbers."""
    value = for_module(config, "alpha_pattern", path, number(config, alpha, _PEFT_DEFAULT))
    assert value is not None
    if rank < 1:
        raise AdapterError("rank 0: no scaling", tensor=path)
    return value / (math.sqrt(rank) if config.get("use_rslora") else rank)


def expected_rank(config: Mapping[str, Any], path: str) -> float | None:
    """The rank that PEFT's configuration announces for the module at `path`, if any."""
    return for_module(config, "rank_pattern", path, number(config, "r"))


def adalora_scaling(config: Mapping[str, Any], rank_number: float | None = None) -> float:
    """α/(init_r + 1e-5), `rank_number` in place of init_r where an old file stores it."""
    initial = number(config, "init_r", _ADALORA_INIT_R)
    alpha = number(config, "lora_alpha", _PEFT_DEFAULT)
    assert initial is not None and alpha is not None
    divisor = initial if rank_number is None else rank_number
    return (alpha if alpha > 0 else initial) / (divisor + _ADALORA_EPSILON)


def _mlx_scale(config: Mapping[str, Any]) -> float:
    parameters = config.get("lora_parameters")
    if isinstance(parameters, Mapping) and parameters.get("scale") is not None:
        return finite(parameters["scale"], "lora_parameters.scale")
    return _MLX_SCALE

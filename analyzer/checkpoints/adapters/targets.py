"""One adapted module → its target: method, rank, scaling, and whether its factors fit together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

from analyzer.checkpoints.adapters.initialisers import base_shift, refusal
from analyzer.checkpoints.adapters.methods import lora_variant
from analyzer.checkpoints.adapters.scaling import adalora_scaling, expected_rank, scaling_of
from analyzer.checkpoints.adapters.types import AdapterTarget, Module, StoredTensor

_MAGNITUDES = ("magnitude", "mlx_m", "dora_scale")
# Factors that only make sense together, as the names under which files store them.
_PAIRS = (
    ("A", "B"), ("embedding_A", "embedding_B"), ("mlx_a", "mlx_b"),
    ("lokr_w1_a", "lokr_w1_b"), ("lokr_w2_a", "lokr_w2_b"),
    ("hada_w1_a", "hada_w1_b"), ("hada_w2_a", "hada_w2_b"), ("hada_w1_a", "hada_w2_a"),
    ("hada_t1", "hada_t2"), ("vera_lambda_b", "vera_lambda_d"),
)  # fmt: skip

# Factors that may have fewer than two axes.
_VECTORS = (*_MAGNITUDES, "alpha", "ranknum", "vera_lambda_b", "vera_lambda_d")


def describe(module: Module, config: Mapping[str, Any], *, has_initial: bool) -> AdapterTarget:
    """The target of one module. Raises AdapterError if the configuration itself is malformed."""
    family = _family(module)
    dora = any(part in module.tensors for part in _MAGNITUDES) and family is not None
    target = AdapterTarget(
        module=module.path,
        name=_base_name(module, config),
        kind="dora" if dora else family or "unknown",
        parts=tuple((part, tensor.name) for part, tensor in module.tensors.items()),
    )
    why = _unusable(module, family, config) or (
        _variant_or_shift(module, config, has_initial=has_initial) if family == "lora" else None
    )
    if why is not None:
        return replace(target, status="refused", detail=why)
    if family in ("ia3", "vera"):
        rank = prod(module.shape("vera_lambda_d")) if family == "vera" else None
        return replace(target, rank=rank)
    rank = _rank(module)
    if family == "adalora":
        scaling = None if "ranknum" in module.tensors else adalora_scaling(config)
        return replace(target, rank=rank, scaling=scaling)
    if family == "lora" and parameter_names(module.path, config):
        return target  # r·E rows: the number of experts is the base's to say
    if family == "lokr":
        return replace(target, rank=rank, scaling=_lokr_scaling(module, config, rank))
    assert rank is not None
    return replace(target, rank=rank, scaling=scaling_of(config, module, rank))


def saved_target(path: str, tensor: StoredTensor) -> AdapterTarget:
    """A weight that replaces the base's: `modules_to_save`, a grown vocabulary."""
    name = f"{path}.weight" if tensor.name.endswith(".weight") else path
    return AdapterTarget(path, name, "saved", (("saved", tensor.name),))


def _family(module: Module) -> str | None:
    parts = module.tensors
    if any(part.startswith("hada_") for part in parts):
        return "loha"
    if any(part.startswith("lokr_") for part in parts):
        return "lokr"
    if "ia3_l" in parts:
        return "ia3"
    if "vera_lambda_b" in parts or "vera_lambda_d" in parts:
        return "vera"
    if "E" in parts:
        return "adalora"
    lora = ("A", "B", "embedding_A", "embedding_B", "mlx_a", "mlx_b")
    return "lora" if any(part in parts for part in lora) else None


def _unusable(module: Module, family: str | None, config: Mapping[str, Any]) -> str | None:
    """Why the stored factors do not make a change, None if they do."""
    parts = module.tensors
    if "unknown" in parts or family is None:
        odd = next((t.name for part, t in parts.items() if part == "unknown"), None)
        return f"{odd or sorted(parts)} belongs to no method that is supported"
    for first, second in _PAIRS:
        if (first in parts) != (second in parts) and not (
            first == "hada_w1_a" and second == "hada_w2_a" and family != "loha"
        ):
            return f"unpaired: {first if first in parts else second} without its other half"
    for part, tensor in parts.items():
        empty = 0 in tensor.shape and family != "adalora"
        if empty or (len(tensor.shape) < 2 and part not in _VECTORS):
            shape = tuple(tensor.shape)
            return f"{tensor.name} has shape {shape}: saved from one shard of a distributed run"
    if family == "vera" and not {"projection_A", "projection_B"} <= set(parts):
        return "the shared projections are not stored (save_projection=false)"
    if family == "lokr" and not _lokr_complete(parts):
        return "unpaired: one side of the Kronecker product is missing"
    if family == "adalora" and not {"A", "B"} <= set(parts):
        return "unpaired: lora_E without lora_A and lora_B"
    if config.get("use_dora") and family == "lora" and not set(_MAGNITUDES) & set(parts):
        return "use_dora is set, but the magnitude vector is not stored"
    return _rank_clash(module, family)


def _rank_clash(module: Module, family: str) -> str | None:
    if family not in ("lora", "adalora") or "mlx_a" in module.tensors:
        return None
    first, second = ("A", "B") if "A" in module.tensors else ("embedding_A", "embedding_B")
    A, B = module.shape(first), module.shape(second)
    if "E" in module.tensors and prod(module.shape("E")) != A[0]:
        return f"ranks differ: A {A}, E {module.shape('E')}"
    if A[0] == B[1]:
        return None
    if len(A) > 2:
        return f"grouped convolution (A {A}, B {B}): the change is denser than the weight"
    return f"ranks differ: A {A}, B {B}"


def _lokr_complete(parts: Mapping[str, StoredTensor]) -> bool:
    return all(f"lokr_{w}" in parts or f"lokr_{w}_a" in parts for w in ("w1", "w2"))


def _variant_or_shift(
    module: Module, config: Mapping[str, Any], *, has_initial: bool
) -> str | None:
    linear = "A" in module.tensors and len(module.shape("A")) == 2
    shift = base_shift(config, linear=linear)
    return lora_variant(config) or refusal(shift, module, has_initial=has_initial)


def _rank(module: Module) -> int | None:
    """The rank that the stored shapes show; None for LoKr with both factors full."""
    for part, axis in (
        ("A", 0), ("embedding_A", 0), ("mlx_b", -2), ("hada_t1", 0), ("hada_w1_b", 0),
        ("lokr_t2", 0), ("lokr_w2_b", 0), ("lokr_w1_b", 0),
    ):  # fmt: skip
        if part in module.tensors:
            shape = module.shape(part)
            return shape[-1] if part == "mlx_b" and len(shape) == 3 else shape[axis]
    return None


def _lokr_scaling(module: Module, config: Mapping[str, Any], rank: int | None) -> float | None:
    """PEFT divides by the configured r even where both factors are full; LyCORIS then takes 1."""
    if rank is not None:
        return scaling_of(config, module, rank)
    if module.style != "peft":
        return 1.0
    return scaling_of(config, module, int(expected_rank(config, module.path) or 8))


def _base_name(module: Module, config: Mapping[str, Any]) -> str:
    """The base tensor's expected name; the bare module where several parameters could be meant."""
    parameters = parameter_names(module.path, config)
    if not parameters:
        return f"{module.path}.weight"
    return f"{module.path}.{parameters[0]}" if len(parameters) == 1 else module.path


def parameter_names(path: str, config: Mapping[str, Any]) -> list[str]:
    """Names of the parameters of this module that `target_parameters` lists (MoE experts)."""
    value = config.get("target_parameters")
    listed = [str(name) for name in value] if isinstance(value, list) else []
    leaves = (name.rpartition(".")[2] for name in listed)
    return [
        leaf
        for name, leaf in zip(listed, leaves, strict=True)
        if f"{path}.{leaf}" == name or f"{path}.{leaf}".endswith(f".{name}")
    ]

"""The matrix that an adapter's target changes, as its factors alone describe it.

Without the base only what does not depend on it can be analysed: the update ΔW of LoRA, rsLoRA
and AdaLoRA. Stacks of experts are left out: how many there are is the base's to say.
"""

from __future__ import annotations

from math import prod

from analyzer.checkpoints.adapters.initialisers import base_shift
from analyzer.checkpoints.adapters.targets import parameter_names
from analyzer.checkpoints.adapters.types import Adapter, AdapterTarget
from analyzer.checkpoints.names import describe
from analyzer.checkpoints.tensors import MatrixInfo

_KINDS = ("lora", "adalora")


def standalone_matrix(adapter: Adapter, target: AdapterTarget) -> MatrixInfo | None:
    """Shape (rows = output features, cols) and place of ΔW; None if it depends on the base."""
    config = adapter.source.config
    if target.status != "ok" or target.kind not in _KINDS or parameter_names(target.module, config):
        return None
    shapes = {t.name: tuple(t.shape) for t in adapter.source.tensors()}
    parts = {part: shapes[name] for part, name in target.parts}
    size = _size(parts)
    linear = len(parts.get("A", ())) == 2
    if size is None or base_shift(config, linear=linear) is not None:
        return None
    rows, cols = size
    shape = size if linear or "A" not in parts else (rows, *parts["A"][1:])
    place = describe(target.name)
    return MatrixInfo(
        name=target.name, tensor=target.name, index=None, rows=rows, cols=cols, dtype="",
        nbytes=0, stack=place.stack, layer=place.layer, role=place.role, expert=place.expert,
        transposed=False, storage_id="", shape=shape,
    )  # fmt: skip


def _size(parts: dict[str, tuple[int, ...]]) -> tuple[int, int] | None:
    """(out, in) of a linear layer, (out, in·kh·kw) of a convolution, (vocabulary, dim)."""
    if "embedding_A" in parts:
        return parts["embedding_A"][1], parts["embedding_B"][0]
    if "mlx_a" in parts:
        two = len(parts["mlx_a"]) == len(parts["mlx_b"]) == 2  # else a stack of experts
        return (parts["mlx_b"][1], parts["mlx_a"][0]) if two else None
    if "A" not in parts or "mid" in parts:
        return None
    A, B = parts["A"], parts["B"]
    return (B[0], prod(A[1:])) if prod(B[1:]) == A[0] else None

"""The matrix that an adapter's target changes, as its factors alone describe it.

Without the base only what does not depend on it can be analysed: the update ΔW of LoRA, rsLoRA,
and AdaLoRA on linear layers and embeddings.
"""

from __future__ import annotations

from analyzer.checkpoints.adapters.initialisers import base_shift
from analyzer.checkpoints.adapters.types import Adapter, AdapterTarget
from analyzer.checkpoints.names import describe
from analyzer.checkpoints.tensors import MatrixInfo

_KINDS = ("lora", "adalora")


def standalone_matrix(adapter: Adapter, target: AdapterTarget) -> MatrixInfo | None:
    """Shape (rows = output features, cols) and place of ΔW; None if it depends on the base."""
    if target.status != "ok" or target.kind not in _KINDS:
        return None
    shapes = {t.name: tuple(t.shape) for t in adapter.source.tensors()}
    parts = {part: shapes[name] for part, name in target.parts}
    size = _size(parts)
    linear = "A" in parts
    if size is None or base_shift(adapter.source.config, linear=linear) is not None:
        return None
    rows, cols = size
    place = describe(target.name)
    return MatrixInfo(
        name=target.name, tensor=target.name, index=None, rows=rows, cols=cols, dtype="",
        nbytes=0, stack=place.stack, layer=place.layer, role=place.role, expert=place.expert,
        transposed=False, storage_id="", shape=size,
    )  # fmt: skip


def _size(parts: dict[str, tuple[int, ...]]) -> tuple[int, int] | None:
    """(out, in) from the factors of a linear layer, (vocabulary, dim) from an embedding's."""
    if any(len(shape) > 2 for shape in parts.values()):
        return None  # a convolution, or a stack of experts
    if "embedding_A" in parts:
        return parts["embedding_A"][1], parts["embedding_B"][0]
    if "mlx_a" in parts:
        return parts["mlx_b"][1], parts["mlx_a"][0]
    if "A" in parts:
        return parts["B"][0], parts["A"][1]
    return None

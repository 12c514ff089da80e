"""Weights, updates and norms of one attention layer as arrays, read from the checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from analyzer.analyses.limits_arrays import HeadGain, LayerArrays, Linear, Lora, Norms
from analyzer.checkpoints.adapters import (
    LowRankDelta,
    dense_weight,
    scaling_at,
    target_update,
)
from analyzer.checkpoints.attention import AttentionLayer, HeadNorm, Norm, Projection
from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.errors import NonFinite, ShapeMismatch
from analyzer.scanning.drafts import Entry
from theory.lora_limits.normed_rows import NormLayer
from theory.lora_limits.projections import DenseUpdate, LowRankUpdate, Update

Array = NDArray[np.float64]
Vectors = Callable[[str], Array]


@dataclass(frozen=True, slots=True)
class BaseArrays:
    """A base layer without updates, the whole matrices its heads are rows of, and their width."""

    layer: AttentionLayer
    arrays: LayerArrays
    matrices: Mapping[str, Array]  # float64, out × in, by name


def read_base(checkpoint: Checkpoint, layer: AttentionLayer) -> BaseArrays:
    """Raises NonFinite, naming the tensor, and whatever reading a checkpoint may raise."""
    matrices: dict[str, Array] = {}
    for part in _parts(layer):
        if part.matrix not in matrices:
            matrices[part.matrix] = _matrix(checkpoint, part.matrix)
    vectors = _reader(checkpoint)
    norms = _norms(layer, matrices, vectors)
    query, key, value = (_linear(part, matrices, vectors) for part in _three(layer))
    assert query is not None and key is not None
    bias = layer.relative and _finite(
        checkpoint.read(layer.relative.tensor).double().numpy(), checkpoint, layer.relative.tensor
    )
    return BaseArrays(layer, LayerArrays(query, key, value, norms, norms, bias), matrices)


def with_adapter(base: BaseArrays, targets: Mapping[str, Entry]) -> tuple[LayerArrays, Lora | None]:
    """The base layer with an adapter's updates, and the numbers of the one on the queries."""
    changes: dict[str, LowRankUpdate | Array] = {}
    lora = None
    for name, entry in targets.items():
        changes[name], numbers = _change(entry, base.matrices[name])
        lora = numbers if name == base.layer.query.matrix else lora
    linears = [
        None if part is None or linear is None else replace(linear, update=_of_rows(part, changes))
        for part, linear in zip(_three(base.layer), _linears(base.arrays), strict=True)
    ]
    query, key, value = linears
    assert query is not None and key is not None
    arrays = replace(base.arrays, query=query, key=key, value=value)
    return arrays, lora  # of a fresh adapter too, which changes nothing yet


def with_fine_tune(base: BaseArrays, tuned: Checkpoint, layer: AttentionLayer) -> LayerArrays:
    """The base layer with the differences to a fine-tuned one, and that one's norms.

    Raises ShapeMismatch, NonFinite.
    """
    own = read_base(tuned, layer).arrays
    linears = [
        None if before is None or after is None or part is None
        else replace(before, update=_difference(before, after, tuned, part.matrix))
        for before, after, part in zip(
            _linears(base.arrays), _linears(own), _three(layer), strict=True
        )
    ]  # fmt: skip
    query, key, value = linears
    assert query is not None and key is not None
    return LayerArrays(query, key, value, base.arrays.norms, own.norms, own.position_bias)


def norm_tensors(layer: AttentionLayer) -> tuple[str, ...]:
    """Names of the vectors that enter besides the matrices: biases, gains."""
    norms = [layer.norm, layer.key_norm_layer]
    norms += [one.norm for one in (layer.query_norm, layer.key_norm) if one is not None]
    names = [part.bias for part in _parts(layer)]
    names += [layer.relative.tensor] if layer.relative is not None else []
    names += [name for norm in norms if norm is not None for name in (norm.gain, norm.bias)]
    return tuple(dict.fromkeys(name for name in names if name is not None))


def _three(layer: AttentionLayer) -> tuple[Projection, Projection, Projection | None]:
    return layer.query, layer.key, layer.value


def _parts(layer: AttentionLayer) -> list[Projection]:
    return [part for part in _three(layer) if part is not None]


def _linears(arrays: LayerArrays) -> tuple[Linear, Linear, Linear | None]:
    return arrays.query, arrays.key, arrays.value


def _matrix(checkpoint: Checkpoint, name: str) -> Array:
    return _finite(checkpoint.read_matrix(name).double().numpy(), checkpoint, name)


def _reader(checkpoint: Checkpoint) -> Vectors:
    def read(name: str) -> Array:
        return _finite(checkpoint.read(name).double().flatten().numpy(), checkpoint, name)

    return read


def _finite(array: Array, checkpoint: Checkpoint, name: str) -> Array:
    finite = np.isfinite(array)
    if not finite.all():
        nan = int(np.isnan(array).sum())
        error = NonFinite(nan, int((~finite).sum()) - nan, int(np.argmin(finite)), tensor=name)
        error.path = checkpoint.path
        raise error
    return array


def _linear(
    part: Projection | None, matrices: Mapping[str, Array], vectors: Vectors
) -> Linear | None:
    if part is None:
        return None
    bias = None if part.bias is None else _rows(part, vectors(part.bias))
    return Linear(_rows(part, matrices[part.matrix]), bias)


def _rows(part: Projection, whole: Array) -> Array:
    """The heads' rows one below another."""
    return np.concatenate([whole[rows] for rows in part.rows])


def _norms(layer: AttentionLayer, matrices: Mapping[str, Array], vectors: Vectors) -> Norms:
    width = layer.head_width
    d, d_keys = (matrices[part.matrix].shape[1] for part in (layer.query, layer.key))
    queries = _norm(layer.norm, d, vectors)
    keys = _norm(layer.key_norm_layer, d_keys, vectors) if layer.cross else queries
    q = _head_norm(layer.query_norm, width, layer.n_heads, vectors)
    k = _head_norm(layer.key_norm, width, layer.n_kv_heads, vectors)
    return Norms(queries, keys, q, k)


def _norm(norm: Norm | None, width: int, vectors: Vectors) -> NormLayer | None:
    if norm is None:
        return None
    bias = None if norm.bias is None else vectors(norm.bias)
    return NormLayer(norm.kind, _gain(norm, width, vectors), bias)


def _head_norm(own: HeadNorm | None, width: int, heads: int, vectors: Vectors) -> HeadGain | None:
    if own is None:
        return None
    norm = own.norm
    bias = None if norm.bias is None else vectors(norm.bias)
    gain = _gain(norm, width if own.per_head else width * heads, vectors)
    return HeadGain(norm.kind, gain, bias, norm.eps, own.per_head)


def _gain(norm: Norm, width: int, vectors: Vectors) -> Array:
    return np.ones(width) if norm.gain is None else norm.offset + vectors(norm.gain)


def _change(entry: Entry, base: Array) -> tuple[LowRankUpdate | Array, Lora | None]:
    """ΔW of a whole matrix, as factors where they are, and the numbers of a plain LoRA."""
    import torch

    assert entry.adapter is not None and entry.target is not None and entry.base is not None
    target = entry.target
    change = target_update(entry.adapter, target, entry.base, torch.from_numpy(base))
    if not isinstance(change, LowRankDelta) or change.minus_base_rank:
        return dense_weight(change, base) - base, None
    update = LowRankUpdate(change.Q.T, change.P, 1.0)
    scaling, rank = scaling_at(entry.adapter, target), target.rank
    if target.kind != "lora" or scaling is None or rank is None or change.P.shape[1] != rank:
        return update, None
    stabilised = bool(entry.adapter.source.config.get("use_rslora"))
    alpha = scaling * (math.sqrt(rank) if stabilised else rank)
    return update, Lora(rank, scaling, alpha, stabilised)


def _of_rows(part: Projection, changes: Mapping[str, LowRankUpdate | Array]) -> Update | None:
    """The update of the heads' rows; None where nothing changes them."""
    change = changes.get(part.matrix)
    if change is None:
        return None
    if isinstance(change, LowRankUpdate):
        rows = _rows(part, np.asarray(change.lora_B))
        return LowRankUpdate(change.lora_A, rows, change.scaling) if rows.any() else None
    rows = _rows(part, change)
    return DenseUpdate(rows) if rows.any() else None


def _difference(
    before: Linear, after: Linear, tuned: Checkpoint, matrix: str
) -> DenseUpdate | None:
    if before.weight.shape != after.weight.shape:
        raise ShapeMismatch(
            f"{after.weight.shape} against the base's {before.weight.shape}",
            path=tuned.path,
            tensor=matrix,
        )
    weight = after.weight - before.weight
    zero = np.zeros(weight.shape[0])
    bias = (zero if after.bias is None else after.bias) - (
        zero if before.bias is None else before.bias
    )
    if not weight.any() and not bias.any():
        return None
    return DenseUpdate(weight, bias if bias.any() else None)

"""What attention heads compute, whatever basis their channels are stored in.

A head's logits are xᵀ W_Qᵀ W_K y and its output W_O W_V y. Without a rotary embedding or a norm in
between, W_Q → A W_Q, W_K → A⁻ᵀ W_K, and always W_V → R W_V, W_O → W_O R⁻¹ with any invertible A, R
keep the function and change the spectra of the four matrices at will, but not those of the
products (N. Elhage et al., "A Mathematical Framework for Transformer Circuits", 2021). A rotary
embedding leaves only rotations of its pairs of channels and scales, which the products do not see
either.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analyzer.checkpoints.attention import AttentionLayer, attention_layers
from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.errors import UsageError
from analyzer.models.manifold.features import numbers_of
from analyzer.models.manifold.groups import PermutationGroup, permutation_groups
from analyzer.spectral.low_rank import low_rank_svd

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class HeadProducts:
    """Singular values (d_h,), descending, of a query head's products with its key head."""

    layer: int
    head: int
    key_head: int
    qk: Array  # of W_Qᵀ W_K
    ov: Array  # of W_O W_V


def head_products(
    checkpoint: Checkpoint, groups: Sequence[PermutationGroup] | None = None
) -> Iterator[HeadProducts]:
    """Spectra of W_Qᵀ W_K and W_O W_V of every head, biases and norms left out; a layer at a time.

    From thin factors, O(n d_h²) a head: no product is formed. `groups`: those of the architecture
    unless given; layers without a group of heads, or without values, are left out. Raises
    UsageError where there is none, NonFinite and QuantUnknown naming the tensor.
    """
    found = permutation_groups(checkpoint)[0] if groups is None else groups
    heads = {group.layer: group for group in found if group.kind == "heads"}
    layers = [
        layer
        for layer in attention_layers(checkpoint)
        if isinstance(layer, AttentionLayer) and layer.value and layer.layer in heads
    ]
    if not layers:
        raise UsageError("no attention layer whose heads are known", path=checkpoint.path)
    for layer in layers:
        yield from _of_layer(checkpoint, layer, heads[layer.layer])


def _of_layer(
    checkpoint: Checkpoint, layer: AttentionLayer, group: PermutationGroup
) -> Iterator[HeadProducts]:
    parts = (layer.query, layer.key, layer.value)
    names = {part.matrix for part in parts if part is not None}
    read = {name: numbers_of(checkpoint.read_matrix(name), name) for name in names}
    queries, keys, values = (
        [read[part.matrix][rows] for rows in part.rows] for part in parts if part is not None
    )
    site = next(site for site in group.sites if site.role == "consumes")
    output = np.moveaxis(numbers_of(checkpoint.read(site.tensor), site.tensor), site.axis, 0)
    for head, query in enumerate(queries):
        own = layer.key_head(head)
        inputs = slice(head * layer.head_width, (head + 1) * layer.head_width)
        yield HeadProducts(
            layer=layer.layer,
            head=head,
            key_head=own,
            qk=low_rank_svd(query.T, keys[own].T).S,
            ov=low_rank_svd(output[inputs].T, values[own].T).S,
        )

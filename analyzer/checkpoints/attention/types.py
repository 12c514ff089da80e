"""What one attention layer is made of: whose rows are whose, and what happens to q and k."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NormKind = Literal["layernorm", "rmsnorm"]
PairLayout = Literal["half", "adjacent"]
LogitBias = Literal["alibi", "relative"]


@dataclass(frozen=True, slots=True)
class Projection:
    """Rows of one matrix: those of head h are ``rows[h]``, in the order of `MatrixInfo` (out × in).

    `matrix` is the name of a `MatrixInfo` of the checkpoint, `bias` that of a stored vector with as
    many entries as the matrix has rows. `module` is the path of the module that computes it.
    """

    matrix: str
    module: str
    bias: str | None
    rows: tuple[slice, ...]  # one a head; of keys and values one a key head


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm layer: its gain is `offset` + the stored tensor (Gemma: 1 + weight).

    `gain` None is a gain of 1 everywhere, `bias` None a bias of 0.
    """

    kind: NormKind
    gain: str | None
    bias: str | None
    eps: float
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class HeadNorm:
    """Normalisation of queries or keys after their projection, before the rotary embedding.

    `per_head`: over the d_h channels of each head with one gain (d_h,); otherwise over all heads'
    channels at once with a gain as long as the projection has rows.
    """

    norm: Norm
    per_head: bool


@dataclass(frozen=True, slots=True)
class Rotary:
    """Rotary embedding of the first `width` channels of each head.

    ``half`` pairs channel c with c + width/2, ``adjacent`` 2c with 2c + 1. `frequencies` (width/2,)
    in radians per position; None if the scaling of the positions is not known, in which case
    nothing that depends on positions can be computed and `detail` says why. `factor` multiplies the
    rotated channels of q and of k (YaRN's attention factor).
    """

    width: int
    layout: PairLayout
    frequencies: tuple[float, ...] | None
    factor: float = 1.0
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class RelativeBias:
    """A learned bias by bucketed distance, one for all layers of a stack: `tensor` holds
    (buckets, heads). `two_sided`: half of the buckets are for keys ahead of the query."""

    tensor: str
    max_distance: int
    two_sided: bool


@dataclass(frozen=True, slots=True)
class AttentionLayer:
    """One attention layer of a checkpoint, as far as its logits need it.

    Query head h uses key head ``h // (n_heads // n_kv_heads)``. `norm` is the norm layer whose
    output is the input of the query projection (and, without `cross`, of the key projection);
    None if there is none in front, with `norm_detail` saying why. `beta` multiplies q·k before the
    softmax. `cross`: keys come from another sequence, whose norm is `key_norm_layer`.
    """

    name: str  # module path of the attention block
    stack: str | None
    layer: int
    query: Projection
    key: Projection
    value: Projection | None  # None where keys serve as values or no such matrix is stored
    n_heads: int
    n_kv_heads: int
    head_width: int
    beta: float
    causal: bool
    norm: Norm | None
    norm_detail: str | None = None
    cross: bool = False
    key_norm_layer: Norm | None = None
    rotary: Rotary | None = None
    query_norm: HeadNorm | None = None
    key_norm: HeadNorm | None = None
    softcap: float | None = None
    logit_bias: LogitBias | None = None
    relative: RelativeBias | None = None  # where `logit_bias` is relative and it is stored
    bias_scale: float = 1.0  # Falcon multiplies ALiBi's bias by beta, BLOOM and MPT do not
    # A query sees this many keys at most, itself included: the last ones, or if not causal those
    # within window // 2 on both sides.
    window: int | None = None
    context: int | None = None  # longest sequence the configuration provides for, in tokens

    def key_head(self, head: int) -> int:
        """The key head that a query head uses."""
        return head // (self.n_heads // self.n_kv_heads)


@dataclass(frozen=True, slots=True)
class RefusedLayer:
    """An attention layer whose heads cannot be told apart for certain, and why."""

    name: str
    stack: str | None
    layer: int | None
    matrix: str
    reason: str

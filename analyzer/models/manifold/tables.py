"""Row types of weight manifolds: groups, orders, fits, samples, and the geometry of checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from analyzer.store.columns import column

_NEUMETA = "Yang & Wang 2024, arXiv 2410.11878"
_TWO_NN = "Facco et al. 2017, Sci. Rep. 7"
_MLE = "Levina & Bickel 2004; MacKay & Ghahramani 2005"


@dataclass(frozen=True, slots=True)
class ManifoldGroupRow:
    """One permutation group of a checkpoint: how smooth its weights become, beside chance."""

    TABLE: ClassVar[str] = "manifold_group"

    checkpoint_id: int = column("checkpoint the group is of")
    group: str = column("name of the group")
    kind: str = column("mlp, heads, query_heads, experts, channels or residual")
    layer: int | None = column("number of the block; NULL for what spans blocks")
    n: int = column("units that one permutation reorders", unit="count")
    d: int = column("weights of a unit", unit="count")
    tv_before: float = column("Σ distances of neighbouring units, as stored", source=_NEUMETA)
    tv_after: float = column("the same in the best order found", source=_NEUMETA)
    tv_random: float = column("its exact mean over all orders")
    ratio: float | None = column("tv_after/tv_random")
    null_ratio: float | None = column(
        "the ratio of the same values with every weight's column shuffled, mean of three"
    )
    smoothness: float | None = column(
        "1 - ratio/null_ratio: 0 is what chance gives; below 0.1 resampling along the order loses "
        "to pruning (rule of thumb from four tiny models)"
    )
    lower_bound: float | None = column("no order is shorter", source="Held & Karp 1970, 1-trees")
    gap: float | None = column("tv_after/lower_bound - 1")
    exact: bool = column("whether the order is the shortest there is")
    solver: str = column("how the order was found")
    metric: str = column("distance of two units")
    scale: str = column("none, or fro: every tensor divided by its norm")
    sketched: bool = column("distances are those of random mixtures of the columns")
    precision: str = column("arithmetic")
    seed: int = column("of shuffles and mixtures")
    inputs_sha256: str = column("identity of the checkpoint")
    params: str = column("everything else the row depends on, JSON")
    seconds: float = column("wall clock", unit="s")


@dataclass(frozen=True, slots=True)
class ManifoldOrderRow:
    """The order of a group: unit `idx` of the checkpoint comes at place `pos`."""

    TABLE: ClassVar[str] = "manifold_order"

    checkpoint_id: int = column("checkpoint the group is of")
    group: str = column("name of the group")
    pos: int = column("place in the order, 0-based")
    idx: int = column("unit as stored, 0-based")


@dataclass(frozen=True, slots=True)
class ManifoldFitRow:
    """How well one tensor is described by few numbers along its orders, beside truncated SVD."""

    TABLE: ClassVar[str] = "manifold_fit"

    checkpoint_id: int = column("checkpoint the tensor is of")
    tensor: str = column("name of the tensor")
    layer: int | None = column("number of the block")
    role: str = column("role of the matrix")
    basis: str = column("dct, or what else the weights were expanded in")
    permuted: bool = column("along the orders found")
    n_params: int = column("weights of the tensor", unit="count")
    stored: int = column("numbers kept", unit="count")
    rel_fro: float | None = column("‖W - Ŵ‖_F/‖W‖_F; NULL for W = 0")
    unpermuted_rel_fro: float | None = column("the same of the fit in the stored order")
    sv_rel: float | None = column(
        "‖σ - σ̂‖₂/‖σ‖₂ of the singular values, at most rel_fro", source="Mirsky 1960"
    )
    s1_rel: float | None = column("|σ₁ - σ̂₁|/σ₁")
    svd_rank: int | None = column("rank of the truncated SVD of as many numbers")
    svd_rel_fro: float | None = column("rel_fro of that truncated SVD: the baseline")
    precision: str = column("arithmetic")
    inputs_sha256: str = column("identity of the checkpoint")


@dataclass(frozen=True, slots=True)
class ManifoldSampleRow:
    """One checkpoint that was sampled at another width."""

    TABLE: ClassVar[str] = "manifold_sample"

    checkpoint_id: int = column("checkpoint it was sampled from")
    path: str = column("where it was written")
    group: str = column("name of the group")
    operator: str = column("duplicate, merge, path, area, linear, dct or prune")
    n: int = column("units before", unit="count")
    m: int = column("units after", unit="count")
    certificate: float | None = column(
        "change of the layer's output over the norm of its input, activation 1-Lipschitz; loose"
    )
    certified: bool = column("whether the certificate is a bound; else it only ranks operators")
    gamma_width: float = column("1 - m/n", source=_NEUMETA)
    gamma_params: float = column("1 - parameters after/before, of the whole checkpoint")
    smoothness: float | None = column("of the group, where it was measured")
    source_sha256: str = column("hash over the names and content hashes of the original's tensors")
    order_sha256: str = column("hash of the orders, parts or kept units that were used")


@dataclass(frozen=True, slots=True)
class CheckpointGeometryRow:
    """How far apart two checkpoints are."""

    TABLE: ClassVar[str] = "checkpoint_geometry"

    a: int = column("checkpoint_id of the first")
    b: int = column("checkpoint_id of the second")
    distance: float = column("‖θ_a - θ_b‖₂ over the tensors that all share")
    cosine: float | None = column("of the weights")
    cosine_from_mean: float | None = column("of the differences from the mean of all")
    cosine_from_base: float | None = column("of those from the base; NULL without one")
    relative: float | None = column("distance over the geometric mean of the two norms")
    n_params: int = column("weights compared", unit="count")
    precision: str = column("arithmetic")
    inputs_sha256: str = column("hash over the identities of all checkpoints compared")


@dataclass(frozen=True, slots=True)
class CheckpointEmbeddingRow:
    """One checkpoint along one principal component of all, which are also those of MDS."""

    TABLE: ClassVar[str] = "checkpoint_embedding"

    checkpoint_id: int = column("checkpoint")
    component: int = column("1-based, by explained variance")
    score: float = column("coordinate")
    explained: float = column("share of the variance in this component", unit="fraction")
    random_walk: float = column(
        "its share in a random walk of as many steps: at it, there is no low-dimensional drift",
        source="Antognini & Sohl-Dickstein 2018",
    )
    inputs_sha256: str = column("hash over the identities of all checkpoints embedded")


@dataclass(frozen=True, slots=True)
class IntrinsicDimensionRow:
    """Intrinsic dimension of a set of checkpoints, or why it cannot be told."""

    TABLE: ClassVar[str] = "intrinsic_dimension"

    of: str = column("what the points are: the collection, or a run")
    method: str = column("two_nn, two_nn_fit, mle_mean, mle_harmonic", source=f"{_TWO_NN}; {_MLE}")
    k: int | None = column("neighbours")
    n: int = column("points", unit="count")
    d: float | None = column("estimate; NULL where refused")
    lo: float | None = column("95 % interval from; about 90 % in practice: neighbours depend")
    hi: float | None = column("95 % interval to")
    status: str = column("ok, or why not")
    warnings: str | None = column("what makes it doubtful")
    inputs_sha256: str = column("hash over the identities of the points")


MANIFOLD_TABLES = (
    ManifoldGroupRow,
    ManifoldOrderRow,
    ManifoldFitRow,
    ManifoldSampleRow,
    CheckpointGeometryRow,
    CheckpointEmbeddingRow,
    IntrinsicDimensionRow,
)

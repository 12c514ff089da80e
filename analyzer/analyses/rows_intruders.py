"""Row types of the intruder analysis: of a tuned matrix and side, and of its leading vectors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from analyzer.store.columns import column

_SHUTTLEWORTH = "Shuttleworth et al. 2024, arXiv 2410.21228"
_ROY = "Roy & Vetterli, EUSIPCO 2007"
_LAW = "Benaych-Georges & Nadakuditi 2012, J. Multivariate Anal. 111; generic update"


@dataclass(frozen=True, slots=True)
class IntruderRow:
    """How many leading singular vectors of a tuned matrix resemble no vector of its base."""

    TABLE: ClassVar[str] = "intruder"

    matrix_id: int = column("tuned matrix the row belongs to")
    side: str = column("left (output space) or right (input space) singular vectors")
    k: int = column("leading vectors that were judged", unit="count", source=_SHUTTLEWORTH)
    epsilon: float = column("threshold on the largest |cosine|", source=_SHUTTLEWORTH)
    n_intruders: int = column(
        "leading vectors whose largest |cosine| with any base vector is below epsilon",
        unit="count",
        source=f"{_SHUTTLEWORTH}, definition 3.1",
    )
    n_uncertain: int = column(
        "decisions that the error bound of the cosine, or the choice of vectors within a cluster "
        "of equal singular values, leaves open",
        unit="count",
    )
    n_robust: int = column(
        "intruders also against whole clusters of (near-)equal base singular values", unit="count"
    )
    energy_share: float | None = column(
        "Σ σ² of the intruders over Σ σ² of the k leading values", unit="fraction"
    )
    top_intruder_rank: int | None = column("rank of the strongest intruder, 1-based")
    delta_fro: float = column("‖ΔW‖_F")
    delta_fro_ratio: float | None = column("‖ΔW‖_F/‖W0‖_F", unit="fraction")
    delta_spectral_norm: float = column("σ₁(ΔW)")
    delta_effective_rank: float | None = column("exp(-Σ p ln p), p = σ/Σσ of ΔW", source=_ROY)
    delta_stable_rank: float | None = column("‖ΔW‖_F²/σ₁(ΔW)²")
    theta_star: float | None = column(
        "strength above which a generic component of an update is expected to show as an intruder; "
        "NULL for epsilon ≥ 0.6745, where the law does not apply",
        source=f"finite-size law on the base's spectrum, after {_LAW}",
    )
    n_predicted: int | None = column(
        "singular values of ΔW at or above theta_star", unit="count", source=_LAW
    )
    critical_multiplier: float | None = column(
        "smallest s on the search's grid for which W0 + s·ΔW has an intruder, narrowed to a "
        "relative 1e-6 (1e-3 where ΔW is dense); NULL if none up to critical_limit; narrow windows "
        "between two steps can be missed",
        source="exact spectra of W0 + s·ΔW: steps of 2^¼ (low-rank) or √2 (dense), root search",
    )
    critical_limit: float | None = column("largest s that was tried")
    method: str = column("algorithm that gave the tuned triplets")
    certified: bool = column(
        "whether completeness of the leading triplets was checked: by inertia or construction, or "
        "(method lanczos_probe) by a probabilistic probe"
    )
    status: str = column("ok, or zero_delta where tuned and base matrix are equal")


@dataclass(frozen=True, slots=True)
class IntruderVectorRow:
    """One leading singular vector of a tuned matrix against all vectors of its base."""

    TABLE: ClassVar[str] = "intruder_vector"

    matrix_id: int = column("tuned matrix the row belongs to")
    side: str = column("left (output space) or right (input space) singular vector")
    j: int = column("rank of the vector, 1-based")
    sigma: float = column("its singular value")
    maxcos: float = column(
        "largest |cosine| with a base vector", source=f"{_SHUTTLEWORTH}, algorithm 1"
    )
    maxcos_err: float = column(
        "bound on the error of maxcos; 1 where the vector is not determined",
        source="Davis & Kahan 1970; Wedin 1972",
    )
    argmax_base: int = column("rank of that base vector, 1-based")
    outside: float = column("squared norm outside the span of the base vectors", unit="fraction")
    cluster_cos: float = column(
        "norm of the projection on the best cluster of base vectors, whose singular values are "
        "closer than 1e-6 σ₁"
    )
    is_intruder: bool = column(
        "maxcos < epsilon, and sigma above rounding level of σ₁", source=_SHUTTLEWORTH
    )


@dataclass(frozen=True, slots=True)
class IntruderCosineRow:
    """One leading singular vector of a tuned matrix against one leading vector of its base.

    An intruder shows as a column j without a large cosine.
    """

    TABLE: ClassVar[str] = "intruder_cosine"

    matrix_id: int = column("tuned matrix the row belongs to")
    side: str = column("left (output space) or right (input space) singular vectors")
    i: int = column("rank of the base vector, 1-based, at most k")
    j: int = column("rank of the tuned vector, 1-based, at most k")
    cosine: float = column(
        "|cosine| of the two",
        source=f"{_SHUTTLEWORTH}, matrices of cosines",
    )


@dataclass(frozen=True, slots=True)
class IntruderTrackRow:
    """One leading singular vector at a step of a run, and what it was at the step before.

    Steps whose status is not ok have no rows and are passed over, and so has the first step.
    """

    TABLE: ClassVar[str] = "intruder_track"

    matrix_id: int = column("tuned matrix at this step")
    side: str = column("left (output space) or right (input space) singular vectors")
    j: int = column("rank of the vector at this step, 1-based")
    previous_matrix_id: int = column("the same matrix at the last step before whose status is ok")
    previous_j: int = column(
        "rank there, 1-based, of the vector it resembles most, among the k leading ones"
    )
    cosine: float = column(
        "|cosine| with that vector, the largest over the k leading vectors of the step before, "
        "parts outside the span of the base's vectors included",
        source=f"{_SHUTTLEWORTH}, figure 5, by vectors instead of ranks",
    )
    cosine_err: float = column(
        "bound on the error of that largest |cosine|, from the angle errors of the vectors at both "
        "steps",
        source="Davis & Kahan 1970; Wedin 1972",
    )

"""Row type of the WeLore rank allocation of one checkpoint."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from analyzer.store.columns import column

_WELORE = "Jaiswal et al. 2024, arXiv 2407.11239"


@dataclass(frozen=True, slots=True)
class WeloreRow:
    """Rank kept by one matrix under the checkpoint's global singular-value threshold."""

    TABLE: ClassVar[str] = "welore"

    matrix_id: int = column("matrix the row belongs to")
    threshold: float | None = column(
        "global threshold k on (σ - σ_min)/(σ_max - σ_min), the same for the whole checkpoint",
        source=_WELORE,
    )
    rank_pruned: int | None = column(
        "singular values whose normalised value is below the threshold",
        unit="count",
        source=_WELORE,
    )
    rank_kept: int | None = column("singular values that remain", unit="count", source=_WELORE)
    is_lrc: bool | None = column(
        "low-rank component: more than 0.4999 of the singular values are pruned", source=_WELORE
    )
    param_ratio: float | None = column(
        "rank_kept·(rows + cols)/(rows·cols); factors save parameters only below 1",
        unit="fraction",
        source=_WELORE,
    )
    energy_kept: float | None = column(
        "Σ σ² of the kept singular values over Σ σ² of all", unit="fraction", source="Eckart-Young"
    )
    target_err: float = column(
        "effective rank reduction asked of the checkpoint", unit="fraction", source=_WELORE
    )
    achieved_err: float | None = column(
        "effective rank reduction reached: Σ rank_pruned / Σ min(rows, cols) over the checkpoint",
        unit="fraction",
        source=_WELORE,
    )

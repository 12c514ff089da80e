"""Every table a scan fills, and which rows belong to which analysis."""

from __future__ import annotations

from analyzer.analyses.gradient_sources import KINDS
from analyzer.analyses.rows_emergence import EMERGENCE_TABLES, RUN_TABLES
from analyzer.analyses.rows_intruders import (
    IntruderCosineRow,
    IntruderRow,
    IntruderTrackRow,
    IntruderVectorRow,
)
from analyzer.analyses.rows_limits import (
    DATA_FREE_SOURCES,
    LIMITS_TABLES,
    MEASURED_SOURCES,
    LoraLimitsRow,
)
from analyzer.analyses.rows_tails import TailNullRow, TailRow
from analyzer.analyses.rows_welore import WeloreRow
from analyzer.store.columns import Row
from analyzer.store.schema import CORE_TABLES, SpectrumInfoRow, SpectrumRow

# What goes when an analysis of a matrix is run again.
TABLES_OF: dict[str, tuple[type[Row], ...]] = {
    "tails": (SpectrumRow, SpectrumInfoRow, TailRow, WeloreRow),
    "intruders": (IntruderRow, IntruderVectorRow, IntruderCosineRow, IntruderTrackRow),
    "emergence": (SpectrumRow, SpectrumInfoRow, *EMERGENCE_TABLES),
    "limits": (LoraLimitsRow,),
    "limits_measured": LIMITS_TABLES,
}
# Tables that several analyses fill: the column that tells whose a row is, and its values.
SHARED_TABLES: dict[type[Row], str] = {
    SpectrumRow: "kind",
    SpectrumInfoRow: "kind",
    LoraLimitsRow: "source",
}
KINDS_OF = {
    "tails": ("weight", "delta"),
    "emergence": KINDS,
    "limits": DATA_FREE_SOURCES,
    "limits_measured": MEASURED_SOURCES,
}
TABLES: tuple[type[Row], ...] = (
    *CORE_TABLES,
    TailRow,
    TailNullRow,
    WeloreRow,
    IntruderRow,
    IntruderVectorRow,
    IntruderCosineRow,
    IntruderTrackRow,
    *EMERGENCE_TABLES,
    *RUN_TABLES,
    *LIMITS_TABLES,
)

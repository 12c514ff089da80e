"""Every table a scan fills, and which rows belong to which analysis."""

from __future__ import annotations

from analyzer.analyses.gradient_sources import KINDS
from analyzer.analyses.rows_emergence import EMERGENCE_TABLES, RUN_TABLES
from analyzer.analyses.rows_intruders import IntruderRow, IntruderVectorRow
from analyzer.analyses.rows_tails import TailNullRow, TailRow
from analyzer.analyses.rows_welore import WeloreRow
from analyzer.store.columns import Row
from analyzer.store.schema import CORE_TABLES, SpectrumInfoRow, SpectrumRow

# What goes when an analysis of a matrix is run again.
TABLES_OF: dict[str, tuple[type[Row], ...]] = {
    "tails": (SpectrumRow, SpectrumInfoRow, TailRow, WeloreRow),
    "intruders": (IntruderRow, IntruderVectorRow),
    "emergence": (SpectrumRow, SpectrumInfoRow, *EMERGENCE_TABLES),
}
# Tables that several analyses fill, and which kinds of spectra belong to each of them.
SHARED_TABLES = (SpectrumRow, SpectrumInfoRow)
KINDS_OF = {"tails": ("weight", "delta"), "emergence": KINDS}
TABLES: tuple[type[Row], ...] = (
    *CORE_TABLES,
    TailRow,
    TailNullRow,
    WeloreRow,
    IntruderRow,
    IntruderVectorRow,
    *EMERGENCE_TABLES,
    *RUN_TABLES,
)

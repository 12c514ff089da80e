"""One look for dashboard and paper: what a colour means, sizes, and figures as files.

Grey, blue, orange and red keep their order of lightness in print and under every common kind of
colour blindness (checked for deuteranopia, protanopia and tritanopia in tests/reports/test_style).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BASE = "#7F7F7F"  # the base model
TUNED = "#0072B2"  # a fine-tuned checkpoint
DELTA = "#E69F00"  # an update
INTRUDER = "#B2182B"  # intruder dimensions, and what deserves attention
NOISE = "#BDBDBD"  # nulls, chance, what noise alone would show
SERIES = ("#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999933", "#332288", "#44AA99")
SEQUENTIAL = "viridis"  # of both matplotlib and Vega
DIVERGING = "PuOr"  # matplotlib; Vega calls it purpleorange

COLUMN = 3.25  # inches: one column of a paper
PAGE = 6.75  # inches: both columns
Format = Literal["pdf", "svg", "png"]
MIME = {"pdf": "application/pdf", "svg": "image/svg+xml", "png": "image/png"}

_RC: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8.0,
    "axes.titlesize": 8.0,
    "axes.labelsize": 8.0,
    "xtick.labelsize": 7.0,
    "ytick.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "legend.frameon": False,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 3.5,
    "grid.linewidth": 0.4,
    "grid.color": "#DDDDDD",
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "spectral-workbench",
    "figure.constrained_layout.use": True,
    "image.cmap": SEQUENTIAL,
}


@contextmanager
def paper() -> Iterator[None]:
    """Paper style for figures drawn inside, whatever the user's matplotlib settings are."""
    import matplotlib as mpl
    from cycler import cycler

    with mpl.rc_context():
        mpl.rcdefaults()
        for name, value in _RC.items():
            mpl.rcParams[name] = value  # pyright: ignore[reportArgumentType]
        mpl.rcParams["axes.prop_cycle"] = cycler(color=SERIES)
        yield


def new_figure(width: float = COLUMN, height: float = 2.2) -> Figure:
    """An empty figure of `width` × `height` inches that no window or global list knows."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def escaped(text: object) -> str:
    """`text` for matplotlib, where a dollar sign would begin a formula."""
    return str(text).replace("$", r"\$")


def to_bytes(figure: Figure, kind: Format) -> bytes:
    """The figure as a file: vector, fonts embedded, the same bytes for the same figure."""
    from matplotlib.backends import backend_agg, backend_pdf, backend_svg

    canvas = {
        "pdf": backend_pdf.FigureCanvasPdf,
        "svg": backend_svg.FigureCanvasSVG,
        "png": backend_agg.FigureCanvasAgg,
    }[kind]
    metadata = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": {"Software": None}}
    buffer = io.BytesIO()
    with paper():
        canvas(figure).print_figure(buffer, format=kind, dpi=200, metadata=metadata[kind])
    return buffer.getvalue()

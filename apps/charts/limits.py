"""Charts of heads against the threshold: the map of their ratios, norms, bounds, condensation."""

from __future__ import annotations

import math

import altair as alt
import pyarrow as pa
import pyarrow.compute as pc

from analyzer.views.view import View
from apps.charts.lines import GREY, levels
from reports import style
from reports.figures.limits import PARTS

HEIGHT = 360
TITLES = {"ratio_logit": "logits: ratio_logit", "ratio_as": "entries: ratio_as"}
MARKS = {"below": "·", "near": "○", "above": "●"}
_DARK = 0.55  # of the colour scale's reach: beyond it marks are white


def head_map(view: View, ratio: str) -> alt.TopLevelMixin:
    """Layer × head of `ratio` (ratio_logit, ratio_as), on a scale for both; marks tell the band."""
    band = ratio.replace("ratio", "band")
    ratios = [v for n in ("ratio_logit", "ratio_as") for v in view.column(n) if v]
    reach = math.log10(max([1.25, *ratios, *(1.0 / r for r in ratios)]))
    places = list(dict.fromkeys(view.column("place")))
    base = alt.Chart(_marked(view, ratio, band, reach), title=TITLES[ratio]).encode(
        x=alt.X("head:O", title="head", axis=alt.Axis(labelAngle=0, labelOverlap=True)),
        y=alt.Y("place:N", title="layer", sort=places),
    )
    cells = base.mark_rect().encode(
        color=alt.Color(
            "log:Q",
            title="over √(ln L)",
            scale=alt.Scale(domain=[-reach, reach], scheme="purpleorange", reverse=True),
            legend=alt.Legend(labelExpr="format(pow(10, datum.value), '.2~g')"),
        ),
        tooltip=[
            alt.Tooltip("module:N"),
            alt.Tooltip("head:Q"),
            alt.Tooltip("ratio_logit:Q", format=".3f"),
            alt.Tooltip("ratio_as:Q", format=".3f"),
            alt.Tooltip("verdict:N"),
            alt.Tooltip("gamma_logit:Q", format=".4g"),
            alt.Tooltip("gamma_as:Q", format=".4g"),
            alt.Tooltip("threshold:Q", format=".4g"),
        ],
    )
    marks = base.mark_text(fontSize=14).encode(
        text="mark:N",
        color=alt.condition("datum.dark", alt.value("white"), alt.value("black")),
    )
    height = max(240, min(740, 60 + 24 * len(places)))
    return alt.layer(cells, marks).properties(height=height)


def norms(view: View, side: str) -> alt.TopLevelMixin:
    """Bars by layer: base, update alone and adapted, of one `side` (queries, keys)."""
    places = list(dict.fromkeys(view.column("place")))
    own = view.table.filter(pc.field("side") == side)
    highest = max(view.column("value"), default=1.0)
    bars = (
        alt.Chart(own, title=side)
        .mark_bar()
        .encode(
            x=alt.X(
                "place:N", title="layer", sort=places,
                axis=alt.Axis(labelAngle=0, labelOverlap=True),
            ),
            xOffset=alt.XOffset("part:N", sort=list(PARTS)),
            y=alt.Y(
                "value:Q", title="largest entry", scale=alt.Scale(domainMin=0, domainMax=highest)
            ),
            color=alt.Color(
                "part:N",
                title=None,
                scale=alt.Scale(domain=list(PARTS), range=list(PARTS.values())),
                legend=alt.Legend(orient="bottom"),
            ),
            tooltip=[
                alt.Tooltip("place:N", title="layer"),
                alt.Tooltip("part:N"),
                alt.Tooltip("value:Q", format=".4g"),
                alt.Tooltip("threshold:Q", format=".4g", title="√(ln L)"),
            ],
        )
    )  # fmt: skip
    limit = view.parameters.get("threshold")
    rules = [] if limit is None or limit > highest else levels((limit, "√(ln L)"))
    return alt.layer(bars, *rules).properties(height=HEIGHT)


def bounds(view: View) -> alt.TopLevelMixin:
    """Bounds of the weights over measured norms, and the line where a text reaches its bound."""
    largest = max([0.0, *view.column("measured")])
    points = (
        alt.Chart(view.table)
        .mark_point(size=50)
        .encode(
            x=alt.X("measured:Q", title="measured on the text"),
            y=alt.Y("bound:Q", title="bound for every text"),
            color=alt.Color(
                "norm:N",
                title=None,
                scale=alt.Scale(range=list(style.SERIES)),
                legend=alt.Legend(orient="bottom"),
            ),
            shape=alt.Shape("norm:N", title=None),
            tooltip=[
                alt.Tooltip("layer:Q"),
                alt.Tooltip("head:Q"),
                alt.Tooltip("norm:N"),
                alt.Tooltip("measured:Q", format=".4g"),
                alt.Tooltip("bound:Q", format=".4g"),
            ],
        )
    )
    line = alt.Chart(pa.table({"x": [0.0, largest]})).mark_line(color=GREY).encode(x="x:Q", y="x:Q")
    return alt.layer(line, points).properties(height=HEIGHT)


def condensation(view: View) -> alt.TopLevelMixin:
    """ipr of every head over the spread of its logits, the hypercube curve, even attention."""
    x = alt.X("rem_ratio:Q", title="rem_ratio: spread of logits over √(2 ln L)")
    ticks = alt.Axis(values=[0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0], format="~g")
    y = alt.Y("ipr:Q", title="ipr", scale=alt.Scale(type="log"), axis=ticks)
    curve = (
        alt.Chart(where(view, "hypercube"))
        .mark_line(color=GREY)
        .encode(x=x, y=y, tooltip=[alt.Tooltip("L:Q", title="hypercube, L")])
    )
    heads = (
        alt.Chart(where(view, "heads"))
        .mark_point(filled=True, size=50, color=style.TUNED)
        .encode(
            x=x,
            y=y,
            tooltip=[
                alt.Tooltip("place:N", title="layer"),
                alt.Tooltip("head:Q"),
                alt.Tooltip("rem_ratio:Q", format=".3f"),
                alt.Tooltip("ipr:Q", format=".3f"),
            ],
        )
    )
    even = view.parameters.get("uniform")
    rules = [] if even is None else levels((even, "even attention"))
    return alt.layer(curve, heads, *rules).properties(height=HEIGHT)


def where(view: View, kind: str) -> pa.Table:
    """The rows of one kind."""
    return view.table.filter(pc.field("kind") == kind)


def _marked(view: View, ratio: str, band: str, reach: float) -> pa.Table:
    """The rows with log₁₀ of the ratio, the mark of its band, and whether its colour is dark."""
    rows = [row for row in view.rows() if row[ratio]]
    logs = [math.log10(row[ratio]) for row in rows]
    table = pa.Table.from_pylist(rows, schema=view.table.schema)
    table = table.append_column("log", pa.array(logs, pa.float64()))
    marks = [MARKS.get(row[band], "") for row in rows]
    table = table.append_column("mark", pa.array(marks, pa.string()))
    dark = [abs(log) > _DARK * reach for log in logs]
    return table.append_column("dark", pa.array(dark, pa.bool_()))

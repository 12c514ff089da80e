"""Norms of attention heads against the threshold of almost linear-time attention and LoRA."""

from collections.abc import Callable
from typing import Any

import streamlit as st

from analyzer.views import limits, limits_summary, limits_sweeps
from analyzer.views.limits_words import MEANING, head_words
from analyzer.views.view import View
from apps import choose
from apps.answers import ask
from apps.beside import beside
from apps.charts import limits as charts
from apps.charts import limits_curves as curves
from apps.picture import Draw, about, picture
from apps.table import table
from apps.text import literal
from reports.figures import limits as figures
from reports.figures import limits_curves as curve_figures


def pair(view: View, chart: Callable[..., Any], panels: tuple[str, str], figure: Draw) -> None:
    """One view in two charts, beside each other where there is room."""
    st.markdown(f"**{literal(view.title)}**")
    for part, panel in zip(beside(), panels, strict=True):
        part.altair_chart(chart(view, panel), key=f"{view.name}-{panel}", alt=view.title)
    about(view, figure, key=view.name)


st.title("LoRA limits")
names = ask(limits.checkpoints)
if not names:
    st.info(
        "No attention layer was compared with the thresholds. `analyzer scan PATH --analyses "
        "limits` does that where config.json names the number of heads; `--activations PATH` or "
        "`--calibration TEXT` adds values measured on a text."
    )
    st.stop()
with st.sidebar:
    checkpoint = choose.one("Checkpoint", names, "checkpoint")
    source = choose.one(
        "Source", ask(limits.sources, checkpoint), "source",
        help="activations: values on a text. data_free: upper bounds for every text. "
        "spherical: typical values of random tokens.",
    )  # fmt: skip

# a page of all of them would be slow to draw: only the open one runs
heads, length, alpha, bounds, everything = st.tabs(
    ["Heads", "Length", "Alpha", "Bounds and concentration", "All checkpoints"],
    key="show", bind="query-params",
)  # fmt: skip

if heads.open:
    with heads:
        for paragraph in ask(head_words, checkpoint, source):
            st.markdown(literal(paragraph))
        st.caption(literal(MEANING))
        view = ask(limits.head_map, checkpoint, source)
        pair(view, charts.head_map, ("ratio_logit", "ratio_as"), figures.head_map)
        view = ask(limits.norms, checkpoint, source)
        pair(view, charts.norms, ("queries", "keys"), figures.norms)

if length.open:
    with length:
        left, right = beside()
        with left:
            places = ask(limits.places, checkpoint, source)
            place = choose.one("Layer", [limits_sweeps.ALL, *places], "layer")
        with right:
            ratio = choose.one("Ratio", limits_sweeps.RATIOS, "ratio")
        left, right = beside()
    with left:
        view = ask(limits_sweeps.length_sweep, checkpoint, place, ratio)
        if view.is_empty:
            st.caption(
                "Not swept over lengths: that needs a text (`--activations PATH` or "
                "`--calibration TEXT`) and a causal model."
            )
        else:
            picture(view, curves.length_sweep(view), curve_figures.length_sweep, key="lengths")
    with right:
        view = ask(limits_sweeps.phase, checkpoint, source)
        picture(view, curves.phase(view), curve_figures.phase, key="phase")

if alpha.open:
    view = ask(limits_sweeps.alpha_intervals, checkpoint)
    with alpha:
        if view.is_empty:
            st.caption(
                "No alpha to vary: the checkpoint is no adapter, was not measured on a text, or "
                "its update is not linear in alpha."
            )
            st.stop()
        left, right = beside()
    with left:
        picture(view, curves.alpha_intervals(view), curve_figures.alpha_intervals, key="alpha")
    with right:
        head_of = {row["line"]: (row["place"], row["head"]) for row in view.rows()}
        line = choose.one("Head (layer.head)", list(head_of), "head")
        if line is not None:
            view = ask(limits_sweeps.alpha_curve, checkpoint, *head_of[line])
            picture(view, curves.alpha_curve(view), curve_figures.alpha_curve, key="alpha_curve")

if bounds.open:
    with bounds:
        left, right = beside()
    with left:
        view = ask(limits_summary.bounds, checkpoint)
        if view.is_empty:
            st.caption("Bounds and measured values are not both known: see the source's choices.")
        else:
            picture(view, charts.bounds(view), figures.bounds, key="bounds")
    with right:
        view = ask(limits_summary.condensation, checkpoint)
        if view.is_empty:
            st.caption("Not measured on a text: how concentrated attention is, is not known.")
        else:
            picture(view, charts.condensation(view), figures.condensation, key="ipr")

if everything.open:
    with everything:
        view = ask(limits_summary.summary, source)
        table(view, key="summary", tables=("lora_limits",), height=700)

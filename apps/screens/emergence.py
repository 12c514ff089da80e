"""Low-rank gradients along a run: spectra, subspaces, noise, staleness, and what they advise."""

import streamlit as st

from analyzer.views import emergence, emergence_curves, emergence_maps, emergence_summary
from analyzer.views.emergence_words import run_words
from apps import choose
from apps.answers import ask
from apps.beside import beside
from apps.charts import emergence as maps
from apps.charts import emergence_curves as curves
from apps.picture import picture
from apps.table import table
from apps.text import literal
from reports.figures import emergence as map_figures
from reports.figures import emergence_curves as curve_figures

st.title("Low-rank gradients")
runs = ask(emergence.runs)
if not runs:
    st.info(
        "No run was followed. `analyzer scan PATH --analyses emergence` follows folders of "
        "checkpoints, their optimizer.pt and recorded gradients."
    )
    st.stop()
with st.sidebar:
    run = choose.one("Run", runs, "run")
    source = choose.one("Source", ask(emergence.sources, run), "source")
    matrix = choose.one("Matrix", ask(emergence.matrices, run, source), "matrix")

st.markdown(literal(ask(run_words, run)))
st.caption(literal(f"{source}: {ask(emergence.caution, run, source)}."))
# a page of all of them would be slow to draw: only the open one runs
summary, spectra, directions, ranks, noise, advice, weights = st.tabs(
    ["Summary", "Spectra", "Directions", "Ranks", "Noise and staleness", "Advice", "Weights"],
    key="show", bind="query-params",
)  # fmt: skip

if summary.open:
    with summary:
        table(ask(emergence.source_summary, run), key="sources", tables=("emergence",))
        sizes = ask(emergence_summary.ranks, run)
        if sizes:
            rank = choose.one("Rank", sizes, "rank")
            view = ask(emergence_summary.memory, run, rank)
            picture(view, curves.memory(view), curve_figures.memory, key="memory")

if spectra.open:
    with spectra:
        left, right = beside()
    with left:
        view = ask(emergence_maps.gradient_spectrum_map, run, source, matrix)
        if view.is_empty:
            st.caption("This source has no singular values: a subspace alone was stored.")
        else:
            picture(view, maps.spectrum_map(view), map_figures.spectrum_map, key="spectra")
    with right:
        view = ask(emergence_maps.weight_spectrum_map, run, matrix)
        if len(set(view.column("step"))) > 1:
            picture(view, maps.spectrum_map(view), map_figures.spectrum_map, key="weights")
        else:
            st.caption(
                "The weights of one step at most were decomposed: there is no map of them. Save "
                "checkpoints along the run and scan with tails to see one."
            )

if directions.open:
    with directions:
        left, right = beside()
    with left:
        view = ask(emergence_maps.cosine_map, run, source, matrix)
        if view.is_empty:
            st.caption("No cosines between steps: one step only, or a source without them.")
        else:
            picture(view, maps.cosine_map(view), map_figures.cosine_map, key="cosines")
    with right:
        view = ask(emergence_maps.overlap_map, run, source, matrix)
        if view.is_empty:
            st.caption("No overlaps between steps: one step only.")
        else:
            picture(view, maps.overlap_map(view), map_figures.overlap_map, key="overlaps")
    with directions:
        view = ask(emergence_maps.overlap_curves, run, source, matrix)
        if not view.is_empty:
            picture(view, maps.overlap_curves(view), map_figures.overlap_curves, key="curves")

if ranks.open:
    with ranks:
        left, right = beside()
    for part, statistic in zip((left, right), emergence_curves.STATISTICS, strict=True):
        with part:
            view = ask(emergence_curves.rank_curves, run, source, statistic)
            if view.is_empty:
                st.caption("This source has no singular values: a subspace alone was stored.")
                continue
            picture(view, curves.rank_curves(view), curve_figures.rank_curves, key=view.name)

if noise.open:
    with noise:
        left, right = beside()
        below = st.container()
    view = ask(emergence_curves.signal_fraction, run)
    if view.is_empty:
        left.caption(
            "No independent batches were recorded, so that signal and noise cannot be told apart: "
            "energies and cosines are those of single batches. Record with noise_batches=2."
        )
    else:
        with left:
            picture(view, curves.signal_fraction(view), curve_figures.signal_fraction, key="signal")
        with right:
            view = ask(emergence_curves.noise_ceiling, run)
            picture(view, curves.noise_ceiling(view), curve_figures.noise_ceiling, key="ceiling")
    view = ask(emergence_curves.staleness, run)
    if view.is_empty:
        below.caption("No gradients of neighbouring steps were recorded: staleness is not known.")
    else:
        with below:
            picture(view, curves.staleness(view), curve_figures.staleness, key="staleness")

if advice.open:
    with advice:
        table(
            ask(emergence_summary.advice, run, source), key="advice",
            tables=("emergence", "welore"), height=700,
        )  # fmt: skip

if weights.open:
    pairs = ask(emergence_summary.correlations, run, source)
    with weights:
        if pairs.is_empty:
            st.caption("No correlations: too few matrices, or the weights were not analysed.")
            st.stop()
        across = [x for x in emergence_summary.STATISTICS if x in pairs.column("x")]
        up = [y for y in emergence_summary.OUTCOMES if y in pairs.column("y")]
        left, right = beside()
        with left:
            x = choose.one("Statistic of the gradient", across, "x")
        with right:
            y = choose.one("Rank of the weights", up, "y")
        view = ask(emergence_summary.correlation_scatter, run, source, x, y)
        picture(view, curves.correlation_scatter(view), curve_figures.correlation_scatter, key="xy")
        table(pairs, key="correlations", tables=("emergence_correlation",))

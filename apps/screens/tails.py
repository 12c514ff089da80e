"""Heavy tails: exponents by depth, the tail of one matrix, and the ranks WeLore would keep."""

import streamlit as st

from analyzer.views import tails, tails_fit, welore
from apps import choose
from apps.answers import ask, is_empty
from apps.charts import heat as heat_charts
from apps.charts import tails as charts
from apps.charts import tails_fit as fit_charts
from apps.charts import welore as welore_charts
from apps.panels import side_by_side, stacked
from apps.picture import picture
from apps.text import literal
from reports.figures import heat as heat_figures
from reports.figures import tails as figures
from reports.figures import tails_fit as fit_figures
from reports.figures import welore as welore_figures

SCAN = "analyzer scan PATH --analyses tails"

st.title("Heavy tails")
names = ask(tails.fitted_names)
if not names:
    st.info(f"No spectrum has a fitted tail yet. `{SCAN}` does that.")
    st.stop()
section = choose.segment("Show", ("Checkpoint", "One matrix", "WeLore ranks"), "show")
with st.sidebar:
    checkpoint = choose.one("Checkpoint", names, "checkpoint")

if section == "Checkpoint":
    view = ask(tails.alpha_by_depth, checkpoint)
    if not is_empty(view, SCAN, "No matrix of a layer has a fitted tail."):
        side_by_side(
            view, charts.alpha_by_depth(view), figures.alpha_by_depth, key="depth",
            width=charts.PANEL, heading=f"**{literal(view.title)}** · base grey, tuned blue",
        )  # fmt: skip
    view = ask(tails.alpha_histogram, checkpoint)
    if not view.is_empty:
        picture(view, charts.alpha_histogram(view), figures.alpha_histogram, key="histogram")
    view = ask(tails.against_noise, checkpoint)
    if not view.is_empty:
        picture(view, heat_charts.heat(view), heat_figures.heat, key="noise")

elif section == "One matrix":
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with left:
        matrix = choose.one("Matrix", ask(tails.fitted_matrices, checkpoint), "matrix")
    with right:
        kind = choose.segment("Spectrum of", ask(tails_fit.kinds, checkpoint, matrix), "kind")
    view = ask(tails_fit.eigenvalues, checkpoint, matrix, kind)
    if not view.is_empty:
        picture(view, fit_charts.tail_fit(view), fit_figures.tail_fit, key="fit")
    view = ask(tails_fit.xmin_scan, checkpoint, matrix, kind)
    if not view.is_empty:
        stacked(view, fit_charts.xmin_scan(view), fit_figures.xmin_scan, key="scan")
    else:
        st.info(
            "No curves of α and D: there is no fit, or the spectrum has more than "
            f"{tails_fit.MOST_VALUES} eigenvalues, too many to scan while you wait. "
            "`analyzer.fit_tail` computes them for any spectrum."
        )

else:
    with st.sidebar:
        target = choose.count("Target reduction, % of all ranks", 0, 95, 50, "target") / 100
    view = ask(welore.ranks, checkpoint, target)
    if not is_empty(view, SCAN, "No block matrix has a spectrum."):
        kept, full = sum(view.column("rank_kept")), sum(view.column("full_rank"))
        lrc = sum(view.column("is_lrc"))
        with st.container(horizontal=True, gap="large"):
            st.metric("Rank kept", f"{kept / full:.1%}", width="content")
            st.metric("Places that are LRC", f"{lrc} of {view.table.num_rows}", width="content")
            st.metric("Threshold", f"{view.parameters['threshold']:.4g}", width="content")
        side_by_side(
            view, welore_charts.rank_bars(view), welore_figures.rank_bars, key="welore",
            width=welore_charts.PANEL,
            heading="**Share of the rank kept** · LRC green, no LRC pink",
        )  # fmt: skip
        picture(view, heat_charts.heat(view), heat_figures.heat, key="welore-heat")
        spectra = ask(welore.normalised_spectra, checkpoint, target)
        chart = welore_charts.normalised_spectra(spectra)
        picture(spectra, chart, welore_figures.normalised_spectra, key="spectra")

"""Intruder dimensions: new leading singular vectors of tuned matrices."""

import streamlit as st

from analyzer.views import collection, intruders, intruders_strength, intruders_vectors
from analyzer.views.intruders_vectors import SCAN_AGAIN
from apps import choose
from apps.answers import ask
from apps.charts import heat as heat_charts
from apps.charts import intruders as charts
from apps.charts import intruders_strength as strength_charts
from apps.charts import intruders_vectors as vector_charts
from apps.panels import side_by_side, stacked
from apps.picture import picture
from apps.table import table
from apps.text import literal
from reports.figures import heat as heat_figures
from reports.figures import intruders as figures
from reports.figures import intruders_strength as strength_figures
from reports.figures import intruders_vectors as vector_figures

MOST = 12  # checkpoints in one picture

st.title("Intruder dimensions")
names = ask(collection.tuned_names)
if not names:
    st.info("No checkpoint was compared with a base. `analyzer scan PATH --base BASE` does that.")
    st.stop()
scanned = ask(intruders.scanned)
section = choose.segment("Show", ("Counts", "One matrix", "Training run", "Strength"), "show")
with st.sidebar:
    chosen = choose.several("Checkpoints", names, "checkpoints", names[:4])
    side = choose.segment("Singular vectors", ("left", "right"), "side")
    epsilon, k = scanned.epsilon, scanned.k
    if section != "Strength":
        epsilon = choose.number("Threshold ε", 0.0, 1.0, scanned.epsilon, 0.01, "epsilon")
    if section == "Counts" and scanned.k > 1:
        k = choose.count("Leading vectors k", 1, scanned.k, scanned.k, "k")
if not chosen:
    st.info("Choose at least one checkpoint in the sidebar.")
    st.stop()
if len(chosen) > MOST:
    st.caption(f"The first {MOST} of {len(chosen)} checkpoints are shown.")
shown = tuple(chosen[:MOST])

if section == "Counts":
    totals = ask(intruders.totals, shown, side, epsilon, k)
    with st.container(horizontal=True, gap="large"):
        for row in totals.rows():
            st.metric(
                literal(row["checkpoint"]), row["n_intruders"],
                f"of {row['n_judged']} vectors", delta_color="off", delta_arrow="off",
                width="content",
                help=f"{row['n_matrices_with']} of {row['n_matrices']} matrices have intruders; "
                f"{row['n_open']} vectors are nearer to ε than their error bound.",
            )  # fmt: skip
    view = ask(intruders.count_against_epsilon, shown, side, k)
    chart = charts.count_against_epsilon(view, epsilon)
    picture(view, chart, figures.count_against_epsilon, key="count_against_epsilon")
    view = ask(intruders.count_against_k, shown, side, epsilon)
    picture(view, charts.count_against_k(view, k), figures.count_against_k, key="against_k")
    left, right = st.columns(2, vertical_alignment="bottom")
    with left:
        tuned = choose.one("Checkpoint of the map", ask(intruders.most_first, shown), "tuned")
    with right:
        of = choose.segment("Colour", ("number", "share of the energy"), "colour")
    kind = "n_intruders" if of == "number" else "energy_share"
    view = ask(intruders.by_place, tuned, side, epsilon, k, kind)
    picture(view, heat_charts.heat(view), heat_figures.heat, key="by_place")
    table(totals, key="totals", tables=("intruder",))

elif section == "One matrix":
    matrix = choose.one("Matrix", ask(intruders_vectors.judged_matrices, shown, side), "matrix")
    pairs = tuple((name, matrix) for name in shown)
    view = ask(intruders_vectors.cosine_maps, pairs, side, epsilon)
    if not view.is_empty:
        side_by_side(
            view, vector_charts.cosine_maps(view), vector_figures.cosine_maps, key="cosines",
            width=vector_charts.PANEL,
        )  # fmt: skip
    else:
        st.info(f"No cosines of this matrix. {SCAN_AGAIN}")
    for one, key in ((matrix, "maxcos_one"), (None, "maxcos_all")):
        view = ask(intruders_vectors.maxcos_against_rank, shown, side, epsilon, one)
        if not view.is_empty:
            chart = vector_charts.maxcos_against_rank(view)
            picture(view, chart, vector_figures.maxcos_against_rank, key=key)

elif section == "Training run":
    run = choose.one("Run", ask(collection.runs), "run")
    if run is None:
        st.info("No training run here: `analyzer scan` finds folders named checkpoint-STEP.")
        st.stop()
    matrix = choose.one("Matrix", ask(intruders_vectors.run_matrices, run, side), "matrix")
    view = ask(intruders_vectors.dynamics, run, matrix, side, epsilon)
    if not view.is_empty:
        stacked(view, vector_charts.dynamics(view), vector_figures.dynamics, key="dynamics")
    else:
        st.info(f"No vectors were followed through this run. {SCAN_AGAIN}")

else:
    view = ask(intruders_strength.predicted_against_strength, shown, side)
    if not view.is_empty:
        expected = [row for row in view.rows() if row["expected"]]
        others = [row for row in view.rows() if not row["expected"]]
        st.markdown(
            f"Intruders in {sum(r['has_intruders'] for r in expected)} of {len(expected)} matrices "
            f"where the law expects them, and in {sum(r['has_intruders'] for r in others)} of "
            f"{len(others)} others."
        )
        chart = strength_charts.predicted_against_strength(view)
        picture(view, chart, strength_figures.predicted_against_strength, key="predicted")
    else:
        st.info("No predicted thresholds: the law applies for ε below 0.6745.")
    for ask_for, draw, figure, key in (
        (intruders_strength.critical_multipliers, strength_charts.critical_multipliers,
         strength_figures.critical_multipliers, "critical"),
        (intruders_strength.update_ranks, strength_charts.update_ranks,
         strength_figures.update_ranks, "ranks"),
    ):  # fmt: skip
        view = ask(ask_for, shown, side) if key == "critical" else ask(ask_for, shown)
        if not view.is_empty:
            picture(view, draw(view), figure, key=key)

"""Intruder dimensions: new leading singular vectors of tuned matrices."""

import streamlit as st

from analyzer.views import collection, intruders
from apps import choose
from apps.answers import ask
from apps.charts import intruders as charts
from apps.picture import picture
from reports.figures import intruders as figures

st.title("Intruder dimensions")
names = ask(collection.tuned_names)
if not names:
    st.info("No checkpoint was compared with a base. `analyzer scan PATH --base BASE` does that.")
    st.stop()
with st.sidebar:
    chosen = choose.several("Checkpoints", names, "checkpoints", names[:6])
    side = choose.segment("Singular vectors", ("left", "right"), "side")
    epsilon = choose.number("ε", 0.0, 1.0, 0.5, 0.05, "epsilon")
view = ask(intruders.count_against_epsilon, tuple(chosen), side, 10)
picture(
    view,
    charts.count_against_epsilon(view, epsilon),
    figures.count_against_epsilon,
    key="count_against_epsilon",
)

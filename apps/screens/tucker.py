"""Functional Tucker fits: how singular values change over depth and training, and how surely."""

import streamlit as st

from analyzer.views import tucker, tucker_posterior
from apps import choose
from apps.answers import ask
from apps.beside import beside
from apps.charts import tucker as charts
from apps.charts import tucker_posterior as posterior_charts
from apps.picture import picture
from apps.table import table
from apps.text import literal
from reports.figures import tucker as figures
from reports.figures import tucker_posterior as posterior_figures

st.title("Functional Tucker fits")
labels = ask(tucker.fit_labels)
if not labels:
    st.info("No fit is stored. `analyzer scan PATH` or `analyzer tucker fit --db FILE` makes them.")
    st.stop()
with st.sidebar:
    label = choose.one("Fit", list(labels), "fit")
fit = labels[label]
row = ask(tucker.fit_row, fit)
for sentence in tucker.fit_in_words(row):
    st.markdown(literal(sentence))

roles = ask(tucker_posterior.roles, fit)
if roles:
    with st.sidebar:
        role = choose.one("Role", roles, "role")
        alongs = tuple(
            along
            for along in ("depth", "step")
            if len(ask(tucker_posterior.places, fit, role, along)) > 1
        ) or ("depth",)
        along = choose.segment("Along", alongs, "along")
        others = ask(tucker_posterior.places, fit, role, "step" if along == "depth" else "depth")
        named = {f"{value:g}": value for value in others}
        # one address for both: a step is no block
        word, key = ("Step", "step") if along == "depth" else ("Block", "block")
        picked = choose.one(word, list(named), key)
        at = named.get(picked or "")
        known = {f"{q:.3f}": q for q in ask(tucker_posterior.quantiles, fit)}
        first = list(known)
        start = [first[0], first[len(first) // 4], first[len(first) // 2], first[-1]]
        cuts = choose.several("Quantiles", first, "quantiles", list(dict.fromkeys(start)))
    left, right = beside()
    with left:
        surface = ask(tucker_posterior.surface, fit, role, along, at)
        picture(
            surface, posterior_charts.surface(surface), posterior_figures.surface, key="surface"
        )
    with right:
        chosen = tuple(known[q] for q in cuts)
        slices = ask(tucker_posterior.slices, fit, role, along, at, chosen)
        if slices.is_empty:
            st.info("Choose quantiles that this fit has predictions of.")
        else:
            picture(slices, posterior_charts.slices(slices), posterior_figures.slices, key="slices")
        st.caption(
            "Other places: `analyzer tucker predict --depth 1.5 --step 100`. Crosses lie beyond "
            "what was scanned."
        )

    left, right = beside()
    with left:
        view = ask(tucker_posterior.predicted_against_scanned, fit)
        picture(
            view,
            posterior_charts.predicted_against_scanned(view),
            posterior_figures.predicted_against_scanned,
            key="predicted",
        )
    with right:
        view = ask(tucker_posterior.noise_by_quantile, fit)
        picture(
            view,
            posterior_charts.noise_by_quantile(view),
            posterior_figures.noise_by_quantile,
            key="noise",
        )

left, right = beside()
with left:
    odd = ask(tucker.anomalies, fit, 20)
    if not odd.is_empty:
        picture(odd, charts.anomalies(odd), figures.anomalies, key="anomalies")
with right:
    starts = ask(tucker.restarts, fit)
    if starts.table.num_rows > 1:
        picture(starts, charts.restarts(starts), figures.restarts, key="restarts")

wrong = ask(tucker.errors)
if not wrong.is_empty:
    picture(wrong, charts.errors(wrong), figures.errors, key="errors")
table(ask(tucker.fits), key="fits", tables=("tucker_fit",))

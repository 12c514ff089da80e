"""Two checkpoints: a map of any number, one matrix in detail, and several fine-tunes at once."""

import streamlit as st

from analyzer.views import collection, compare, heat, spectra
from apps import choose
from apps.answers import ask
from apps.charts import heat as heat_charts
from apps.charts import spectra as charts
from apps.metric_choice import metric
from apps.picture import picture
from apps.table import table
from apps.text import literal
from reports.figures import heat as heat_figures
from reports.figures import spectra as figures

st.title("Compare")
tuned_names, names = ask(collection.tuned_names), ask(collection.names)
if len(names) < 2:
    st.info("Nothing to compare: `analyzer scan PATH` needs two checkpoints or more.")
    st.stop()
with st.sidebar:
    ordered = [*tuned_names, *(name for name in reversed(names) if name not in tuned_names)]
    tuned = choose.one("Tuned checkpoint", ordered, "tuned") or ordered[0]
    others = [name for name in names if name != tuned]
    own = ask(collection.base_of, tuned)
    others.sort(key=lambda name: name != own)
    base = choose.one("Against", others, "against", help="its base first") or others[0]

summary = ask(compare.summary, base, tuned)
st.markdown(literal(f"{base} → {tuned}: {' '.join(compare.sentences(summary))}"))

st.header("By layer and role")
chosen, cell = metric(tuned), None
if chosen is None:
    st.info("No numbers of this checkpoint. Fill them with `analyzer scan PATH`.")
else:
    of_weights = chosen[0].partition(".")[0] == "welore" or ("kind", "weight") in chosen[1]
    change = of_weights and st.toggle("Change from base", key="change", bind="query-params")
    view = ask(heat.heat, tuned, *chosen, base if change else None)
    if view.is_empty:
        st.info("No matrix has this number.")
    else:
        st.caption("A click on a cell opens its matrix below.")
        picked = picture(
            view, heat_charts.heat(view), heat_figures.heat, key="heat", on_select="rerun"
        )
        cell = heat_charts.clicked(view, picked)

st.header("One matrix")
options = ask(collection.matrix_names, tuned)
if cell is not None:
    within = ask(heat.cell_matrices, tuned, cell["stack"], cell["layer"], cell["role"])
    clicked = within[0] if within else None
    if len(within) > 1:
        clicked = st.selectbox(f"{len(within)} matrices share the cell", within, key="in_cell")
    # once a click: whoever chooses another matrix after it keeps that
    opened = (tuned, cell["place"], cell["role"], clicked)
    if clicked in options and st.session_state.get("opened") != opened:
        st.session_state["opened"], st.session_state["matrix"] = opened, clicked
matrix = choose.one("Matrix", options, "matrix")
if matrix is not None:
    view = ask(spectra.spectra, base, tuned, matrix)
    if view.is_empty:
        st.info("No singular values of this matrix. Fill them with `analyzer scan PATH`.")
    else:
        picture(view, charts.spectra(view), figures.spectra, key="spectra")
    said = ask(compare.matrix_sentences, base, tuned, matrix)
    st.markdown("\n".join(f"- {literal(sentence)}" for sentence in said))
    table(ask(compare.ranks, base, tuned, matrix), key="ranks")

st.header("Every matrix")
table(ask(compare.matrices, base, tuned), key="matrices", tables=("matrix", "intruder", "tail"))
unmatched = ask(compare.unmatched, base, tuned)
if unmatched.is_empty:
    st.caption("No matrix is on one side only, and none has another shape.")
else:
    table(unmatched, key="unmatched", tables=("matrix",))

st.header("Several fine-tunes")
shown = choose.several("Checkpoints", tuned_names or names, "checkpoints", tuned_names[:6])
roles = choose.several("Roles (all if none is chosen)", ask(collection.roles), "roles", ())
if shown:
    table(
        ask(compare.several, tuple(shown), tuple(roles)),
        key="several",
        tables=("checkpoint", "intruder", "tail", "spectrum_info"),
    )

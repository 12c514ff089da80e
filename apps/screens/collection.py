"""The collection at a glance: checkpoints, what was tuned from what, scans, gaps and failures."""

import streamlit as st

from analyzer.views import collection, coverage, history
from apps import choose, live
from apps.answers import ask, is_empty
from apps.charts import heat as charts
from apps.metric_choice import metric
from apps.picture import picture
from apps.table import table
from reports.figures import heat as figures

st.title("Collection")
live.progress()
checkpoints = ask(collection.checkpoints)
if is_empty(checkpoints, "analyzer scan PATH", "The store holds no checkpoint."):
    st.stop()
problems = ask(collection.problems)
matrices, failed = sum(checkpoints.column("n_matrices")), sum(checkpoints.column("n_failed"))
compared = sum(n is not None for n in checkpoints.column("n_compared"))
for place, (name, value) in zip(
    st.columns(4),
    (
        ("Checkpoints", checkpoints.table.num_rows),
        ("Compared with a base", compared),
        ("Matrices", matrices),
        ("Refused or failed", failed),
    ),
    strict=True,
):
    place.metric(name, f"{value:,}")
table(checkpoints, key="checkpoints", tables=("checkpoint", "intruder"))
table(ask(collection.pairing), key="pairing", tables=("checkpoint",))
table(ask(coverage.coverage), key="coverage")

runs = ask(collection.runs)
if runs:
    st.header("Along training")
    last = [
        name for name, run in zip(*map(checkpoints.column, ("name", "run")), strict=True) if run
    ]
    shown = choose.several("Runs", runs, "runs", runs[:6])
    chosen = metric(last[-1])
    if chosen is not None and shown:
        view = ask(history.history, tuple(shown), *chosen)
        if not is_empty(view, "analyzer scan PATH", "No step of these runs has this number."):
            picture(view, charts.history(view), figures.history, key="history")

st.header("Failures and scans")
if problems.is_empty:
    st.success("Nothing was refused, failed or skipped.", icon=":material/check:")
else:
    table(problems, key="problems")
table(ask(collection.scans), key="scans", tables=("scan",))

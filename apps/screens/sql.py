"""Queries on the store: read-only, without files, as a table and for download."""

import streamlit as st

from analyzer.errors import WorkbenchError
from analyzer.views import query
from analyzer.views.metrics import explained, metric
from analyzer.views.view import View
from apps.answers import ask
from apps.text import literal


def use(text: str) -> None:
    st.session_state["query"] = text


def show(result: View, page: int) -> None:
    """One page of a result; a name that a table of the store defines has its definition."""
    more = result.table.num_rows > query.PAGE
    rows = result.table.slice(0, query.PAGE) if more else result.table
    first = (page - 1) * query.PAGE + 1
    found = {name: metric(name) for name in rows.column_names}
    st.dataframe(
        rows,
        hide_index=True,
        key="result",
        column_config={
            name: st.column_config.Column(help=literal(explained(column)))
            for name, column in found.items()
            if column is not None and column.description
        },
    )
    st.caption(
        f"Rows {first:,} to {first + rows.num_rows - 1:,}"
        + (", and there are more on the next page." if more else ".")
        if rows.num_rows
        else "No rows."
    )


st.title("SQL")
st.caption(
    "DuckDB's SQL, read-only and without access to files, network or settings; a query may take "
    f"{query.PATIENCE:.0f} s. Ctrl+Enter or Run asks."
)
with st.expander("Examples"):
    for i, (title, text) in enumerate(query.EXAMPLES):
        st.button(title, key=f"example-{i}", type="tertiary", on_click=use, args=(text,))
text = st.text_area(
    "Query", height=140, key="query", bind="query-params", placeholder="SELECT * FROM checkpoint"
)
left, middle, _ = st.columns([1, 1, 4], vertical_alignment="bottom")
left.button("Run", type="primary", width="stretch")
page = int(middle.number_input("Page", 1, 1_000_000, 1, 1, key="page", bind="query-params"))
if text and text.strip():
    try:
        result = ask(query.rows, text, (page - 1) * query.PAGE, query.PAGE + 1)
    except WorkbenchError as error:
        st.error(literal(error))
    else:
        show(result, page)
        st.download_button(
            "All rows (CSV)",
            lambda: ask(query.rows, text, 0, query.MOST).csv(),
            file_name="query.csv",
            mime="text/csv",
            on_click="ignore",
            icon=":material/download:",
            help=f"at most {query.MOST:,} rows",
        )

st.header("Tables")
tables = ask(query.tables)
left, right = st.columns([2, 3])
with left:
    event = st.dataframe(
        tables.table.select(["table", "rows"]),
        hide_index=True,
        key="tables",
        on_select="rerun",
        selection_mode="single-row",
    )
with right:
    picked = event["selection"]["rows"]
    name = tables.column("table")[picked[0] if picked else 0]
    st.markdown(f"**{literal(name)}**")
    st.dataframe(query.columns(name).table, hide_index=True, key="columns")

"""The Compare page: what its choices change, and a click on the map."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from analyzer.store.reading import connect
from analyzer.views import collection, heat
from apps.charts import heat as charts


@pytest.fixture
def page(open_page: Callable[..., AppTest]) -> Callable[..., AppTest]:
    return partial(open_page, "compare")


def words(app: AppTest) -> str:
    return " ".join(m.value for m in app.markdown).replace("\\", "")


def test_the_base_follows_the_tuned_checkpoint(page: Callable[..., AppTest], demo_db: Path) -> None:
    app = page(demo_db)
    store = connect(demo_db)
    tuned = collection.tuned_names(store)
    assert app.selectbox(key="tuned").value == tuned[0]
    assert app.selectbox(key="against").value == collection.base_of(store, tuned[0])
    (n,) = store.sql(
        "SELECT sum(n_intruders)::BIGINT FROM intruder JOIN matrix USING (matrix_id)"
        " JOIN checkpoint c USING (checkpoint_id) WHERE side = 'left' AND c.name = ?",
        [tuned[0]],
    ).column(0)
    assert f"Intruder dimensions: {n} of" in words(app)


def test_any_two_checkpoints_can_be_compared(page: Callable[..., AppTest], demo_db: Path) -> None:
    app = page(demo_db)
    first, second = app.selectbox(key="tuned").options[1:3]
    app.selectbox(key="tuned").set_value(first)
    app.selectbox(key="against").set_value(second).run()
    assert not app.exception
    assert not app.error
    assert "Intruder dimensions" not in words(app)
    assert "matrices are in both" in words(app)


def test_an_address_opens_the_same_view(page: Callable[..., AppTest], demo_db: Path) -> None:
    store = connect(demo_db)
    tuned = collection.tuned_names(store)[-1]
    matrix = collection.matrix_names(store, tuned)[-1]
    app = page(demo_db, tuned=tuned, matrix=matrix, metric="tail.alpha", change="true")
    assert app.selectbox(key="matrix").value == matrix
    assert app.toggle(key="change").value
    text = words(app)
    assert f"Change of alpha by layer and role: {tuned}" in text
    assert f"Singular values: {matrix}" in text


def test_nonsense_in_an_address_does_no_harm(page: Callable[..., AppTest], demo_db: Path) -> None:
    app = page(demo_db, tuned="../..", matrix="'; --", metric="tail.alpha;", kind="x")
    assert app.selectbox(key="tuned").value in collection.tuned_names(connect(demo_db))


def test_a_click_opens_the_matrix(page: Callable[..., AppTest], demo_db: Path) -> None:
    app = page(demo_db)
    store = connect(demo_db)
    view = heat.heat(store, app.selectbox(key="tuned").value, app.selectbox(key="metric").value)
    cell = view.rows()[-1]
    assert cell["matrices"] != app.selectbox(key="matrix").value
    picked = {"selection": {charts.CELL: [{"place": cell["place"], "role": cell["role"]}]}}
    app.session_state["heat-chart"] = picked
    app.run()
    assert not app.exception
    assert app.selectbox(key="matrix").value == cell["matrices"]
    # another choice after the click stays
    other = app.selectbox(key="matrix").options[0]
    app.selectbox(key="matrix").set_value(other).run()
    assert app.selectbox(key="matrix").value == other


@pytest.mark.parametrize(
    "picked", [None, {}, {"selection": {}}, {"selection": {"cell": []}},
               {"selection": {"cell": [{"place": "99", "role": "x"}]}}],
)  # fmt: skip
def test_no_cell_is_clicked(demo_db: Path, picked: Any) -> None:
    store = connect(demo_db)
    view = heat.heat(store, collection.tuned_names(store)[0], "intruder.delta_fro_ratio")
    assert charts.clicked(view, picked) is None


def test_several_fine_tunes_are_filtered_by_role(
    page: Callable[..., AppTest], demo_db: Path
) -> None:
    app = page(demo_db)
    counts = app.dataframe[-1].value["n_matrices"].tolist()
    app.multiselect(key="roles").set_value(["attn_q"]).run()
    fewer = app.dataframe[-1].value["n_matrices"].tolist()
    assert len(fewer) == len(counts)
    assert all(0 < few < many for few, many in zip(fewer, counts, strict=True))


def test_an_empty_store_says_what_fills_it(
    page: Callable[..., AppTest], make_store: Callable[..., Path]
) -> None:
    app = page(make_store())
    assert "analyzer scan PATH" in app.info[0].value

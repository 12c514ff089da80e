"""The Collection page: full, empty and while a scan runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from analyzer.store.connection import writer
from analyzer.store.reading import connect
from apps import live


@pytest.fixture
def page(open_page: Callable[..., AppTest]) -> Callable[..., AppTest]:
    return partial(open_page, "collection")


def test_the_page_counts_what_the_store_holds(page: Callable[..., AppTest], demo_db: Path) -> None:
    app = page(demo_db)
    store = connect(demo_db)
    shown = {metric.label: metric.value for metric in app.metric}
    for label, table in (("Checkpoints", "checkpoint"), ("Matrices", "matrix")):
        assert shown[label] == f"{store.table(table).num_rows:,}"
    assert len(app.dataframe) >= 4


def test_any_number_is_followed_along_the_runs(page: Callable[..., AppTest], demo_db: Path) -> None:
    app = page(demo_db)
    app.selectbox(key="metric").set_value("tail.alpha").run()
    assert any("alpha along training" in m.value for m in app.markdown)
    app.multiselect(key="runs").set_value([]).run()
    assert not app.exception
    assert not any("alpha along training" in m.value for m in app.markdown)


def test_an_empty_store_says_what_fills_it(
    page: Callable[..., AppTest], make_store: Callable[..., Path]
) -> None:
    app = page(make_store())
    assert "analyzer scan PATH" in app.info[0].value


def test_a_running_scan_shows_its_progress_and_its_end(
    page: Callable[..., AppTest], own_demo: Path
) -> None:
    with writer(own_demo) as connection:
        connection.execute("UPDATE scan SET status = 'running', ended_at = NULL")
        connection.execute("DELETE FROM done WHERE analysis = 'tails' AND matrix_id % 2 = 0")
    app = page(own_demo)
    ((_, seen),) = [app.session_state["watched"]]
    assert len(seen) == 1
    n, done = (
        connect(own_demo).sql(query).column(0).to_pylist()[0]
        for query in (
            "SELECT count(*) FROM matrix WHERE status IN ('ok', 'zero_delta')",
            "SELECT count(*) FROM done WHERE analysis = 'tails'",
        )
    )
    (bar,) = app.get("progress")
    assert f"{done} of {n} matrices" in bar.proto.text
    with writer(own_demo) as connection:
        connection.execute("INSERT INTO done VALUES (2, 'tails', '')")
    app.run()
    assert len(app.session_state["watched"][1]) == 2
    assert any("results/s" in caption.value for caption in app.caption)
    with writer(own_demo) as connection:
        connection.execute("UPDATE scan SET status = 'ok'")
    app.run()
    assert "watched" not in app.session_state
    assert not app.get("progress")


def test_silence_is_told_from_progress() -> None:
    now = live.Running(1, "t", "cpu", 5, 5, 9, 5.0, 9.0)
    quiet = (live.Seen(0.0, 4, 4.0), live.Seen(10.0, 5, 5.0), live.Seen(400.0, 5, 5.0))
    assert "Nothing new for 7 min" in live._pace(now, quiet)
    assert "results/s" in live._pace(now, quiet[:2])

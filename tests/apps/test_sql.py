"""The SQL page: results, pages, errors in a line, and definitions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from analyzer.store.connection import writer


@pytest.fixture
def app(make_store: Callable[..., Path], dashboard: Callable[[Path], AppTest]) -> AppTest:
    db = make_store()
    with writer(db) as connection:
        connection.execute(
            "INSERT INTO spectrum SELECT 7, 'weight', k, 1.0 / k FROM range(1, 1502) t(k)"
        )
    return dashboard(db).switch_page("screens/sql.py")


def test_nothing_is_asked_until_something_is_typed(app: AppTest) -> None:
    app.run()
    assert not app.error
    assert len(app.dataframe) == 2  # the tables, and the columns of one of them


def test_a_result_is_shown_page_by_page(app: AppTest) -> None:
    app.query_params["query"] = "SELECT * FROM spectrum ORDER BY k"
    app.run()
    first = app.dataframe[0].value
    assert first["k"].tolist() == list(range(1, 1001))
    # keys are what queries join by: none is hidden
    assert first.columns.tolist() == ["matrix_id", "kind", "k", "sigma"]
    assert any("Rows 1 to 1,000, and there are more" in c.value for c in app.caption)
    app.number_input(key="page").set_value(2).run()
    assert app.dataframe[0].value["k"].tolist() == list(range(1001, 1502))
    assert any("Rows 1,001 to 1,501." in c.value for c in app.caption)
    assert [b.label for b in app.get("download_button")] == ["All rows (CSV)"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("SELECT * FROM read_csv('/etc/passwd')", "file system operations are disabled"),
        ("DROP TABLE spectrum", "read-only"),
        ("SELECT <img src=x onerror=alert(1)>", "syntax error"),
    ],
)
def test_an_error_is_one_line(app: AppTest, text: str, says: str) -> None:
    app.query_params["query"] = text
    app.run()
    assert not app.exception
    (error,) = app.error
    assert says in error.value.replace("\\", "")
    assert len(error.value.splitlines()) == 1
    assert "<img" not in error.value.replace("\\<", "")
    assert len(app.dataframe) == 2


def test_an_example_fills_the_box(app: AppTest) -> None:
    app.run()
    app.button(key="example-1").click().run()
    assert "median(alpha)" in app.text_area(key="query").value
    assert not app.error
    assert any("No rows" in c.value for c in app.caption)


def test_columns_have_their_definitions(app: AppTest) -> None:
    app.run()
    names = app.dataframe[0].value["table"].tolist()
    app.session_state["tables"] = {
        "selection": {"rows": [names.index("tail")], "columns": [], "cells": []}
    }
    app.run()
    columns = app.dataframe[1].value.set_index("name")
    assert "exponent" in columns.loc["alpha", "description"]
    assert "Clauset" in columns.loc["alpha", "source"]

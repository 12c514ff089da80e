"""Pages of the dashboard, opened on a store, and what they show."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from streamlit.testing.v1 import AppTest

import apps
from apps.text import literal

MAIN = Path(apps.__file__).parent / "main.py"


@pytest.fixture
def dashboard(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], AppTest]:
    """`dashboard(db)`: the whole dashboard on a store, at its first page and not run yet."""

    def make(db: Path) -> AppTest:
        monkeypatch.setenv("ANALYZER_DB", str(db))
        return AppTest.from_file(str(MAIN), default_timeout=60)

    return make


@pytest.fixture
def open_page(dashboard: Callable[[Path], AppTest]) -> Callable[..., AppTest]:
    """`open_page("compare", db, tuned=…)`: that page from that address, run without an error."""

    def run(page: str, db: Path, **address: str) -> AppTest:
        app = dashboard(db).switch_page(f"screens/{page}.py")
        for name, value in address.items():
            app.query_params[name] = value
        app.run()
        assert not app.exception
        assert not app.error, [error.value for error in app.error]
        return app

    return run


@pytest.fixture
def charts() -> Callable[[AppTest], list[dict[str, Any]]]:
    """The Vega-Lite specification of every chart of a page."""
    return lambda app: [json.loads(chart.proto.spec) for chart in app.get("vega_lite_chart")]


@pytest.fixture
def first_chart_rows() -> Callable[[AppTest], list[dict[str, Any]]]:
    """The rows that the first chart of a page draws."""

    def read(app: AppTest) -> list[dict[str, Any]]:
        sent = app.get("vega_lite_chart")[0].proto.datasets[0].data.data
        with pa.ipc.open_stream(sent) as stream:
            return stream.read_all().to_pylist()

    return read


@pytest.fixture
def own_demo(demo_db: Path, tmp_path: Path) -> Path:
    """A copy of the demo's store that a test may change."""
    return Path(shutil.copy(demo_db, tmp_path / "own.duckdb"))


@pytest.fixture
def hostile_demo(own_demo: Path) -> Path:
    """The demo's store with markup before the names of tuned checkpoints and of matrices."""
    markup = ["<img src=x onerror=alert(1)> $x_{"]
    with duckdb.connect(own_demo) as connection:
        connection.execute("UPDATE checkpoint SET name = ? || name WHERE kind <> 'base'", markup)
        connection.execute("UPDATE matrix SET name = ? || name", markup)
    return own_demo


@pytest.fixture
def shows_as_text() -> Callable[[AppTest, str, Iterable[str], Iterable[str]], None]:
    """`shows_as_text(app, name, tabs, naming)`: the name is no markup, and said in `naming`."""

    def check(app: AppTest, name: str, tabs: Iterable[str], naming: Iterable[str]) -> None:
        for tab in tabs:
            app.session_state["show"] = tab
            app.run()
            assert not app.exception and not app.error, tab
            texts = [element.value for element in (*app.markdown, *app.caption)]
            assert any(literal(name) in text for text in texts) or tab not in naming
            assert not [text for text in texts if "<img" in text.replace(literal(name), "")]

    return check

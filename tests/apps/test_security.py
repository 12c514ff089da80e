"""Hostile names stay text, nothing names a file, and what goes wrong is said in a line."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from streamlit.testing.v1 import AppTest

from analyzer.analyses.tables import TABLES
from analyzer.store import connection as store_connection
from analyzer.store.connection import create, writer
from apps.text import literal

IMAGE, FORMULA, ICON = "<img src=x onerror=alert(1)>", "$x$", ":material/bug_report:"
MARKUP = "**[bold](http://example.com)** # `code` :red[x]"
NAMES = (IMAGE, FORMULA, ICON, MARKUP)


def hostile_rows() -> dict[str, list[dict[str, Any]]]:
    """A base and its fine-tunes, all with names that mean something in HTML, TeX or Markdown."""
    owners = [
        {"checkpoint_id": i + 1, "name": name, "path": name, "kind": "full" if i else "base",
         "run": f"run {name}" if i else None, "step": i if i else None, "format": MARKUP,
         "base_checkpoint_id": 1 if i else None, "n_params": 1}
        for i, name in enumerate(NAMES)
    ]  # fmt: skip
    matrices = [
        {"matrix_id": 10 * owner["checkpoint_id"] + i, "checkpoint_id": owner["checkpoint_id"],
         "name": name, "role": IMAGE, "rows": 3, "cols": 3, "layer": 0, "status": "ok"}
        for owner in owners for i, name in enumerate(NAMES)
    ]  # fmt: skip
    numbers = [row["matrix_id"] for row in matrices]
    return {
        "scan": [{"scan_id": 1, "started_at": IMAGE, "device": MARKUP, "status": "running",
                  "argv": IMAGE}],
        "checkpoint": owners,
        "matrix": matrices,
        "tail": [
            {"matrix_id": n, "kind": "weight", "alpha": 2.0, "alpha_lo": 1.0, "alpha_hi": 3.0,
             "n_tail": 3, "n_evals": 3, "phase": IMAGE, "status": "ok"} for n in numbers
        ],
        "spectrum": [
            {"matrix_id": n, "kind": "weight", "k": k, "sigma": 1 / k}
            for n in numbers for k in (1, 2, 3)
        ],
        "intruder": [
            {"matrix_id": n, "side": side, "k": 3, "epsilon": 0.5, "n_intruders": 1,
             "n_uncertain": 0, "n_robust": 1, "delta_fro_ratio": 0.1, "status": "ok"}
            for n in numbers if n > 20 for side in ("left", "right")
        ],
        "event": [{"level": "error", "scan_id": 1, "checkpoint_id": 2, "name": IMAGE,
                   "code": MARKUP, "message": IMAGE}],
    }  # fmt: skip


@pytest.fixture
def hostile(make_store: Callable[..., Path]) -> Path:
    return make_store(**hostile_rows())


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_connection, "PATIENCE", 0.3)


@pytest.fixture
def browse(dashboard: Callable[[Path], AppTest]) -> Callable[..., AppTest]:
    """`browse(db, page)`: as a reader gets there, from the first page; whatever goes wrong."""

    def run(db: Path, page: str = "collection") -> AppTest:
        app = dashboard(db).run()
        if page != "collection":
            app.switch_page(f"screens/{page}.py").run()
        return app

    return run


def texts(app: AppTest) -> list[Any]:
    """Every element whose text Streamlit reads as Markdown."""
    kinds = ("markdown", "caption", "title", "header", "subheader", "info", "error", "success")
    return [element for kind in kinds for element in app.get(kind)]


@pytest.mark.parametrize("page", ["collection", "compare"])
def test_hostile_names_are_text(hostile: Path, browse: Callable[..., AppTest], page: str) -> None:
    app = browse(hostile, page)
    assert not app.exception
    assert not app.error
    shown = [element.value for element in texts(app)]
    for name in (IMAGE, FORMULA, ICON, "[bold]("):
        assert not any(name in text for text in shown), name
    assert not any(getattr(e.proto, "allow_html", False) for e in texts(app))
    assert not app.get("html")
    if page == "compare":
        assert any(literal(IMAGE) in text for text in shown)


def test_hostile_names_can_be_chosen_and_drawn(
    hostile: Path, browse: Callable[..., AppTest]
) -> None:
    app = browse(hostile, "compare")
    for name in NAMES[1:]:
        app.selectbox(key="tuned").set_value(name)
        app.selectbox(key="matrix").set_value(name).run()
        assert not app.exception
        assert not app.error


@pytest.mark.parametrize("key", ["db", "path"])
def test_no_address_names_a_file(
    hostile: Path, tmp_path: Path, dashboard: Callable[[Path], AppTest], key: str
) -> None:
    other = tmp_path / "other.duckdb"
    create(other, TABLES)
    app = dashboard(hostile)
    app.query_params[key] = str(other)
    app.run()
    assert not app.error
    assert [metric.value for metric in app.metric if metric.label == "Checkpoints"] == ["4"]
    assert literal(hostile.name) in [c.value for c in app.sidebar.caption]


def test_a_query_in_the_address_reads_no_file(
    hostile: Path, dashboard: Callable[[Path], AppTest]
) -> None:
    app = dashboard(hostile)
    app.query_params["query"] = "SELECT * FROM read_csv('/etc/passwd')"
    app.switch_page("screens/sql.py").run()
    assert not app.exception
    assert len(app.error) == 1
    assert "file system operations are disabled" in app.error[0].value
    assert len(app.error[0].value.splitlines()) == 1


def damaged(kind: str, tmp_path: Path) -> Path:
    db = tmp_path / "damaged.duckdb"
    if kind == "corrupt":
        db.write_bytes(b"\x00nothing of the sort" * 1000)
    elif kind == "foreign":
        with duckdb.connect(str(db)) as connection:
            connection.execute("CREATE TABLE t (i INT)")
    elif kind == "newer":
        create(db, TABLES)
        with writer(db) as connection:
            connection.execute("UPDATE meta SET value = '999' WHERE key = 'schema_version'")
    return db


@pytest.mark.parametrize(
    ("kind", "says", "page"),
    [
        ("missing", "no such store", "collection"),
        ("corrupt", "not a readable DuckDB file", "collection"),
        ("foreign", "not a store", "collection"),
        ("newer", "schema 999 is newer", "collection"),
        ("newer", "schema 999 is newer", "compare"),
        ("newer", "schema 999 is newer", "sql"),
    ],
)
def test_a_store_that_cannot_be_read_is_one_line(
    tmp_path: Path, browse: Callable[..., AppTest], kind: str, says: str, page: str
) -> None:
    app = browse(damaged(kind, tmp_path), page)
    assert not app.exception
    assert len(app.error) == 1
    text = app.error[0].value.replace("\\", "")
    assert says in text
    assert len(text.splitlines()) == 1
    assert "Traceback" not in text


@pytest.fixture
def held(hostile: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that takes the store when it is told to, and keeps it."""
    code = (
        "import sys, duckdb\nsys.stdin.readline()\n"
        f"c = duckdb.connect({str(hostile)!r})\n"
        "c.execute('DELETE FROM event')\nprint('held', flush=True)\nsys.stdin.readline()\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    yield process
    process.kill()
    process.wait()


def take(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("now\n")
    process.stdin.flush()
    assert process.stdout.readline() == "held\n"


def test_the_last_answer_stays_while_a_scan_writes(
    hostile: Path, browse: Callable[..., AppTest], held
) -> None:
    app = browse(hostile)
    before = [metric.value for metric in app.metric]
    take(held)
    app.run()
    assert not app.exception
    assert not app.error
    assert [metric.value for metric in app.metric] == before
    assert any("data as of" in caption.value for caption in app.caption)


def test_a_store_held_from_the_start_is_one_line(
    hostile: Path, browse: Callable[..., AppTest], held
) -> None:
    take(held)
    app = browse(hostile)
    assert not app.exception
    (error,) = app.error
    assert "another process holds" in error.value.replace("\\", "")

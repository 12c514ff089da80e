"""A reader's own queries: paged, in time, and without a way to files."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from analyzer.analyses.tables import TABLES
from analyzer.errors import UsageError
from analyzer.store.connection import create, writer
from analyzer.store.reading import Store, connect
from analyzer.views import query


@pytest.fixture
def store(tmp_path: Path) -> Store:
    create(tmp_path / "s.duckdb", TABLES)
    with writer(tmp_path / "s.duckdb") as connection:
        connection.execute(
            "INSERT INTO spectrum SELECT 1, 'weight', k, 1.0 / k FROM range(1, 2501) t(k)"
        )
    return connect(tmp_path / "s.duckdb")


def test_pages_follow_each_other(store: Store) -> None:
    text = "SELECT k FROM spectrum ORDER BY k; -- a remark"
    pages = [query.rows(store, text, n * query.PAGE).column("k") for n in range(4)]
    assert [len(page) for page in pages] == [1000, 1000, 500, 0]
    assert [k for page in pages for k in page] == list(range(1, 2501))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT ';' AS a -- ü;", ";"),
        ("-- é\nSELECT 'é;' AS a ;; -- ü", "é;"),
        ("/* ; */ SELECT $$--;$$ AS a;", "--;"),
        ("SELECT 1 AS b; SELECT 'x' AS a;", "x"),
    ],
)
def test_remarks_and_semicolons_do_no_harm(store: Store, text: str, expected: str) -> None:
    assert query.rows(store, text).column("a") == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/*')",
        "COPY spectrum TO '/tmp/stolen.csv'",
        "ATTACH '/tmp/other.db'",
        "EXPORT DATABASE '/tmp/stolen'",
        "INSTALL httpfs",
        "SET enable_external_access = true",
        "DELETE FROM spectrum",
        "SELECT 1; DROP TABLE spectrum",
        "CREATE TABLE more (i INT)",
        "SELECT nothing FROM nowhere",
        "SELEC",
    ],
)
def test_what_is_not_a_query_of_the_store_is_refused_in_one_line(store: Store, text: str) -> None:
    with pytest.raises(UsageError) as refused:
        query.rows(store, text)
    assert len(str(refused.value).splitlines()) == 1
    assert query.rows(store, "SELECT count(*) AS n FROM spectrum").column("n") == [2500]


def test_a_runaway_is_stopped(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(query, "PATIENCE", 0.5)
    began = time.monotonic()
    with pytest.raises(UsageError, match="longer than"):
        query.rows(store, "SELECT sum(a.range) FROM range(1000000) a, range(10000000) b")
    assert time.monotonic() - began < 10


def test_a_statement_without_a_result_shows_nothing(store: Store) -> None:
    assert query.rows(store, "BEGIN").is_empty


@pytest.mark.parametrize(("title", "text"), query.EXAMPLES)
def test_examples_run(store: Store, title: str, text: str) -> None:
    assert query.rows(store, text).is_empty, title


def test_examples_say_something(demo_db: Path) -> None:
    store = connect(demo_db)
    found = {title: query.rows(store, text).table.num_rows for title, text in query.EXAMPLES}
    assert all(n for title, n in found.items() if "refused" not in title)


def test_tables_and_columns_are_listed_with_definitions(store: Store) -> None:
    tables = {row["table"]: row for row in query.tables(store).rows()}
    assert tables["spectrum"]["rows"] == 2500
    assert tables["spectrum"]["columns"] == "matrix_id, kind, k, sigma"
    columns = {row["name"]: row for row in query.columns("intruder").rows()}
    assert "base vector" in columns["n_intruders"]["description"]
    assert columns["n_intruders"]["sql_type"] == "BIGINT"

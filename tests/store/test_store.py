"""The store: round trips, hardening, locks, versions."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import duckdb
import pytest

from analyzer.errors import StoreCorrupt, StoreError, StoreLocked, StoreTooNew
from analyzer.store import connection as store
from analyzer.store.columns import column, columns
from analyzer.store.schema import CORE_TABLES, SpectrumRow
from analyzer.store.writing import insert


@dataclass(frozen=True, slots=True)
class Sample:
    TABLE: ClassVar[str] = "sample"
    matrix_id: int = column("matrix")
    alpha: float | None = column("it's a definition", unit="nats", source="Someone 2009")
    status: str = column("ok")
    certified: bool | None = column("yes or no")


@pytest.fixture
def db(tmp_path: Path) -> Path:
    path = tmp_path / "a'b.duckdb"
    store.create(path, (*CORE_TABLES, Sample))
    return path


def test_a_writer_takes_no_core_from_the_workers(db: Path) -> None:
    with store.writer(db) as con:
        assert con.execute("SELECT current_setting('threads')").fetchall() == [(1,)]


def test_rows_come_back_and_non_finite_is_null(db: Path) -> None:
    rows = [Sample(1, 2.5, "ok", True), Sample(2, float("nan"), "x'; drop table sample; --", None)]
    with store.writer(db) as con:
        insert(con, [*rows, Sample(3, float("inf"), "ok", False)])
    with store.reader(db) as con:
        assert con.execute("FROM sample ORDER BY matrix_id").fetchall() == [
            (1, 2.5, "ok", True),
            (2, None, "x'; drop table sample; --", None),
            (3, None, "ok", False),
        ]


def test_definitions_stand_in_the_database(db: Path) -> None:
    with store.reader(db) as con:
        found = con.execute(
            "SELECT comment FROM duckdb_columns() WHERE table_name='sample' AND column_name='alpha'"
        ).fetchone()
    assert found == ("it's a definition · nats · Someone 2009",)
    assert all(c.description for table in CORE_TABLES for c in columns(table))


def test_an_error_rolls_the_batch_back(db: Path) -> None:
    with pytest.raises(ZeroDivisionError), store.writer(db) as con:
        insert(con, [SpectrumRow(1, "weight", 1, 2.0)])
        _ = 1 / 0
    with store.reader(db) as con:
        assert con.execute("SELECT count(*) FROM spectrum").fetchone() == (0,)


@pytest.mark.parametrize(
    "query",
    [
        "CREATE TABLE x (a INT)",
        "DELETE FROM sample",
        "SELECT * FROM read_csv('/etc/passwd')",
        "COPY sample TO '/tmp/leak.csv'",
        "ATTACH '/tmp/other.duckdb' AS other",
        "SET enable_external_access=true",
    ],
)
def test_readers_can_only_read(db: Path, query: str) -> None:
    with store.reader(db) as con, pytest.raises(duckdb.Error):
        con.execute(query)


def test_a_missing_store_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="analyzer scan"), store.reader(tmp_path / "no.duckdb"):
        pass


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.duckdb"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreCorrupt), store.writer(path):
        pass
    assert path.read_bytes().startswith(b"not a database")


def test_a_newer_schema_is_left_alone(db: Path) -> None:
    with store.writer(db) as con:
        con.execute("UPDATE meta SET value = '999' WHERE key = 'schema_version'")
    with pytest.raises(StoreTooNew, match="999"):
        store.create(db, CORE_TABLES)


def test_another_process_holding_the_store(db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PATIENCE", 0.3)
    code = "import duckdb,sys; c=duckdb.connect(sys.argv[1]); print('held',flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(db)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    try:
        with pytest.raises(StoreLocked, match="another process"), store.writer(db):
            pass
    finally:
        holder.communicate("\n")


def test_the_file_is_readable_by_the_oldest_supported_version(db: Path) -> None:
    with store.reader(db) as con:
        tags = con.execute(
            "SELECT tags['storage_version'] FROM duckdb_databases() WHERE database_name='store'"
        ).fetchone()
    assert tags is not None
    assert tags[0].startswith("v1.4.0")


def test_places_that_cannot_hold_a_store_are_told_apart(tmp_path: Path) -> None:
    for path, word in ((tmp_path, "folder"), (tmp_path / "no" / "x.duckdb", "does not exist")):
        with pytest.raises(StoreError, match=word):
            store.create(path, CORE_TABLES)


def test_a_foreign_database_is_not_a_store(tmp_path: Path) -> None:
    path = tmp_path / "other.duckdb"
    duckdb.connect(str(path)).execute("CREATE TABLE mine (a INT)").close()
    with pytest.raises(StoreCorrupt, match="not a store"), store.reader(path):
        pass
    with pytest.raises(StoreCorrupt, match="not a store"):
        store.create(path, CORE_TABLES)

"""Opening the DuckDB file: one writer for the length of a batch, readers without side effects."""

from __future__ import annotations

import os
import random
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import duckdb

from analyzer.errors import StoreCorrupt, StoreError, StoreLocked, StoreTooNew
from analyzer.store.columns import Row
from analyzer.store.schema import SCHEMA_VERSION, ddl

# DuckDB 2 writes files that 1.x cannot read unless told otherwise; 1.4 is the oldest we support.
STORAGE_VERSION = "v1.4.0"
PATIENCE = 5.0  # seconds a busy store is waited for


@contextmanager
def writer(db: Path) -> Iterator[duckdb.DuckDBPyConnection]:
    """A transaction on the store: open, commit one batch, close, so that readers get their turn.

    Raises StoreLocked after five seconds of another process holding the file, StoreCorrupt.
    """
    _check_place(db)
    if not os.access(db if db.exists() else db.parent, os.W_OK):
        raise StoreError("cannot be written here", path=db, hint="name another file with --db")
    connection = _retry(db, lambda: _attach(db, read_only=False))
    try:
        connection.execute("BEGIN")
        yield connection
        connection.execute("COMMIT")
    except (duckdb.IOException, duckdb.TransactionException, duckdb.FatalException) as error:
        line = str(error).splitlines()[0]
        raise StoreError(
            f"cannot be written: {line}", path=db, hint="is the disk full? the last batch is lost"
        ) from None
    finally:
        with suppress(duckdb.Error):
            connection.close()


@contextmanager
def reader(db: Path, threads: int | None = None) -> Iterator[duckdb.DuckDBPyConnection]:
    """A hardened read-only connection: no files, no network, no configuration, no writes.

    `threads` as many as there are cores unless given; with one, sums are always in the same order.
    """
    if not db.exists():
        raise StoreError(
            "no such store", path=db, hint="run `analyzer scan PATH` first, or give --db FILE"
        )
    connection = _retry(db, lambda: _attach(db, read_only=True))
    try:
        _check_schema(connection, db)
        if threads is not None:
            connection.execute(f"SET threads={threads:d}")
        connection.execute("SET enable_external_access=false")
        connection.execute("SET lock_configuration=true")
        yield connection
    finally:
        connection.close()


def create(db: Path, tables: Sequence[type[Row]]) -> None:
    """Create the store and its missing tables. Raises StoreTooNew for a newer schema.

    A store that is complete already is not written to.
    """
    _check_place(db)
    if db.exists() and _is_complete(db, tables):
        return
    with writer(db) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS meta (key VARCHAR, value VARCHAR)")
        if not connection.execute("SELECT * FROM meta").fetchall():
            connection.executemany("INSERT INTO meta VALUES (?, ?)", _identity())
        for table in tables:
            for statement in ddl(table):
                connection.execute(statement)


def _check_place(db: Path) -> None:
    """Raises StoreError where no database can be, before DuckDB calls it corrupt."""
    if db.is_dir():
        raise StoreError("is a folder", path=db, hint="name a file with --db")
    if not db.parent.is_dir():
        raise StoreError("its folder does not exist", path=db, hint="create it, or use --db FILE")


def _identity() -> list[tuple[str, str]]:
    return [
        ("schema_version", str(SCHEMA_VERSION)),
        ("created_by", "spectral-workbench"),
        ("store_uuid", str(uuid.uuid4())),
    ]


def _is_complete(db: Path, tables: Sequence[type[Row]]) -> bool:
    query = "SELECT table_name FROM duckdb_tables() WHERE database_name = 'store'"
    with reader(db) as connection:
        found = {name for (name,) in connection.execute(query).fetchall()}
    return found >= {"meta", *(table.TABLE for table in tables)}


def _check_schema(connection: duckdb.DuckDBPyConnection, db: Path) -> None:
    """Raises StoreTooNew, or StoreCorrupt for a database that is not a store."""
    query = "SELECT 1 FROM duckdb_tables() WHERE database_name = 'store' AND table_name = 'meta'"
    if not connection.execute(query).fetchall():
        raise StoreCorrupt(
            "a DuckDB file, but not a store", path=db, hint="give the file `analyzer scan` wrote"
        )
    _check_version(connection, db)


def _check_version(connection: duckdb.DuckDBPyConnection, db: Path) -> None:
    query = "SELECT value FROM meta WHERE key = 'schema_version'"
    found = connection.execute(query).fetchall()
    if found and not found[0][0].isdigit():
        raise StoreCorrupt(
            f"schema {found[0][0]!r} is no number", path=db, hint="move it aside and scan again"
        )
    if found and int(found[0][0]) > SCHEMA_VERSION:
        raise StoreTooNew(
            f"schema {found[0][0]} is newer than this version's {SCHEMA_VERSION}",
            path=db,
            hint="upgrade spectral-workbench",
        )


def _attach(db: Path, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    # A batch is small: more threads than its own would each bring buffers, and take cores from
    # the workers.
    connection = duckdb.connect(config={} if read_only else {"threads": 1})
    quoted = str(db).replace("'", "''")
    options = "READ_ONLY" if read_only else f"STORAGE_VERSION '{STORAGE_VERSION}'"
    try:
        connection.execute(f"ATTACH '{quoted}' AS store ({options})")
        connection.execute("USE store")
    except duckdb.Error:
        connection.close()
        raise
    return connection


def _retry(db: Path, attach: Callable[[], duckdb.DuckDBPyConnection]) -> duckdb.DuckDBPyConnection:
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return attach()
        except duckdb.Error as error:
            text = str(error)
            # another process, or another thread of this one
            busy = "already attached" in text or "lock" in text.lower()
            if not isinstance(error, duckdb.IOException) and not busy:
                raise StoreCorrupt(
                    f"cannot be opened: {text.splitlines()[0]}",
                    path=db,
                    hint="move it aside and scan again",
                ) from None
            if not busy:
                raise StoreCorrupt(
                    f"not a readable DuckDB file: {text.splitlines()[0]}",
                    path=db,
                    hint="move it aside and scan again",
                ) from None
            if time.monotonic() > deadline:
                raise StoreLocked(
                    "another process holds the store", path=db, hint="wait for it, or use --db FILE"
                ) from None
            time.sleep(0.1 + 0.2 * random.random())

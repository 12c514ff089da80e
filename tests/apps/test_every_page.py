"""Every page on stores that hold nothing, little, failures only, or what a newer version wrote."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from streamlit.testing.v1 import AppTest

import apps
from analyzer.analyses.tables import TABLES
from analyzer.models.manifold.tables import MANIFOLD_TABLES
from analyzer.models.spectral_tensor.tables import TUCKER_TABLES
from analyzer.store.connection import create

PAGES = sorted(path.name for path in (Path(apps.__file__).parent / "screens").glob("*.py"))


def empty(db: Path) -> None:
    create(db, (*TABLES, *TUCKER_TABLES, *MANIFOLD_TABLES))


def tiny(db: Path) -> None:
    """A base of one matrix with two singular values, never compared with anything."""
    empty(db)
    with duckdb.connect(db) as store:
        store.execute(
            "INSERT INTO checkpoint BY NAME SELECT 1 AS checkpoint_id, 'base' AS name,"
            " '/b' AS path, 'base' AS kind, 'safetensors' AS format,"
            " 6 AS n_params, 'ab' AS identity_sha256"
        )
        store.execute(
            "INSERT INTO matrix BY NAME SELECT 1 AS matrix_id, 1 AS checkpoint_id, 'w' AS name,"
            " 'other' AS role, 3 AS rows, 2 AS cols, 'F32' AS dtype, 'ok' AS status"
        )
        store.execute("INSERT INTO spectrum VALUES (1, 'weight', 1, 2.0), (1, 'weight', 2, 1.0)")


def failures(db: Path) -> None:
    """A tuned checkpoint whose every matrix failed."""
    tiny(db)
    with duckdb.connect(db) as store:
        store.execute("DELETE FROM spectrum")
        store.execute("UPDATE matrix SET status = 'nonfinite', detail = '3 values are NaN'")
        store.execute(
            "INSERT INTO checkpoint BY NAME SELECT 2 AS checkpoint_id, 'tuned' AS name,"
            " '/t' AS path, 'full' AS kind, 'safetensors' AS format,"
            " 1 AS base_checkpoint_id, 6 AS n_params,"
            " 'cd' AS identity_sha256, 'run' AS run, 7 AS step"
        )
        store.execute(
            "INSERT INTO matrix BY NAME SELECT 2 AS matrix_id, 2 AS checkpoint_id, 'w' AS name,"
            " 'other' AS role, 3 AS rows, 2 AS cols, 'F32' AS dtype, 'nonfinite' AS status"
        )


def older(db: Path) -> None:
    """Written before the tables of later analyses were there."""
    tiny(db)
    with duckdb.connect(db) as store:
        for table in (*TUCKER_TABLES, *MANIFOLD_TABLES):
            store.execute(f"DROP TABLE {table.TABLE}")


def newer(db: Path) -> None:
    tiny(db)
    with duckdb.connect(db) as store:
        store.execute("UPDATE meta SET value = '999' WHERE key = 'schema_version'")


@pytest.mark.parametrize("make", [empty, tiny, failures])
@pytest.mark.parametrize("page", PAGES)
def test_little_to_show_is_no_error(
    page: str, make: Callable[[Path], None], tmp_path: Path, dashboard: Callable[[Path], AppTest]
) -> None:
    make(tmp_path / "s.duckdb")
    test = dashboard(tmp_path / "s.duckdb").run().switch_page(f"screens/{page}").run()
    assert not test.exception
    assert not [error.value for error in test.error]
    assert test.title


@pytest.mark.parametrize(("make", "said"), [(newer, "newer than this version"), (older, "")])
@pytest.mark.parametrize("page", PAGES)
def test_other_versions_get_one_line(
    page: str,
    make: Callable[[Path], None],
    said: str,
    tmp_path: Path,
    dashboard: Callable[[Path], AppTest],
) -> None:
    make(tmp_path / "s.duckdb")
    test = dashboard(tmp_path / "s.duckdb").run().switch_page(f"screens/{page}").run()
    assert not test.exception
    told = [error.value for error in test.error]
    assert all("\n" not in line and "Traceback" not in line for line in told)
    assert not any("terminal has the details" in line for line in told)
    if said:
        assert any(said in line.replace("\\", "") for line in told)

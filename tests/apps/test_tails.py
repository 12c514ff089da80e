"""The page of heavy tails: its sections, the target slider, stores without tails."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from analyzer.analyses.tables import TABLES
from analyzer.checkpoints.names import BLOCK_ROLES
from analyzer.store.connection import create
from theory.welore import effective_rank_reduction, exact_threshold

MAIN = Path(__file__).parents[2] / "apps" / "main.py"
HOSTILE = "<img src=x onerror=alert(1)> $x_{"


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    """Opens the page on a store."""

    def run(db: Path, **address: str) -> AppTest:
        monkeypatch.setenv("ANALYZER_DB", str(db))
        app = AppTest.from_file(str(MAIN), default_timeout=60)
        app.switch_page("screens/tails.py")
        for name, value in address.items():
            app.query_params[name] = value
        app.run()
        assert not app.exception
        assert not app.error, [error.value for error in app.error]
        return app

    return run


def charts(app: AppTest) -> list[dict[str, Any]]:
    return [json.loads(chart.proto.spec) for chart in app.get("vega_lite_chart")]  # pyright: ignore[reportAttributeAccessIssue]


def test_a_checkpoint_has_a_panel_a_role_a_histogram_and_a_map(
    demo_db: Path, page: Callable[..., AppTest]
) -> None:
    app = page(demo_db)
    with duckdb.connect(demo_db, read_only=True) as connection:
        query = "SELECT count(DISTINCT role) FROM matrix WHERE layer IS NOT NULL"
        ((roles,),) = connection.execute(query).fetchall()
    assert len(charts(app)) == roles + 2
    assert not app.info


def test_one_matrix_of_either_kind(demo_db: Path, page: Callable[..., AppTest]) -> None:
    with duckdb.connect(demo_db, read_only=True) as connection:
        found = connection.execute(
            """
            SELECT c.name, m.name FROM tail t JOIN matrix m USING (matrix_id)
            JOIN checkpoint c USING (checkpoint_id)
            WHERE t.kind = 'delta' AND t.status = 'ok' LIMIT 1
            """
        ).fetchall()
    checkpoint, matrix = found[0]
    for kind, colour in (("weight", "#0072B2"), ("delta", "#E69F00")):
        app = page(demo_db, show="One matrix", checkpoint=checkpoint, matrix=matrix, kind=kind)
        drawn = charts(app)
        assert len(drawn) == 3
        assert colour in json.dumps(drawn[0])


def test_the_target_changes_the_threshold(demo_db: Path, page: Callable[..., AppTest]) -> None:
    app = page(demo_db, show="WeLore ranks", checkpoint="base")
    with duckdb.connect(demo_db, read_only=True) as connection:
        found = connection.execute(
            """
            SELECT list(sigma) FROM spectrum JOIN matrix m USING (matrix_id)
            JOIN checkpoint c USING (checkpoint_id)
            WHERE c.name = 'base' AND spectrum.kind = 'weight' AND list_contains(?, role)
            GROUP BY matrix_id
            """,
            [sorted(BLOCK_ROLES)],
        ).fetchall()
    spectra = [np.array(sigma) for (sigma,) in found]
    for target in (50, 80):
        app.slider(key="target").set_value(target).run()
        threshold = exact_threshold(spectra, target / 100)
        kept = 1 - effective_rank_reduction(spectra, threshold)
        values = [metric.value for metric in app.metric]
        assert values[0] == f"{kept:.1%}"
        assert values[2] == f"{threshold:.4g}"


def test_an_empty_store_says_which_command_fills_it(
    page: Callable[..., AppTest], tmp_path: Path
) -> None:
    create(tmp_path / "e.duckdb", TABLES)
    assert "analyzer scan" in page(tmp_path / "e.duckdb").info[0].value


def test_hostile_names_stay_text(
    demo_db: Path, page: Callable[..., AppTest], tmp_path: Path
) -> None:
    copy = Path(shutil.copy(demo_db, tmp_path / "h.duckdb"))
    with duckdb.connect(copy) as connection:
        connection.execute("UPDATE checkpoint SET name = ? || name WHERE kind <> 'base'", [HOSTILE])
        connection.execute("UPDATE matrix SET name = ? || name, role = ? || role", [HOSTILE] * 2)
    for section in ("Checkpoint", "One matrix"):
        app = page(copy, show=section)
        words = [m.value for m in app.markdown] + [c.value for c in app.caption]
        assert any("\\<img" in word for word in words)
        assert not any(re.search(r"(?<!\\)<img", word) for word in words)

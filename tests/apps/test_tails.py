"""The page of heavy tails: its sections, the target slider, stores without tails."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
from streamlit.testing.v1 import AppTest

from analyzer.checkpoints.names import BLOCK_ROLES
from theory.welore import effective_rank_reduction, exact_threshold

HOSTILE = "<img src=x onerror=alert(1)> $x_{"


@pytest.fixture
def page(open_page: Callable[..., AppTest]) -> Callable[..., AppTest]:
    return partial(open_page, "tails")


def test_a_checkpoint_has_a_panel_a_role_a_histogram_and_a_map(
    charts: Callable[[AppTest], list[dict[str, Any]]], demo_db: Path, page: Callable[..., AppTest]
) -> None:
    app = page(demo_db)
    with duckdb.connect(demo_db, read_only=True) as connection:
        query = "SELECT count(DISTINCT role) FROM matrix WHERE layer IS NOT NULL"
        ((roles,),) = connection.execute(query).fetchall()
    assert len(charts(app)) == roles + 2
    assert not app.info


def test_one_matrix_of_either_kind(
    charts: Callable[[AppTest], list[dict[str, Any]]], demo_db: Path, page: Callable[..., AppTest]
) -> None:
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
    page: Callable[..., AppTest], make_store: Callable[..., Path]
) -> None:
    assert "analyzer scan" in page(make_store()).info[0].value


def test_hostile_names_stay_text(hostile_demo: Path, page: Callable[..., AppTest]) -> None:
    with duckdb.connect(hostile_demo) as connection:
        connection.execute("UPDATE matrix SET role = ? || role", [HOSTILE])
    for section in ("Checkpoint", "One matrix"):
        app = page(hostile_demo, show=section)
        words = [m.value for m in app.markdown] + [c.value for c in app.caption]
        assert any("\\<img" in word for word in words)
        assert not any(re.search(r"(?<!\\)<img", word) for word in words)

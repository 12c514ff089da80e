"""The page of intruder dimensions: sliders count, older and empty stores say what to do."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import pytest
from streamlit.testing.v1 import AppTest


@pytest.fixture
def page(open_page: Callable[..., AppTest]) -> Callable[..., AppTest]:
    return partial(open_page, "intruders")


def totals(db: Path, epsilon: float, k: int) -> dict[str, int]:
    """Intruders by checkpoint, straight from the table."""
    with duckdb.connect(db, read_only=True) as connection:
        return dict(
            connection.execute(
                """
                SELECT c.name, count(*) FILTER (maxcos < ?) FROM intruder_vector v
                JOIN matrix USING (matrix_id) JOIN checkpoint c USING (checkpoint_id)
                WHERE side = 'left' AND j <= ? GROUP BY c.name
                """,
                [epsilon, k],
            ).fetchall()
        )


def shown(app: AppTest) -> dict[str, int]:
    return {metric.label.replace("\\", ""): int(metric.value) for metric in app.metric}


def test_sliders_change_the_counts(demo_db: Path, page: Callable[..., AppTest]) -> None:
    app = page(demo_db)
    expected = totals(demo_db, 0.5, 10)
    assert shown(app) == {name: expected[name] for name in shown(app)}
    app.slider(key="epsilon").set_value(0.8).run()
    at_high = totals(demo_db, 0.8, 10)
    assert shown(app) == {name: at_high[name] for name in shown(app)}
    assert sum(shown(app).values()) > sum(expected[name] for name in shown(app))
    app.slider(key="k").set_value(3).run()
    at_three = totals(demo_db, 0.8, 3)
    assert shown(app) == {name: at_three[name] for name in shown(app)}
    assert not app.exception


@pytest.mark.parametrize("section", ["One matrix", "Training run", "Strength"])
def test_every_section_draws(
    charts: Callable[[AppTest], list[dict[str, Any]]],
    demo_db: Path,
    page: Callable[..., AppTest],
    section: str,
) -> None:
    app = page(demo_db, show=section)
    assert len(charts(app)) >= 3
    assert not app.info


def test_without_checkpoints_it_asks_for_one(demo_db: Path, page: Callable[..., AppTest]) -> None:
    app = page(demo_db)
    app.multiselect(key="checkpoints").set_value([]).run()
    assert "Choose at least one" in app.info[0].value


def test_an_older_store_says_to_scan_again(own_demo: Path, page: Callable[..., AppTest]) -> None:
    with duckdb.connect(own_demo) as connection:
        connection.execute("DROP TABLE intruder_cosine")
        connection.execute("DROP TABLE intruder_track")
    for section in ("One matrix", "Training run"):
        assert "analyzer scan" in page(own_demo, show=section).info[0].value


def test_an_empty_store_says_which_command_fills_it(
    page: Callable[..., AppTest], make_store: Callable[..., Path]
) -> None:
    assert "--base" in page(make_store()).info[0].value


def test_hostile_names_stay_text(hostile_demo: Path, page: Callable[..., AppTest]) -> None:
    words: list[str] = []
    for section in ("Counts", "One matrix", "Training run", "Strength"):
        app = page(hostile_demo, show=section)
        words += [m.value for m in app.markdown] + [c.value for c in app.caption]
        words += [metric.label for metric in app.metric]
    assert any("\\<img" in word for word in words)
    assert not any(re.search(r"(?<!\\)<img", word) for word in words)

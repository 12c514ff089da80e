"""The Theory page: every panel of a whole and of an empty store, its sliders and its speed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from analyzer.analyses.tables import TABLES
from analyzer.models.manifold.tables import MANIFOLD_TABLES
from analyzer.models.spectral_tensor.tables import TUCKER_TABLES
from analyzer.store.connection import create

MAIN = Path(__file__).parents[2] / "apps" / "main.py"
# panel, a slider of it, another value
SLIDERS = (
    ("Random bulk", "aspect", 0.25),
    ("Outliers and intruders", "strength", 2.0),
    ("Power-law tails", "alpha", 4.0),
    ("GaLore bounds", "eta", 1.2),
    ("Attention", "c", 2.0),
    ("Matérn processes", "lengthscale", 0.5),
)


def page(db: Path, monkeypatch: pytest.MonkeyPatch, **address: str) -> AppTest:
    monkeypatch.setenv("ANALYZER_DB", str(db))
    app = AppTest.from_file(str(MAIN), default_timeout=60)
    app.run()
    app.switch_page("screens/theory.py")
    for key, value in address.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception and not app.error, [e.value for e in app.error]
    return app


def words(app: AppTest) -> list[str]:
    return [str(e.value) for e in (*app.markdown, *app.caption)]


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    db = tmp_path / "analyzer.duckdb"
    create(db, (*TABLES, *TUCKER_TABLES, *MANIFOLD_TABLES))
    return db


@pytest.mark.parametrize(("panel", "key", "value"), SLIDERS)
def test_a_slider_moves_its_panel_quickly(
    panel: str, key: str, value: float, demo_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = page(demo_db, monkeypatch, panel=panel)
    assert app.latex and any("arXiv" in w or "2012" in w for w in words(app))
    before = words(app)
    start = time.process_time()
    app.slider(key=key).set_value(value).run()
    assert time.process_time() - start < 2.0  # 0.2 s on an idle machine; tests share theirs
    assert not app.error and words(app) != before


@pytest.mark.parametrize("panel", [panel for panel, _, _ in SLIDERS])
def test_a_panel_of_an_empty_store_says_what_fills_it(
    panel: str, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = page(empty, monkeypatch, panel=panel)
    assert app.info and "`analyzer" in app.info[-1].value


def test_the_law_of_a_matrix_of_the_store(demo_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = page(
        demo_db, monkeypatch, panel="Outliers and intruders", spectrum="a matrix of this store",
        checkpoint="base", matrix="model.layers.1.mlp.up_proj.weight",
    )  # fmt: skip
    assert any("model.layers.1.mlp.up" in w.replace("\\", "") for w in words(app))

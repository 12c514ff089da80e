"""The Tucker and Manifold pages of a whole, an empty and a partial store."""

from __future__ import annotations

import shutil
from pathlib import Path

import duckdb
import pytest
from streamlit.testing.v1 import AppTest

from analyzer.analyses.tables import TABLES
from analyzer.models.manifold.tables import MANIFOLD_TABLES
from analyzer.models.spectral_tensor.tables import TUCKER_TABLES
from analyzer.store.connection import create

MAIN = Path(__file__).parents[2] / "apps" / "main.py"
GEOMETRY = "Geometry of checkpoints"


def page(name: str, db: Path, monkeypatch: pytest.MonkeyPatch, **address: str) -> AppTest:
    monkeypatch.setenv("ANALYZER_DB", str(db))
    app = AppTest.from_file(str(MAIN), default_timeout=60)
    app.run()
    app.switch_page(f"screens/{name}.py")
    for key, value in address.items():
        app.query_params[key] = value
    app.run()
    assert not app.exception and not app.error, [e.value for e in app.error]
    return app


def titles(app: AppTest) -> str:
    return "\n".join(str(m.value) for m in app.markdown)


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    db = tmp_path / "analyzer.duckdb"
    create(db, (*TABLES, *TUCKER_TABLES, *MANIFOLD_TABLES))
    return db


@pytest.mark.parametrize(
    ("name", "command"),
    [("tucker", "analyzer tucker fit"), ("manifold", "analyzer scan PATH --analyses manifold")],
)
def test_an_empty_store_says_which_command_fills_it(
    name: str, command: str, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = page(name, empty, monkeypatch)
    assert command in app.info[0].value


def test_a_fit_is_told_in_words_and_pictures(
    demo_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = page("tucker", demo_db, monkeypatch)
    said = titles(app)
    assert "linear interpolation" in said and "Posterior mean of log" in said
    assert "along depth" in said and app.selectbox(key="role").value == "attn_k"
    app.selectbox(key="role").select("mlp_up").run()
    assert not app.error
    assert any("mlp" in str(c.value) for c in app.caption)
    other = page("tucker", demo_db, monkeypatch, along="step", fit="lora-r8 · weight")
    assert "along step" in titles(other) and other.selectbox(key="fit").value == "lora-r8 · weight"


def test_a_fit_along_depth_alone_offers_no_step(
    demo_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = page("tucker", demo_db, monkeypatch, fit="base · weight")
    assert "Nothing was held out" in titles(app)
    assert list(app.button_group(key="along").options) == ["depth"]


def test_no_quantile_is_no_error(demo_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = page("tucker", demo_db, monkeypatch)
    app.multiselect(key="quantiles").set_value([]).run()
    assert not app.error and any("Choose quantiles" in i.value for i in app.info)


def test_a_fit_without_predictions_is_told_in_words(
    demo_db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = Path(shutil.copy(demo_db, tmp_path / "part.duckdb"))
    with duckdb.connect(db) as connection:
        connection.execute("DELETE FROM tucker_prediction")
        connection.execute("DELETE FROM tucker_anomaly")
    app = page("tucker", db, monkeypatch)
    assert "values of" in titles(app) and "Posterior mean" not in titles(app)


def test_smoothness_and_errors_of_fits(demo_db: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    app = page("manifold", demo_db, monkeypatch)
    said = titles(app)
    assert "groups are smoother than chance" in said and "than truncated SVD for" in said
    first = app.selectbox(key="group").value
    app.selectbox(key="group").select("res").run()
    assert not app.error and first != "res"
    assert any("group \\= res" in str(c.value) for c in app.caption)


def test_the_geometry_opens_from_its_address(
    demo_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = page("manifold", demo_db, monkeypatch, part=GEOMETRY, measure="cosine_from_base")
    said = titles(app)
    assert "Cosine from base of every pair" in said and "Intrinsic dimension" in said
    app.multiselect(key="among").set_value(["base"]).run()
    assert not app.error and any("two checkpoints" in i.value for i in app.info)


def test_geometry_alone_is_shown_alone(
    demo_db: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    db = Path(shutil.copy(demo_db, tmp_path / "part.duckdb"))
    with duckdb.connect(db) as connection:
        for table in ("manifold_group", "manifold_order", "manifold_fit"):
            connection.execute(f"DELETE FROM {table}")
    app = page("manifold", db, monkeypatch)
    assert "Checkpoints in the plane" in titles(app)

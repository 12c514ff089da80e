"""The Tucker and Manifold pages of a whole, an empty and a partial store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from streamlit.testing.v1 import AppTest

GEOMETRY = "Geometry of checkpoints"


def titles(app: AppTest) -> str:
    return "\n".join(str(m.value) for m in app.markdown)


@pytest.mark.parametrize(
    ("name", "command"),
    [("tucker", "analyzer tucker fit"), ("manifold", "analyzer scan PATH --analyses manifold")],
)
def test_an_empty_store_says_which_command_fills_it(
    name: str, command: str, make_store: Callable[..., Path], open_page: Callable[..., AppTest]
) -> None:
    app = open_page(name, make_store())
    assert command in app.info[0].value


def test_a_fit_is_told_in_words_and_pictures(
    demo_db: Path, open_page: Callable[..., AppTest]
) -> None:
    app = open_page("tucker", demo_db)
    said = titles(app)
    assert "linear interpolation" in said and "Posterior mean of log" in said
    assert "along depth" in said and app.selectbox(key="role").value == "attn_k"
    app.selectbox(key="role").select("mlp_up").run()
    assert not app.error
    assert any("mlp" in str(c.value) for c in app.caption)
    other = open_page("tucker", demo_db, along="step", fit="lora-r8 · weight")
    assert "along step" in titles(other) and other.selectbox(key="fit").value == "lora-r8 · weight"


def test_a_fit_along_depth_alone_offers_no_step(
    demo_db: Path, open_page: Callable[..., AppTest]
) -> None:
    app = open_page("tucker", demo_db, fit="base · weight")
    assert "Nothing was held out" in titles(app)
    assert list(app.button_group(key="along").options) == ["depth"]


def test_no_quantile_is_no_error(demo_db: Path, open_page: Callable[..., AppTest]) -> None:
    app = open_page("tucker", demo_db)
    app.multiselect(key="quantiles").set_value([]).run()
    assert not app.error and any("Choose quantiles" in i.value for i in app.info)


def test_a_fit_without_predictions_is_told_in_words(
    own_demo: Path, open_page: Callable[..., AppTest]
) -> None:
    with duckdb.connect(own_demo) as connection:
        connection.execute("DELETE FROM tucker_prediction")
        connection.execute("DELETE FROM tucker_anomaly")
    app = open_page("tucker", own_demo)
    assert "values of" in titles(app) and "Posterior mean" not in titles(app)


def test_smoothness_and_errors_of_fits(demo_db: Path, open_page: Callable[..., AppTest]) -> None:
    app = open_page("manifold", demo_db)
    said = titles(app)
    assert "groups are smoother than chance" in said and "than truncated SVD for" in said
    first = app.selectbox(key="group").value
    app.selectbox(key="group").select("res").run()
    assert not app.error and first != "res"
    assert any("group \\= res" in str(c.value) for c in app.caption)


def test_the_geometry_opens_from_its_address(
    demo_db: Path, open_page: Callable[..., AppTest]
) -> None:
    app = open_page("manifold", demo_db, part=GEOMETRY, measure="cosine_from_base")
    said = titles(app)
    assert "Cosine from base of every pair" in said and "Intrinsic dimension" in said
    app.multiselect(key="among").set_value(["base"]).run()
    assert not app.error and any("two checkpoints" in i.value for i in app.info)


def test_geometry_alone_is_shown_alone(own_demo: Path, open_page: Callable[..., AppTest]) -> None:
    with duckdb.connect(own_demo) as connection:
        for table in ("manifold_group", "manifold_order", "manifold_fit"):
            connection.execute(f"DELETE FROM {table}")
    app = open_page("manifold", own_demo)
    assert "Checkpoints in the plane" in titles(app)

"""The Theory page: every panel of a whole and of an empty store, its sliders and its speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

# panel, a slider of it, another value
SLIDERS = (
    ("Random bulk", "aspect", 0.25),
    ("Outliers and intruders", "strength", 2.0),
    ("Power-law tails", "alpha", 4.0),
    ("GaLore bounds", "eta", 1.2),
    ("Attention", "c", 2.0),
    ("Matérn processes", "lengthscale", 0.5),
)


@pytest.fixture
def page(open_page: Callable[..., AppTest]) -> Callable[..., AppTest]:
    return partial(open_page, "theory")


def words(app: AppTest) -> list[str]:
    return [str(e.value) for e in (*app.markdown, *app.caption)]


@pytest.mark.parametrize(("panel", "key", "value"), SLIDERS)
def test_a_slider_moves_its_panel_quickly(
    panel: str, key: str, value: float, demo_db: Path, page: Callable[..., AppTest]
) -> None:
    app = page(demo_db, panel=panel)
    assert app.latex and any("arXiv" in w or "2012" in w for w in words(app))
    before = words(app)
    start = time.process_time()
    app.slider(key=key).set_value(value).run()
    assert time.process_time() - start < 2.0  # 0.2 s on an idle machine; tests share theirs
    assert not app.error and words(app) != before


@pytest.mark.parametrize("panel", [panel for panel, _, _ in SLIDERS])
def test_a_panel_of_an_empty_store_says_what_fills_it(
    panel: str, make_store: Callable[..., Path], page: Callable[..., AppTest]
) -> None:
    app = page(make_store(), panel=panel)
    assert app.info and "`analyzer" in app.info[-1].value


def test_the_law_of_a_matrix_of_the_store(demo_db: Path, page: Callable[..., AppTest]) -> None:
    app = page(
        demo_db, panel="Outliers and intruders", spectrum="a matrix of this store",
        checkpoint="base", matrix="model.layers.1.mlp.up_proj.weight",
    )  # fmt: skip
    assert any("model.layers.1.mlp.up" in w.replace("\\", "") for w in words(app))

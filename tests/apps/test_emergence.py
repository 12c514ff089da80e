"""The page of followed runs: every tab over a full store, an empty and a hostile one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from analyzer.store.reading import connect
from analyzer.views import emergence, emergence_maps
from apps.text import literal

# tab → pictures and tables of a run with recorded gradients
TABS = {
    "Summary": (1, 1), "Spectra": (2, 0), "Directions": (3, 0), "Ranks": (2, 0),
    "Noise and staleness": (3, 0), "Advice": (0, 1), "Weights": (1, 1),
}  # fmt: skip
HOSTILE = "<img src=x onerror=alert(1)> $x_{ **bold**"
NAMING = tuple(TABS)  # tabs whose words name it


@pytest.fixture
def page(open_page: Callable[..., AppTest]) -> Callable[..., AppTest]:
    return partial(open_page, "emergence")


def clean(at: AppTest) -> bool:
    return not at.exception and not at.error


def test_every_tab_draws(
    charts: Callable[[AppTest], list[dict[str, Any]]], page: Callable[..., AppTest], demo_db: Path
) -> None:
    at = page(demo_db)
    assert clean(at) and at.title[0].value == "Low-rank gradients"
    at.selectbox(key="run").select("full")
    for tab, (pictures, tables) in TABS.items():
        at.session_state["show"] = tab
        at.run()
        assert clean(at), tab
        assert (len(charts(at)), len(at.dataframe)) == (pictures, tables), tab


def test_what_is_chosen_is_what_is_drawn(
    first_chart_rows: Callable[[AppTest], list[dict[str, Any]]],
    page: Callable[..., AppTest],
    demo_db: Path,
) -> None:
    at = page(demo_db)
    at.session_state["show"] = "Directions"
    at.selectbox(key="run").select("full").run()
    at.selectbox(key="source").select("exp_avg").run()
    store = connect(demo_db)
    assert any(literal(emergence.caution(store, "full", "exp_avg")) in c.value for c in at.caption)
    matrix = at.selectbox(key="matrix").options[3]
    at.selectbox(key="matrix").select(matrix).run()
    view = emergence_maps.cosine_map(store, "full", "exp_avg", matrix)
    names = [c.value for c in at.caption if "source = exp" in c.value.replace("\\", "")]
    assert names and all(matrix in text.replace("\\", "") for text in names)
    shown = {(c["step_a"], c["step_b"]): c["cosine"] for c in first_chart_rows(at)}
    assert shown == {(r["step_a"], r["step_b"]): r["cosine"] for r in view.rows()}


def test_an_adapter_says_what_was_not_recorded(page: Callable[..., AppTest], demo_db: Path) -> None:
    at = page(demo_db)
    at.selectbox(key="run").select("lora-r8")
    said = {}
    for tab in TABS:
        at.session_state["show"] = tab
        at.run()
        assert clean(at), tab
        said[tab] = " ".join(c.value for c in at.caption)
    assert "No independent batches were recorded" in said["Noise and staleness"]
    assert "staleness is not known" in said["Noise and staleness"]


def test_an_empty_store_names_the_command(
    page: Callable[..., AppTest], make_store: Callable[..., Path]
) -> None:
    at = page(make_store())
    assert clean(at) and "analyzer scan PATH --analyses emergence" in at.info[0].value


def test_names_are_text(
    page: Callable[..., AppTest],
    make_store: Callable[..., Path],
    shows_as_text: Callable[..., None],
) -> None:
    rows = {
        "checkpoint": [{"checkpoint_id": 1, "name": HOSTILE, "path": "/x", "kind": "full",
                        "run": HOSTILE, "step": 1}],
        "matrix": [{"matrix_id": 1, "checkpoint_id": 1, "name": HOSTILE, "rows": 4, "cols": 4,
                    "role": HOSTILE, "status": "ok"}],
        "emergence": [{"matrix_id": 1, "run": HOSTILE, "matrix": HOSTILE, "type": HOSTILE,
                       "source": "grad", "batch_id": "probe", "n_steps": 1, "caution": HOSTILE,
                       "step_first": 0, "step_last": 0, "advised_rank": None, "energy_out": None}],
        "grad_spectrum": [{"matrix_id": 1, "run": HOSTILE, "matrix": HOSTILE, "source": "grad",
                           "batch_id": "probe", "step": 0, "stable_rank": 2.0, "energy_r": 0.5}],
        "grad_singular_value": [{"matrix_id": 1, "run": HOSTILE, "source": "grad", "k": 1,
                                 "batch_id": "probe", "step": 0, "sigma": 1.0}],
    }  # fmt: skip
    shows_as_text(page(make_store(**rows)), HOSTILE, TABS, NAMING)

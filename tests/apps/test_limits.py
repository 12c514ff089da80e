"""The page of heads against the threshold: every tab over a full store and an empty one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from analyzer.store.reading import connect
from analyzer.views import limits, limits_sweeps

# tab → pictures and tables of a measured adapter
TABS = {
    "Heads": (4, 0), "Length": (2, 0), "Alpha": (2, 0), "Bounds and concentration": (2, 0),
    "All checkpoints": (0, 1),
}  # fmt: skip
HOSTILE = "<img src=x onerror=alert(1)> $x_{ **bold**"
NAMING = ("Heads", "Length")  # tabs whose words name it


@pytest.fixture
def page(open_page: Callable[..., AppTest]) -> Callable[..., AppTest]:
    return partial(open_page, "limits")


def clean(at: AppTest) -> bool:
    return not at.exception and not at.error


def counts(at: AppTest) -> tuple[int, int]:
    return len(at.get("vega_lite_chart")), len(at.dataframe)


def test_every_tab_draws(page: Callable[..., AppTest], demo_db: Path) -> None:
    at = page(demo_db)
    assert clean(at) and at.title[0].value == "LoRA limits"
    assert at.selectbox(key="checkpoint").value.startswith("lora-")
    for tab, expected in TABS.items():
        at.session_state["show"] = tab
        at.run()
        assert clean(at) and counts(at) == expected, tab


def test_sources_without_a_text(page: Callable[..., AppTest], demo_db: Path) -> None:
    at = page(demo_db)
    for source in ("data_free", "spherical"):
        at.session_state["show"] = "Heads"
        at.selectbox(key="source").select(source).run()
        assert clean(at), source
        kind = limits.KINDS[source].split(",")[0]
        assert any(kind in c.value for c in at.caption)
        at.session_state["show"] = "Length"
        at.run()
        assert clean(at), source


def test_layer_ratio_and_head_change_the_pictures(
    first_chart_rows: Callable[[AppTest], list[dict[str, Any]]],
    page: Callable[..., AppTest],
    demo_db: Path,
) -> None:
    at = page(demo_db)
    at.session_state["show"] = "Length"
    at.run()
    at.selectbox(key="layer").select("2").run()
    at.selectbox(key="ratio").select("ratio_as").run()
    checkpoint = at.selectbox(key="checkpoint").value
    view = limits_sweeps.length_sweep(connect(demo_db), checkpoint, "2", "ratio_as")
    assert view.table.select(["line", "L", "ratio"]).to_pylist() == [
        {name: row[name] for name in ("line", "L", "ratio")} for row in first_chart_rows(at)
    ]
    at.session_state["show"] = "Alpha"
    at.run()
    at.selectbox(key="head").select("3.1").run()
    assert clean(at)
    assert any("layer = 3, head = 1" in c.value.replace("\\", "") for c in at.caption)


def test_what_is_no_adapter_has_no_alpha(page: Callable[..., AppTest], demo_db: Path) -> None:
    at = page(demo_db)
    at.session_state["show"] = "Alpha"
    at.selectbox(key="checkpoint").select("base").run()
    assert clean(at) and counts(at) == (0, 0)
    assert any("No alpha to vary" in c.value for c in at.caption)


def test_an_empty_store_names_the_command(
    page: Callable[..., AppTest], make_store: Callable[..., Path]
) -> None:
    at = page(make_store())
    assert clean(at) and "analyzer scan PATH --analyses limits" in at.info[0].value


def test_names_are_text(
    page: Callable[..., AppTest],
    make_store: Callable[..., Path],
    shows_as_text: Callable[..., None],
) -> None:
    rows = {
        "checkpoint": [{"checkpoint_id": 1, "name": HOSTILE, "path": "/x", "kind": "full"}],
        "lora_limits": [{"matrix_id": 1, "checkpoint_id": 1, "layer": 0, "module": HOSTILE,
                         "head": 0, "source": "activations", "L": 8, "c": 1.0, "threshold": 1.4,
                         "gamma_q": 1.0, "gamma_as": 2.0, "gamma_logit": 0.5, "ratio_as": 1.4,
                         "ratio_logit": 0.3, "band_as": "above", "band_logit": "below",
                         "verdict": "effective", "width_over_log": 2.0, "causal": True,
                         "activations_of": HOSTILE, "n_tokens": 8, "n_samples": 1,
                         "warnings": HOSTILE}],
    }  # fmt: skip
    shows_as_text(page(make_store(**rows)), HOSTILE, TABS, NAMING)

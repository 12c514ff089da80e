"""The page of followed runs: every tab over a full store, an empty and a hostile one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from streamlit.testing.v1 import AppTest

import apps
from analyzer.analyses.tables import TABLES
from analyzer.store.connection import create, writer
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
def page(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], AppTest]:
    def open_page(db: Path) -> AppTest:
        monkeypatch.setenv("ANALYZER_DB", str(db))
        at = AppTest.from_file(f"{Path(apps.__file__).parent}/main.py", default_timeout=60)
        return at.run().switch_page("screens/emergence.py").run()

    return open_page


def charts(at: AppTest) -> list[dict]:
    return [json.loads(chart.proto.spec) for chart in at.get("vega_lite_chart")]


def clean(at: AppTest) -> bool:
    return not at.exception and not at.error


def test_every_tab_draws(page: Callable[[Path], AppTest], demo_db: Path) -> None:
    at = page(demo_db)
    assert clean(at) and at.title[0].value == "Low-rank gradients"
    at.selectbox(key="run").select("full")
    for tab, (pictures, tables) in TABS.items():
        at.session_state["show"] = tab
        at.run()
        assert clean(at), tab
        assert (len(charts(at)), len(at.dataframe)) == (pictures, tables), tab


def test_what_is_chosen_is_what_is_drawn(page: Callable[[Path], AppTest], demo_db: Path) -> None:
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
    drawn = at.get("vega_lite_chart")[0].proto.datasets[0].data.data
    with pa.ipc.open_stream(drawn) as stream:
        cells = stream.read_all().to_pylist()
    shown = {(c["step_a"], c["step_b"]): c["cosine"] for c in cells}
    assert shown == {(r["step_a"], r["step_b"]): r["cosine"] for r in view.rows()}


def test_an_adapter_says_what_was_not_recorded(
    page: Callable[[Path], AppTest], demo_db: Path
) -> None:
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


def test_an_empty_store_names_the_command(page: Callable[[Path], AppTest], tmp_path: Path) -> None:
    create(tmp_path / "e.duckdb", TABLES)
    at = page(tmp_path / "e.duckdb")
    assert clean(at) and "analyzer scan PATH --analyses emergence" in at.info[0].value


def test_names_are_text(page: Callable[[Path], AppTest], tmp_path: Path) -> None:
    db = tmp_path / "h.duckdb"
    create(db, TABLES)
    rows = {
        "checkpoint": {"checkpoint_id": 1, "name": HOSTILE, "path": "/x", "kind": "full",
                       "run": HOSTILE, "step": 1},
        "matrix": {"matrix_id": 1, "checkpoint_id": 1, "name": HOSTILE, "rows": 4, "cols": 4,
                   "role": HOSTILE, "status": "ok"},
        "emergence": {"matrix_id": 1, "run": HOSTILE, "matrix": HOSTILE, "type": HOSTILE,
                      "source": "grad", "batch_id": "probe", "n_steps": 1, "caution": HOSTILE,
                      "step_first": 0, "step_last": 0, "advised_rank": None, "energy_out": None},
        "grad_spectrum": {"matrix_id": 1, "run": HOSTILE, "matrix": HOSTILE, "source": "grad",
                          "batch_id": "probe", "step": 0, "stable_rank": 2.0, "energy_r": 0.5},
        "grad_singular_value": {"matrix_id": 1, "run": HOSTILE, "source": "grad", "k": 1,
                                "batch_id": "probe", "step": 0, "sigma": 1.0},
    }  # fmt: skip
    with writer(db) as connection:
        for name, row in rows.items():
            connection.register("given", pa.Table.from_pylist([row]))
            connection.execute(f'INSERT INTO "{name}" BY NAME SELECT * FROM given')
    at = page(db)
    for tab in TABS:
        at.session_state["show"] = tab
        at.run()
        assert clean(at), tab
        texts = [element.value for element in (*at.markdown, *at.caption)]
        assert any(literal(HOSTILE) in text for text in texts) or tab not in NAMING
        assert not [text for text in texts if "<img" in text.replace(literal(HOSTILE), "")]

"""The page of heads against the threshold: every tab over a full store and an empty one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from streamlit.testing.v1 import AppTest

import apps
from analyzer.analyses.tables import TABLES
from analyzer.store.connection import create, writer
from analyzer.store.reading import connect
from analyzer.views import limits, limits_sweeps
from apps.text import literal

# tab → pictures and tables of a measured adapter
TABS = {
    "Heads": (4, 0), "Length": (2, 0), "Alpha": (2, 0), "Bounds and concentration": (2, 0),
    "All checkpoints": (0, 1),
}  # fmt: skip
HOSTILE = "<img src=x onerror=alert(1)> $x_{ **bold**"
NAMING = ("Heads", "Length")  # tabs whose words name it


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], AppTest]:
    def open_page(db: Path) -> AppTest:
        monkeypatch.setenv("ANALYZER_DB", str(db))
        at = AppTest.from_file(f"{Path(apps.__file__).parent}/main.py", default_timeout=60)
        return at.run().switch_page("screens/limits.py").run()

    return open_page


def clean(at: AppTest) -> bool:
    return not at.exception and not at.error


def counts(at: AppTest) -> tuple[int, int]:
    return len(at.get("vega_lite_chart")), len(at.dataframe)


def test_every_tab_draws(page: Callable[[Path], AppTest], demo_db: Path) -> None:
    at = page(demo_db)
    assert clean(at) and at.title[0].value == "LoRA limits"
    assert at.selectbox(key="checkpoint").value.startswith("lora-")
    for tab, expected in TABS.items():
        at.session_state["show"] = tab
        at.run()
        assert clean(at) and counts(at) == expected, tab


def test_sources_without_a_text(page: Callable[[Path], AppTest], demo_db: Path) -> None:
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
    page: Callable[[Path], AppTest], demo_db: Path
) -> None:
    at = page(demo_db)
    at.session_state["show"] = "Length"
    at.run()
    at.selectbox(key="layer").select("2").run()
    at.selectbox(key="ratio").select("ratio_as").run()
    checkpoint = at.selectbox(key="checkpoint").value
    view = limits_sweeps.length_sweep(connect(demo_db), checkpoint, "2", "ratio_as")
    with pa.ipc.open_stream(at.get("vega_lite_chart")[0].proto.datasets[0].data.data) as stream:
        assert view.table.select(["line", "L", "ratio"]).to_pylist() == [
            {name: row[name] for name in ("line", "L", "ratio")}
            for row in stream.read_all().to_pylist()
        ]
    at.session_state["show"] = "Alpha"
    at.run()
    at.selectbox(key="head").select("3.1").run()
    assert clean(at)
    assert any("layer = 3, head = 1" in c.value.replace("\\", "") for c in at.caption)


def test_what_is_no_adapter_has_no_alpha(page: Callable[[Path], AppTest], demo_db: Path) -> None:
    at = page(demo_db)
    at.session_state["show"] = "Alpha"
    at.selectbox(key="checkpoint").select("base").run()
    assert clean(at) and counts(at) == (0, 0)
    assert any("No alpha to vary" in c.value for c in at.caption)


def test_an_empty_store_names_the_command(page: Callable[[Path], AppTest], tmp_path: Path) -> None:
    create(tmp_path / "e.duckdb", TABLES)
    at = page(tmp_path / "e.duckdb")
    assert clean(at) and "analyzer scan PATH --analyses limits" in at.info[0].value


def test_names_are_text(page: Callable[[Path], AppTest], tmp_path: Path) -> None:
    db = tmp_path / "h.duckdb"
    create(db, TABLES)
    rows = {
        "checkpoint": {"checkpoint_id": 1, "name": HOSTILE, "path": "/x", "kind": "full"},
        "lora_limits": {"matrix_id": 1, "checkpoint_id": 1, "layer": 0, "module": HOSTILE,
                        "head": 0, "source": "activations", "L": 8, "c": 1.0, "threshold": 1.4,
                        "gamma_q": 1.0, "gamma_as": 2.0, "gamma_logit": 0.5, "ratio_as": 1.4,
                        "ratio_logit": 0.3, "band_as": "above", "band_logit": "below",
                        "verdict": "effective", "width_over_log": 2.0, "causal": True,
                        "activations_of": HOSTILE, "n_tokens": 8, "n_samples": 1,
                        "warnings": HOSTILE},
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

"""How long a page of the dashboard takes on a large store.

    python tests/benchmarks/dashboard.py [--checkpoints 200] [--matrices 300]

Makes a store of made-up rows (200 checkpoints × 300 matrices, 10⁷ singular values by default), then
draws every page as Streamlit does, in this process: first draw (bar 2 s) and rerun (bar 0.5 s).
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from analyzer.analyses.tables import TABLES
from analyzer.models.manifold.tables import MANIFOLD_TABLES
from analyzer.models.spectral_tensor.tables import TUCKER_TABLES
from analyzer.store.columns import Row, columns
from analyzer.store.connection import create, writer

ROLES = ("attn_q", "attn_k", "attn_v", "attn_o", "mlp_up", "mlp_down")
VALUES = 167  # singular values of a matrix
K = 10
FIRST, AGAIN = 2.0, 0.5  # seconds


def make_store(db: Path, n_checkpoints: int, n_matrices: int) -> Path:
    """A base and runs of ten steps each, with every row that a scan would write about weights."""
    create(db, (*TABLES, *TUCKER_TABLES, *MANIFOLD_TABLES))
    with writer(db) as store:
        store.execute("SELECT setseed(0.5)")

        def fill(table: type[Row], source: str, /, **values: str) -> None:
            """Columns without a value are NULL."""
            given = [values.get(c.name, "NULL") for c in columns(table)]
            store.execute(f"INSERT INTO {table.TABLE} SELECT {', '.join(given)} FROM {source}")

        tables = {table.TABLE: table for table in TABLES}
        fill(
            tables["scan"], "range(1)", scan_id="1", started_at="'2026-01-01T00:00:00+00:00'",
            ended_at="'2026-01-01T01:00:00+00:00'", argv="'analyzer scan'", config_json="'{}'",
            package_version="'0'", torch_version="'0'", device="'cpu'", status="'ok'",
        )  # fmt: skip
        fill(
            tables["checkpoint"], f"range({n_checkpoints}) AS t(i)",
            checkpoint_id="i + 1", name="CASE WHEN i = 0 THEN 'base' ELSE "
            "'run-' || (i // 10) || '/checkpoint-' || (i % 10 + 1) * 100 END",
            path="'/nowhere/' || i", kind="CASE WHEN i = 0 THEN 'base' ELSE 'adapter' END",
            format="'safetensors'", run="CASE WHEN i > 0 THEN 'run-' || (i // 10) END",
            step="CASE WHEN i > 0 THEN (i % 10 + 1) * 100 END",
            base_checkpoint_id="CASE WHEN i > 0 THEN 1 END", n_params="1000000",
            identity_sha256="md5(i::VARCHAR)", fingerprint="''",
        )  # fmt: skip
        every = f"range({n_checkpoints}) AS c(i), range({n_matrices}) AS m(j)"
        number = f"i * {n_matrices} + j + 1"
        role = f"list_extract({list(ROLES)}, (j % {len(ROLES)} + 1)::INT)"
        fill(
            tables["matrix"], every, matrix_id=number, checkpoint_id="i + 1",
            name=f"'model.layers.' || (j // {len(ROLES)}) || '.' || {role} || '.weight'",
            layer=f"j // {len(ROLES)}", role=role, rows="768", cols="768", dtype="'bf16'",
            lossy="false", content_sha256=f"md5(({number})::VARCHAR)", status="'ok'",
        )  # fmt: skip
        fill(
            tables["spectrum"], f"{every}, range({VALUES}) AS k(k)", matrix_id=number,
            kind="'weight'", k="k + 1", sigma="10 * (k + 1) ** -0.5 + 0.01 * random()",
        )  # fmt: skip
        for kind in ("weight", "delta"):
            fill(
                tables["spectrum_info"], every, matrix_id=number, kind=f"'{kind}'",
                method="'gram'", precision="'float64'", error_bound="1e-9", storage_floor="1e-3",
                fro_norm="20 + random()", spectral_norm="10", stable_rank="4 + random()",
                effective_rank="100 * random()", numerical_rank=str(VALUES),
                participation_ratio="10", seconds="0.1",
            )  # fmt: skip
            fill(
                tables["tail"], every, matrix_id=number, kind=f"'{kind}'", alpha="3 + random()",
                alpha_lo="2.5", alpha_hi="4.5", xmin="1", ks_d="0.05", sigma="0.2", n_tail="100",
                null_q="random()", phase="'heavy_tailed'", status="'ok'", n_evals=str(VALUES),
            )  # fmt: skip
        fill(
            tables["welore"], every, matrix_id=number, threshold="0.2", rank_pruned="80",
            rank_kept="(87 + 20 * random())::BIGINT", is_lrc="random() < 0.5", param_ratio="0.3",
            energy_kept="0.9", target_err="0.5", achieved_err="0.5",
        )  # fmt: skip
        tuned = f"{every}, (VALUES ('left'), ('right')) AS s(side)"
        fill(
            tables["intruder"], f"(SELECT * FROM {tuned}) WHERE i > 0", matrix_id=number,
            side="side", k=str(K), epsilon="0.5", n_intruders="(3 * random())::BIGINT",
            n_uncertain="0", n_robust="0", energy_share="0.1", delta_fro="random()",
            delta_fro_ratio="random() / 10", delta_spectral_norm="5 * random()",
            delta_effective_rank="8 * random()", delta_stable_rank="2", theta_star="2 + random()",
            critical_multiplier="3 * random()", critical_limit="16", method="'core'",
            certified="true", status="'ok'",
        )  # fmt: skip
        fill(
            tables["intruder_vector"],
            f"(SELECT * FROM {tuned}, range({K}) AS v(v)) WHERE i > 0", matrix_id=number,
            side="side", j="v + 1", sigma="10 - v", maxcos="random()", maxcos_err="1e-9",
            argmax_base="v + 1", outside="0.1", cluster_cos="0.5", is_intruder="random() < 0.2",
        )  # fmt: skip
        if "intruder_cosine" in tables:
            fill(
                tables["intruder_cosine"],
                f"(SELECT * FROM {tuned}, range({K}) AS a(a), range({K}) AS b(b)) WHERE i > 0",
                matrix_id=number, side="side", i="a + 1", j="b + 1", cosine="random()",
            )  # fmt: skip
    return db


def time_pages(db: Path) -> list[tuple[str, float, float]]:
    """(page, seconds of the first draw, seconds of a rerun) with empty caches."""
    import streamlit as st
    from streamlit.testing.v1 import AppTest

    os.environ["ANALYZER_DB"] = str(db)
    app = Path(__file__).parents[2] / "apps" / "main.py"
    AppTest.from_file(str(app), default_timeout=120).run()  # the interpreter's own imports
    found = []
    for screen in sorted((app.parent / "screens").glob("*.py")):
        test = AppTest.from_file(str(app), default_timeout=120).run()
        st.cache_data.clear()
        test.switch_page(f"screens/{screen.name}")
        seconds = []
        for _ in range(2):
            started = time.perf_counter()
            test.run()
            seconds.append(time.perf_counter() - started)
            assert not test.exception and not test.error, (screen.stem, test.error)
        found.append((screen.stem, *seconds))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoints", type=int, default=200)
    parser.add_argument("--matrices", type=int, default=300)
    parser.add_argument("--store", type=Path, help="keep the store here, or use the one there")
    arguments = parser.parse_args()
    with TemporaryDirectory() as folder:
        db = arguments.store or Path(folder) / "large.duckdb"
        if not db.exists():
            make_store(db, arguments.checkpoints, arguments.matrices)
        print(f"{db.stat().st_size / 1e6:.0f} MB")
        print(f"{'page':<12} {'first s':>8} {'again s':>8}")
        for page, first, again in time_pages(db):
            verdict = "" if first < FIRST and again < AGAIN else "  above the bar"
            print(f"{page:<12} {first:8.2f} {again:8.2f}{verdict}")


if __name__ == "__main__":
    main()

"""Checkpoints without a base, moved, copied and gone: what the store makes of them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

import analyzer

Q0 = "model.layers.0.self_attn.q_proj"

Q0 = "model.layers.0.self_attn.q_proj"


def test_without_a_base_an_adapters_update_is_analysed_alone(
    tmp_path: Path, save_lora, rows
) -> None:
    folder = save_lora(tmp_path / "only", scale=0.1)
    summary = analyzer.scan(tmp_path)
    assert "no base" in summary.not_run["intruders"] and not summary.problems
    store = analyzer.connect(summary.db)
    factors = load_file(folder / "adapter_model.safetensors")
    A, B = (factors[f"base_model.model.{Q0}.lora_{x}.weight"].astype(float) for x in "AB")
    sigma = rows(
        store,
        "SELECT m.rows, m.cols, kind, sigma FROM spectrum JOIN matrix m USING (matrix_id)"
        " WHERE name = ? ORDER BY k",
        f"{Q0}.weight",
    )
    want = np.linalg.svd(2.0 * B @ A, compute_uv=False)[:2]
    np.testing.assert_allclose([r["sigma"] for r in sigma], want, rtol=1e-12)
    assert {(r["rows"], r["cols"], r["kind"]) for r in sigma} == {(*(B @ A).shape, "delta")}


def test_changes_that_depend_on_an_absent_base_are_refused_in_one_line(
    tmp_path: Path, save_lora
) -> None:
    config = save_lora(tmp_path / "only") / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"init_lora_weights": "pissa"}))
    summary = analyzer.scan(tmp_path)
    (problem,) = summary.problems
    assert problem.startswith("only: ") and problem.endswith("(and 9 more matrices alike)")
    assert "give --base" in problem


def test_a_moved_folder_keeps_its_results(checkpoints: Path, rows) -> None:
    first = analyzer.scan(checkpoints)
    moved = checkpoints.rename(checkpoints.with_name("moved"))
    second = analyzer.scan(moved)
    assert second.n_computed == 0 and second.n_stored == first.n_computed
    paths = rows(analyzer.connect(second.db), "SELECT path FROM checkpoint")
    assert all(Path(str(row["path"])).exists() for row in paths) and len(paths) == 4


def test_a_folder_whose_name_is_no_utf8(checkpoints: Path, rows) -> None:
    name = os.fsdecode(b"run-\xff")
    shutil.move(checkpoints / "full", checkpoints / name)
    first, again = analyzer.scan(checkpoints), analyzer.scan(checkpoints)
    assert not first.problems and first.n_computed > 0
    assert again.n_computed == 0 and not again.warnings
    (row,) = rows(analyzer.connect(first.db), "SELECT path FROM checkpoint WHERE kind = 'full'")
    assert str(row["path"]).endswith("run-\\xff")


def test_a_copy_is_no_move(checkpoints: Path, rows) -> None:
    analyzer.scan(checkpoints)
    shutil.copytree(checkpoints / "full", checkpoints / "again")  # same sizes and times
    store = analyzer.connect(analyzer.scan(checkpoints).db)
    assert len(rows(store, "SELECT DISTINCT checkpoint_id FROM checkpoint")) == 5


def test_checkpoints_that_are_gone_are_named(checkpoints: Path) -> None:
    analyzer.scan(checkpoints)
    shutil.rmtree(checkpoints / "full")
    (warning,) = analyzer.scan(checkpoints).warnings
    assert warning.startswith("full: no longer")

"""Scans of a tiny collection: rows against dense computations, resume, repeat, change."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import analyzer
from analyzer.analyses.intruders import intruder_dimensions
from analyzer.analyses.tables import TABLES
from analyzer.errors import NothingToScan, UsageError
from analyzer.store.columns import columns

Q0 = "model.layers.0.self_attn.q_proj"


def adapted(root: Path, step: int, module: str = Q0) -> tuple[np.ndarray, np.ndarray]:
    """Base and tuned weight of one module by hand."""
    W0 = load_file(root / "base/model.safetensors")[f"{module}.weight"].astype(np.float64)
    stored = load_file(root / f"lora/checkpoint-{step}/adapter_model.safetensors")
    A, B = (stored[f"base_model.model.{module}.lora_{x}.weight"].astype(float) for x in "AB")
    return W0, W0 + 2.0 * B @ A


def test_rows_agree_with_dense_computations(checkpoints: Path, rows) -> None:
    summary = analyzer.scan(checkpoints)
    store = analyzer.connect(summary.db)
    assert summary.problems == ()
    found = rows(
        store,
        """SELECT i.*, c.name AS checkpoint FROM intruder i JOIN matrix m USING (matrix_id)
        JOIN checkpoint c USING (checkpoint_id)
        WHERE m.name = ? AND c.run = 'lora' AND side = 'left' ORDER BY c.step""",
        f"{Q0}.weight",
    )
    assert [row["checkpoint"] for row in found] == ["lora/checkpoint-10", "lora/checkpoint-20"]
    for step, row in zip((10, 20), found, strict=True):
        W0, W = adapted(checkpoints, step)
        U0, U = np.linalg.svd(W0)[0], np.linalg.svd(W)[0]
        maxcos = np.abs(U0.T @ U).max(axis=0)[:10]
        assert row["n_intruders"] == int(np.sum(maxcos < 0.5))
        stored = rows(
            store,
            "SELECT maxcos FROM intruder_vector WHERE matrix_id = ? AND side = 'left' ORDER BY j",
            row["matrix_id"],
        )
        np.testing.assert_allclose([r["maxcos"] for r in stored], maxcos, atol=1e-6)
        delta = np.linalg.svd(W - W0, compute_uv=False)
        assert row["delta_fro"] == pytest.approx(np.linalg.norm(delta), rel=1e-6)
        assert row["delta_spectral_norm"] == pytest.approx(delta[0], rel=1e-6)
        for kind, want in (("weight", np.linalg.svd(W, compute_uv=False)), ("delta", delta[:2])):
            sigma = rows(
                store,
                "SELECT sigma FROM spectrum WHERE matrix_id = ? AND kind = ? ORDER BY k",
                row["matrix_id"], kind,
            )  # fmt: skip
            np.testing.assert_allclose([r["sigma"] for r in sigma], want, rtol=1e-6)


def test_public_functions_and_scan_agree(checkpoints: Path, rows) -> None:
    store = analyzer.connect(analyzer.scan(checkpoints).db)
    base = analyzer.open_checkpoint(checkpoints / "base").read_matrix(f"{Q0}.weight")
    tuned = analyzer.open_checkpoint(checkpoints / "full").read_matrix(f"{Q0}.weight")
    (row,) = rows(
        store,
        """SELECT n_intruders, delta_fro FROM intruder JOIN matrix USING (matrix_id)
        JOIN checkpoint c USING (checkpoint_id)
        WHERE c.name = 'full' AND matrix.name = ? AND side = 'left'""",
        f"{Q0}.weight",
    )
    assert row["n_intruders"] == intruder_dimensions(base, tuned).n_intruders
    assert row["delta_fro"] == pytest.approx(float((tuned - base).double().norm()), rel=1e-9)


def test_every_table_is_there_and_every_key_joins(checkpoints: Path, rows) -> None:
    store = analyzer.connect(analyzer.scan(checkpoints).db)
    assert set(store.tables()) >= {table.TABLE for table in TABLES} | {"meta"}
    for table in TABLES:
        names = [column.name for column in columns(table)]
        assert store.table(table.TABLE).column_names == names
        if "matrix_id" in names and table.TABLE != "matrix":
            orphans = rows(
                store, f'SELECT * FROM "{table.TABLE}" ANTI JOIN matrix USING (matrix_id)'
            )
            assert orphans == []
    counts = rows(
        store,
        "SELECT matrix_id, kind, k FROM spectrum GROUP BY ALL HAVING count(*) > 1",
    )
    assert counts == []
    (weights,) = rows(
        store,
        """SELECT count(*) AS n, (SELECT sum(least(rows, cols)) FROM matrix) AS want
        FROM spectrum WHERE kind = 'weight'""",
    )
    assert weights["n"] == weights["want"]


def test_frozen_matrices_have_a_zero_update(checkpoints: Path, rows) -> None:
    store = analyzer.connect(analyzer.scan(checkpoints).db)
    (row,) = rows(
        store,
        """SELECT m.status, s.fro_norm FROM matrix m JOIN checkpoint c USING (checkpoint_id)
        JOIN spectrum_info s USING (matrix_id)
        WHERE c.name = 'full' AND m.role = 'embed' AND s.kind = 'delta'""",
    )
    assert row == {"status": "zero_delta", "fro_norm": 0.0}


def test_a_second_scan_does_nothing(checkpoints: Path) -> None:
    first = analyzer.scan(checkpoints)
    before = first.db.read_bytes()
    again = analyzer.scan(checkpoints)
    assert (again.n_computed, again.scan_id) == (0, None)
    assert again.n_stored == first.n_computed
    assert first.db.read_bytes() == before


def test_new_checkpoints_cost_only_themselves(checkpoints: Path, save_lora) -> None:
    first = analyzer.scan(checkpoints)
    save_lora(checkpoints / "lora" / "checkpoint-30", scale=2.0)
    again = analyzer.scan(checkpoints)
    assert again.n_computed == 2 * 10 + 10  # and its run is followed anew
    assert again.n_stored == first.n_computed - 10


def test_a_changed_checkpoint_replaces_its_rows(checkpoints: Path, rows) -> None:
    store = analyzer.connect(analyzer.scan(checkpoints).db)
    path = checkpoints / "full" / "model.safetensors"
    save_file({name: 2 * tensor for name, tensor in load_file(path).items()}, path)
    analyzer.scan(checkpoints)
    (row,) = rows(
        store,
        """SELECT count(*) AS n, min(delta_fro_ratio) AS ratio FROM intruder
        JOIN matrix USING (matrix_id) JOIN checkpoint c USING (checkpoint_id)
        WHERE c.name = 'full' AND side = 'left'""",
    )
    assert row["n"] == 10
    assert row["ratio"] == pytest.approx(1.0, abs=0.1)


def test_a_changed_base_is_compared_again(checkpoints: Path, save_full, base_weights, rows) -> None:
    first = analyzer.scan(checkpoints)
    save_full(checkpoints / "base", {name: 3 * w for name, w in base_weights.items()})
    again = analyzer.scan(checkpoints)
    # Only the tails of the full fine-tune's own weights could have been kept.
    assert again.n_computed > first.n_computed - 2 * 12
    store = analyzer.connect(first.db)
    full = rows(
        store, "SELECT delta_fro_ratio AS ratio FROM intruder JOIN matrix USING (matrix_id)"
        " JOIN checkpoint c USING (checkpoint_id) WHERE c.name = 'full'"
    )  # fmt: skip
    np.testing.assert_allclose([row["ratio"] for row in full], np.full(20, 2 / 3), rtol=0.01)


def test_other_options_replace_only_what_depends_on_them(checkpoints: Path, rows) -> None:
    first = analyzer.scan(checkpoints)
    again = analyzer.scan(checkpoints, options=analyzer.Options(k=3))
    assert 0 < again.n_computed < first.n_computed
    store = analyzer.connect(first.db)
    assert rows(store, "SELECT DISTINCT k FROM intruder") == [{"k": 3}]
    (vectors,) = rows(store, "SELECT max(j) AS j FROM intruder_vector")
    assert vectors["j"] == 3


def test_force_computes_again_without_duplicates(checkpoints: Path) -> None:
    first = analyzer.scan(checkpoints)
    store = analyzer.connect(first.db)
    before = store.table("intruder").sort_by([("matrix_id", "ascending"), ("side", "ascending")])
    again = analyzer.scan(checkpoints, force=True)
    assert again.n_computed == first.n_computed
    after = store.table("intruder").sort_by([("matrix_id", "ascending"), ("side", "ascending")])
    assert after.equals(before)


def test_one_analysis_alone(checkpoints: Path) -> None:
    store = analyzer.connect(analyzer.scan(checkpoints, analyses=["tails"]).db)
    assert store.table("intruder").num_rows == 0
    assert store.table("tail").num_rows > 0
    with pytest.raises(UsageError, match="no analysis named nonsense"):
        analyzer.scan(checkpoints, analyses=["nonsense"])


def test_scan_and_welore_agree(checkpoints: Path, rows) -> None:
    store = analyzer.connect(analyzer.scan(checkpoints).db)
    per_checkpoint = rows(
        store,
        """SELECT checkpoint_id, min(achieved_err) AS err, sum(rank_pruned) AS pruned,
        sum(least(rows, cols)) AS total, count(*) AS n
        FROM welore JOIN matrix USING (matrix_id) GROUP BY ALL""",
    )
    assert len(per_checkpoint) == 4
    for row in per_checkpoint:
        assert row["n"] == 10
        assert row["err"] == pytest.approx(row["pruned"] / row["total"])  # type: ignore[operator]
        assert row["err"] >= 0.5  # type: ignore[operator]


def test_configuration_is_stored(checkpoints: Path) -> None:
    store = analyzer.connect(analyzer.scan(checkpoints, options=analyzer.Options(seed=7)).db)
    (scan,) = store.table("scan").to_pylist()
    assert json.loads(scan["config_json"])["seed"] == 7
    assert scan["status"] == "ok"
    assert scan["ended_at"] >= scan["started_at"]


def test_nothing_to_scan(tmp_path: Path) -> None:
    with pytest.raises(NothingToScan):
        analyzer.scan(tmp_path)
    with pytest.raises(UsageError, match="no such"):
        analyzer.scan(tmp_path / "absent")


def test_an_update_as_large_as_its_base_is_questioned(checkpoints: Path, save_lora) -> None:
    assert analyzer.scan(checkpoints).warnings == ()
    save_lora(checkpoints / "stranger", scale=1.0)
    (warning,) = analyzer.scan(checkpoints).warnings
    assert warning.startswith("stranger: the update is")


def test_a_crash_keeps_earlier_results(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch, rows
) -> None:
    from analyzer.scanning import compute

    store = analyzer.connect(analyzer.scan(checkpoints).db)
    before = {name: store.table(name).num_rows for name in ("tail", "intruder", "done", "spectrum")}

    def fail(*_: object) -> None:
        raise OSError("disk gone")

    monkeypatch.setattr(compute, "_outcome", fail)
    monkeypatch.setattr(compute, "trajectory_rows", fail)
    again = analyzer.scan(checkpoints, force=True)
    assert again.n_computed == 0
    assert any("disk gone" in problem for problem in again.problems)
    after = {name: store.table(name).num_rows for name in before}
    assert after == before
    assert {row["status"] for row in rows(store, "SELECT status FROM matrix")} == {
        "ok", "zero_delta",
    }  # fmt: skip


def test_options_are_checked() -> None:
    for options in ({"k": 0}, {"epsilon": 1.5}):
        with pytest.raises(UsageError):
            analyzer.Options(**options)  # type: ignore[arg-type]


def info(store: analyzer.Store, checkpoint: str, name: str, kind: str) -> dict[str, object]:
    (row,) = store.sql(
        """SELECT s.* FROM spectrum_info s JOIN matrix m USING (matrix_id)
        JOIN checkpoint c USING (checkpoint_id) WHERE c.name = ? AND m.name = ? AND s.kind = ?""",
        [checkpoint, name, kind],
    ).to_pylist()
    return row


def test_storage_floors_follow_what_was_rounded(tmp_path: Path, save_lora) -> None:
    """A bf16 fine-tune of a float32 base has bf16 noise; an adapter's update has none."""
    import torch
    from safetensors.torch import save_file as save_torch

    rng = np.random.default_rng(1)
    name = f"{Q0}.weight"
    low_rank = rng.standard_normal((24, 5)) @ rng.standard_normal((5, 24))
    for folder, dtype in (("base", torch.float32), ("full", torch.bfloat16)):
        (tmp_path / folder).mkdir()
        save_torch(
            {name: torch.tensor(low_rank).to(dtype)}, tmp_path / folder / "model.safetensors"
        )
    save_lora(tmp_path / "lora", scale=1e-4)
    store = analyzer.connect(analyzer.scan(tmp_path, base=tmp_path / "base").db)
    assert info(store, "base", name, "weight")["numerical_rank"] == 5
    tuned = info(store, "full", name, "weight")
    assert tuned["numerical_rank"] == 5
    base = info(store, "base", name, "weight")
    assert tuned["storage_floor"] > 1000 * base["storage_floor"]  # type: ignore[operator]
    assert info(store, "full", name, "delta")["numerical_rank"] == 0
    adapter = info(store, "lora", name, "delta")
    assert (adapter["storage_floor"], adapter["numerical_rank"]) == (0.0, 2)


def test_a_bad_base_is_named_and_not_its_fine_tune(checkpoints: Path) -> None:
    path = checkpoints / "base" / "model.safetensors"
    tensors = load_file(path)
    tensors[f"{Q0}.weight"][1, 1] = np.nan
    save_file(tensors, path)
    problems = [p for p in analyzer.scan(checkpoints).problems if Q0 in p]
    assert len(problems) == 4
    assert all(str(checkpoints / "base") in problem for problem in problems)
    store = analyzer.connect(checkpoints / "analyzer.duckdb")
    # what needs no base is there all the same
    assert info(store, "full", f"{Q0}.weight", "weight")["spectral_norm"]


def test_an_adapter_of_few_matrices_shares_the_whole_models_threshold(
    tmp_path: Path, save_full, save_lora, base_weights, rows
) -> None:
    save_full(tmp_path / "base", base_weights)
    path = save_lora(tmp_path / "lora", scale=0.0) / "adapter_model.safetensors"
    save_file({k: w for k, w in load_file(path).items() if Q0 in k}, path)
    store = analyzer.connect(analyzer.scan(tmp_path).db)
    found = rows(
        store,
        """SELECT c.kind, w.threshold, w.rank_kept FROM welore w JOIN matrix m USING (matrix_id)
        JOIN checkpoint c USING (checkpoint_id) WHERE m.name = ? ORDER BY c.kind""",
        f"{Q0}.weight",
    )
    assert [row["kind"] for row in found] == ["adapter", "base"]
    # an adapter that changes nothing leaves the model's allocation as it is
    assert found[0]["threshold"] == pytest.approx(found[1]["threshold"])
    assert found[0]["rank_kept"] == found[1]["rank_kept"]


def test_the_same_folder_from_another_directory(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch, rows
) -> None:
    first = analyzer.scan(checkpoints)
    monkeypatch.chdir(checkpoints)
    assert analyzer.scan(".").n_computed == 0
    assert analyzer.scan(".", base="base", db=first.db).n_computed == 0
    store = analyzer.connect(first.db)
    assert all(
        Path(str(r["path"])).is_absolute() for r in rows(store, "SELECT path FROM checkpoint")
    )


def test_a_base_is_given_by_its_printed_name(checkpoints: Path) -> None:
    (checkpoints / "base").rename(checkpoints / "start")
    with pytest.raises(UsageError, match="start"):
        analyzer.scan(checkpoints / "..", include=["nothing"])
    summary = analyzer.scan(checkpoints, base="start")
    assert "intruders" not in summary.not_run


def test_a_grown_vocabulary_still_has_a_spectrum(checkpoints: Path, rows) -> None:
    path = checkpoints / "full" / "model.safetensors"
    tensors = load_file(path)
    head = tensors["lm_head.weight"]
    tensors["lm_head.weight"] = np.vstack([head, head[:2]])
    save_file(tensors, path)
    store = analyzer.connect(analyzer.scan(checkpoints).db)
    (row,) = rows(
        store,
        """SELECT m.status, count(*) AS n FROM matrix m JOIN checkpoint c USING (checkpoint_id)
        JOIN spectrum USING (matrix_id)
        WHERE c.name = 'full' AND m.name = 'lm_head.weight' AND spectrum.kind = 'weight'
        GROUP BY ALL""",
    )
    assert row == {"status": "shape_mismatch", "n": 24}

"""Followed runs that grow, change, are damaged or incomplete."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import analyzer
from analyzer.cli import main

Q0, UP0 = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.up_proj.weight"
ONLY = ["emergence"]


def scan(root: Path, **options: Any) -> analyzer.ScanSummary:
    return analyzer.scan(root, analyses=ONLY, **options)


def table(summary: analyzer.ScanSummary, name: str, **values: object) -> list[dict[str, Any]]:
    found = read(summary.db, summary.db.stat().st_mtime_ns, name)
    return [row for row in found if all(row[k] == v for k, v in values.items())]


@cache
def read(db: Path, changed: int, name: str) -> list[dict[str, Any]]:
    return analyzer.connect(db).table(name).to_pylist()


def sources(summary: analyzer.ScanSummary, matrix: str = Q0) -> set[tuple[str, str | None]]:
    return {(r["source"], r["batch_id"]) for r in table(summary, "emergence", matrix=matrix)}


EVERYTHING = {
    ("grad", "train"), ("grad", "probe"), ("grad", "saved"), ("exp_avg", None),
    ("adam_update", None), ("delta_prev", None), ("delta_init", None), ("cumulative", "train"),
}  # fmt: skip


def rewrite(path: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = {name: tensor.copy() for name, tensor in load_file(path).items()}
    change(tensors)
    save_file(tensors, path)


def unique(summary: analyzer.ScanSummary) -> None:
    """No row of a run is there twice."""
    store = analyzer.connect(summary.db)
    for name, key in {
        "spectrum": "matrix_id, kind, k",
        "grad_spectrum": "run, matrix, source, batch_id, step",
        "grad_overlap": "run, matrix, source, source_b, batch_id, step_a, step_b",
        "grad_noise": "run, matrix, step",
        "emergence": "run, matrix, source, batch_id",
        "galore_memory": "run, convention, method, rank",
    }.items():
        query = f"SELECT {key} FROM {name} GROUP BY ALL HAVING count(*) > 1"
        assert store.sql(query).to_pylist() == [], name


def test_a_second_scan_does_nothing_and_force_everything(copied: Path) -> None:
    first = scan(copied)
    assert (first.n_computed, first.problems, first.warnings) == (8, (), ())
    assert sources(first) == EVERYTHING
    before = first.db.read_bytes()
    again = scan(copied)
    assert (again.n_computed, again.n_stored, again.scan_id) == (0, 8, None)
    assert again.db.read_bytes() == before
    rows = {name: len(table(first, name)) for name in ("grad_spectrum", "spectrum", "emergence")}
    forced = scan(copied, force=True)
    assert forced.n_computed == 8
    assert {name: len(table(forced, name)) for name in rows} == rows
    unique(forced)


def test_a_run_that_grew_and_lost_its_end(copied: Path, tmp_path: Path) -> None:
    shutil.move(copied / "run" / "checkpoint-30", tmp_path / "later")
    assert scan(copied).n_computed == 8
    shutil.move(tmp_path / "later", copied / "run" / "checkpoint-30")
    grown = scan(copied)
    assert (grown.n_computed, grown.problems) == (8, ())
    unique(grown)
    (row,) = table(grown, "emergence", matrix=Q0, source="delta_init")
    assert (row["step_last"], row["n_steps"]) == (30, 3)
    shorter = scan(copied, exclude=["run/checkpoint-30"])
    assert shorter.n_computed == 8
    unique(shorter)
    (row,) = table(shorter, "emergence", matrix=Q0, source="delta_init")
    assert (row["step_last"], row["n_steps"]) == (20, 2)
    assert scan(copied, exclude=["run/checkpoint-30"]).n_computed == 0


def test_force_leaves_nothing_of_a_run_that_lost_its_end(copied: Path) -> None:
    scan(copied)
    shutil.rmtree(copied / "run/checkpoint-30")
    forced = scan(copied, force=True)
    assert forced.n_computed == 8
    unique(forced)
    (row,) = table(forced, "emergence", matrix=Q0, source="delta_init")
    assert (row["step_last"], row["n_steps"]) == (20, 2)


def test_a_trainer_that_keeps_the_last_checkpoints_only(copied: Path) -> None:
    scan(copied)
    shutil.rmtree(copied / "run/checkpoint-10")
    again = scan(copied)
    assert (again.n_computed, again.problems) == (8, ())
    unique(again)
    found = table(again, "grad_spectrum", matrix=Q0)
    of_record = [row for row in found if row["batch_id"] == "train" and row["source"] == "grad"]
    assert sorted(row["step"] for row in of_record) == [0, 5, 10, 15, 20, 25]
    kept = {row["step"] for row in found if row["source"] == "exp_avg"}
    assert kept == {20, 30}


def test_numbers_of_matrices_that_are_used_again(copied: Path, trained) -> None:
    """A checkpoint is saved anew with one tensor more: everything behind it is renumbered."""
    db = copied / "both.duckdb"
    scan(trained.root, db=db)
    scan(copied, db=db)

    def more(tensors: dict[str, np.ndarray]) -> None:
        tensors["a.first.weight"] = np.ones((9, 9), np.float32)

    for step in (20, 30):
        (copied / f"run/checkpoint-{step}/optimizer.pt").unlink()
        rewrite(copied / f"run/checkpoint-{step}/model.safetensors", more)
        scan(copied, db=db)
    again = scan(copied, db=db)
    assert (again.n_computed, again.scan_id) == (0, None)
    found = table(again, "emergence", source="delta_init")
    matrices = Counter(row["matrix"] for row in found)
    assert matrices == dict.fromkeys(matrices, 2) and len(matrices) == 8
    spectra = Counter(row["matrix"] for row in table(again, "grad_spectrum", source="delta_prev"))
    assert spectra == dict.fromkeys(matrices, 6)


def test_what_lies_beside_the_weights_is_watched(copied: Path) -> None:
    first = scan(copied)
    path = copied / "run/checkpoint-20/optimizer.pt"
    state = torch.load(path, weights_only=True)
    number = state["param_groups"][0]["param_names"].index(Q0)
    state["state"][number]["exp_avg"] *= 2
    before = table(first, "grad_spectrum", matrix=Q0, source="exp_avg", step=20)
    torch.save(state, path)
    again = scan(copied)
    assert again.n_computed == 8
    (after,) = table(again, "grad_spectrum", matrix=Q0, source="exp_avg", step=20)
    assert after["fro"] == pytest.approx(2 * before[0]["fro"], rel=1e-6)
    unique(again)
    (copied / "run/analyzer-records/step-00000025.safetensors").unlink()
    fewer = scan(copied)
    assert fewer.n_computed == 8
    steps = table(fewer, "grad_spectrum", matrix=Q0, source="grad", batch_id="train")
    assert max(row["step"] for row in steps) == 20


def test_another_rank_takes_the_place_of_the_first(copied: Path) -> None:
    scan(copied)
    again = scan(copied, options=analyzer.scanning.options.Options(rank=3))
    assert again.n_computed == 8
    unique(again)
    assert {row["r"] for row in table(again, "grad_overlap")} == {3}


DAMAGE = {
    "run/checkpoint-20/optimizer.pt": {("exp_avg", None), ("adam_update", None)},
    "run/checkpoint-20/gradients.safetensors": {("grad", "saved")},
    "run/analyzer-records/step-00000010.safetensors": {("grad", "train"), ("grad", "probe")},
}


@pytest.mark.parametrize("file", DAMAGE)
def test_a_truncated_file_is_named_and_the_rest_is_there(
    file: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / file
    os.truncate(path, int(0.9 * path.stat().st_size))
    summary = scan(copied)
    (problem,) = summary.problems
    assert file.rpartition("/")[2] in problem and "\n" not in problem
    assert (summary.n_computed, sources(summary)) == (8, EVERYTHING)
    gone = 10 if "records" in file else 20
    for source, batch in EVERYTHING - {("cumulative", "train")}:
        steps = {
            row["step"]
            for row in table(summary, "grad_spectrum", matrix=Q0, source=source, batch_id=batch)
        }
        assert (gone in steps) == ((source, batch) not in DAMAGE[file]), source
    with pytest.raises(SystemExit) as ended:
        main(["scan", str(copied), "--analyses", "emergence"])
    assert ended.value.code == 3
    assert file.rpartition("/")[2] in capsys.readouterr().err


def test_the_state_of_another_optimizer_is_no_damage(copied: Path) -> None:
    for step in (10, 20, 30):
        path = copied / f"run/checkpoint-{step}/optimizer.pt"
        state = torch.load(path, weights_only=True)
        for number, entry in state["state"].items():
            state["state"][number] = {"momentum_buffer": entry["exp_avg"]}
        torch.save(state, path)
    summary = scan(copied)
    assert summary.problems == () and len(summary.warnings) == 3
    assert all("not the state of Adam" in line for line in summary.warnings)
    assert sources(summary) == EVERYTHING - {("exp_avg", None), ("adam_update", None)}


def test_two_checkpoints_of_one_step_are_refused(copied: Path) -> None:
    shutil.copytree(copied / "run/checkpoint-20", copied / "run/step-20")
    summary = scan(copied)
    (problem,) = summary.problems
    assert "are both step 20; leave one out with --exclude" in problem
    assert "run/checkpoint-20" in problem and "run/step-20" in problem
    assert table(summary, "emergence") == []
    allowed = scan(copied, exclude=["run/step-20"])
    assert allowed.problems == () and sources(allowed) == EVERYTHING


def test_gaps_become_flags(copied: Path) -> None:
    def drop(tensors: dict[str, np.ndarray]) -> None:
        del tensors[Q0]

    def reshape(tensors: dict[str, np.ndarray]) -> None:
        tensors[UP0] = tensors[UP0][:20]

    for step, change in ((10, drop), (20, reshape)):
        folder = copied / f"run/checkpoint-{step}"
        (folder / "optimizer.pt").unlink()
        (folder / "gradients.safetensors").unlink()
        rewrite(folder / "model.safetensors", change)
    summary = scan(copied)
    assert summary.problems == ()
    for matrix, flag, steps in (
        (Q0, "not in the checkpoints of steps 10", [20, 30]),
        (UP0, "another shape at steps 20", [10, 30]),
    ):
        (row,) = table(summary, "emergence", matrix=matrix, source="delta_prev")
        assert flag in row["flags"]
        found = table(summary, "grad_spectrum", matrix=matrix, source="delta_prev")
        assert sorted(r["step"] for r in found) == steps
    W = {t: load_file(copied / f"run/checkpoint-{t}/model.safetensors")[Q0] for t in (0, 20)}
    (row,) = table(summary, "grad_spectrum", matrix=Q0, source="delta_prev", step=20)
    assert row["fro"] == pytest.approx(np.linalg.norm(W[20].astype(float) - W[0]), rel=1e-9)


def test_a_matrix_that_the_last_checkpoint_lacks(copied: Path) -> None:
    folder = copied / "run/checkpoint-30"
    for name in ("optimizer.pt", "gradients.safetensors"):
        (folder / name).unlink()
    rewrite(folder / "model.safetensors", lambda tensors: tensors.pop(Q0))
    summary = analyzer.scan(copied, analyses=["tails", "emergence"])
    (row,) = table(summary, "emergence", matrix=Q0, source="delta_init")
    assert row["step_last"] == 20 and "not in the checkpoints of steps 30" in row["flags"]
    (last,) = table(summary, "checkpoint", step=30)
    for name in ("emergence_correlation", "galore_memory"):
        assert {r["checkpoint_id"] for r in table(summary, name)} == {last["checkpoint_id"]}
    found = table(summary, "emergence_correlation", source="delta_init", group="all")
    assert {r["n"] for r in found} == {7}
    assert analyzer.scan(copied, analyses=["tails", "emergence"]).scan_id is None


def test_nan_in_one_checkpoint_spoils_only_what_it_touches(copied: Path) -> None:
    def spoil(tensors: dict[str, np.ndarray]) -> None:
        tensors[Q0][0, :3] = np.nan
        tensors[Q0][1, 0] = np.inf

    rewrite(copied / "run/checkpoint-10/model.safetensors", spoil)
    summary = analyzer.scan(copied, analyses=["tails", "emergence"])
    (problem,) = summary.problems
    assert "checkpoint-10" in problem and Q0 in problem
    found = {
        (row["source"], row["step"]): row
        for row in table(summary, "grad_spectrum", matrix=Q0)
        if row["batch_id"] is None
    }
    for key in (("delta_prev", 10), ("delta_prev", 20), ("delta_init", 10)):
        assert found[key]["flags"].startswith("non_finite: 3 NaN, 1 infinite"), key
        assert found[key]["stable_rank"] is None and found[key]["fro"] is None
    for key in (("delta_prev", 30), ("delta_init", 30), ("exp_avg", 10)):
        assert found[key]["flags"] == "" and found[key]["stable_rank"] > 1
    pairs = table(summary, "grad_cosine", matrix=Q0, source="delta_init")
    assert [(r["step_a"], r["step_b"]) for r in pairs] == [(20, 30)]
    (row,) = table(summary, "emergence", matrix=Q0, source="delta_init")
    assert "no finite non-zero matrix at steps 10" in row["flags"] and row["n_steps"] == 2
    again = analyzer.scan(copied, analyses=["tails", "emergence"])
    assert (again.n_computed, again.scan_id) == (0, None)


def test_moments_and_gradients_that_are_not_finite_or_zero(copied: Path) -> None:
    path = copied / "run/checkpoint-10/optimizer.pt"
    state = torch.load(path, weights_only=True)
    names = state["param_groups"][0]["param_names"]
    state["state"][names.index(Q0)]["exp_avg"][2, 3] = torch.nan
    state["state"][names.index(UP0)]["exp_avg"].zero_()
    torch.save(state, path)

    def spoil(tensors: dict[str, np.ndarray]) -> None:
        tensors[Q0][1, 1] = np.inf
        tensors[UP0][:] = 0

    rewrite(copied / "run/checkpoint-20/gradients.safetensors", spoil)
    summary = scan(copied)
    assert summary.problems == ()
    for source, step in (("exp_avg", 10), ("adam_update", 10), ("grad", 20)):
        (bad,) = table(summary, "grad_spectrum", matrix=Q0, source=source, step=step,
                       batch_id="saved" if source == "grad" else None)  # fmt: skip
        assert bad["flags"].startswith("non_finite: 1 NaN" if step == 10 else "non_finite: 0 NaN")
        (zero,) = table(summary, "grad_spectrum", matrix=UP0, source=source, step=step,
                        batch_id="saved" if source == "grad" else None)  # fmt: skip
        assert (zero["flags"], zero["fro"], zero["stable_rank"]) == ("zero_gradient", 0.0, None)
    cosines = table(summary, "grad_cosine", matrix=UP0, source="grad", batch_id="saved")
    missing = {(r["step_a"], r["step_b"]) for r in cosines if r["cosine"] is None}
    assert missing == {(0, 20), (10, 20), (20, 30)}


def alone(copied: Path, *names: str) -> Path:
    """A folder with one final model, and of the run what is named."""
    folder = copied.parent / "alone" / "model"
    folder.mkdir(parents=True)
    for name in names:
        source = copied / "run" / name
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / source.name)
    return folder


def test_a_single_checkpoint_with_its_optimizer(copied: Path) -> None:
    last = "checkpoint-30"
    folder = alone(copied, *(f"{last}/{n}" for n in ("model.safetensors", "optimizer.pt")))
    summary = scan(folder.parent)
    assert summary.problems == ()
    assert sources(summary) == {("exp_avg", None), ("adam_update", None)}
    (row,) = table(summary, "emergence", matrix=Q0, source="exp_avg")
    assert row["flags"] == "one step: no maps and overlaps" and row["cos_all"] is None
    assert row["step_first"] == 30  # which the optimizer tells
    assert table(summary, "grad_overlap") == table(summary, "grad_cosine") == []
    assert scan(folder.parent).scan_id is None


def test_records_beside_a_final_model(copied: Path) -> None:
    folder = alone(copied, "checkpoint-30/model.safetensors", "analyzer-records")
    summary = scan(folder.parent)
    assert summary.problems == () and summary.warnings == ()
    assert sources(summary) == {("grad", "train"), ("grad", "probe"), ("cumulative", "train")}
    found = table(summary, "grad_overlap", matrix=Q0, source="cumulative", source_b="weight")
    # The weights came after the last recorded step.
    assert [(r["step_a"], r["step_b"]) for r in found] == [(25, 26)]
    assert table(summary, "grad_spectrum", source="delta_init") == []


def test_the_final_model_beside_its_own_run(copied: Path) -> None:
    """As the Hugging Face trainer leaves it: the run's folder holds the last weights too."""
    shutil.copy(copied / "run/checkpoint-30/model.safetensors", copied / "run/model.safetensors")
    summary = scan(copied / "run")
    assert summary.problems == () and summary.warnings == ()
    assert sources(summary) == EVERYTHING


def test_nothing_to_follow_is_said(copied: Path) -> None:
    folder = alone(copied, "checkpoint-30/model.safetensors")
    summary = scan(folder.parent)
    assert "no training run" in summary.not_run["emergence"]
    assert (summary.n_computed, table(summary, "emergence")) == (0, [])


def test_recorded_matrices_that_the_checkpoint_lacks_are_named(copied: Path) -> None:
    for step in (0, 10, 20, 30):
        folder = copied / f"run/checkpoint-{step}"
        for name in ("optimizer.pt", "gradients.safetensors"):
            (folder / name).unlink()
        rewrite(
            folder / "model.safetensors",
            lambda tensors: [tensors.update({f"x.{k}.y": tensors.pop(k)}) for k in (Q0, UP0)],
        )
    summary = scan(copied)
    (warning,) = summary.warnings
    assert "2 recorded matrices are none of the checkpoint's" in warning
    assert Q0 in warning and UP0 in warning


def test_a_batch_smaller_than_the_matrix_is_flagged(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(24, 32, bias=False))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with analyzer.Recorder(model, optimizer, tmp_path, every=1, rank=6):
        for _ in range(3):
            optimizer.zero_grad()
            model(torch.randn(4, 24)).square().sum().backward()
            optimizer.step()
    save_file({"0.weight": model[0].weight.detach().numpy()}, tmp_path / "model.safetensors")
    summary = scan(tmp_path)
    assert summary.problems == ()
    found = table(summary, "grad_spectrum", source="grad")
    assert [row["flags"] for row in found] == ["token_limited"] * 3
    assert {row["n_tokens"] for row in found} == {4}
    # What the iteration put after four directions is not compared.
    assert {row["r"] for row in table(summary, "grad_overlap", source="grad", source_b="grad")} == {
        4
    }


def test_low_rank_gradients_beside_checkpoints(copied: Path) -> None:
    """Their cumulated subspace has no more directions than they have."""
    rng = np.random.default_rng(0)
    for step in (0, 10, 20, 30):

        def thin(tensors: dict[str, np.ndarray]) -> None:
            for name, G in tensors.items():
                if G.ndim == 2:
                    two = rng.standard_normal((len(G), 2)) @ rng.standard_normal((2, G.shape[1]))
                    tensors[name] = two.astype(np.float32)

        rewrite(copied / f"run/checkpoint-{step}/gradients.safetensors", thin)
    shutil.rmtree(copied / "run/analyzer-records")
    summary = scan(copied)
    assert summary.problems == ()
    found = table(summary, "grad_spectrum", matrix=Q0, source="grad", batch_id="saved")
    assert {row["numerical_rank"] for row in found} == {2}
    overlaps = table(summary, "grad_overlap", matrix=Q0, source="grad", source_b="grad")
    assert {row["r"] for row in overlaps} == {2} and len(overlaps) == 6
    held = table(summary, "grad_overlap", matrix=Q0, source="cumulative", source_b="delta_init")
    assert [(r["step_a"], r["step_b"], r["r"]) for r in held] == [(0, 10, 2), (10, 20, 4),
                                                                  (20, 30, 6)]  # fmt: skip
    G = [
        load_file(copied / f"run/checkpoint-{t}/gradients.safetensors")[Q0].astype(float)
        for t in (0, 10, 20, 30)
    ]
    stream = np.hstack(G)
    (row,) = table(summary, "grad_spectrum", matrix=Q0, source="cumulative", step=30)
    squares = np.linalg.svd(stream, compute_uv=False) ** 2
    assert row["fro"] == pytest.approx(np.linalg.norm(stream), rel=1e-9)
    sr = squares.sum() / squares[0]
    assert row["stable_rank_lo"] <= sr * (1 + 1e-9) and sr <= row["stable_rank_hi"] * (1 + 1e-9)
    share = squares[: row["r"]].sum() / squares.sum()
    assert row["energy_r"] <= share * (1 + 1e-9) and share <= row["energy_r_hi"] * (1 + 1e-9)


def test_runs_of_two_folders_may_share_a_name_in_one_store(copied: Path, trained) -> None:
    db = copied / "both.duckdb"
    scan(copied, db=db)
    both = scan(trained.root, db=db)
    assert both.n_computed == 8
    found = table(both, "galore_memory", convention="exact", method="full")
    assert len({row["checkpoint_id"] for row in found}) == 2 == len(found)
    assert len(table(both, "emergence", matrix=Q0, source="exp_avg")) == 2
    assert scan(copied, db=db).scan_id is None

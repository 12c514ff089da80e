"""Maps and tracks of leading vectors in the store: dense references, resume, changes of a run."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import analyzer
from analyzer.scanning import steps as scanning_steps

STEPS = (10, 20, 30, 40)
K = 10
TRACKS = """
    SELECT c.name AS checkpoint, m.name, t.side, t.j, b.name AS previous, p.name AS previous_name,
        t.previous_j, t.cosine, t.cosine_err
    FROM intruder_track t JOIN matrix m USING (matrix_id) JOIN checkpoint c USING (checkpoint_id)
    JOIN matrix p ON p.matrix_id = t.previous_matrix_id
    JOIN checkpoint b ON b.checkpoint_id = p.checkpoint_id ORDER BY ALL"""


def weights_at(root: Path, checkpoint: str) -> dict[str, np.ndarray]:
    """Every tuned matrix of a checkpoint in float64, by hand."""
    folder = root / checkpoint
    if (folder / "model.safetensors").exists():
        tensors = load_file(folder / "model.safetensors")
        return {n: w.astype(float) for n, w in tensors.items() if "layers" in n}
    stored = {
        n: w.astype(float) for n, w in load_file(folder / "adapter_model.safetensors").items()
    }
    base = weights_at(root, "base")
    return {
        name: W + 2.0
        * stored[f"base_model.model.{name.removesuffix('weight')}lora_B.weight"]
        @ stored[f"base_model.model.{name.removesuffix('weight')}lora_A.weight"]
        for name, W in base.items()
    }  # fmt: skip


@pytest.fixture
def full_step(base_weights, save_full) -> Callable[..., Path]:
    """`full_step(root, step)`: a fine-tune that drifts with its steps."""

    def save(root: Path, step: int, run: str = "full") -> Path:
        tensors = {}
        for place, (name, W) in enumerate(base_weights.items()):
            drift, noise = (np.random.default_rng([place, s]) for s in (0, step))
            change = step * drift.standard_normal(W.shape) + 5 * noise.standard_normal(W.shape)
            tensors[name] = (W + 3e-3 * change).astype(np.float32)
        return save_full(root / run / f"checkpoint-{step}", tensors)

    return save


@pytest.fixture
def runs(tmp_path: Path, base_weights, save_full, save_lora, full_step) -> Path:
    """base, lora/checkpoint-10 … 40, full/checkpoint-10 … 40."""
    root = tmp_path / "runs"
    save_full(root / "base", base_weights)
    for step in STEPS:
        # factors that keep their directions in part, as those of one training do
        save_lora(root / "lora" / f"checkpoint-{step}", seed=1, scale=0.01 * step)
        full_step(root, step)
    return root


def tracks(root: Path) -> list[dict[str, object]]:
    return analyzer.connect(root / "analyzer.duckdb").sql(TRACKS).to_pylist()


def same(found: list[dict[str, object]], want: list[dict[str, object]]) -> None:
    """Equal up to the last bits of the numbers."""
    numbers = ("cosine", "cosine_err")
    strip = [[{k: v for k, v in r.items() if k not in numbers} for r in rows]
             for rows in (found, want)]  # fmt: skip
    assert strip[0] == strip[1]
    for name in numbers:
        np.testing.assert_allclose([r[name] for r in found], [r[name] for r in want], atol=1e-12)


def without_steps(root: Path, target: Path, *names: str) -> Path:
    """A copy of the collection without the store and some checkpoints."""
    shutil.copytree(root, target, ignore=shutil.ignore_patterns("*.duckdb*"))
    for name in names:
        shutil.rmtree(target / name)
    return target


def test_tracks_agree_with_dense_decompositions(runs: Path) -> None:
    assert analyzer.scan(runs, analyses=["intruders"]).problems == ()
    vectors = {}
    for run in ("lora", "full"):
        for step in STEPS:
            for name, W in weights_at(runs, f"{run}/checkpoint-{step}").items():
                U, _, Vh = np.linalg.svd(W, full_matrices=False)
                vectors[f"{run}/checkpoint-{step}", name] = {"left": U[:, :K], "right": Vh[:K].T}
    found = tracks(runs)
    assert len(found) == 2 * 3 * 10 * 2 * K  # runs, links, matrices, sides, vectors
    for row in found:
        run, step = str(row["checkpoint"]).split("/checkpoint-")
        assert row["previous"] == f"{run}/checkpoint-{int(step) - 10}"
        assert row["previous_name"] == row["name"]
        now = vectors[row["checkpoint"], row["name"]][row["side"]]
        before = vectors[row["previous"], row["name"]][row["side"]]
        C = np.abs(before.T @ now[:, row["j"] - 1])  # type: ignore[operator]
        assert row["cosine"] == pytest.approx(C.max(), abs=1e-9)
        assert C[row["previous_j"] - 1] == pytest.approx(C.max(), abs=1e-9)  # type: ignore[operator]
        assert 0 <= row["cosine_err"] < 1e-6  # type: ignore[operator]


def test_maps_agree_with_dense_decompositions(runs: Path, rows) -> None:
    store = analyzer.connect(analyzer.scan(runs, analyses=["intruders"]).db)
    base = weights_at(runs, "base")
    for checkpoint in ("lora/checkpoint-20", "full/checkpoint-40"):
        for name, W in weights_at(runs, checkpoint).items():
            U0, _, V0h = np.linalg.svd(base[name], full_matrices=False)
            U, _, Vh = np.linalg.svd(W, full_matrices=False)
            want = {"left": np.abs(U0.T @ U), "right": np.abs(V0h @ Vh.T)}
            for side, C in want.items():
                cells = rows(
                    store,
                    """SELECT i, j, cosine FROM intruder_cosine JOIN matrix m USING (matrix_id)
                    JOIN checkpoint c USING (checkpoint_id)
                    WHERE c.name = ? AND m.name = ? AND side = ? ORDER BY i, j""",
                    checkpoint, name, side,
                )  # fmt: skip
                k = range(1, K + 1)
                assert [(c["i"], c["j"]) for c in cells] == [(i, j) for i in k for j in k]
                np.testing.assert_allclose(
                    [c["cosine"] for c in cells], C[:K, :K].ravel(), atol=1e-6
                )


@pytest.mark.parametrize("known", [(10,), (10, 20), (20, 40), (10, 20, 30), (30,), (40,)])
def test_resumed_and_inserted_steps_give_the_rows_of_one_scan(
    runs: Path, tmp_path: Path, known: tuple[int, ...]
) -> None:
    analyzer.scan(runs, analyses=["intruders"])
    missing = [f"{run}/checkpoint-{s}" for run in ("lora", "full") for s in STEPS if s not in known]
    root = without_steps(runs, tmp_path / "resumed", *missing)
    analyzer.scan(root, analyses=["intruders"])
    assert {r["checkpoint"] for r in tracks(root)} == {
        f"{run}/checkpoint-{s}" for run in ("lora", "full") for s in known[1:]
    }
    for name in missing:
        shutil.copytree(runs / name, root / name)
    analyzer.scan(root, analyses=["intruders"])
    same(tracks(root), tracks(runs))
    assert analyzer.scan(root, analyses=["intruders"]).n_computed == 0


def test_a_later_step_costs_only_itself(runs: Path, full_step, rows) -> None:
    first = analyzer.scan(runs, analyses=["intruders"])
    store = analyzer.connect(first.db)
    counts = "SELECT count(*) AS n FROM intruder_vector JOIN matrix USING (matrix_id)"
    before = rows(store, counts)
    full_step(runs, 50)
    again = analyzer.scan(runs, analyses=["intruders"])
    assert (again.n_computed, again.n_stored) == (10, first.n_computed)
    assert rows(store, counts)[0]["n"] == before[0]["n"] * 9 / 8  # type: ignore[operator]
    assert {r["previous"] for r in tracks(runs) if r["checkpoint"] == "full/checkpoint-50"} == {
        "full/checkpoint-40"
    }


def test_an_inserted_step_costs_itself_and_the_next(runs: Path, full_step) -> None:
    first = analyzer.scan(runs, analyses=["intruders"])
    full_step(runs, 25)
    again = analyzer.scan(runs, analyses=["intruders"])
    assert (again.n_computed, again.n_stored) == (20, first.n_computed - 10)


def test_a_step_that_went_is_passed_over(runs: Path, tmp_path: Path) -> None:
    analyzer.scan(runs, analyses=["intruders"])
    shutil.rmtree(runs / "full" / "checkpoint-20")
    shutil.rmtree(runs / "lora" / "checkpoint-10")
    analyzer.scan(runs, analyses=["intruders"])
    links = {(r["checkpoint"], r["previous"]) for r in tracks(runs)}
    assert ("full/checkpoint-30", "full/checkpoint-10") in links
    assert not any(name == "lora/checkpoint-20" for name, _ in links)
    assert analyzer.scan(runs, analyses=["intruders"]).n_computed == 0


def test_a_step_registered_anew_is_linked_by_its_new_number(runs: Path) -> None:
    """The same content with another time: its matrices get other numbers, the links follow."""
    analyzer.scan(runs, analyses=["intruders"])
    before = tracks(runs)
    os.utime(runs / "full" / "checkpoint-20" / "model.safetensors", (1, 1))
    analyzer.scan(runs, analyses=["intruders"])
    store = analyzer.connect(runs / "analyzer.duckdb")
    orphans = store.sql(
        "SELECT * FROM intruder_track t ANTI JOIN matrix m ON m.matrix_id = t.previous_matrix_id"
    )
    assert orphans.num_rows == 0
    same(tracks(runs), before)


def spoil(root: Path, checkpoint: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    path = root / checkpoint / "model.safetensors"
    tensors = load_file(path)
    save_file({n: change(w) if "q_proj" in n else w for n, w in tensors.items()}, path)


@pytest.mark.parametrize("bad", [(20,), (10,), (20, 30), (40,)])
@pytest.mark.parametrize("known", [(), (10,), (10, 20), (10, 20, 30)])
def test_a_step_with_another_status_is_passed_over(
    runs: Path, tmp_path: Path, base_weights, save_full, bad, known
) -> None:
    """Not finite, or equal to the base: neither linked nor linked to, resumed or not."""
    for number, step in enumerate(bad):
        if number == 0:
            spoil(runs, f"full/checkpoint-{step}", lambda w: np.full_like(w, np.nan))
        else:
            save_full(runs / "full" / f"checkpoint-{step}", base_weights)
    good = [s for s in STEPS if s not in bad]
    later = [f"full/checkpoint-{s}" for s in STEPS if s not in known and known]
    root = without_steps(runs, tmp_path / "resumed", *later)
    analyzer.scan(root, analyses=["intruders"])
    for name in later:
        shutil.copytree(runs / name, root / name)
    if later:
        analyzer.scan(root, analyses=["intruders"])
    found = tracks(root)
    links = {
        (r["checkpoint"], r["previous"])
        for r in found
        if "q_proj" in str(r["name"]) and str(r["checkpoint"]).startswith("full")
    }
    pairs = itertools.pairwise(good)
    assert links == {(f"full/checkpoint-{b}", f"full/checkpoint-{a}") for a, b in pairs}
    assert analyzer.scan(root, analyses=["intruders"]).n_computed == 0


def test_a_step_inserted_behind_a_bad_one_is_linked(runs: Path, full_step) -> None:
    """checkpoint-30 rests on 10, since 20 is not finite; a new 15 takes the place of 10."""
    spoil(runs, "full/checkpoint-20", lambda w: np.full_like(w, np.inf))
    analyzer.scan(runs, analyses=["intruders"])
    full_step(runs, 15)
    analyzer.scan(runs, analyses=["intruders"])
    (previous,) = {
        r["previous"]
        for r in tracks(runs)
        if r["checkpoint"] == "full/checkpoint-30" and "q_proj" in str(r["name"])
    }
    assert previous == "full/checkpoint-15"


def test_frozen_matrices_read_no_earlier_steps(
    runs: Path, base_weights, save_full, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in STEPS:
        save_full(runs / "full" / f"checkpoint-{step}", base_weights)
    analyzer.scan(runs, analyses=["intruders"])
    save_full(runs / "full" / "checkpoint-50", base_weights)
    monkeypatch.setattr(scanning_steps, "tuned_matrix", None)  # for links only
    analyzer.scan(runs, analyses=["intruders"])
    assert not any(str(r["checkpoint"]).startswith("full") for r in tracks(runs))


def test_steps_in_order_are_read_once(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning_steps, "tuned_matrix", None)
    analyzer.scan(runs, analyses=["intruders"], workers=1)
    assert len(tracks(runs)) == 2 * 3 * 10 * 2 * K


def test_an_earlier_step_that_cannot_be_read_is_tried_again(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = without_steps(runs, tmp_path / "resumed", "full/checkpoint-40")
    analyzer.scan(root, analyses=["intruders"])
    shutil.copytree(runs / "full/checkpoint-40", root / "full/checkpoint-40")

    def fail(*_: object) -> None:
        raise OSError("disk gone")

    with monkeypatch.context() as patched:
        patched.setattr(scanning_steps, "tuned_matrix", fail)
        analyzer.scan(root, analyses=["intruders"])
        assert not any(r["checkpoint"] == "full/checkpoint-40" for r in tracks(root))
    assert analyzer.scan(root, analyses=["intruders"]).n_computed == 10
    analyzer.scan(runs, analyses=["intruders"])
    same(tracks(root), tracks(runs))


def test_stores_of_before_are_computed_again(runs: Path) -> None:
    first = analyzer.scan(runs, analyses=["intruders"])
    want = tracks(runs)
    with duckdb.connect(str(first.db)) as connection:
        connection.execute("DROP TABLE intruder_track")
        connection.execute("DROP TABLE intruder_cosine")
        # as the marks were: no step before, and the version of then
        connection.execute(
            """UPDATE done SET params = json_object('base', params->'base', 'epsilon', 0.5,
            'k', 10, 'seed', 0, 'version', 1)"""
        )
    again = analyzer.scan(runs, analyses=["intruders"])
    assert again.n_computed == first.n_computed
    same(tracks(runs), want)

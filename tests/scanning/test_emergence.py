"""A followed training run against dense computations from the same files."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from safetensors import safe_open
from safetensors.numpy import load_file

import analyzer
from analyzer.recorder import list_records
from analyzer.recorder.records import open_record

Table = Callable[..., list[dict[str, Any]]]
Numbers = Callable[[np.ndarray, int], dict[str, float]]
STEPS, R = (0, 10, 20, 30), 8
MATRICES = {
    f"model.layers.{layer}.{part}.weight": part
    for layer in (0, 1)
    for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.down_proj")
}
TYPES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "mlp.up_proj": "mlp_up", "mlp.down_proj": "mlp_down",
}  # fmt: skip


@pytest.fixture(scope="module")
def store(trained) -> analyzer.Store:
    summary = analyzer.scan(trained.root, db=trained.root / "main.duckdb")
    assert summary.problems == () and summary.warnings == ()
    assert "emergence" not in summary.not_run
    return analyzer.connect(summary.db)


def weights(root: Path, step: int) -> dict[str, np.ndarray]:
    found = load_file(root / f"run/checkpoint-{step}/model.safetensors")
    return {name: w.astype(np.float64) for name, w in found.items()}


def saved(root: Path, step: int) -> dict[str, np.ndarray]:
    found = load_file(root / f"run/checkpoint-{step}/gradients.safetensors")
    return {name: w.astype(np.float64) for name, w in found.items()}


def moments(root: Path, step: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """m̂ and v̂ by name."""
    state = torch.load(root / f"run/checkpoint-{step}/optimizer.pt", weights_only=True)
    (group,) = state["param_groups"]
    b1, b2 = group["betas"]
    found = {}
    for number, name in zip(group["params"], group["param_names"], strict=True):
        one = state["state"][number]
        t = int(one["step"])
        assert t == step
        m, v = one["exp_avg"].double().numpy(), one["exp_avg_sq"].double().numpy()
        found[name] = m / (1 - b1**t), v / (1 - b2**t)
    return found


def series_of(root: Path, source: str, name: str) -> dict[int, np.ndarray]:
    """Step → the dense matrix that a source stands for."""
    if source == "grad":
        return {t: saved(root, t)[name] for t in STEPS}
    if source in ("exp_avg", "adam_update"):
        found = {}
        for t in STEPS[1:]:
            m, v = moments(root, t)[name]
            found[t] = m if source == "exp_avg" else m / (np.sqrt(v) + 1e-8)
        return found
    states = {t: weights(root, t)[name] for t in STEPS}
    earlier = {"delta_prev": STEPS[:-1], "delta_init": (0, 0, 0)}[source]
    return {t: states[t] - states[s] for t, s in zip(STEPS[1:], earlier, strict=True)}


@pytest.fixture(scope="module")
def table(store: analyzer.Store) -> Table:
    """`table(name, source=…, …)`: rows with these values, each table read once."""
    read: dict[str, list[dict[str, Any]]] = {}

    def of(name: str, **values: object) -> list[dict[str, Any]]:
        if name not in read:
            read[name] = store.table(name).to_pylist()
        return [row for row in read[name] if all(row[k] == v for k, v in values.items())]

    return of


SOURCES = {"grad": "saved", "exp_avg": None, "adam_update": None, "delta_prev": None,
           "delta_init": None}  # fmt: skip


def side_of(shape: tuple[int, ...]) -> str:
    return "left" if shape[0] <= shape[1] else "right"


def basis(G: np.ndarray, r: int, side: str) -> np.ndarray:
    U, _, Vh = np.linalg.svd(G)
    return U[:, :r] if side == "left" else Vh[:r].T


def phi(U: np.ndarray, V: np.ndarray) -> float:
    return float(np.sum((U.T @ V) ** 2)) / U.shape[1]


def by_step(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(found, key=lambda row: row["step"])


def by_pair(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(found, key=lambda row: (row["step_a"], row["step_b"]))


def checkpoint_steps(table: Table) -> dict[int, int | None]:
    """matrix_id → step of its checkpoint."""
    steps = {row["checkpoint_id"]: row["step"] for row in table("checkpoint")}
    return {row["matrix_id"]: steps[row["checkpoint_id"]] for row in table("matrix")}


@pytest.mark.parametrize("source", SOURCES)
def test_spectra_are_those_of_the_dense_matrices(
    source: str, trained, table: Table, numbers: Numbers
) -> None:
    kind = "gradient" if source == "grad" else source
    places = checkpoint_steps(table)
    for name in MATRICES:
        dense = series_of(trained.root, source, name)
        found = by_step(
            table("grad_spectrum", matrix=name, source=source, batch_id=SOURCES[source])
        )
        assert [row["step"] for row in found] == list(dense)
        assert [places[row["matrix_id"]] for row in found] == list(dense)
        # The update is rounded to float32 before its spectrum is taken.
        rel = 1e-6 if source in ("exp_avg", "adam_update") else 1e-9
        for row in found:
            G = dense[row["step"]]
            assert (row["m"], row["n"], row["side"]) == (*G.shape, side_of(G.shape))
            assert (row["r"], row["dtype"], row["run"]) == (R, "float32", "run")
            for key, want in numbers(G, R).items():
                # A Gram matrix leaves 1e-8 σ₁ where the gradient's rank ends.
                loose = 1e-6 if key == "effective_rank" else rel
                assert row[key] == pytest.approx(want, rel=loose), (name, row["step"], key)
            assert row["stable_rank_lo"] <= row["stable_rank"] <= row["stable_rank_hi"]
            assert row["flags"] == "" and row["caution"] and row["method"] == "gram"
            s = np.linalg.svd(G, compute_uv=False)
            values = table("spectrum", matrix_id=row["matrix_id"], kind=kind)
            assert [v["k"] for v in values] == list(range(1, s.size + 1))
            (info,) = table("spectrum_info", matrix_id=row["matrix_id"], kind=kind)
            allowed = info["error_bound"] + (rel * s[0] if rel > 1e-9 else 0.0)
            np.testing.assert_allclose([v["sigma"] for v in values], s, rtol=0, atol=allowed)
            assert info["fro_norm"] == pytest.approx(np.linalg.norm(G), rel=rel)
            assert info["numerical_rank"] == row["numerical_rank"]
            assert info["stable_rank"] == pytest.approx(row["stable_rank"], rel=1e-12)


def test_learning_rates_and_noise_levels_of_the_moments(trained, table: Table) -> None:
    for row in table("grad_spectrum", source="exp_avg"):
        m, v = moments(trained.root, row["step"])[row["matrix"]]
        assert row["snr"] == pytest.approx(np.sum(m**2) / np.sum(v), rel=1e-9)
        assert row["learning_rate"] == pytest.approx(3e-3)


@pytest.mark.parametrize("source", SOURCES)
def test_overlaps_are_those_of_the_dense_subspaces(source: str, trained, table: Table) -> None:
    for name in MATRICES:
        dense = series_of(trained.root, source, name)
        found = by_pair(
            table("grad_overlap", matrix=name, source=source, source_b=source,
                  batch_id=SOURCES[source])
        )  # fmt: skip
        pairs = list(itertools.combinations(dense, 2))
        assert [(row["step_a"], row["step_b"]) for row in found] == pairs
        for row in found:
            A, B = dense[row["step_a"]], dense[row["step_b"]]
            side = side_of(A.shape)
            U, V = basis(A, R, side), basis(B, R, side)
            rounding = 1e-5 if source in ("exp_avg", "adam_update") else 1e-9
            assert row["overlap"] == pytest.approx(phi(U, V), abs=rounding)
            assert row["overlap_error"] < 1e-6
            cosine = np.linalg.svd(U.T @ V, compute_uv=False)[-1]
            assert row["theta_max"] == pytest.approx(np.arccos(cosine), abs=1e-4)
            assert (row["side"], row["r"]) == (side, R)
            assert row["chance"] == pytest.approx(R / U.shape[0])


@pytest.mark.parametrize("source", SOURCES)
def test_cosines_and_their_summaries(source: str, trained, table: Table) -> None:
    for name in MATRICES:
        dense = series_of(trained.root, source, name)
        units = {t: G.ravel() / np.linalg.norm(G) for t, G in dense.items()}
        which = {"matrix": name, "source": source, "batch_id": SOURCES[source]}
        found = by_pair(table("grad_cosine", **which))
        assert [(r["step_a"], r["step_b"]) for r in found] == list(itertools.combinations(dense, 2))
        for row in found:
            want = float(units[row["step_a"]] @ units[row["step_b"]])
            assert row["cosine"] == pytest.approx(want, abs=row["err"]) and row["err"] < 1e-12
            assert row["disattenuated"] is None
        (summary,) = table("emergence", **which)
        C = np.array([[units[a] @ units[b] for b in dense] for a in dense])
        half = len(dense) // 2
        late = C[half:, half:]
        assert summary["cos_adjacent"] == pytest.approx(np.mean(np.diag(C, 1)))
        assert summary["cos_all"] == pytest.approx(np.mean(C[np.triu_indices_from(C, 1)]))
        assert summary["cos_late"] == pytest.approx(np.mean(late[np.triu_indices_from(late, 1)]))
        after = [np.mean(C[t, t + 1 :]) for t in range(len(dense) - 1)]
        reached = [t for t, mean in zip(dense, after, strict=False) if mean >= 0.5]
        assert summary["saturation_step"] == (reached[0] if reached else None)
        part = MATRICES[name]
        layer = int(name.split(".")[2])
        assert (summary["type"], summary["layer"]) == (TYPES[part], layer)
        first, last = min(dense), max(dense)
        assert (summary["n_steps"], summary["step_first"]) == (len(dense), first)
        assert summary["step_last"] == last


def recorded(root: Path, step: int, key: str) -> np.ndarray:
    path = root / f"run/analyzer-records/step-{step:08d}.safetensors"
    return load_file(path)[key].astype(np.float64)


@pytest.mark.parametrize("batch", ["train", "probe"])
def test_records_bound_the_gradients_that_were_there(
    batch: str, trained, table: Table, numbers: Numbers
) -> None:
    steps = sorted(trained.train)
    assert steps == [0, 5, 10, 15, 20, 25]
    places = checkpoint_steps(table)
    for name in MATRICES:
        found = by_step(table("grad_spectrum", matrix=name, source="grad", batch_id=batch))
        assert [row["step"] for row in found] == steps
        for row in found:
            t = row["step"]
            gradients = trained.train[t] if batch == "train" else trained.probes[t][0]
            G = gradients[name].double().numpy()
            want = numbers(G, row["r"])
            assert places[row["matrix_id"]] == (t if t in STEPS else 30)
            near = 1 + 1e-6
            assert row["fro"] == pytest.approx(want["fro"], rel=1e-6)
            assert row["sigma1"] <= want["sigma1"] * near
            assert row["stable_rank_lo"] / near <= want["stable_rank"]
            assert want["stable_rank"] <= row["stable_rank_hi"] * near
            assert row["energy_r"] / near <= want["energy_r"] <= row["energy_r_hi"] * near
            assert row["rank_at_energy"] is None or row["rank_at_energy"] >= want["rank_at_energy"]
            assert (row["n_tokens"], row["learning_rate"]) == (6 * 8, pytest.approx(3e-3))
            assert row["effective_rank"] is None
            values = table(
                "grad_singular_value", matrix_id=row["matrix_id"], step=t, source="grad",
                batch_id=batch,
            )  # fmt: skip
            stored = recorded(trained.root, t, f"{batch}/{name}/sigma")
            np.testing.assert_array_equal([v["sigma"] for v in values], stored)


@pytest.mark.parametrize("batch", ["train", "probe"])
def test_recorded_subspaces_and_sketches(batch: str, trained, table: Table) -> None:
    misses = count = 0
    for name in MATRICES:
        which = {"matrix": name, "source": "grad", "batch_id": batch}
        overlaps, cosines = by_pair(table("grad_overlap", **which)), by_pair(
            table("grad_cosine", **which)
        )  # fmt: skip
        assert len(overlaps) == len(cosines) == 15
        for overlap, cosine in zip(overlaps, cosines, strict=True):
            pair = overlap["step_a"], overlap["step_b"]
            assert (cosine["step_a"], cosine["step_b"]) == pair
            U, V = (recorded(trained.root, t, f"{batch}/{name}/basis") for t in pair)
            assert overlap["r"] == 6 and overlap["overlap"] == pytest.approx(phi(U, V), abs=1e-6)
            assert overlap["overlap_error"] is None
            A, B = (
                (trained.train[t] if batch == "train" else trained.probes[t][0])[name]
                for t in pair
            )  # fmt: skip
            A, B = A.double().numpy(), B.double().numpy()
            want = np.sum(A * B) / np.linalg.norm(A) / np.linalg.norm(B)
            assert cosine["err"] == pytest.approx(2 / np.sqrt(1024))
            misses += abs(cosine["cosine"] - want) > cosine["err"]
            count += 1
    assert misses <= 0.05 * count


def test_the_noise_ceiling_is_that_of_the_independent_batches(trained, table: Table) -> None:
    for name in MATRICES:
        found = by_step(table("grad_noise", matrix=name))
        assert [row["step"] for row in found] == sorted(trained.probes)
        sums = np.zeros(5)
        for place, row in enumerate(found):
            A, B, C = (G[name].double().numpy() for G in trained.probes[row["step"]])
            P = recorded(trained.root, row["step"], f"probe/{name}/basis")
            assert row["r"] == 6 and row["n_tokens"] == 6 * 8
            if side_of(A.shape) == "right":
                A, B, C = A.T, B.T, C.T
            cv, total = np.sum((P.T @ B) * (P.T @ C)), np.sum(B * C)
            norms = np.linalg.norm(B) * np.linalg.norm(C)
            inside, out = np.sum((P.T @ A) ** 2), np.sum((P.T @ B) ** 2)
            assert row["signal_fraction"] == pytest.approx(total / norms, rel=1e-4, abs=1e-6)
            share = pytest.approx(cv / total, rel=1e-3) if total > 0 else None
            reason = None if total > 0 else "noise_dominated"
            assert (row["energy_cv"], row["reason"]) == (share, reason)
            assert row["energy_out"] == pytest.approx(out / np.sum(B**2), rel=1e-4)
            assert row["energy_in"] == pytest.approx(inside / np.sum(A**2), rel=1e-4)
            if place >= 3:
                sums += total, norms, cv, out, np.sum(B**2)
        for batch in ("train", "probe"):
            (summary,) = table("emergence", matrix=name, source="grad", batch_id=batch)
            assert summary["signal_fraction"] == pytest.approx(sums[0] / sums[1], rel=1e-4)
            assert summary["energy_cv"] == pytest.approx(sums[2] / sums[0], rel=1e-3)
            assert summary["energy_out"] == pytest.approx(sums[3] / sums[4], rel=1e-4)
            assert summary["signal_fraction_stderr"] is not None
            assert "out-of-sample" in summary["advised_rank_basis"]
            assert (summary["motion"] is None) == (batch == "probe")


def test_advice_rests_on_what_was_recorded(trained, table: Table) -> None:
    """Rank from energies of another batch, gap from those of later minibatches."""
    late = sorted(trained.probes)[3:]
    headers = []
    for step in sorted(trained.train):
        path = trained.run / f"analyzer-records/step-{step:08d}.safetensors"
        with safe_open(path, framework="np") as file:
            headers.append(json.loads(file.metadata()["records"]))
    for name in MATRICES:
        (row,) = table("emergence", matrix=name, source="grad", batch_id="train")
        out = sum(recorded(trained.root, t, f"noise/{name}/out") for t in late)
        total = sum(float(trained.probes[t][1][name].double().square().sum()) for t in late)
        enough = np.flatnonzero(out / total >= 0.9)
        assert row["advised_rank"] == (enough[0] + 1 if enough.size else None)
        m, n = trained.probes[0][0][name].shape
        saves = None if row["advised_rank"] is None else row["advised_rank"] < m * n / (m + n)
        assert row["worth_projecting"] == saves
        captured: dict[int, list[float]] = defaultdict(list)
        for header in headers:
            for entry in header["entries"]:
                if (entry["name"], entry["batch"]) == (name, "train"):
                    for one in entry["staleness"]:
                        captured[one["lag_steps"]].append(one["captured"])
        means = {lag: np.mean(values) for lag, values in sorted(captured.items())}
        assert min(means) == 1 and max(means) >= 20
        gap = 1
        for lag, mean in means.items():
            if mean < 0.95 * means[1]:
                break
            gap = lag
        assert row["advised_gap"] == gap, row["advised_gap_basis"]
        (probe,) = table("emergence", matrix=name, source="grad", batch_id="probe")
        assert probe["advised_rank"] == row["advised_rank"] and probe["advised_gap"] is None


def test_every_spectrum_names_what_it_came_from(table: Table) -> None:
    """One hash for the same matrix, source, batch and step, and no two matrices share one."""
    found = [row for row in table("grad_spectrum") if row["fro"]]
    assert {row["source"] for row in found} >= {"grad", "exp_avg", "delta_init", "cumulative"}
    assert all(len(row["origin_sha256"]) == 64 for row in found)
    cumulated = [row for row in found if row["source"] == "cumulative"]
    assert len({row["origin_sha256"] for row in cumulated}) == len(cumulated)


def test_staleness_is_the_mean_of_what_was_recorded(trained, table: Table) -> None:
    files = [open_record(path) for path in list_records(trained.root / "run")]
    for name in {row["matrix"] for row in table("grad_staleness")}:
        entries = [
            e for f in files for e in f.header.entries if (e.batch, e.name) == ("train", name)
        ]
        captured: dict[int, list[float]] = {}
        for entry in entries:
            for stale in entry.staleness:
                captured.setdefault(stale.lag_steps, []).append(stale.captured)
        found = {row["lag"]: row for row in table("grad_staleness", matrix=name)}
        assert set(found) == {0, *captured} and len(captured) > 1
        assert found[0]["n"] == len(entries)
        for lag, values in captured.items():
            assert (found[lag]["n"], found[lag]["batch_id"]) == (len(values), "train")
            assert found[lag]["captured"] == pytest.approx(float(np.mean(values)))


def test_cosines_are_corrected_only_between_minibatches(table: Table) -> None:
    rho = {(r["matrix"], r["step"]): r["signal_fraction"] for r in table("grad_noise")}
    found = table("grad_cosine", batch_id="train")
    assert len(found) == 15 * len(MATRICES)
    reasons = set()
    for row in found:
        a, b = rho[row["matrix"], row["step_a"]], rho[row["matrix"], row["step_b"]]
        reasons.add(row["reason"])
        if min(a, b) > 0.1:
            want = row["cosine"] / np.sqrt(a * b)
            assert (row["disattenuated"], row["reason"]) == (pytest.approx(want), None)
        else:
            assert (row["disattenuated"], row["reason"]) == (None, "noise_dominated")
    assert None in reasons


def test_the_cumulated_subspace_against_those_of_the_weights(trained, table: Table) -> None:
    for name in MATRICES:
        start = weights(trained.root, 0)[name]
        side, d = side_of(start.shape), min(start.shape)
        total = np.zeros((d, d))
        cumulated: dict[int, np.ndarray] = {}
        for t in sorted(trained.train):
            P = recorded(trained.root, t, f"train/{name}/basis")
            total += P * recorded(trained.root, t, f"train/{name}/sigma") ** 2 @ P.T
            cumulated[t] = np.linalg.eigh(total)[1][:, ::-1][:, :R]
        which = {"matrix": name, "source": "cumulative", "batch_id": "train"}
        before = [(5, 10), (15, 20), (25, 30)]
        for other in ("delta_init", "weight"):
            found = by_pair(table("grad_overlap", source_b=other, **which))
            assert [(r["step_a"], r["step_b"]) for r in found] == before
            for row in found:
                W = weights(trained.root, row["step_b"])[name]
                V = basis(W - start if other == "delta_init" else W, R, side)
                # The sketch holds 32 rows, six more come with every record.
                exact = d <= 32 or row["step_a"] <= 15
                want = phi(cumulated[row["step_a"]], V)
                assert row["overlap"] == pytest.approx(want, abs=1e-5 if exact else 0.02)
                assert row["r"] == R
        (last,) = table("grad_spectrum", step=25, **which)
        energy = sum(float(G[name].double().square().sum()) for G in trained.train.values())
        assert last["fro"] == pytest.approx(np.sqrt(energy), rel=1e-5)
        assert last["stable_rank_lo"] is None
        assert last["sigma1"] == pytest.approx(np.sqrt(np.linalg.eigvalsh(total)[-1]), rel=1e-2)


def test_correlations_are_those_of_scipy(table: Table) -> None:
    found = table("emergence_correlation")
    assert {row["method"] for row in found} == {"spearman", "pearson"}
    (last,) = table("checkpoint", step=30)
    assert {row["checkpoint_id"] for row in found} == {last["checkpoint_id"]}
    sides = {row["matrix_id"]: min(row["rows"], row["cols"]) for row in table("matrix")}
    pruned = {row["matrix_id"]: row["rank_pruned"] for row in table("welore")}
    ranks = {r["matrix_id"]: r["effective_rank"] for r in table("spectrum_info", kind="weight")}
    orders = np.array(list(itertools.permutations(range(8))))
    checked = 0
    for row in found:
        members = [
            one
            for one in table("emergence", source=row["source"], batch_id=row["batch_id"])
            if row["group"] in ("all", one["type"]) and one[row["x"]] is not None
        ]
        over = pruned if row["y"] == "pruned_ratio" else ranks
        x = np.array([one[row["x"]] for one in members])
        y = np.array([over[one["matrix_id"]] / sides[one["matrix_id"]] for one in members])
        assert row["n"] == x.size
        if x.size < 4:
            assert (row["rho"], row["p"], row["reason"]) == (None, None, "too_few_pairs")
            continue
        if row["reason"] == "constant":
            assert np.ptp(x) < 1e-9 or np.ptp(y) < 1e-9
            continue
        checked += 1
        if row["method"] == "pearson":
            want = scipy.stats.pearsonr(x, y)
            assert row["p"] == pytest.approx(want.pvalue, rel=1e-6)
        else:
            want = scipy.stats.spearmanr(x, y)
            if x.size == 8:  # every order is counted
                a, b = (scipy.stats.rankdata(v) - 4.5 for v in (x, y))
                share = np.mean(np.abs(b[orders] @ a) >= abs(a @ b) - 1e-9)
                assert row["p"] == pytest.approx(share, abs=1e-9)
        assert row["rho"] == pytest.approx(want.statistic, abs=1e-9)
    assert checked > 20


def test_memory_by_hand(table: Table) -> None:
    """Two blocks of 40×40, 16×40, 48×40 and 40×48; 2440 other parameters."""
    shapes = 2 * [(40, 40), (16, 40), (48, 40), (40, 48)]
    inside = sum(m * n for m, n in shapes)
    rest = 2 * 30 * 40 + 40
    found = table("galore_memory")
    assert {(row["method"], row["rank"]) for row in found} == {
        ("full", None), *((m, r) for m in ("lora", "galore", "fira") for r in (4, 8, 16)),
    }  # fmt: skip
    for row in found:
        r = row["rank"]
        lora = sum(2 * r * (m + n) for m, n in shapes) if r else 0
        galore = sum(r * min(s) + 2 * r * max(s) for s in shapes) if r else 0
        state = {"full": 2 * inside, "lora": lora, "galore": galore, "fira": galore + 8}
        optimizer = state[row["method"]] + 2 * rest
        if row["convention"] == "paper" and row["method"] in ("galore", "fira"):
            optimizer = 3 * (2 * rest + lora) // 4 + (8 if row["method"] == "fira" else 0)
        weights = inside + rest + (lora // 2 if row["method"] == "lora" else 0)
        assert (row["weights"], row["optimizer"]) == (weights, optimizer)
        assert row["bf16_gigabytes"] == pytest.approx(2 * (weights + optimizer) / 1e9)


def test_nothing_is_stored_twice(table: Table) -> None:
    keys = {
        "spectrum": "matrix_id kind k",
        "spectrum_info": "matrix_id kind",
        "grad_spectrum": "run matrix source batch_id step",
        "grad_singular_value": "matrix_id source batch_id step k",
        "grad_overlap": "run matrix source source_b batch_id step_a step_b",
        "grad_cosine": "run matrix source batch_id step_a step_b",
        "grad_noise": "run matrix step",
        "emergence": "run matrix source batch_id",
        "emergence_correlation": "run group source batch_id x y method",
    }
    for name, key in keys.items():
        found = Counter(tuple(row[k] for k in key.split()) for row in table(name))
        assert found and max(found.values()) == 1

"""Followed runs of other layouts: transposed, stacked, projected, adapted, from a base."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.numpy import load_file, save_file

import analyzer

ONLY = ["emergence"]
GALORE = "galore_torch.galore_projector"
Q0 = "model.layers.0.self_attn.q_proj"
PARTS = {"self_attn.q_proj": (16, 16), "mlp.up_proj": (24, 16), "mlp.down_proj": (16, 24)}
NAMES = [f"model.layers.{layer}.{part}.weight" for layer in (0, 1) for part in PARTS]
Numbers = Callable[[np.ndarray, int], dict[str, float]]


def scan(root: Path, **options: Any) -> analyzer.ScanSummary:
    summary = analyzer.scan(root, analyses=ONLY, **options)
    assert summary.problems == ()
    return summary


def table(summary: analyzer.ScanSummary, name: str, **values: object) -> list[dict[str, Any]]:
    found = read(summary.db, summary.db.stat().st_mtime_ns, name)
    return [row for row in found if all(row[k] == v for k, v in values.items())]


@cache
def read(db: Path, changed: int, name: str) -> list[dict[str, Any]]:
    return analyzer.connect(db).table(name).to_pylist()


def agrees(row: dict[str, Any], G: np.ndarray, numbers: Numbers, rel: float = 1e-6) -> None:
    """A row against its dense matrix."""
    assert (row["m"], row["n"]) == G.shape
    wanted = numbers(G, row["r"])
    for key in ("fro", "sigma1", "stable_rank", "energy_r", "participation_ratio"):
        assert row[key] == pytest.approx(wanted[key], rel=rel), key
    assert row["side"] == ("left" if G.shape[0] <= G.shape[1] else "right")


def cosine(A: np.ndarray, B: np.ndarray) -> float:
    return float(np.sum(A * B) / np.linalg.norm(A) / np.linalg.norm(B))


def phi(U: np.ndarray, V: np.ndarray) -> float:
    return float(np.sum((U.T @ V) ** 2)) / U.shape[1]


def adam_of(path: Path, number: int) -> dict[str, np.ndarray]:
    """m̂ and the update of one parameter."""
    state = torch.load(path, weights_only=True)
    (group,), one = state["param_groups"], state["state"][number]
    b1, b2 = group["betas"]
    t = float(one["step"])
    m = one["exp_avg"].double().numpy() / (1 - b1**t)
    v = one["exp_avg_sq"].double().numpy() / (1 - b2**t)
    return {"exp_avg": m, "adam_update": m / (np.sqrt(v) + group["eps"])}


def test_gpt2_is_read_output_by_input(tmp_path: Path, numbers: Numbers) -> None:
    """Conv1D weights, moments, gradients and records all turn the same way."""
    torch.manual_seed(0)
    config = hf.GPT2Config(
        n_embd=16, n_layer=1, n_head=2, vocab_size=20, n_positions=12,
        attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0,
    )  # fmt: skip
    model = hf.GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    tokens = torch.randint(0, 20, (4, 10))
    last: dict[str, torch.Tensor] = {}
    with analyzer.Recorder(model, optimizer, tmp_path / "run", every=2, rank=4):
        for step in range(5):
            if step in (2, 4):
                folder = tmp_path / f"run/checkpoint-{step}"
                model.save_pretrained(folder)
                torch.save(optimizer.state_dict(), folder / "optimizer.pt")
            optimizer.zero_grad()
            model(tokens, labels=tokens).loss.backward()
            if step == 2:
                last = {n: p.grad.clone() for n, p in model.named_parameters()}
                save_file(
                    {n: g.numpy() for n, g in last.items()},
                    tmp_path / "run/checkpoint-2/gradients.safetensors",
                )
            optimizer.step()
    summary = scan(tmp_path)
    names = [n for n, _ in model.named_parameters()]
    for leaf in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"):
        name = f"transformer.h.0.{leaf}.weight"
        for source in ("exp_avg", "adam_update"):
            dense = {}
            for step in (2, 4):
                path = tmp_path / f"run/checkpoint-{step}/optimizer.pt"
                dense[step] = adam_of(path, names.index(name))[source].T
                (row,) = table(
                    summary, "grad_spectrum", matrix=name, source=source, step=step, block=None
                )
                agrees(row, dense[step], numbers)
            (pair,) = table(summary, "grad_cosine", matrix=name, source=source)
            assert pair["cosine"] == pytest.approx(cosine(dense[2], dense[4]), abs=1e-9)
        W = [
            load_file(tmp_path / f"run/checkpoint-{step}/model.safetensors")[name].T.astype(float)
            for step in (2, 4)
        ]
        (row,) = table(summary, "grad_spectrum", matrix=name, source="delta_prev", block=None)
        agrees(row, W[1] - W[0], numbers)
        G = last[name].double().numpy().T
        saved = table(summary, "grad_spectrum", matrix=name, source="grad", batch_id="saved")
        agrees(saved[0], G, numbers)
        if leaf == "attn.c_attn":  # whose rows are 16 of queries, 16 of keys, 16 of values
            assert [row["block"] for row in saved] == [None, "q", "k", "v"]
            for row, rows in zip(saved[1:], np.split(G, 3), strict=True):
                agrees(row, rows, numbers)
            updates = table(summary, "grad_spectrum", matrix=name, source="delta_prev", block="v")
            agrees(updates[0], (W[1] - W[0])[32:], numbers)
        else:
            assert len(saved) == 1
        (row,) = table(
            summary, "grad_spectrum", matrix=name, source="grad", batch_id="train", step=2
        )
        assert (row["m"], row["n"]) == G.shape
        wanted = numbers(G, row["r"])
        assert row["stable_rank_lo"] / 1.00001 <= wanted["stable_rank"]
        assert wanted["stable_rank"] <= row["stable_rank_hi"] * 1.00001
        found = table(summary, "grad_overlap", matrix=name, source="cumulative", source_b="weight")
        assert [(r["step_a"], r["step_b"]) for r in found] == [(0, 2), (2, 4)]


def test_experts_in_a_stack_are_followed_one_by_one(tmp_path: Path, numbers: Numbers) -> None:
    rng = np.random.default_rng(0)
    experts = {"gate_up_proj": (3, 24, 12), "down_proj": (3, 12, 12)}
    prefix = "model.layers.0.mlp.experts"
    params = [torch.nn.Parameter(torch.randn(shape)) for shape in experts.values()]
    names = [f"{prefix}.{part}" for part in experts]
    optimizer = torch.optim.Adam(list(zip(names, params, strict=True)), lr=1e-2)
    saved: dict[int, dict[str, np.ndarray]] = {}
    for step in (1, 2, 3):
        saved[step] = {n: rng.standard_normal(p.shape) for n, p in zip(names, params, strict=True)}
        for name, p in zip(names, params, strict=True):
            p.grad = torch.from_numpy(saved[step][name]).float()
        optimizer.step()
        folder = tmp_path / f"moe/checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"model_type": "mixtral"}))
        tensors = {n: p.detach().numpy().copy() for n, p in zip(names, params, strict=True)}
        save_file(tensors, folder / "model.safetensors")
        save_file(saved[step], folder / "gradients.safetensors")
        torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    summary = scan(tmp_path)
    followed = {row["matrix"] for row in table(summary, "emergence")}
    assert followed == {f"{n}[{e}]" for n in names for e in range(3)}
    for number, name in enumerate(names):
        for expert in range(3):
            which = {"matrix": f"{name}[{expert}]"}
            moment = adam_of(tmp_path / "moe/checkpoint-3/optimizer.pt", number)
            for source in ("exp_avg", "adam_update"):
                (row,) = table(summary, "grad_spectrum", source=source, step=3, **which)
                agrees(row, moment[source][expert], numbers)
            (row,) = table(summary, "grad_spectrum", source="grad", step=2, **which)
            agrees(row, saved[2][name][expert], numbers)
            pairs = table(summary, "grad_cosine", source="grad", **which)
            want = [cosine(saved[a][name][expert], saved[b][name][expert])
                    for a, b in ((1, 2), (1, 3), (2, 3))]  # fmt: skip
            np.testing.assert_allclose([p["cosine"] for p in pairs], want, atol=1e-12)
            W = [load_file(tmp_path / f"moe/checkpoint-{t}/model.safetensors")[name][expert]
                 for t in (1, 3)]  # fmt: skip
            (row,) = table(summary, "grad_spectrum", source="delta_init", step=3, **which)
            agrees(row, W[1].astype(float) - W[0], numbers)


class Projected:
    """GaLore's AdamW on two layers: what it keeps at three steps."""

    def __init__(self, root: Path, kind: str, rank: int, *, spoil: float | None = None) -> None:
        self.dense: dict[int, dict[str, dict[str, np.ndarray]]] = {}
        self.bases: dict[int, dict[str, Any]] = {}
        rng = np.random.default_rng(1)
        for step in (200, 400, 600):
            state: dict[int, dict[str, Any]] = {}
            self.dense[step], self.bases[step] = {}, {}
            tensors = {}
            for number, name in enumerate(NAMES):
                m, n = PARTS[name.split(".", 3)[3].removesuffix(".weight")]
                P = np.linalg.qr(rng.standard_normal((m, rank)))[0]
                Q = np.linalg.qr(rng.standard_normal((n, rank)))[0]
                G = rng.standard_normal((m, n))
                right = kind == "right" or (kind == "std" and m >= n)
                low = P.T @ G @ Q if kind == "full" else G @ Q if right else P.T @ G
                squares = low**2 * rng.uniform(1, 2, low.shape)
                stored = [torch.from_numpy(x).float() for x in (P, Q.T)]
                if spoil is not None and number == 0 and step == 400:
                    stored = [spoil * x for x in stored]
                matrix = stored if kind == "full" else stored[right]
                state[number] = {
                    "step": step, "exp_avg": torch.from_numpy(low).float(),
                    "exp_avg_sq": torch.from_numpy(squares).float(),
                    "projector": sys.modules[GALORE].GaLoreProjector(matrix, kind, rank),
                }  # fmt: skip
                low, squares = low / (1 - 0.9**step), squares / (1 - 0.999**step)
                update = low / (np.sqrt(squares) + 1e-6)
                lift = (
                    (lambda R: P @ R @ Q.T) if kind == "full"  # noqa: B023
                    else (lambda R: R @ Q.T) if right else (lambda R: P @ R)  # noqa: B023
                )  # fmt: skip
                self.dense[step][name] = {"exp_avg": lift(low), "adam_update": lift(update)}
                self.bases[step][name] = (P if m <= n else Q) if kind == "full" else (P, Q)[right]
                tensors[name] = rng.standard_normal((m, n)).astype(np.float32)
            group = {
                "lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0, "rank": rank,
                "proj_type": kind, "params": list(state),
            }  # fmt: skip
            folder = root / f"run/checkpoint-{step}"
            folder.mkdir(parents=True)
            save_file(tensors, folder / "model.safetensors")
            torch.save({"state": state, "param_groups": [group]}, folder / "optimizer.pt")


@pytest.fixture
def projector_class():
    """GaLore's class as its package has it, there only while states are saved."""
    module = types.ModuleType(GALORE)

    class GaLoreProjector:
        def __init__(self, matrix: Any, proj_type: str, rank: int) -> None:
            self.rank, self.verbose, self.update_proj_gap = rank, False, 200
            self.scale, self.proj_type, self.ortho_matrix = 0.25, proj_type, matrix

    GaLoreProjector.__module__, GaLoreProjector.__qualname__ = GALORE, "GaLoreProjector"
    module.GaLoreProjector = GaLoreProjector  # type: ignore[attr-defined]
    sys.modules["galore_torch"], sys.modules[GALORE] = types.ModuleType("galore_torch"), module

    def forget() -> None:
        for name in ("galore_torch", GALORE):
            sys.modules.pop(name, None)

    yield forget
    forget()


@pytest.mark.parametrize("kind", ["std", "left", "full"])
def test_moments_of_galore_are_lifted_back(
    kind: str, projector_class, tmp_path: Path, numbers: Numbers
) -> None:
    made = Projected(tmp_path, kind, 3)
    projector_class()
    summary = scan(tmp_path)
    assert GALORE not in sys.modules
    for name in NAMES:
        for source in ("exp_avg", "adam_update"):
            for step, found in made.dense.items():
                (row,) = table(summary, "grad_spectrum", matrix=name, source=source, step=step)
                agrees(row, found[name][source], numbers, rel=1e-5)
                assert (row["numerical_rank"], row["method"]) == (3, "qr_core")
            pairs = table(summary, "grad_cosine", matrix=name, source=source)
            want = [
                cosine(made.dense[a][name][source], made.dense[b][name][source])
                for a, b in ((200, 400), (200, 600), (400, 600))
            ]
            np.testing.assert_allclose([p["cosine"] for p in pairs], want, atol=1e-5)
        found = table(summary, "grad_overlap", matrix=name, source="projector")
        assert [(r["step_a"], r["step_b"]) for r in found] == [(200, 400), (200, 600), (400, 600)]
        for row in found:
            U, V = (made.bases[row[at]][name] for at in ("step_a", "step_b"))
            assert row["overlap"] == pytest.approx(phi(U, V), abs=1e-6)
            assert row["r"] == 3 and row["chance"] == pytest.approx(3 / U.shape[0])
        (one,) = table(summary, "emergence", matrix=name, source="projector")
        assert one["overlap_adjacent"] == pytest.approx(
            np.mean([r["overlap"] for r in (found[0], found[2])])
        )
        assert table(summary, "grad_spectrum", matrix=name, source="projector") == []


@pytest.mark.parametrize("spoil", [np.nan, 0.5])
def test_a_projector_that_is_none_is_a_gap(spoil: float, projector_class, tmp_path: Path) -> None:
    Projected(tmp_path, "std", 3, spoil=spoil)
    projector_class()
    summary = scan(tmp_path)
    found = table(summary, "grad_overlap", matrix=NAMES[0], source="projector")
    assert [(r["step_a"], r["step_b"]) for r in found] == [(200, 600)]
    (row,) = table(summary, "emergence", matrix=NAMES[0], source="projector")
    assert "no finite non-zero matrix at steps 400" in row["flags"]
    assert len(table(summary, "grad_overlap", matrix=NAMES[1], source="projector")) == 3


def factors(path: Path, module: str = Q0) -> tuple[np.ndarray, np.ndarray]:
    stored = load_file(path / "adapter_model.safetensors")
    return tuple(stored[f"base_model.model.{module}.lora_{x}.weight"].astype(float) for x in "AB")  # type: ignore[return-value]


def lora_run(tmp_path: Path, save_full, save_lora, base_weights) -> Path:
    """A base and an adapter at steps 0 (no update yet), 10 and 20."""
    save_full(tmp_path / "base", base_weights)
    for step, scale in ((0, 0.0), (10, 0.01), (20, 0.03)):
        save_lora(tmp_path / f"lora/checkpoint-{step}", scale=scale, seed=step or 1)
    return tmp_path


@pytest.mark.parametrize("with_base", [True, False])
def test_updates_of_an_adapter(
    with_base: bool, tmp_path: Path, save_full, save_lora, base_weights, numbers: Numbers
) -> None:
    root = lora_run(tmp_path, save_full, save_lora, base_weights)
    summary = scan(root if with_base else root / "lora")
    updates = {}
    for step in (0, 10, 20):
        A, B = factors(root / f"lora/checkpoint-{step}")
        updates[step] = 2.0 * B @ A
    which = {"matrix": f"{Q0}.weight" if with_base else Q0}
    if not table(summary, "emergence", **which):
        which = {"matrix": f"{Q0}.weight"}
    (zero,) = table(summary, "grad_spectrum", source="delta_init", step=0, **which)
    assert (zero["flags"], zero["fro"]) == ("zero_gradient", 0.0)
    for step in (10, 20):
        (row,) = table(summary, "grad_spectrum", source="delta_init", step=step, **which)
        agrees(row, updates[step], numbers, rel=1e-9)
        assert row["numerical_rank"] == 2
    (row,) = table(summary, "grad_spectrum", source="delta_prev", step=20, **which)
    agrees(row, updates[20] - updates[10], numbers, rel=1e-9)
    assert row["numerical_rank"] == 4
    pairs = table(summary, "grad_cosine", source="delta_init", **which)
    known = {(p["step_a"], p["step_b"]): p["cosine"] for p in pairs}
    assert known[10, 20] == pytest.approx(cosine(updates[10], updates[20]), abs=1e-12)
    assert known[0, 10] is None and known[0, 20] is None
    (pair,) = table(summary, "grad_overlap", source="delta_init", **which)
    U, V = (np.linalg.svd(updates[t])[0][:, :2] for t in (10, 20))
    assert pair["r"] == 2 and pair["overlap"] == pytest.approx(phi(U, V), abs=1e-9)
    assert table(summary, "galore_memory") == []
    assert scan(root if with_base else root / "lora").scan_id is None


def test_updates_of_dora_are_dense(
    tmp_path: Path, save_full, save_lora, base_weights, numbers: Numbers
) -> None:
    root = lora_run(tmp_path, save_full, save_lora, base_weights)
    rng = np.random.default_rng(0)
    tuned = {}
    W0 = base_weights[f"{Q0}.weight"].astype(float)
    for step in (0, 10, 20):
        folder = root / f"lora/checkpoint-{step}"
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(json.dumps(config | {"use_dora": True}))
        tensors = load_file(folder / "adapter_model.safetensors")
        for key in [k for k in tensors if ".lora_B." in k]:
            module = key.removeprefix("base_model.model.").removesuffix(".lora_B.weight")
            norms = np.linalg.norm(base_weights[f"{module}.weight"], axis=1)
            size = norms * (1 + 0.1 * (step > 0) * rng.standard_normal(norms.size))
            vector = key.replace("lora_B.weight", "lora_magnitude_vector")
            tensors[vector] = size.astype(np.float32)
        save_file(tensors, folder / "adapter_model.safetensors")
        A, B = factors(folder)
        W = W0 + 2.0 * B @ A
        size = tensors[f"base_model.model.{Q0}.lora_magnitude_vector"].astype(float)
        tuned[step] = size[:, None] * W / np.linalg.norm(W, axis=1, keepdims=True)
    summary = scan(root)
    which = {"matrix": f"{Q0}.weight"}
    for step in (10, 20):
        (row,) = table(summary, "grad_spectrum", source="delta_init", step=step, **which)
        agrees(row, tuned[step] - W0, numbers, rel=1e-5)
    (row,) = table(summary, "grad_spectrum", source="delta_prev", step=20, **which)
    agrees(row, tuned[20] - tuned[10], numbers, rel=1e-5)
    pairs = table(summary, "grad_cosine", source="delta_init", step_a=10, **which)
    want = cosine(tuned[10] - W0, tuned[20] - W0)
    assert pairs[0]["cosine"] == pytest.approx(want, abs=pairs[0]["err"])
    assert pairs[0]["err"] == pytest.approx(2 / 64)


def test_updates_of_an_adapter_that_began_inside_the_base(
    tmp_path: Path, save_full, save_lora, base_weights, numbers: Numbers
) -> None:
    """PiSSA takes the leading part W_r out of the base: the update is s B A − W_r."""
    root = lora_run(tmp_path, save_full, save_lora, base_weights)
    W = base_weights[f"{Q0}.weight"].astype(float)
    U, s, Vh = np.linalg.svd(W)
    start, updates = U[:, :2] * s[:2] @ Vh[:2], {}
    for step in (0, 10, 20):
        folder = root / f"lora/checkpoint-{step}"
        config = json.loads((folder / "adapter_config.json").read_text())
        (folder / "adapter_config.json").write_text(
            json.dumps(config | {"init_lora_weights": "pissa"})
        )
        tensors = load_file(folder / "adapter_model.safetensors")
        for key in [k for k in tensors if ".lora_B." in k]:
            module = key.removeprefix("base_model.model.").removesuffix(".lora_B.weight")
            left, values, right = np.linalg.svd(base_weights[f"{module}.weight"].astype(float))
            root_of = np.sqrt(values[:2] / 2.0)  # the scaling is 2
            B, A = left[:, :2] * root_of, root_of[:, None] * right[:2]
            tensors[key] = (B + tensors[key]).astype(np.float32)
            tensors[key.replace("lora_B", "lora_A")] = A.astype(np.float32)
        save_file(tensors, folder / "adapter_model.safetensors")
        A, B = factors(folder)
        updates[step] = 2.0 * B @ A - start
    summary = scan(root)
    which = {"matrix": f"{Q0}.weight"}
    (none,) = table(summary, "grad_spectrum", source="delta_init", step=0, **which)
    assert (none["flags"], none["numerical_rank"]) == ("rounding_only", 0)
    for step in (10, 20):
        (row,) = table(summary, "grad_spectrum", source="delta_init", step=step, **which)
        agrees(row, updates[step], numbers, rel=1e-6)
        assert (row["flags"], row["numerical_rank"]) == ("", 2)
    (row,) = table(summary, "grad_spectrum", source="delta_prev", step=20, **which)
    agrees(row, updates[20] - updates[10], numbers, rel=1e-6)
    found = table(summary, "grad_overlap", source="delta_init", **which)
    assert [(r["step_a"], r["step_b"], r["r"]) for r in found] == [(10, 20, 2)]


@pytest.mark.parametrize("start", ["base", "step 0", "first kept"])
def test_where_updates_start(start: str, copied: Path) -> None:
    name = f"{Q0}.weight"
    run = copied / "run"
    W = {t: load_file(run / f"checkpoint-{t}/model.safetensors")[name] for t in (0, 10, 20, 30)}
    if start != "step 0":
        moved = run / "checkpoint-0"
        if start == "base":
            (moved / "optimizer.pt").unlink()
            (moved / "gradients.safetensors").unlink()
            moved.rename(copied / "base")
        else:
            for path in moved.iterdir():
                path.unlink()
            moved.rmdir()
    summary = scan(copied)
    first = 10 if start == "first kept" else 0
    flag = {
        "base": "starts at the base", "step 0": "",
        "first kept": "starts at step 10, the first that is kept",
    }[start]  # fmt: skip
    for source, earlier in (("delta_prev", (0, 10, 20)), ("delta_init", (first,) * 3)):
        steps = {10: earlier[0], 20: earlier[1], 30: earlier[2]}
        if start == "first kept":
            del steps[10]
        found = table(summary, "grad_spectrum", matrix=name, source=source)
        assert sorted(row["step"] for row in found) == sorted(steps)
        for row in found:
            want = np.linalg.norm(W[row["step"]].astype(float) - W[steps[row["step"]]])
            assert row["fro"] == pytest.approx(want, rel=1e-9)
        (one,) = table(summary, "emergence", matrix=name, source=source)
        assert one["flags"] == flag


def test_a_base_of_another_shape_is_no_start(copied: Path) -> None:
    name = f"{Q0}.weight"
    base = copied / "base"
    (copied / "run/checkpoint-0").rename(base)
    for side in ("optimizer.pt", "gradients.safetensors"):
        (base / side).unlink()
    tensors = dict(load_file(base / "model.safetensors"))
    tensors[name] = np.ones((12, 40), np.float32)
    save_file(tensors, base / "model.safetensors")
    summary = scan(copied)
    (row,) = table(summary, "emergence", matrix=name, source="delta_init")
    assert "the base holds 12×40" in row["flags"] and "starts at step 10" in row["flags"]
    assert row["n_steps"] == 2
    (row,) = table(summary, "emergence", matrix=name.replace("0", "1"), source="delta_init")
    assert row["flags"] == "starts at the base" and row["n_steps"] == 3


def test_moments_by_order_of_parameters(copied: Path) -> None:
    """Without names in the optimizer, as trainers save it."""
    named = scan(copied)
    want = {
        (r["matrix"], r["step"], r["source"]): r["fro"]
        for r in table(named, "grad_spectrum")
        if r["source"] in ("exp_avg", "adam_update")
    }
    for path in (copied / "run").glob("checkpoint-*/optimizer.pt"):
        state = torch.load(path, weights_only=True)
        del state["param_groups"][0]["param_names"]
        torch.save(state, path)
    summary = scan(copied)
    found = {
        (r["matrix"], r["step"], r["source"]): r["fro"]
        for r in table(summary, "grad_spectrum")
        if r["source"] in ("exp_avg", "adam_update")
    }
    assert found == want and len(found) == 8 * 3 * 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_formats_of_weights_and_moments(
    dtype: torch.dtype, tmp_path: Path, numbers: Numbers
) -> None:
    from safetensors.torch import save_file as save

    torch.manual_seed(0)
    name, low = f"{Q0}.weight", torch.randn(32, 2).double() @ torch.randn(2, 24).double()
    W = torch.randn(32, 24, dtype=torch.float64)
    stored: dict[int, torch.Tensor] = {}
    for step in (0, 10):
        folder = tmp_path / f"run/checkpoint-{step}"
        folder.mkdir(parents=True)
        stored[step] = (W + step * 0.01 * low).to(dtype)
        save({name: stored[step]}, folder / "model.safetensors")
        moment = (low + step * torch.randn(32, 24)).to(dtype)
        state = {0: {"step": 1, "exp_avg": moment, "exp_avg_sq": torch.ones_like(moment)}}
        group = {"params": [0], "betas": (0.5, 0.5), "eps": 0.0, "lr": 1.0, "param_names": [name]}
        torch.save({"state": state, "param_groups": [group]}, folder / "optimizer.pt")
    summary = scan(tmp_path)
    delta = (stored[10].double() - stored[0].double()).numpy()
    (row,) = table(summary, "grad_spectrum", source="delta_init")
    agrees(row, delta, numbers, rel=1e-9)
    half = dtype == torch.bfloat16
    assert row["flags"] == ("rounded_tail" if half else "")
    # Two directions of the update are above what rounding both weights left.
    assert row["numerical_rank"] == 2
    (row,) = table(summary, "grad_spectrum", source="exp_avg", step=0)
    exact = 2 * low.to(dtype).double().numpy()
    agrees(row, exact, numbers, rel=1e-9)
    assert row["numerical_rank"] == 2 and row["dtype"] == str(dtype).removeprefix("torch.")
    assert row["flags"] == ("rounded_tail" if half else "")


def test_moments_whose_start_cannot_be_corrected_say_so(tmp_path: Path, numbers: Numbers) -> None:
    """The file of the first step lacks β, that of the second the step; forty-five steps in all."""
    torch.manual_seed(0)
    name = f"{Q0}.weight"
    kept: dict[int, np.ndarray] = {}
    for step in range(1, 46):
        folder = tmp_path / f"run/checkpoint-{step}"
        folder.mkdir(parents=True)
        save_file({name: np.eye(8, 10, dtype=np.float32) * step}, folder / "model.safetensors")
        moment = torch.randn(8, 10)
        kept[step] = moment.double().numpy() / (1.0 if step < 3 else 1 - 0.9**step)
        state = {"step": step, "exp_avg": moment, "exp_avg_sq": torch.rand(8, 10)}
        group: dict[str, Any] = {"params": [0], "betas": (0.9, 0.99), "param_names": [name]}
        if step == 1:
            del group["betas"]
        if step == 2:
            del state["step"]
        torch.save({"state": {0: state}, "param_groups": [group]}, folder / "optimizer.pt")
    summary = scan(tmp_path)
    (one,) = table(summary, "emergence", source="exp_avg")
    assert "start at zero not corrected" in one["flags"] and one["n_steps"] == 45
    for row in table(summary, "grad_spectrum", source="exp_avg"):
        agrees(row, kept[row["step"]], numbers)
    pairs = table(summary, "grad_cosine", source="exp_avg")
    steps = sorted({p["step_a"] for p in pairs} | {p["step_b"] for p in pairs})
    assert (len(steps), steps[0], steps[-1]) == (40, 1, 45) and len(pairs) == 780
    for pair in pairs[:40]:
        want = cosine(kept[pair["step_a"]], kept[pair["step_b"]])
        assert pair["cosine"] == pytest.approx(want, abs=1e-12)
    # The weights grew along one direction.
    deltas = table(summary, "grad_cosine", source="delta_prev")
    assert {round(p["cosine"], 9) for p in deltas} == {1.0} and len(deltas) == 780

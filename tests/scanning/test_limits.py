"""Attention limits of tiny models, adapters and fine-tunes on disk, against the live models."""

from __future__ import annotations

import copy
import json
import math
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import analyzer
from analyzer.activations.format import write_activations
from analyzer.cli import cli

WIDTH, HEADS, VOCAB, CONTEXT, LENGTH = 32, 4, 50, 48, 11
KV_HEADS = {"gpt2": 4, "llama": 2, "bert": 4}
Row = dict[str, Any]
Rows = Callable[..., list[Row]]
BOUNDED = (
    "gamma_x", "gamma_q_base", "gamma_dq", "gamma_q", "gamma_k_base", "gamma_dk", "gamma_k",
    "gamma_v", "c2", "c3", "gamma_qkt", "gamma_partial", "gamma_full", "gamma_hard", "gamma_as",
    "gamma_bal", "gamma_chan", "gamma_chansum", "gamma_logit",
)  # fmt: skip


def make_model(kind: str) -> Any:
    """A random model of a family, norms and biases included."""
    import transformers

    hf: Any = transformers
    shape: dict[str, Any] = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    if kind == "gpt2":
        model = hf.GPT2LMHeadModel(
            hf.GPT2Config(n_embd=WIDTH, n_layer=2, n_head=HEADS, n_positions=CONTEXT, **shape)
        )
    else:
        shape |= {
            "hidden_size": WIDTH, "intermediate_size": 40, "num_hidden_layers": 2,
            "num_attention_heads": HEADS, "max_position_embeddings": CONTEXT,
        }  # fmt: skip
        model = (
            hf.LlamaForCausalLM(hf.LlamaConfig(num_key_value_heads=KV_HEADS[kind], **shape))
            if kind == "llama"
            else hf.BertForMaskedLM(hf.BertConfig(**shape))
        )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            matrix = parameter.ndim > 1 and "emb" not in name and "wte" not in name
            noise = torch.randn_like(parameter) * (parameter.shape[0] ** -0.5 if matrix else 0.5)
            gain = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(noise + 1.0 if gain else noise)
    return model.eval()


def attention_modules(kind: str, model: nn.Module) -> list[nn.Module]:
    """What holds the query, key and value projections, layer by layer."""
    leaf = {"gpt2": "attn", "llama": "self_attn", "bert": "attention.self"}[kind]
    return [m for name, m in model.named_modules() if name.endswith(f".{leaf}")]


def query_names(kind: str, model: nn.Module) -> list[str]:
    leaf = {"gpt2": "attn.c_attn", "llama": "q_proj", "bert": "self.query"}[kind]
    return [name for name, _ in model.named_modules() if name.endswith(leaf)]


def inputs_of(kind: str, model: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    """What each query projection is given, (N, L, d) by name."""
    found: dict[str, Tensor] = {}
    modules = dict(model.named_modules())

    def watched(name: str) -> Any:
        def before(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            found[name] = args[0].detach()

        return modules[name].register_forward_pre_hook(before)

    hooks = [watched(name) for name in query_names(kind, model)]
    with torch.no_grad():
        model(input_ids=tokens)
    for hook in hooks:
        hook.remove()
    return found


@dataclass(frozen=True)
class Heads:
    """Queries, keys and values (L, heads, d_h) of a layer on some tokens, before RoPE."""

    q: np.ndarray
    k: np.ndarray
    v: np.ndarray


def project(kind: str, module: Any, x: Tensor) -> Heads:
    with torch.no_grad():
        if kind == "gpt2":
            parts = module.c_attn(x).split(WIDTH, dim=-1)
        elif kind == "llama":
            parts = module.q_proj(x), module.k_proj(x), module.v_proj(x)
        else:
            parts = module.query(x), module.key(x), module.value(x)
    return Heads(*(p.reshape(len(x), -1, WIDTH // HEADS).numpy() for p in parts))


def rotate(kind: str, model: Any, heads: np.ndarray) -> np.ndarray:
    if kind != "llama":
        return heads
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    states = torch.from_numpy(heads).transpose(0, 1)[None]
    cos, sin = model.model.rotary_emb(states, torch.arange(len(heads))[None])
    return apply_rotary_pos_emb(states, states, cos, sin)[0][0].transpose(0, 1).numpy()


def key_weight(kind: str, module: Any, kv_head: int) -> np.ndarray:
    if kind == "gpt2":
        weight = module.c_attn.weight.T[WIDTH : 2 * WIDTH]
    else:
        weight = (module.k_proj if kind == "llama" else module.key).weight
    return weight.detach().reshape(-1, WIDTH // HEADS, WIDTH)[kv_head].numpy()


def top(*arrays: np.ndarray) -> float:
    return max(float(np.abs(a).max()) for a in arrays)


def dense_norms(
    kind: str, base: Any, tuned: Any, layer: int, head: int, samples: list[Tensor]
) -> dict[str, float]:
    """Every norm of a head by its definition, from the modules of two live models in float64."""
    width, kv = WIDTH // HEADS, head // (HEADS // KV_HEADS[kind])
    before, after = (attention_modules(kind, m)[layer] for m in (base, tuned))
    found: dict[str, float] = {}
    for x in samples:
        b, t = project(kind, before, x), project(kind, after, x)
        q, k, q0, k0 = t.q[:, head], t.k[:, kv], b.q[:, head], b.k[:, kv]
        qkt = q @ key_weight(kind, after, kv)
        dq = q - q0
        r, s = rotate(kind, tuned, t.q)[:, head], rotate(kind, tuned, t.k)[:, kv]
        S = r @ s.T / math.sqrt(width)
        visible = np.ones_like(S, dtype=bool) if kind == "bert" else np.tri(len(x), dtype=bool)
        low, high = (np.where(visible, S, e) for e in (np.inf, -np.inf))
        F = np.exp(high - high.max(axis=1, keepdims=True))
        F /= F.sum(axis=1, keepdims=True)
        qc, kc = np.abs(r).max(axis=0), np.abs(s).max(axis=0)
        scale = 1 / math.sqrt(width)
        one = {
            "gamma_x": top(x.numpy()), "gamma_q_base": top(q0), "gamma_dq": top(dq),
            "gamma_q": top(q), "gamma_k_base": top(k0), "gamma_dk": top(k - k0),
            "gamma_k": top(k), "gamma_v": top(t.v[:, kv]), "c2": top(k0), "c3": top(b.v[:, kv]),
            "gamma_qkt": top(qkt), "gamma_partial": top(q, k0), "gamma_hard": top(k0, dq),
            "gamma_full": top(q, k, qkt, x.numpy()),
            "gamma_as": math.sqrt(scale * width) * max(qc.max(), kc.max()),
            "gamma_bal": math.sqrt(scale * width * qc.max() * kc.max()),
            "gamma_chan": math.sqrt(scale * width * (qc * kc).max()),
            "gamma_chansum": math.sqrt(scale * (qc * kc).sum()),
            "gamma_logit": math.sqrt(np.abs(np.where(visible, S, 0.0)).max()),
            "gamma_range": math.sqrt((high.max(axis=1) - low.min(axis=1)).max() / 2),
        }  # fmt: skip
        found = {name: max(value, found.get(name, 0.0)) for name, value in one.items()}
    return found


@dataclass
class Trial:
    """A folder with a base and everything tuned from it, and the live models in float64."""

    kind: str
    root: Path
    activations: Path
    samples: list[dict[str, Tensor]]  # by query module: the tokens (L, d) that are no padding
    tokens: Tensor
    models: dict[str, Any]
    db: Path


def adapters(kind: str) -> dict[str, dict[str, Any]]:
    names = {
        "gpt2": (["c_attn"], ["c_attn"], ["c_fc"]),
        "llama": (["q_proj", "k_proj", "v_proj"], ["q_proj", "up_proj"], ["up_proj"]),
        "bert": (["query", "key", "value"], ["query", "value"], ["intermediate.dense"]),
    }
    qkv, query, mlp = names[kind]
    layer1 = {"gpt2": "h.1.attn.c_attn", "llama": "layers.1.self_attn.q_proj",
              "bert": "layer.1.attention.self.query"}[kind]  # fmt: skip
    found: dict[str, dict[str, Any]] = {
        "lora": {"target_modules": qkv, "r": 3, "lora_alpha": 5},
        "rslora": {"target_modules": query, "r": 4, "lora_alpha": 6, "use_rslora": True},
        "patterns": {
            "target_modules": qkv, "r": 2, "lora_alpha": 4, "rank_pattern": {layer1: 4},
            "alpha_pattern": {layer1: 9},
        },
        "dora": {"target_modules": query, "r": 2, "lora_alpha": 4, "use_dora": True},
        "pissa": {"target_modules": query, "r": 2, "init_lora_weights": "pissa"},
        "fresh": {"target_modules": query, "r": 2, "lora_alpha": 4},
        "mlp": {"target_modules": mlp, "r": 2, "lora_alpha": 4},
    }  # fmt: skip
    if kind != "gpt2":
        found["values"] = {"target_modules": qkv[2:], "r": 2, "lora_alpha": 4}
    return found


def save_adapter(kind: str, model: Any, folder: Path, settings: Row, seed: int) -> Any:
    """Write a PEFT adapter with random factors; the model merged with it, in float64."""
    import peft

    generator = torch.Generator().manual_seed(seed)
    config = peft.LoraConfig(fan_in_fan_out=kind == "gpt2", **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tuned = peft.get_peft_model(copy.deepcopy(model), config)
        with torch.no_grad():
            for parameter in tuned.parameters():
                if parameter.requires_grad and folder.name != "fresh":
                    noise = 0.3 * torch.randn(parameter.shape, generator=generator)
                    parameter.add_(noise * parameter.abs().mean().clamp(min=0.3))
        tuned.save_pretrained(str(folder))
        return tuned.double().merge_and_unload()


def make_trial(kind: str, root: Path) -> Trial:
    model = make_model(kind)
    model.save_pretrained(root / "base")
    models = {"base": copy.deepcopy(model).double()}
    for seed, (name, settings) in enumerate(adapters(kind).items()):
        models[name] = save_adapter(kind, model, root / name, settings, seed)
    full = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(99)
    with torch.no_grad():
        for parameter in full.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    full.save_pretrained(root / "full")
    models["full"] = full.double()
    tokens = torch.randint(3, VOCAB, (2, LENGTH), generator=torch.Generator().manual_seed(1))
    states = inputs_of(kind, model, tokens)
    mask = np.ones((2, LENGTH), dtype=np.uint8)
    mask[1, 8:] = 0
    path = root / "states.safetensors"
    write_activations(
        path, {n: x.numpy() for n, x in states.items()}, mask, {"model": "the base's text"}
    )
    kept = [
        {name: x[n][torch.from_numpy(mask[n] > 0)].double() for name, x in states.items()}
        for n in range(2)
    ]
    return Trial(kind, root, path, kept, tokens, models, root / "analyzer.duckdb")


@pytest.fixture(scope="module", params=["gpt2", "llama", "bert"])
def trial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trial:
    found = make_trial(request.param, tmp_path_factory.mktemp(request.param))
    summary = run(found.root, activations=found.activations)
    assert summary.problems == ()
    assert summary.n_computed == 2 * 2 * len(found.models)
    return found


def run(root: Path, **options: Any) -> analyzer.ScanSummary:
    return analyzer.scan(root, base=root / "base", analyses=["limits"], **options)


def limits(rows: Rows, db: Path, where: str = "TRUE", *values: object) -> list[Row]:
    return rows(
        analyzer.connect(db),
        "SELECT l.*, c.name AS checkpoint FROM lora_limits l JOIN checkpoint c"
        f" USING (checkpoint_id) WHERE {where} ORDER BY c.name, source, layer, head",
        *values,
    )


def test_every_head_of_every_checkpoint_has_a_row(trial: Trial, rows: Rows) -> None:
    found = limits(rows, trial.db)
    keys = {(r["checkpoint"], r["source"], r["layer"], r["head"]) for r in found}
    sources = ("activations", "data_free", "spherical")
    assert len(found) == len(keys) == len(trial.models) * len(sources) * 2 * HEADS
    for row in found:
        assert row["model"] == "base"
        assert row["adapter"] == (None if row["checkpoint"] == "base" else row["checkpoint"])
        assert row["kv_head"] == row["head"] // (HEADS // KV_HEADS[trial.kind])
        assert row["d_h"] == WIDTH // HEADS and row["beta"] == pytest.approx(row["d_h"] ** -0.5)
        assert row["causal"] == (trial.kind != "bert") and row["rope"] == (trial.kind == "llama")
        if row["source"] == "activations":
            assert (row["L"], row["n_tokens"], row["n_samples"]) == (LENGTH, LENGTH + 8, 2)
            assert row["activations_of"] == "the base's text" and row["activations_sha256"]
        else:
            assert (row["L"], row["length_from"]) == (CONTEXT, "config")
            assert row["activations_sha256"] is None
        assert row["threshold"] == pytest.approx(math.sqrt(math.log(row["L"])))


def test_measured_norms_are_those_of_the_live_models(trial: Trial, rows: Rows) -> None:
    """Tokens of the base through the modules that PEFT merges, in float64."""
    names = query_names(trial.kind, trial.models["base"])
    found = limits(rows, trial.db, "source = 'activations'")
    for row in found:
        samples = [one[names[row["layer"]]] for one in trial.samples]
        base, tuned = trial.models["base"], trial.models[row["checkpoint"]]
        expected = dense_norms(trial.kind, base, tuned, row["layer"], row["head"], samples)
        # PEFT subtracts PiSSA's start in float32; the rotation of a live model is float32 too
        tolerance = 1e-5 if trial.kind == "llama" or row["checkpoint"] == "pissa" else 1e-9
        floor = 1e-5 if row["checkpoint"] == "pissa" else 1e-12
        for name, value in expected.items():
            close = pytest.approx(value, rel=tolerance, abs=floor)
            assert row[name] == close, (row["checkpoint"], row["layer"], row["head"], name)


def test_bounds_hold_for_the_text(trial: Trial, rows: Rows) -> None:
    """A fine-tune with norms of its own bounds its own states, which the text's are not."""
    found = limits(rows, trial.db, "source IN ('activations', 'data_free')")
    by_key = {(r["checkpoint"], r["source"], r["layer"], r["head"]): r for r in found}
    for (checkpoint, source, layer, head), bound in by_key.items():
        if source == "data_free" and checkpoint != "full":
            value = by_key[checkpoint, "activations", layer, head]
            for name in BOUNDED:
                assert bound[name] >= value[name] * (1 - 1e-6), (checkpoint, name)


@pytest.mark.parametrize("checkpoint", ["full", "lora", "dora"])
def test_bounds_hold_for_the_states_of_the_tuned_model(
    trial: Trial, rows: Rows, checkpoint: str
) -> None:
    base, tuned = trial.models["base"], trial.models[checkpoint]
    states = inputs_of(trial.kind, tuned, trial.tokens)
    names = query_names(trial.kind, tuned)
    for row in limits(rows, trial.db, "source = 'data_free' AND c.name = ?", checkpoint):
        samples = [x.double() for x in states[names[row["layer"]]]]
        values = dense_norms(trial.kind, base, tuned, row["layer"], row["head"], samples)
        base_only = {"gamma_q_base", "gamma_k_base", "c2", "c3", "gamma_hard", "gamma_partial"}
        for name in BOUNDED:
            if checkpoint != "full" or name not in base_only:
                assert row[name] >= values[name] * (1 - 1e-6), name


def test_numbers_of_the_adapters(trial: Trial, rows: Rows) -> None:
    expected = {
        "lora": (3, 5.0, 5 / 3), "rslora": (4, 6.0, 3.0), "patterns": (2, 4.0, 2.0),
        "fresh": (2, 4.0, 2.0),
    }  # fmt: skip
    for row in limits(rows, trial.db):
        numbers = expected.get(row["checkpoint"], (None, None, None))
        if row["checkpoint"] == "patterns" and row["layer"] == 1:
            numbers = (4, 9.0, 9 / 4)
        assert (row["r"], row["lora_alpha"], row["scaling"]) == numbers, row["checkpoint"]
        if row["source"] == "activations" and numbers[2] is not None:
            assert row["c1"] == pytest.approx(numbers[2] * row["gamma_x"])
            assert row["alpha_unbounded"] is not None
        changed = row["checkpoint"] not in ("base", "mlp", "values", "fresh")
        assert row["touches_qk"] == changed, row["checkpoint"]
        if not changed:
            assert not row["gamma_dq"] and row["gamma_q"] == row["gamma_q_base"]


def test_headroom_is_where_the_merged_model_meets_the_threshold(trial: Trial, rows: Rows) -> None:
    """alpha_max from the live models: their queries are linear in alpha."""
    names = query_names(trial.kind, trial.models["base"])
    found = limits(rows, trial.db, "source = 'activations' AND c.name IN ('lora', 'rslora')")
    checked = 0
    for row in found:
        x = torch.cat([one[names[row["layer"]]] for one in trial.samples])
        q0, q = (
            project(trial.kind, attention_modules(trial.kind, m)[row["layer"]], x).q[:, row["head"]]
            for m in (trial.models["base"], trial.models[row["checkpoint"]])
        )
        if row["alpha_max"] is None:
            assert top(q0) > row["threshold"]
            continue
        at_most = q0 + (q - q0) * row["headroom"]
        assert top(at_most) == pytest.approx(row["threshold"], rel=1e-6)
        assert row["alpha_max"] == pytest.approx(row["headroom"] * row["lora_alpha"])
        checked += 1
    assert checked or all(row["gamma_q_base"] > row["threshold"] for row in found)


def test_a_fresh_adapter_is_its_base(trial: Trial, rows: Rows) -> None:
    fresh = limits(rows, trial.db, "c.name = 'fresh'")
    base = limits(rows, trial.db, "c.name = 'base'")
    for row, before in zip(fresh, base, strict=True):
        for name in (*BOUNDED, "gamma_range", "ipr", "rem_ratio", "verdict"):
            assert row[name] == before[name], name
        if row["source"] == "activations":
            assert row["alpha_unbounded"] == (row["gamma_q_base"] <= row["threshold"])
            assert row["alpha_max"] is None


def test_sweeps_of_causal_models(trial: Trial, rows: Rows) -> None:
    found = rows(
        analyzer.connect(trial.db),
        "SELECT s.*, l.gamma_q AS whole_q, l.gamma_logit AS whole_logit, l.L AS whole FROM"
        " lora_limits_sweep s JOIN lora_limits l USING (matrix_id, head)"
        " WHERE l.source = 'activations' ORDER BY matrix_id, head, s.L",
    )
    if trial.kind == "bert":
        assert found == []
        return
    assert {row["L"] for row in found} == {2, 4, 8, LENGTH}
    assert len(found) == len(trial.models) * 2 * HEADS * 4
    for row in found:
        assert row["ratio_q"] == pytest.approx(row["gamma_q"] / math.sqrt(math.log(row["L"])))
        assert row["gamma_q"] <= row["whole_q"]
        assert row["gamma_logit"] <= row["whole_logit"]


# What a scan repeats, replaces and survives.


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    root = tmp_path_factory.mktemp("source")
    found = make_trial("llama", root)
    for name in [*adapters("llama"), "full"]:
        if name not in ("lora", "full"):
            shutil.rmtree(root / name)
    return found


@pytest.fixture
def small(llama: Trial, tmp_path: Path) -> Path:
    """A copy of a base, an adapter and a fine-tune that a test may change; not yet scanned."""
    root = tmp_path / "small"
    shutil.copytree(llama.root, root)
    (root / "states.safetensors").rename(tmp_path / "states.safetensors")
    return root


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-c", "from analyzer.cli import main; main()"]
    return subprocess.run(
        [*start, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


def states_of(root: Path) -> Path:
    return root.parent / "states.safetensors"


def counted(rows: Rows, db: Path) -> dict[str, int]:
    query = "SELECT source, count(*) AS n FROM lora_limits GROUP BY ALL"
    return {row["source"]: row["n"] for row in rows(analyzer.connect(db), query)}


N = 3 * 2 * HEADS  # checkpoints × layers × heads


def without_torch(root: Path, states: Path | None) -> str:
    code = (
        "import sys\nimport analyzer\n"
        f"root = {str(root)!r}\n"
        "summary = analyzer.scan(root, base=root + '/base', analyses=['limits'],"
        f" activations={None if states is None else str(states)!r})\n"
        "assert summary.n_computed == 0 and summary.scan_id is None, summary\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    return done.stdout.strip() or done.stderr


def test_passes_are_done_once_each(small: Path, rows: Rows) -> None:
    first = run(small)
    assert (first.n_computed, first.n_stored, first.problems) == (6, 0, ())
    assert counted(rows, first.db) == {"data_free": N, "spherical": N}
    bounds = limits(rows, first.db)
    again = run(small)
    assert (again.n_computed, again.n_stored, again.scan_id) == (0, 6, None)

    measured = run(small, activations=states_of(small))
    assert (measured.n_computed, measured.n_stored) == (6, 6)
    assert counted(rows, first.db) == {"data_free": N, "spherical": N, "activations": N}
    assert limits(rows, first.db, "source <> 'activations'") == bounds
    values = limits(rows, first.db)
    assert run(small, activations=states_of(small)).n_computed == 0

    before = first.db.read_bytes()
    without = run(small)
    assert (without.n_computed, without.n_stored) == (0, 6)
    assert limits(rows, first.db) == values
    assert without_torch(small, None) == "False"
    assert without_torch(small, states_of(small)) == "False"
    assert first.db.read_bytes() == before


def test_other_states_replace_what_was_measured(small: Path, rows: Rows) -> None:
    db = run(small, activations=states_of(small)).db
    before = limits(rows, db)
    tensors = load_file(states_of(small))
    other = states_of(small).with_name("other.safetensors")
    save_file({n: 2 * t if "proj" in n else t for n, t in tensors.items()}, other)
    again = run(small, activations=other)
    assert again.n_computed == 6
    after = limits(rows, db)
    assert len(after) == len(before)
    for old, new in zip(before, after, strict=True):
        if old["source"] == "activations":
            assert new["gamma_q"] == pytest.approx(2 * old["gamma_q"])
            assert new["activations_sha256"] != old["activations_sha256"]
            assert new["inputs_sha256"] == old["inputs_sha256"]
        else:
            assert new == old
    (sweep,) = rows(
        analyzer.connect(db),
        "SELECT count(*) AS n, count(DISTINCT (matrix_id, head, L)) AS d FROM lora_limits_sweep",
    )
    assert sweep["n"] == sweep["d"] == N * 4


def test_a_changed_adapter_costs_only_itself(small: Path, rows: Rows) -> None:
    db = run(small).db
    before = limits(rows, db)
    path = small / "lora" / "adapter_model.safetensors"
    save_file({n: 2 * t for n, t in load_file(path).items()}, path)
    assert run(small).n_computed == 2
    for old, new in zip(before, limits(rows, db), strict=True):
        assert (new["inputs_sha256"] != old["inputs_sha256"]) == (new["checkpoint"] == "lora")
        if new["checkpoint"] == "lora":
            assert new["gamma_dq"] == pytest.approx(4 * old["gamma_dq"])


@pytest.mark.parametrize("part", ["input_layernorm", "q_proj"])
def test_a_changed_base_is_compared_again(small: Path, rows: Rows, part: str) -> None:
    """Its norms count as well as its matrices."""
    db = run(small).db
    before = limits(rows, db, "source = 'data_free'")
    change(small / "base", f"layers.0.self_attn.{part}" if "proj" in part else f"layers.0.{part}",
           lambda t: 3 * t)  # fmt: skip
    assert run(small).n_computed == 6
    for old, new in zip(before, limits(rows, db, "source = 'data_free'"), strict=True):
        if new["checkpoint"] != "full" and new["layer"] == 0:
            assert new["gamma_q_base"] == pytest.approx(3 * old["gamma_q_base"])
            assert new["inputs_sha256"] != old["inputs_sha256"]


def test_a_fine_tune_is_bounded_by_its_own_norms(small: Path, rows: Rows) -> None:
    before = limits(rows, run(small).db, "source = 'data_free'")
    change(small / "full", "layers.1.input_layernorm", lambda t: 3 * t)
    assert run(small).n_computed == 2
    after = limits(rows, small / "analyzer.duckdb", "source = 'data_free'")
    for old, new in zip(before, after, strict=True):
        tripled = new["checkpoint"] == "full" and new["layer"] == 1
        for name in ("gamma_x", "gamma_q", "gamma_dq", "gamma_k", "gamma_dk", "gamma_v"):
            assert new[name] == pytest.approx((3 if tripled else 1) * old[name]), name
        for name in ("gamma_q_base", "gamma_k_base", "c3"):
            assert new[name] == old[name], name


def change(folder: Path, part: str, by: Callable[[Tensor], Tensor]) -> str:
    """Change the one tensor of a checkpoint that is named so; its name."""
    path = next(folder.glob("*.safetensors"))
    tensors = load_file(path)
    (name,) = [name for name in tensors if part in name]
    tensors[name] = by(tensors[name]).contiguous()
    save_file(tensors, path, metadata={"format": "pt"})
    return name


def poisoned(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    tensor.flatten()[5] = float("nan")
    return tensor


def events(rows: Rows, db: Path) -> list[Row]:
    return rows(analyzer.connect(db), "SELECT * FROM event WHERE level = 'error'")


@pytest.mark.parametrize("part", ["layers.0.self_attn.q_proj", "layers.0.input_layernorm"])
def test_a_bad_tensor_of_the_base_fails_its_layer(small: Path, rows: Rows, part: str) -> None:
    name = change(small / "base", part, poisoned)
    summary = run(small, activations=states_of(small))
    assert len(summary.problems) == 3
    assert all(name in problem and "NaN" in problem for problem in summary.problems)
    assert {row["layer"] for row in limits(rows, summary.db)} == {1}
    assert len(limits(rows, summary.db)) == 3 * N // 2
    messages = [row["message"] for row in events(rows, summary.db)]
    assert len(messages) == 3 and all(name in message for message in messages)
    done = command("scan", small, "--base", small / "base", "--analyses", "limits")
    assert done.returncode == 3 and name in done.stderr


def test_a_bad_tensor_of_an_adapter_fails_that_adapter(small: Path, rows: Rows) -> None:
    name = change(small / "lora", "layers.1.self_attn.q_proj.lora_B", poisoned)
    summary = run(small)
    (problem,) = summary.problems
    assert name in problem or "layers.1.self_attn.q_proj" in problem
    found = limits(rows, summary.db, "source = 'data_free'")
    assert [r for r in found if r["checkpoint"] == "lora" and r["layer"] == 1] == []
    assert len(found) == N - HEADS


def test_states_of_another_width_are_named(small: Path, rows: Rows) -> None:
    run(small)
    tensors = load_file(states_of(small))
    name = "model.layers.0.self_attn.q_proj"
    tensors[name] = tensors[name][..., :30].contiguous()
    save_file(tensors, states_of(small))
    summary = run(small, activations=states_of(small))
    assert len(summary.problems) == 3
    for problem in summary.problems:
        assert f"(2, {LENGTH}, 30)" in problem and "32 columns" in problem
        assert str(states_of(small)) in problem
    assert counted(rows, summary.db) == {"data_free": N, "spherical": N, "activations": N // 2}


def test_states_that_are_not_finite_are_named(small: Path, rows: Rows) -> None:
    tensors = load_file(states_of(small))
    name = "model.layers.1.self_attn.q_proj"
    tensors[name][0, 2, 3] = float("inf")
    save_file(tensors, states_of(small))
    run(small)
    summary = run(small, activations=states_of(small))
    assert len(summary.problems) == 3 and all(name in p for p in summary.problems)
    found = limits(rows, summary.db, "source = 'activations'")
    assert {row["layer"] for row in found} == {0} and len(found) == N // 2


def test_a_layer_without_states_keeps_its_bounds(small: Path, rows: Rows) -> None:
    tensors = load_file(states_of(small))
    del tensors["model.layers.0.self_attn.q_proj"]
    save_file(tensors, states_of(small))
    summary = run(small, activations=states_of(small))
    assert summary.problems == ()
    assert counted(rows, summary.db) == {"data_free": N, "spherical": N, "activations": N // 2}
    assert run(small, activations=states_of(small)).n_computed == 0


def test_states_of_one_token_have_no_threshold(small: Path, rows: Rows) -> None:
    tensors = load_file(states_of(small))
    save_file({n: t[:1, :1].contiguous() for n, t in tensors.items()}, states_of(small))
    summary = run(small, activations=states_of(small))
    assert summary.problems and all("length must be" in problem for problem in summary.problems)


def test_unreadable_states_stop_before_any_work(small: Path, rows: Rows) -> None:
    with pytest.raises(analyzer.errors.WorkbenchError, match="weights, not activations"):
        run(small, activations=small / "base" / "model.safetensors")
    with pytest.raises(analyzer.errors.UsageError, match="no such file"):
        run(small, activations=small / "absent.safetensors")
    assert not (small / "analyzer.duckdb").exists()


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (None, "num_attention_heads"),
        ({"model_type": "a-new-one", "num_attention_heads": 4}, "'a-new-one'"),
    ],
)
def test_models_that_cannot_be_told_into_heads(
    small: Path, rows: Rows, config: Row | None, reason: str
) -> None:
    for folder in ("base", "full"):
        (small / folder / "config.json").unlink()
        if config is not None:
            (small / folder / "config.json").write_text(json.dumps(config))
    summary = analyzer.scan(small, base=small / "base", analyses=["tails", "limits"])
    assert summary.problems == () and not any("limits" in w for w in summary.warnings)
    why = summary.not_run["limits"]
    assert "base: no limits of 2 attention layers" in why and reason in why
    store = analyzer.connect(summary.db)
    assert store.table("lora_limits").num_rows == 0
    assert store.table("tail").num_rows > 0


def test_a_fine_tune_without_a_config_has_its_bases(small: Path, rows: Rows) -> None:
    expected = limits(rows, run(small).db, "c.name = 'full'")
    (small / "full" / "config.json").unlink()
    found = limits(rows, run(small, db=small.parent / "other.duckdb").db, "c.name = 'full'")
    assert [r["gamma_q"] for r in found] == [r["gamma_q"] for r in expected]


def test_force_computes_again_without_duplicates(small: Path, rows: Rows) -> None:
    first = run(small, activations=states_of(small))
    before = limits(rows, first.db)
    again = run(small, activations=states_of(small), force=True)
    assert again.n_computed == first.n_computed == 12
    assert limits(rows, first.db) == before
    # without a text, what was measured stays
    assert run(small, force=True).n_computed == 6
    assert limits(rows, first.db) == before


def test_an_interrupted_scan_goes_on(
    small: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    from analyzer.scanning import compute

    whole = compute.limits_rows
    calls: list[object] = []

    def fail(unit: Any, base: Any, job: Any) -> Any:
        calls.append(unit)
        if len(calls) > 4:
            raise OSError("disk gone")
        return whole(unit, base, job)

    monkeypatch.setattr(compute, "limits_rows", fail)
    first = run(small, workers=1)
    assert first.n_computed == 4 and any("disk gone" in p for p in first.problems)
    monkeypatch.setattr(compute, "limits_rows", whole)
    again = run(small, workers=1)
    assert (again.n_computed, again.n_stored, again.problems) == (2, 4, ())
    assert counted(rows, again.db) == {"data_free": N, "spherical": N}


def test_beside_the_other_analyses(small: Path, rows: Rows) -> None:
    db = analyzer.scan(small, base=small / "base").db
    assert counted(rows, db) == {"data_free": N, "spherical": N}
    assert analyzer.scan(small, base=small / "base").n_computed == 0
    tails = rows(analyzer.connect(db), "SELECT * FROM tail ORDER BY ALL")
    run(small, force=True)
    assert rows(analyzer.connect(db), "SELECT * FROM tail ORDER BY ALL") == tails


def test_numbered_states_belong_to_no_layer_of_two_stacks(tmp_path: Path, rows: Rows) -> None:
    """``layer.0`` of an encoder-decoder could be three attention layers'."""
    import transformers

    hf: Any = transformers
    torch.manual_seed(0)
    config = hf.T5Config(
        vocab_size=VOCAB, d_model=16, d_kv=8, d_ff=20, num_layers=1, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = hf.T5ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path / "base")
    states = np.random.default_rng(0).standard_normal((7, 16)).astype(np.float32)
    numbered, named = tmp_path / "numbered.safetensors", tmp_path / "named.safetensors"
    write_activations(numbered, {"layer.0": states}, None, {})
    summary = analyzer.scan(tmp_path / "base", analyses=["limits"], activations=numbered)
    assert "activations" not in counted(rows, summary.db)
    cross = "decoder.block.0.layer.1.EncDecAttention"
    write_activations(
        named,
        {f"{cross}.q": states[:4], f"{cross}.k": states, "encoder.block.0.layer.0.SelfAttention.q":
         states},
        None,
        {},
    )  # fmt: skip
    summary = analyzer.scan(tmp_path / "base", analyses=["limits"], activations=named)
    found = limits(rows, summary.db, "source = 'activations'")
    assert {row["module"] for row in found} == {cross, "encoder.block.0.layer.0.SelfAttention"}
    for row in found:
        assert row["L"] == 7 and row["cross_attention"] == (row["module"] == cross)
    with torch.no_grad():
        attention = model.encoder.block[0].layer[0].SelfAttention
        theirs = attention(torch.from_numpy(states)[None], output_attentions=True)[-1]
    own = [row["ipr"] for row in found if not row["cross_attention"]]
    np.testing.assert_allclose(own, (theirs[0] ** 2).sum(-1).mean(-1).numpy(), rtol=1e-5)


# The command line.


def test_show_prints_verdicts_and_costs(small: Path) -> None:
    db = run(small).db
    shown = CliRunner().invoke(cli, ["show", "lora", "--analysis", "limits", "--db", str(db)])
    assert shown.exit_code == 0
    text = " ".join(shown.output.split())
    for part in ("d_h/ln L", "rank_exponent", "Upper bounds for every text", "undecided", "Heads:"):
        assert part in text, part
    run(small, activations=states_of(small))
    shown = CliRunner().invoke(cli, ["show", "lora", "--analysis", "limits", "--db", str(db)])
    text = " ".join(shown.output.split())
    for part in ("Measured on 19 tokens", "alpha:", "ratio_logit/ratio_as", "Not implied"):
        assert part in text, part


def test_show_as_json(small: Path) -> None:
    db = run(small, activations=states_of(small)).db
    shown = CliRunner().invoke(
        cli, ["show", "lora", "--analysis", "limits", "--db", str(db), "--json"]
    )
    found = json.loads(shown.output)["rows"]
    assert len(found) == N
    assert {row["source"] for row in found} == {"activations", "data_free", "spherical"}
    assert all(row["width_over_log"] > 0 for row in found)


def test_show_without_rows_says_what_to_do(small: Path) -> None:
    db = analyzer.scan(small, base=small / "base", analyses=["tails"]).db
    done = command("show", "lora", "--analysis", "limits", "--db", db)
    assert done.returncode == 2 and done.stdout == ""
    assert "--analyses limits" in done.stderr

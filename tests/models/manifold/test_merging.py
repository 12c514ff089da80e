"""Merged checkpoints on disk against dense formulas on the flattened weights."""

from __future__ import annotations

import copy
import hashlib
import json

import numpy as np
import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.errors import AnalysisError, NonFinite, QuantUnknown, ShapeMismatch, UsageError
from analyzer.models.manifold.groups import PermutationGroup, Site, apply_orders
from analyzer.models.manifold.merging import (
    merge_dimat,
    merge_karcher,
    merge_lerp,
    merge_opcm,
    merge_slerp,
)
from theory import opcm
from theory.paths import karcher_mean, slerp

SHAPES = {"a.w": (6, 5), "a.b": (6,), "b.w": (4, 6), "c.w": (3, 4, 2, 2)}
GROUPS = (PermutationGroup("h", "channels", 6, (Site("a.w", 0), Site("a.b", 0), Site("b.w", 1))),)


def saved(path, tensors, config=None):
    path.mkdir(parents=True)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    if config:
        (path / "config.json").write_text(json.dumps(config))
    return open_checkpoint(path)


def tensors_of(seed, dtype=torch.float64, spread=1.0):
    rng = np.random.default_rng(seed)
    found = {k: torch.tensor(spread * rng.standard_normal(s)).to(dtype) for k, s in SHAPES.items()}
    return found | {
        "bn.running_var": torch.tensor(rng.random(4) + 0.5).to(dtype),
        "bn.num_batches_tracked": torch.tensor(seed),
    }


def flat(tensors):
    return np.concatenate([tensors[name].double().numpy().ravel() for name in SHAPES])


def loaded(merged):
    return load_file(merged.folder / "model.safetensors")


@pytest.fixture
def three(tmp_path):
    """A base and three checkpoints near it, with their weights as vectors."""
    base = tensors_of(0)
    near = []
    for seed in (1, 2, 3):
        delta = tensors_of(seed, spread=0.1 * seed)
        near.append({k: base[k] + d if k in SHAPES else d for k, d in delta.items()})
    names = ["base", "one", "two", "three"]
    data = [base, *near]
    checkpoints = [
        saved(tmp_path / name, tensors, {"model_type": name})
        for name, tensors in zip(names, data, strict=True)
    ]
    return checkpoints, data


def test_lerp(tmp_path, three):
    (_, a, b, _), (_, x, y, _) = three
    seen = []
    merged = merge_lerp(a, b, 0.3, tmp_path / "out", progress=lambda *at: seen.append(at))
    found = loaded(merged)
    assert found.keys() == x.keys() and seen[-1] == (6, 6) and merged.coefficients == (0.7, 0.3)
    for name in (*SHAPES, "bn.running_var"):
        torch.testing.assert_close(found[name], 0.7 * x[name] + 0.3 * y[name], rtol=0, atol=1e-14)
    assert found["bn.num_batches_tracked"] == 1
    ends = [loaded(merge_lerp(a, b, t, tmp_path / f"t{t}")) for t in (0.0, 1.0)]
    assert all(torch.equal(ends[0][k], x[k]) for k in x)
    torch.testing.assert_close(ends[1]["b.w"], y["b.w"], rtol=0, atol=1e-15)


def test_metadata_and_config(tmp_path, three):
    (base, a, b, _), _ = three
    merged = merge_slerp(a, b, 0.5, tmp_path / "out", base=base)
    assert open_checkpoint(merged.folder).config == {"model_type": "base"}
    with safe_open(merged.folder / "model.safetensors", framework="pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "pt" and metadata["method"] == "slerp"
    assert json.loads(metadata["options"])["t"] == 0.5
    lines = (f"{n}:{a.content_sha256(n)}\n" for n in sorted(t.name for t in a.tensors()))
    expected = hashlib.sha256("".join(lines).encode()).hexdigest()
    assert json.loads(metadata["sources"])[0] == {"name": "one", "sha256": expected}
    assert json.loads(metadata["base"])["name"] == "base"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


@pytest.mark.parametrize("with_base", [False, True])
def test_slerp(tmp_path, three, with_base):
    (base, a, b, _), (w, x, y, _) = three
    merged = merge_slerp(a, b, 0.3, tmp_path / "out", base=base if with_base else None)
    origin = flat(w) if with_base else 0.0
    expected = origin + slerp(flat(x) - origin, flat(y) - origin, 0.3)
    np.testing.assert_allclose(flat(loaded(merged)), expected, atol=1e-13)
    lengths = [np.linalg.norm(flat(z) - origin) for z in (x, y)]
    assert merged.norms == pytest.approx(lengths)
    assert merged.norm == pytest.approx(0.7 * lengths[0] + 0.3 * lengths[1])
    running = loaded(merged)["bn.running_var"]
    expected = 0.7 * x["bn.running_var"] + 0.3 * y["bn.running_var"]
    torch.testing.assert_close(running, expected, rtol=0, atol=1e-14)


def test_slerp_of_one_direction_is_linear_and_of_opposite_ones_refused(tmp_path, three):
    (base, a, *_), (w, x, *_) = three
    twice = {k: 3 * x[k] - 2 * w[k] if k in SHAPES else x[k] for k in x}
    b = saved(tmp_path / "twice", twice)
    assert merge_slerp(a, b, 0.5, tmp_path / "out", base=base).coefficients == (0.5, 0.5)
    back = {k: 2 * w[k] - x[k] if k in SHAPES else x[k] for k in x}
    with pytest.raises(UsageError, match="opposite vectors"):
        merge_slerp(a, saved(tmp_path / "back", back), 0.5, tmp_path / "no", base=base)
    with pytest.raises(UsageError, match="cancel"):
        merge_karcher([a, open_checkpoint(tmp_path / "back")], tmp_path / "no", base=base)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("with_base", [False, True])
def test_karcher(tmp_path, three, with_base):
    (base, *tuned), (w, *data) = three
    merged = merge_karcher(tuned, tmp_path / "out", base=base if with_base else None)
    origin = flat(w) if with_base else 0.0
    expected = origin + karcher_mean([flat(x) - origin for x in data])
    np.testing.assert_allclose(flat(loaded(merged)), expected, atol=1e-12)
    assert merged.norms is not None and merged.norm == pytest.approx(np.mean(merged.norms))
    running = torch.stack([x["bn.running_var"] for x in data]).mean(0)
    torch.testing.assert_close(loaded(merged)["bn.running_var"], running, rtol=0, atol=1e-14)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
def test_opcm_is_the_sequence_with_rescaling_at_each_step(tmp_path, three, alpha):
    (base, *tuned), (w, *data) = three
    merged = merge_opcm(tuned, base, tmp_path / "out", alpha=alpha)
    deltas = [{k: (x[k] - w[k]).numpy() for k in SHAPES} for x in data]
    state = opcm.start(deltas[0])
    for delta in deltas[1:]:
        state = opcm.step(state, delta, alpha)
    found = loaded(merged)
    for name in SHAPES:
        np.testing.assert_allclose(found[name] - w[name], state.merged[name], atol=1e-13)
    assert merged.scale == pytest.approx(state.scale)
    norm = np.linalg.norm(flat(found) - flat(w))
    mean = np.mean([np.linalg.norm(flat(x) - flat(w)) for x in data])
    assert merged.norm == pytest.approx(norm) == pytest.approx(mean)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_opcm_worked_case(tmp_path):
    D1, D2 = torch.diag(torch.tensor([3.0, 2.9, 1.0, 0.5])), torch.arange(1.0, 17.0).reshape(4, 4)
    base, a, b = (
        saved(tmp_path / name, {"w": t.double()})
        for name, t in (("base", torch.zeros(4, 4)), ("a", D1), ("b", D2))
    )
    merged = merge_opcm([a, b], base, tmp_path / "out", alpha=0.9)
    assert merged.norms == pytest.approx((4.3197222133, 38.6781592116))
    assert merged.scale == pytest.approx(1.5226898345)
    assert merged.norm == pytest.approx(21.4989407125) and merged.degenerate == ()
    scaled = loaded(merged)["w"] * merged.scale
    expected = [[3, 0, 3, 4], [0, 2.9, 7, 8], [9, 10, 1, 12], [13, 14, 15, 0.5]]
    np.testing.assert_allclose(scaled, expected, atol=1e-9)
    same = saved(tmp_path / "eye", {"w": torch.eye(4).double()})
    assert merge_opcm([same, b], base, tmp_path / "flagged").degenerate == ("w",)
    with pytest.raises(UsageError, match="the updates cancel"):
        merge_opcm([base, base], base, tmp_path / "zero")
    with pytest.raises(UsageError, match=r"alpha = 1\.0"):
        merge_opcm([a, b], base, tmp_path / "zero", alpha=1.0)


def test_dimat_undoes_the_orders(tmp_path):
    rng = np.random.default_rng(0)
    x, noise = tensors_of(0), [tensors_of(s, spread=0.1) for s in (1, 2)]
    orders = [rng.permutation(6) for _ in noise]
    near = [{k: x[k] + n[k] if k in SHAPES else n[k] for k in x} for n in noise]
    moved = [
        apply_orders(y, GROUPS, {"h": np.argsort(o)}) for y, o in zip(near, orders, strict=True)
    ]
    checkpoints = [saved(tmp_path / f"m{n}", y) for n, y in enumerate([x, *moved])]
    back = [{"h": order} for order in orders]
    merged = merge_dimat(checkpoints, GROUPS, back, tmp_path / "out")
    found = loaded(merged)
    for name in (*SHAPES, "bn.running_var"):
        mean = (x[name] + near[0][name] + near[1][name]) / 3
        torch.testing.assert_close(found[name], mean, rtol=0, atol=1e-14)
    with pytest.raises(UsageError, match="3 checkpoints need 2 orders"):
        merge_dimat(checkpoints, GROUPS, back[:1], tmp_path / "no")
    with pytest.raises(UsageError, match="order of h permutes other than 6 units"):
        merge_dimat(checkpoints, GROUPS, [{"h": [0] * 6}, {}], tmp_path / "no")


def test_half_precision_is_computed_in_double_and_rounded_once(tmp_path):
    data = [tensors_of(s, torch.bfloat16) for s in range(3)]
    a, b, c = (saved(tmp_path / f"m{n}", x) for n, x in enumerate(data))
    found = loaded(merge_karcher([a, b, c], tmp_path / "out"))
    expected = karcher_mean([flat(x) for x in data])
    assert all(found[name].dtype == torch.bfloat16 for name in SHAPES)
    rounded = torch.tensor(expected).to(torch.bfloat16).double().numpy()
    assert np.mean(flat(found) == rounded) > 0.99  # but where 1e-16 decides
    half = {"w": torch.tensor([60000.0, 1.0], dtype=torch.float16)}
    other = {"w": torch.tensor([-60000.0, 1.0], dtype=torch.float16)}
    one, two = saved(tmp_path / "h1", half), saved(tmp_path / "h2", other)
    with pytest.raises(AnalysisError, match="w: the result overflows float16"):
        merge_lerp(one, two, 2.0, tmp_path / "large")
    assert not (tmp_path / "large").exists()


def test_adapters_merge_as_their_full_checkpoints(tmp_path):
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        hidden_size=16, intermediate_size=20, num_hidden_layers=1, vocab_size=30,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    model = hf.LlamaForCausalLM(config).double()
    model.save_pretrained(tmp_path / "base")
    for number, targets in enumerate((["q_proj", "v_proj"], ["q_proj", "down_proj"])):
        tuned = get_peft_model(copy.deepcopy(model), LoraConfig(r=2, target_modules=targets))
        with torch.no_grad():
            for name, parameter in tuned.double().named_parameters():
                if "lora_" in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        tuned.save_pretrained(tmp_path / f"adapter{number}")
        tuned.merge_and_unload().save_pretrained(tmp_path / f"full{number}")
    base = open_checkpoint(tmp_path / "base")
    adapters, full = (
        [open_checkpoint(tmp_path / f"{kind}{n}") for n in (0, 1)] for kind in ("adapter", "full")
    )
    for name, merge in (
        ("lerp", lambda pair, out: merge_lerp(*pair, 0.4, out, base=base)),
        ("slerp", lambda pair, out: merge_slerp(*pair, 0.4, out, base=base)),
        ("karcher", lambda pair, out: merge_karcher(pair, out, base=base)),
    ):
        found = loaded(merge(adapters, tmp_path / f"{name}-adapters"))
        expected = loaded(merge(full, tmp_path / f"{name}-full"))
        assert found.keys() == expected.keys()
        for key, tensor in expected.items():
            torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-10)
    # Singular vectors of value 0 are arbitrary, and with them OPCM's diagonal.
    merged = [
        merge_opcm(pair, base, tmp_path / f"opcm{n}") for n, pair in ((0, adapters), (1, full))
    ]
    assert merged[0].norms == pytest.approx(merged[1].norms)
    # the query projection alone gets two updates
    assert merged[0].degenerate == ("model.layers.0.self_attn.q_proj.weight",)
    again = hf.LlamaForCausalLM.from_pretrained(tmp_path / "slerp-adapters", dtype=torch.float64)
    state = again.state_dict()
    assert all(torch.equal(state[k], t) for k, t in load_file(
        tmp_path / "slerp-adapters" / "model.safetensors").items())  # fmt: skip
    with pytest.raises(UsageError, match="through its base"):
        merge_lerp(*adapters, 0.5, tmp_path / "no")
    with pytest.raises(UsageError, match="merge it first"):
        merge_dimat(adapters, (), [{}], tmp_path / "no")


def test_tied_tensors_stay_equal(tmp_path):
    """A storage that two names share counts once and is merged once."""
    paths = []
    for seed in range(2):
        w = tensors_of(seed)["a.w"]
        path = tmp_path / f"m{seed}.bin"
        torch.save({"embed.weight": w, "head.weight": w, "b.w": tensors_of(seed)["b.w"]}, path)
        paths.append(path)
    a, b = map(open_checkpoint, paths)
    merged = merge_slerp(a, b, 0.5, tmp_path / "out")
    found = loaded(merged)
    assert torch.equal(found["embed.weight"], found["head.weight"])
    vectors = [
        np.concatenate([tensors_of(s)[k].numpy().ravel() for k in ("a.w", "b.w")]) for s in (0, 1)
    ]
    expected = slerp(*vectors, 0.5)
    np.testing.assert_allclose(found["embed.weight"].ravel(), expected[:30], atol=1e-13)


def test_refusals_leave_nothing_behind(tmp_path, three):
    (base, a, b, _), (_, x, _, _) = three
    out = tmp_path / "out"
    wrong = {k: t for k, t in x.items() if k != "a.b"} | {"a.w": torch.zeros(1, 5).double()}
    odd = saved(tmp_path / "odd", wrong)
    with pytest.raises(ShapeMismatch) as caught:
        merge_lerp(a, odd, 0.5, out)
    for part in ("a.w of odd: shape (1, 5), (6, 5) in one", "a.b of odd: absent, one has it"):
        assert part in str(caught.value)
    bad = saved(tmp_path / "bad", x | {"c.w": x["c.w"] * torch.nan})
    for merge in (
        lambda: merge_lerp(a, bad, 0.5, out),
        lambda: merge_opcm([a, bad], base, out),
        lambda: merge_dimat([a, bad], GROUPS, [{}], out),
    ):
        with pytest.raises(NonFinite, match=r"bad: c\.w: 48 NaN"):
            merge()
    packed = [saved(tmp_path / f"q{n}", {"w": torch.ones(4, dtype=torch.int8)}) for n in (0, 1)]
    with pytest.raises(QuantUnknown, match=r"w of q0: int8 .*\(dequantise first\)"):
        merge_lerp(*packed, 0.5, out)
    with pytest.raises(UsageError, match="at least 2 checkpoints"):
        merge_karcher([a], out)
    assert not out.exists() and not [p for p in tmp_path.iterdir() if p.name.startswith(".")]
    for merge in (
        lambda: merge_lerp(a, b, 0.5, tmp_path / "one"),
        lambda: merge_opcm([a, b], base, tmp_path / "one"),
    ):
        with pytest.raises(UsageError, match="exists already"):
            merge()

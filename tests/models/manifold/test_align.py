"""Planted orders of checkpoints on disk are found again, and what is written computes the same."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import transformers as hf
from safetensors.torch import load_file, save_file

from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.errors import NonFinite, ShapeMismatch, UsageError
from analyzer.models.manifold.align import align, match_activations, match_weights
from analyzer.models.manifold.groups import (
    PermutationGroup,
    Site,
    apply_orders,
    permutation_groups,
)
from theory.alignment import cosine_and_distance, weight_matching

TEXT = {
    "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "vocab_size": 30,
    "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 4,
    "max_position_embeddings": 16,
}  # fmt: skip
MLP = (
    PermutationGroup("h1", "mlp", 12, (Site("a.w", 0), Site("a.b", 0), Site("b.w", 1))),
    PermutationGroup("h2", "mlp", 9, (Site("b.w", 0), Site("b.b", 0), Site("c.w", 1))),
)
MLP_SHAPES = {"a.w": (12, 6), "a.b": (12,), "b.w": (9, 12), "b.b": (9,), "c.w": (4, 9)}


def llama(**more):
    return hf.LlamaForCausalLM(hf.LlamaConfig(**{**TEXT, **more}))


def mixtral():
    experts = {"num_local_experts": 3, "num_experts_per_tok": 2, "head_dim": None}
    return hf.MixtralForCausalLM(hf.MixtralConfig(**{**TEXT, **experts, "num_hidden_layers": 1}))


MODELS = {
    "llama": llama,
    "llama tied": lambda: llama(tie_word_embeddings=True),
    "mixtral": mixtral,
}


def written(path, tensors):
    path.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(contiguous, path / "model.safetensors", metadata={"format": "pt"})
    return open_checkpoint(path)


def shuffled(groups, seed=0):
    rng = np.random.default_rng(seed)
    return {group.name: rng.permutation(group.size) for group in groups}


def planted(tmp_path, name, noise=0.0, dtype=torch.float32):
    """A model, and a copy with noise whose units stand in a random order."""
    torch.manual_seed(0)
    model = MODELS[name]().to(dtype).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * parameter.shape[-1] ** -0.5)
    model.save_pretrained(tmp_path / "a")
    a = open_checkpoint(tmp_path / "a")
    groups, unmapped = permutation_groups(a)
    assert not unmapped
    own = load_file(tmp_path / "a" / "model.safetensors")
    own = {k: t + noise * t.std() * torch.randn_like(t) for k, t in own.items()}
    moved = apply_orders(own, groups, shuffled(groups))
    (tmp_path / "b").mkdir()
    config = (tmp_path / "a" / "config.json").read_text()
    (tmp_path / "b" / "config.json").write_text(config)
    return model, a, written(tmp_path / "b", moved), own, groups


@torch.no_grad()
def logits(path, model):
    loaded = type(model).from_pretrained(path, dtype=torch.float32).eval()
    tokens = torch.randint(3, 30, (2, 9), generator=torch.Generator().manual_seed(0))
    return loaded(tokens).logits


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_planted_symmetry_is_recovered(tmp_path, name, noise):
    model, a, b, own, _ = planted(tmp_path, name, noise)
    matching = match_weights(a, b, seed=1)
    assert matching.converged and np.all(np.diff(matching.objective) >= 0.0)
    seen = []
    found = align(a, b, tmp_path / "out", matching.orders, progress=lambda *at: seen.append(at))
    aligned = load_file(tmp_path / "out" / "model.safetensors")
    assert aligned.keys() == own.keys() and seen[-1] == (len(own), len(own))
    for key, tensor in own.items():
        assert torch.equal(aligned[key], tensor), key
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == b.config
    first = logits(tmp_path / "b", model)
    change = (logits(tmp_path / "out", model) - first).abs().max() / first.abs().max()
    assert change < 1e-5
    assert found.before.distance > found.after.distance
    x = load_file(tmp_path / "a" / "model.safetensors")
    cosine, relative = cosine_and_distance(x, aligned)
    assert found.after.cosine == pytest.approx(cosine)
    assert found.after.relative == pytest.approx(relative, abs=1e-12)
    cosine, relative = cosine_and_distance(x, load_file(tmp_path / "b" / "model.safetensors"))
    assert (found.before.cosine, found.before.relative) == pytest.approx((cosine, relative))
    squares = sum(after.distance**2 for _, after in found.modules.values())
    assert squares == pytest.approx(found.after.distance**2)
    assert {"model.embed_tokens", "model.layers.0"} <= set(found.modules)


def test_bfloat16_stays_bit_by_bit(tmp_path):
    _, a, b, own, _ = planted(tmp_path, "llama", dtype=torch.bfloat16)
    align(a, b, tmp_path / "out", match_weights(a, b).orders)
    aligned = load_file(tmp_path / "out" / "model.safetensors")
    assert all(t.dtype == torch.bfloat16 and t.equal(own[k]) for k, t in aligned.items())


def test_any_orders_keep_values_and_function(tmp_path):
    model, a, b, _, groups = planted(tmp_path, "mixtral")
    align(a, b, tmp_path / "out", shuffled(groups, seed=5))
    before = load_file(tmp_path / "b" / "model.safetensors")
    after = load_file(tmp_path / "out" / "model.safetensors")
    values = [torch.cat([t.ravel() for t in x.values()]).sort()[0] for x in (before, after)]
    assert torch.equal(*values) and any(not torch.equal(before[k], after[k]) for k in before)
    first = logits(tmp_path / "b", model)
    assert (logits(tmp_path / "out", model) - first).abs().max() < 1e-5 * first.abs().max()


def mlp(tmp_path, name, seed, prefix="", dtype=torch.float64):
    rng = np.random.default_rng(seed)
    arrays = {k: torch.tensor(rng.standard_normal(s)).to(dtype) for k, s in MLP_SHAPES.items()}
    return written(tmp_path / name, {prefix + k: t for k, t in arrays.items()}), arrays


@pytest.mark.parametrize("seed", range(4))
def test_unrelated_networks_as_in_memory(tmp_path, seed):
    """No planted answer: a local optimum that no move of one group improves."""
    a, x = mlp(tmp_path, "a", seed)
    b, y = mlp(tmp_path, "b", 100 + seed)
    found = match_weights(a, b, MLP, seed=seed, starts=5)
    moved = apply_orders(y, MLP, found.orders)
    inner = sum(float((x[k] * moved[k]).sum()) for k in x)
    assert found.objective[-1] == pytest.approx(inner)
    assert found.objective[0] == pytest.approx(sum(float((x[k] * y[k]).sum()) for k in x))
    groups = {g.name: [(site.tensor, site.axis) for site in g.sites] for g in MLP}
    arrays = [{k: t.numpy() for k, t in z.items()} for z in (x, y, moved)]
    again = weight_matching(arrays[0], arrays[2], groups)
    assert all((np.diff(order) == 1).all() for order in again.permutations.values())
    single = max(weight_matching(*arrays[:2], groups, seed=s).objective[-1] for s in range(5))
    assert found.objective[-1] >= 0.9 * single
    one = match_weights(a, b, MLP, seed=seed)
    assert found.objective[-1] >= one.objective[-1]
    same = match_weights(a, b, MLP, seed=seed, starts=5)
    assert all((same.orders[k] == found.orders[k]).all() for k in same.orders)


@pytest.mark.parametrize("name", ["llama", "mixtral"])
@pytest.mark.parametrize("seed", range(4))
def test_objective_of_nested_groups_is_that_of_their_orders(tmp_path, name, seed):
    """Between unrelated networks, where units and what is inside them move in several passes."""
    paths = []
    for number in range(2):
        torch.manual_seed(10 * seed + number)
        model = MODELS[name]()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_()
        model.save_pretrained(tmp_path / str(number))
        paths.append(tmp_path / str(number))
    a, b = map(open_checkpoint, paths)
    groups, _ = permutation_groups(a)
    found = match_weights(a, b, groups, seed=seed)
    assert found.converged and np.all(np.diff(found.objective) >= 0.0)
    x, y = (load_file(path / "model.safetensors") for path in paths)
    moved = apply_orders(y, groups, found.orders)
    grouped = {name for group in groups for name in group.tensors()}
    inner = sum(float((x[k].double() * moved[k].double()).sum()) for k in grouped)
    assert found.objective[-1] == pytest.approx(inner, rel=1e-9)


def test_worked_case(tmp_path):
    A = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 1.0]])
    a, b = written(tmp_path / "a", {"w": A}), written(tmp_path / "b", {"w": A[[2, 0, 1]]})
    group = PermutationGroup("g", "mlp", 3, (Site("w", 0),))
    assert match_weights(a, b, [group]).orders["g"].tolist() == [1, 2, 0]


@pytest.mark.parametrize("seed", range(4))
def test_group_on_both_axes_ascends(tmp_path, seed):
    rng = np.random.default_rng(seed)
    A, B = (torch.tensor(rng.standard_normal((7, 7))) for _ in range(2))
    a, b = written(tmp_path / "a", {"w": A}), written(tmp_path / "b", {"w": B})
    group = PermutationGroup("g", "mlp", 7, (Site("w", 0), Site("w", 1, role="consumes")))
    found = match_weights(a, b, [group], starts=3)
    order = found.orders["g"]
    assert np.all(np.diff(found.objective) >= 0.0)
    assert found.objective[-1] == pytest.approx(float((A * B[order][:, order]).sum()))


def test_activations(tmp_path):
    rng = np.random.default_rng(0)
    z = rng.standard_normal((50, 12))
    z[:, 4] = 3.0
    order = rng.permutation(12)
    noisy = 2.0 * z[:, order] + 1.0 + 0.1 * rng.standard_normal((50, 12))
    found = match_activations(MLP, {"h1": z}, {"h1": noisy})
    assert set(found) == {"h1"} and (order[found["h1"]] == np.arange(12)).all()
    for a, b, message in (
        ({"h3": z}, {"h3": z}, "no group is named 'h3'"),
        ({"h1": z}, {}, "h1 are given for one checkpoint only"),
        ({"h2": z}, {"h2": z}, r"\(samples, 9\), got \(50, 12\)"),
        ({"h1": z}, {"h1": z[:40]}, r"got \(50, 12\) and \(40, 12\)"),
        ({"h1": z}, {"h1": z * np.nan}, "h1 are not finite"),
    ):
        with pytest.raises(UsageError, match=message):
            match_activations(MLP, a, b)


def test_wrapped_names_are_matched_and_kept(tmp_path):
    a, x = mlp(tmp_path, "a", 0)
    orders = shuffled(MLP)
    b = written(
        tmp_path / "b",
        {f"module.{k}": t for k, t in apply_orders(x, MLP, orders).items()}
        | {"module.bn.num_batches_tracked": torch.tensor(3)},
    )
    found = align(a, b, tmp_path / "out", match_weights(a, b, MLP).orders, MLP)
    aligned = load_file(tmp_path / "out" / "model.safetensors")
    assert aligned.pop("module.bn.num_batches_tracked") == 3
    assert {k: t.tolist() for k, t in aligned.items()} == {
        f"module.{k}": t.tolist() for k, t in x.items()
    }
    assert found.after.distance == 0.0 and found.after.cosine == pytest.approx(1.0)


def test_tied_embeddings_saved_twice(tmp_path):
    """B keeps both names of one storage; A, by safetensors, keeps one."""
    _, a, b, own, _ = planted(tmp_path, "llama tied")
    tensors = load_file(tmp_path / "b" / "model.safetensors")
    twice = tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"]}
    (tmp_path / "b" / "model.safetensors").unlink()
    torch.save(twice, tmp_path / "b" / "pytorch_model.bin")
    b = open_checkpoint(tmp_path / "b")
    align(a, b, tmp_path / "out", match_weights(a, b).orders)
    aligned = load_file(tmp_path / "out" / "model.safetensors")
    for name in ("lm_head.weight", "model.embed_tokens.weight"):
        assert torch.equal(aligned[name], own["model.embed_tokens.weight"])


def test_refusals(tmp_path):
    a, x = mlp(tmp_path, "a", 0)
    b, y = mlp(tmp_path, "b", 1)
    short = {k: t for k, t in y.items() if k != "a.b"} | {"c.w": torch.zeros(1, 9), "d": y["a.b"]}
    with pytest.raises(ShapeMismatch) as caught:
        match_weights(a, written(tmp_path / "short", short), MLP)
    for part in ("a.b (12,) and absent", "c.w (4, 9) and (1, 9)", "d absent and (12,)"):
        assert part in str(caught.value)
    norm = PermutationGroup("h1", "mlp", 12, (*MLP[0].sites, Site("running_mean", 0)))
    with_norm = written(tmp_path / "norm", x | {"running_mean": torch.zeros(12)})
    with pytest.raises(ShapeMismatch, match=r"b: other tensors than norm: running_mean \(12,\)"):
        match_weights(with_norm, b, [norm])
    y["b.w"][2, 3] = torch.nan
    with pytest.raises(NonFinite, match=r"nan: b\.w: 1 NaN"):
        match_weights(a, written(tmp_path / "nan", y), MLP)
    with pytest.raises(NonFinite, match=r"nan: b\.w: 1 NaN"):
        align(a, open_checkpoint(tmp_path / "nan"), tmp_path / "out", {}, MLP)
    with pytest.raises(UsageError, match="order of h1 permutes other than 12 units"):
        align(a, b, tmp_path / "out", {"h1": [0] * 12}, MLP)
    with pytest.raises(UsageError, match="no group is named 'h3'"):
        align(a, b, tmp_path / "out", {"h3": [0]}, MLP)
    assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="exists already"):
        align(a, b, tmp_path / "a", {}, MLP)
    with pytest.raises(UsageError, match="starts = 0"):
        match_weights(a, b, MLP, starts=0)
    with pytest.raises(UsageError, match="not known"):
        match_weights(a, b)

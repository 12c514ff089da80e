"""Checkpoints of other widths: loaded by transformers, exact where they must be, refused else."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.checkpoints.safetensors_file import read_metadata
from analyzer.errors import NonFinite, QuantUnknown, ShapeMismatch, UsageError
from analyzer.models.manifold.groups import groups_from_yaml, permutation_groups
from analyzer.models.manifold.operators import NARROWING
from analyzer.models.manifold.sample import sample_checkpoint
from analyzer.models.manifold.smoothness import group_smoothness

from .groups.conftest import MODELS, outputs, randomise

MLP = {"tensors": {"fc1.weight": ">h -", "fc1.bias": ">h", "fc2.weight": "- <h", "fc2.bias": "-"}}
CNN = {
    "tensors": {
        "0.weight": ">a - - -", "0.bias": ">a", r"1\.(weight|bias|running_mean|running_var)": ">a",
        "3.weight": ">b <a - -", "3.bias": ">b", "6.weight": "- <b/36", "6.bias": "-",
        ".*num_batches_tracked": "",
    }
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def saved(tmp_path):
    """A function that saves a random model of conftest and gives it with its checkpoint."""

    def save(name: str):
        torch.manual_seed(0)
        model = randomise(MODELS[name]())
        model.save_pretrained(tmp_path / "model")
        return model, open_checkpoint(tmp_path / "model")

    return save


@pytest.fixture
def mlp(tmp_path):
    """A network without config.json: its tensors, checkpoint and groups."""

    def save(dtype=torch.float64, hidden=12, **replaced):
        generator = torch.Generator().manual_seed(3)
        shapes = {"fc1.weight": (hidden, 7), "fc1.bias": (hidden,), "fc2.weight": (5, hidden)}
        tensors = {
            name: torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            for name, shape in (shapes | {"fc2.bias": (5,)}).items()
        }
        return described(tmp_path, tensors | replaced, MLP)

    return save


def described(tmp_path, tensors, spec):
    folder = tmp_path / f"net{len(list(tmp_path.iterdir()))}"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "spec.json").write_text(json.dumps(spec))
    checkpoint = open_checkpoint(folder)
    groups, unmapped = groups_from_yaml(folder / "spec.json", checkpoint)
    assert unmapped == ()
    return tensors, checkpoint, groups


def loaded(model, path):
    attention = model.config._attn_implementation
    other, info = type(model).from_pretrained(
        path, dtype=torch.float64, attn_implementation=attention, output_loading_info=True
    )
    assert not info["mismatched_keys"] and not info["missing_keys"] and not info["unexpected_keys"]
    if hasattr(model.config, "_experts_implementation"):
        other.config._experts_implementation = model.config._experts_implementation
    return other.eval()


def difference(model, other) -> float:
    with torch.no_grad():
        before, after = outputs(model), outputs(other)
    return float((after - before).abs().max() / before.abs().max())


def tolerance(model) -> float:
    """RMSNorm computes in float32 whatever its input."""
    return 1e-5 if any("RMSNorm" in type(m).__name__ for m in model.modules()) else 1e-12


def hidden(x, tensors):
    return torch.relu(x @ tensors["fc1.weight"].T + tensors["fc1.bias"]) @ tensors["fc2.weight"].T


@pytest.mark.parametrize(
    ("name", "widths", "field", "value"),
    [
        ("llama", {"mlp": 29}, "intermediate_size", 29),
        ("phi3", {"mlp": 31}, "intermediate_size", 31),
        ("mixtral", {"mlp": 24}, "intermediate_size", 24),
        ("gpt2", {"mlp": 47}, "n_inner", 47),
        ("bert classes", {"mlp": 33}, "intermediate_size", 33),
        ("vit", {"mlp": 21}, "intermediate_size", 21),
        ("llama", {"heads": 6}, "num_key_value_heads", 3),
        ("llama", {"heads": 12, "mlp": 40}, "num_attention_heads", 12),
        ("llama tied", {"heads": 8}, "num_key_value_heads", 8),
        ("llama", {"query_heads": 3}, "num_attention_heads", 6),
        ("qwen3", {"heads": 10}, "num_key_value_heads", 5),
        ("mistral", {"heads": 10}, "head_dim", 6),
        ("qwen2", {"heads": 6}, "num_attention_heads", 6),
        ("phi3", {"heads": 8}, "num_key_value_heads", 4),
        ("llama", {"residual": 48}, "hidden_size", 48),
        ("bert untied", {"residual": 48, "heads": 8, "channels": 48}, "hidden_size", 48),
    ],
)
def test_widened_models_load_and_keep_their_function(saved, tmp_path, name, widths, field, value):
    """Copies are exact; the stream's too where every channel has as many, as norms average."""
    model, checkpoint = saved(name)
    made = sample_checkpoint(
        checkpoint, tmp_path / "wide", widths=widths, allow_approximate="residual" in widths
    )
    other = loaded(model, made.path)
    assert getattr(other.config, field) == value
    limit = 1e-5 if "residual" in widths else tolerance(model)  # epsilon stays, RMSNorm or not
    assert difference(model, other) <= limit
    assert made.operator == "duplicate" and made.gamma_params < 0 and made.warnings == ()
    assert all(s.gamma_width == 1 - s.m / s.n < 0 for s in made.groups)
    assert all(s.certificate == pytest.approx(0, abs=1e-12) for s in made.groups)
    assert made.stored_params == open_checkpoint(made.path).n_params


@pytest.mark.parametrize("operator", [*NARROWING, "linear"])
@pytest.mark.parametrize(
    ("name", "widths"), [("llama", {"mlp": 13, "heads": 2}), ("gpt2", {"mlp": 9})]
)
def test_narrowed_models_load(saved, tmp_path, name, widths, operator):
    model, checkpoint = saved(name)
    made = sample_checkpoint(checkpoint, tmp_path / "new", widths=widths, operator=operator)
    other = loaded(model, made.path)
    assert 0 < difference(model, other) < 10
    assert made.operator == operator and 0 < made.gamma_params < 1
    assert open_checkpoint(made.path).n_params == made.stored_params
    assert {s.certified for s in made.groups} == {name == "gpt2"}
    before = {t.name: t.dtype for t in checkpoint.tensors()}
    assert {t.name: t.dtype for t in open_checkpoint(made.path).tensors()} == before


@pytest.mark.parametrize(
    ("name", "up", "down"),
    [
        ("llama", {"mlp": 53, "heads": 12}, {"mlp": 20, "heads": 4}),
        ("gpt2", {"mlp": 41}, {"mlp": 20}),
    ],
)
def test_merging_copies_gives_the_original_back(saved, tmp_path, name, up, down):
    model, checkpoint = saved(name)
    wide = sample_checkpoint(checkpoint, tmp_path / "wide", widths=up)
    back = sample_checkpoint(
        open_checkpoint(wide.path), tmp_path / "back", widths=down, operator="merge"
    )
    before, after = (load_file(p / "model.safetensors") for p in (checkpoint.path, back.path))
    assert before.keys() == after.keys()
    for key, tensor in before.items():
        assert torch.allclose(after[key], tensor, rtol=1e-13, atol=1e-15), key
    assert max(s.certificate for s in back.groups) < 1e-5
    assert difference(model, loaded(model, back.path)) <= tolerance(model)


def test_the_same_width_keeps_every_bit(saved, tmp_path):
    _, checkpoint = saved("llama")
    made = sample_checkpoint(
        checkpoint, tmp_path / "same", widths={"mlp": 20, "heads": 4, "residual": 24}
    )
    copy = open_checkpoint(made.path)
    assert copy.config == checkpoint.config and made.groups == () and made.gamma_params == 0
    for tensor in checkpoint.tensors():
        assert copy.content_sha256(tensor.name) == checkpoint.content_sha256(tensor.name)


def test_operators_against_dense_matrices(mlp, tmp_path):
    """Area from the overlap of intervals, cosines from their definition, in the group's order."""
    tensors, checkpoint, groups = mlp()
    n, m = 12, 5
    order = np.array(group_smoothness(checkpoint.read, groups[0]).order)
    old, new = np.arange(n + 1) / n, np.arange(m + 1) / m
    overlap = np.minimum(new[1:, None], old[1:]) - np.maximum(new[:-1, None], old[:-1])
    u, v = (np.arange(n) + 0.5) / n, (np.arange(m) + 0.5) / m
    scale = np.where(np.arange(m) == 0, 1.0, np.sqrt(2.0))
    cosines = [scale * np.cos(np.pi * np.outer(x, np.arange(m))) for x in (v, u)]
    for operator, E in (
        ("area", np.maximum(overlap, 0) * m), ("dct", cosines[0] @ cosines[1].T / n)
    ):  # fmt: skip
        made = sample_checkpoint(
            checkpoint, tmp_path / operator, widths={"h": m}, operator=operator, groups=groups
        )
        got = {k: t.numpy() for k, t in load_file(made.path / "model.safetensors").items()}
        want = {k: t.numpy() for k, t in tensors.items()}
        assert np.allclose(got["fc1.weight"], E @ want["fc1.weight"][order], atol=1e-13)
        assert np.allclose(got["fc1.bias"], E @ want["fc1.bias"][order], atol=1e-13)
        assert np.allclose(
            got["fc2.weight"], want["fc2.weight"][:, order] @ E.T * n / m, atol=1e-13
        )
        assert np.array_equal(got["fc2.bias"], want["fc2.bias"])
    pruned = sample_checkpoint(
        checkpoint, tmp_path / "prune", widths={"h": m}, operator="prune", groups=groups
    )
    rows = np.concatenate([want["fc1.weight"], want["fc1.bias"][:, None]], axis=1)
    kept = np.sort(np.argsort(-np.abs(rows).sum(axis=1))[:m])
    got = load_file(pruned.path / "model.safetensors")
    assert got["fc1.weight"].equal(tensors["fc1.weight"][kept])
    assert got["fc2.weight"].equal(tensors["fc2.weight"][:, kept])


@pytest.mark.parametrize("operator", [*NARROWING, "linear"])
def test_the_certificate_holds(mlp, tmp_path, operator):
    tensors, checkpoint, groups = mlp()
    made = sample_checkpoint(
        checkpoint, tmp_path / "new", widths={"h": 7}, operator=operator, groups=groups
    )
    x = torch.randn(200, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = (hidden(x, tensors) - hidden(x, load_file(made.path / "model.safetensors"))).norm(dim=1)
    size = torch.cat([x, torch.ones(200, 1)], dim=1).norm(dim=1)
    (sample,) = made.groups
    assert sample.certified and 0 < float((moved / size).max()) <= sample.certificate


def test_a_convolutional_network_with_norms(tmp_path):
    torch.manual_seed(1)
    layers = torch.nn

    def build(a, b):
        return layers.Sequential(
            layers.Conv2d(3, a, 3), layers.BatchNorm2d(a), layers.ReLU(),
            layers.Conv2d(a, b, 3), layers.ReLU(), layers.Flatten(), layers.Linear(36 * b, 4),
        )  # fmt: skip

    net = randomise(build(6, 5))
    _, checkpoint, groups = described(tmp_path, net.state_dict(), CNN)
    wide = sample_checkpoint(checkpoint, tmp_path / "wide", widths={"a": 10, "b": 7}, groups=groups)
    other = build(10, 7).double().eval()
    other.load_state_dict(load_file(wide.path / "model.safetensors"))
    x = torch.randn(2, 3, 10, 10, dtype=torch.float64)
    assert torch.allclose(other(x), net(x), rtol=0, atol=1e-12)
    assert wide.warnings == ()
    small = sample_checkpoint(
        checkpoint, tmp_path / "small", widths={"channels": 4}, operator="merge", groups=groups
    )
    assert "estimate them again" in small.warnings[0]
    build(4, 4).double().load_state_dict(load_file(small.path / "model.safetensors"))
    assert not any(s.certified for s in small.groups)


def test_candidates_are_evaluated_and_the_best_is_written(mlp, tmp_path):
    tensors, checkpoint, groups = mlp()
    x = torch.randn(300, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    seen = []

    def loss(state):
        assert state["fc1.weight"].shape == (7, 7)
        seen.append(float((hidden(x, state) - hidden(x, tensors)).square().mean()))
        return {"loss": seen[-1], "acc": -seen[-1]}

    made = sample_checkpoint(
        checkpoint, tmp_path / "best", widths={"h": 7}, groups=groups, eval_fn=loss
    )
    assert len(seen) == len(NARROWING) and [c.loss for c in made.candidates] == sorted(seen)
    written = load_file(made.path / "model.safetensors")
    assert loss(written)["loss"] == min(seen) == made.candidates[0].loss
    assert made.candidates[0].acc == -min(seen) and made.candidates[0].operator == made.operator
    blind = sample_checkpoint(checkpoint, tmp_path / "blind", widths={"h": 7}, groups=groups)
    bounds = [c.certificate for c in blind.candidates]
    assert bounds == sorted(bounds) and blind.candidates[0].loss is None
    with pytest.raises(UsageError, match="key 'loss'"):
        sample_checkpoint(
            checkpoint, tmp_path / "none", widths={"h": 7}, groups=groups, eval_fn=lambda _: {}
        )
    losses = iter([torch.nan, 2.0, torch.nan, 1.0, torch.nan])
    undefined = sample_checkpoint(
        checkpoint,
        tmp_path / "nan",
        widths={"h": 7},
        groups=groups,
        eval_fn=lambda _: {"loss": next(losses)},
    )
    assert [c.loss for c in undefined.candidates[:2]] == [1.0, 2.0]
    assert undefined.candidates[0].operator == undefined.operator == NARROWING[3]


def test_what_the_file_says_of_itself(mlp, tmp_path):
    _, checkpoint, groups = mlp()
    made = [
        sample_checkpoint(
            checkpoint, tmp_path / str(i), widths={"h": 7}, operator="area", groups=groups, seed=0
        )
        for i in range(2)
    ]
    said = read_metadata(made[0].path / "model.safetensors")
    assert said == read_metadata(made[1].path / "model.safetensors")
    assert said["operator"] == "area" and json.loads(said["widths"]) == {"h": "12->7"}
    assert said["source_sha256"] == made[0].source_sha256 and len(said["order_sha256"]) == 64
    assert "smoothness" in made[0].warnings[0] and "h" in made[0].warnings[0]
    assert made[0].groups[0].smoothness < 0.1  # random weights have no order


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_half_precision_is_computed_wide_and_stored_as_it_was(mlp, tmp_path, dtype):
    tensors, checkpoint, groups = mlp(dtype)
    made = sample_checkpoint(checkpoint, tmp_path / "wide", widths={"h": 24}, groups=groups)
    wide = load_file(made.path / "model.safetensors")
    assert all(tensor.dtype == dtype for tensor in wide.values())
    assert wide["fc1.weight"][::2].equal(tensors["fc1.weight"])
    assert (wide["fc2.weight"][:, ::2] * 2).equal(tensors["fc2.weight"])  # halves are exact


@pytest.mark.parametrize(
    ("name", "widths", "options", "message"),
    [
        ("llama", {"mlp": 0}, {}, "width of mlp must be a whole number from 1, got 0"),
        ("llama", {"mlp": 2.5}, {}, "whole number"),
        ("llama", {"wings": 2}, {}, "no group has the name or kind 'wings'.*heads, mlp"),
        ("llama", {"heads": 5}, {}, "5 heads are no whole number of key heads of attn_0"),
        ("llama", {"heads": 10}, {}, "hidden_size 24 that num_attention_heads 10 does not divide"),
        ("llama", {"mlp_0": 10}, {}, r"one intermediate_size for all layers, not \[10, 20\]"),
        ("llama", {"residual": 12}, {}, "inexact.*allow_approximate"),
        ("gpt2", {"residual": 48}, {"allow_approximate": True}, "tied embeddings"),
        ("llama", {"heads": 2, "query_heads": 1}, {}, "lies within attn_0"),
        ("gpt2", {"heads": 2}, {}, "n_embd/n_head = 24/2 channels, the weights have 6"),
        ("bert classes", {"heads": 8}, {}, "hidden_size/num_attention_heads = 24/8"),
        ("bert untied", {"channels": 12}, {}, "one hidden_size for .*res 24.*change them alike"),
        ("mixtral", {"experts": 2}, {}, "a number of experts is no width"),
        ("mixtral", {"mlp_0_expert_1": 10}, {}, "one intermediate_size"),
        ("resnet basic", {"channels": 4}, {}, "resnet has no fields"),
        ("llama", {"mlp": 30}, {"operator": "merge"}, "merge cannot take 20 units to 30"),
        ("llama", {"mlp": 10}, {"operator": "duplicate"}, "duplicate cannot take 20 units to 10"),
    ],
)  # fmt: skip
def test_refusals_leave_nothing_behind(saved, tmp_path, name, widths, options, message):
    _, checkpoint = saved(name)
    with pytest.raises(UsageError, match=message):
        sample_checkpoint(checkpoint, tmp_path / "new", widths=widths, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_bad_tensors_are_named(mlp, tmp_path):
    bad = torch.zeros(12, 7, dtype=torch.float64)
    bad[2, 3] = torch.nan
    for replaced, error, message in (
        ({"fc1.weight": bad}, NonFinite, "fc1.weight: 1 NaN"),
        ({"fc2.weight": torch.ones(5, 12, dtype=torch.int8)}, QuantUnknown, "fc2.weight.*int8"),
    ):
        _, checkpoint, groups = mlp(**replaced)
        with pytest.raises(error, match=message):
            sample_checkpoint(checkpoint, tmp_path / "new", widths={"h": 4}, groups=groups)
        assert not list(tmp_path.glob("*new*"))
    _, checkpoint, groups = mlp()
    with pytest.raises(UsageError, match="exists already"):
        sample_checkpoint(checkpoint, tmp_path, widths={"h": 4}, groups=groups)


def test_an_error_while_writing_leaves_nothing_behind(mlp, tmp_path):
    """Merging adds outgoing weights: two of 60000 do not fit float16."""
    columns = torch.full((5, 12), 6e4, dtype=torch.float16)
    _, checkpoint, groups = mlp(torch.float16, **{"fc2.weight": columns})
    with pytest.raises(NonFinite, match=r"fc2\.weight"):
        sample_checkpoint(
            checkpoint, tmp_path / "new", widths={"h": 4}, operator="merge", groups=groups
        )
    assert not list(tmp_path.glob("*new*"))


def test_layers_that_config_counts_but_no_group_covers(saved, tmp_path):
    _, checkpoint = saved("llama")
    tensors = load_file(checkpoint.path / "model.safetensors")
    tensors["model.layers.1.mlp.gain"] = torch.ones(20)
    save_file(tensors, checkpoint.path / "model.safetensors", metadata={"format": "pt"})
    partly = open_checkpoint(checkpoint.path)
    assert "mlp_1" not in {group.name for group in permutation_groups(partly)[0]}
    with pytest.raises(UsageError, match="holds for 2 layers, but only some"):
        sample_checkpoint(partly, tmp_path / "new", widths={"mlp": 30})


def test_slices_of_a_stack_get_one_width(tmp_path):
    tensors = {"up": torch.ones(2, 6, 3), "down": torch.ones(2, 3, 6), "gate": torch.ones(2, 3)}
    spec = {
        "tensors": {
            "up": ">experts_0 >mlp_0_expert_@ -", "down": ">experts_0 - <mlp_0_expert_@",
            "gate": ">experts_0 -",
        }
    }  # fmt: skip
    _, checkpoint, groups = described(tmp_path, tensors, spec)
    both = sample_checkpoint(checkpoint, tmp_path / "both", widths={"mlp": 9}, groups=groups)
    shapes = {t.name: t.shape for t in open_checkpoint(both.path).tensors()}
    assert shapes == {"up": (2, 9, 3), "down": (2, 3, 9), "gate": (2, 3)}
    with pytest.raises(ShapeMismatch, match="slices would get different widths"):
        sample_checkpoint(checkpoint, tmp_path / "one", widths={"mlp_0_expert_1": 9}, groups=groups)

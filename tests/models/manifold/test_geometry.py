"""Geometry of checkpoints on disk against dense NumPy on the flattened weights."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import transformers as hf
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from scipy.spatial.distance import cdist

from analyzer.checkpoints.checkpoint import open_checkpoint, placed
from analyzer.checkpoints.discover import discover
from analyzer.errors import NonFinite, UsageError
from analyzer.models.manifold import products, shared
from analyzer.models.manifold.geometry import checkpoint_geometry
from theory.checkpoint_geometry import classical_scaling, random_walk_ratios
from theory.intrinsic_dimension import neighbour_mle, two_nn

SHAPES = {"layers.0.w": (7, 5), "layers.1.w": (3, 4, 2), "layers.1.b": (3,), "scale": ()}


def saved(path, tensors):
    path.mkdir(parents=True)
    save_file(tensors, path / "model.safetensors", metadata={"format": "pt"})
    return open_checkpoint(path)


def random_tensors(rng, dtype=torch.float32):
    return {name: torch.tensor(rng.standard_normal(s)).to(dtype) for name, s in SHAPES.items()}


def flat(tensors):
    return np.concatenate([tensors[name].double().numpy().ravel() for name in SHAPES])


@pytest.fixture
def five(tmp_path):
    """Five checkpoints, one of them in bfloat16, with a buffer that does not count."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(5):
        tensors = random_tensors(rng, torch.bfloat16 if number == 2 else torch.float32)
        found.append((saved(tmp_path / f"c{number}", tensors | {
            "bn.running_mean": torch.full((3,), 100.0 * number),
            "bn.num_batches_tracked": torch.tensor(number),
        }), flat(tensors)))  # fmt: skip
    return [one for one, _ in found], np.stack([x for _, x in found])


@pytest.mark.parametrize("block", [1, 12, 1 << 17])
def test_against_flattened_weights(five, monkeypatch, block):
    monkeypatch.setattr(products, "_BLOCK", block)
    checkpoints, X = five
    seen = []
    found = checkpoint_geometry(checkpoints, progress=lambda *done: seen.append(done))
    assert found.left_out == () and found.n_params == X.shape[1] and found.base is None
    assert seen == [(n + 1, 4) for n in range(4)]
    norms = np.linalg.norm(X, axis=1)
    D = cdist(X, X)
    np.testing.assert_allclose(found.norms, norms, rtol=1e-13)
    np.testing.assert_allclose(found.distances, D, atol=1e-12)
    np.testing.assert_allclose(found.relative, D / np.sqrt(np.outer(norms, norms)), atol=1e-12)
    np.testing.assert_allclose(found.cosines, X @ X.T / np.outer(norms, norms), atol=1e-13)
    C = X - X.mean(axis=0)
    spread = np.linalg.norm(C, axis=1)
    np.testing.assert_allclose(
        found.cosines_from_mean, C @ C.T / np.outer(spread, spread), atol=1e-13
    )
    U, s, _ = np.linalg.svd(C, full_matrices=False)
    scores = U[:, :4] * s[:4]
    np.testing.assert_allclose(np.abs(found.embedding.scores), np.abs(scores), atol=1e-11)
    np.testing.assert_allclose(found.embedding.explained, s[:4] ** 2 / (s @ s), atol=1e-13)
    np.testing.assert_allclose(found.embedding.scores, classical_scaling(D).scores, atol=1e-10)
    np.testing.assert_array_equal(found.random_walk, random_walk_ratios(4, 5))
    assert found.from_base is None and found.cosines_from_base is None and found.runs == ()


def test_from_a_base(five):
    checkpoints, X = five
    for found in (
        checkpoint_geometry(checkpoints[1:], base=checkpoints[0]),
        checkpoint_geometry(
            [placed(checkpoints[0], name="c0", kind="base", run=None, step=None), *checkpoints[1:]]
        ),
    ):
        assert found.names == ("c0", "c1", "c2", "c3", "c4") and found.base == "c0"
        deltas = X - X[0]
        length = np.linalg.norm(deltas, axis=1)
        assert found.from_base is not None and found.cosines_from_base is not None
        np.testing.assert_allclose(found.from_base, length, atol=1e-12)
        expected = deltas[1:] @ deltas[1:].T / np.outer(length[1:], length[1:])
        np.testing.assert_allclose(found.cosines_from_base[1:, 1:], expected, atol=1e-12)
        assert np.isnan(found.cosines_from_base[0]).all()


def llama():
    return hf.LlamaForCausalLM(hf.LlamaConfig(
        hidden_size=16, intermediate_size=20, num_hidden_layers=2, vocab_size=30,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=16,
    ))  # fmt: skip


def gpt2():
    return hf.GPT2LMHeadModel(
        hf.GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=30, n_positions=8)
    )


ADAPTERS = {
    llama: [
        LoraConfig(r=2, target_modules=["q_proj", "down_proj"]),
        LoraConfig(r=3, target_modules=["q_proj", "v_proj"], use_rslora=True),
        LoraConfig(r=2, target_modules=["q_proj", "o_proj"], use_dora=True),
    ],
    gpt2: [
        LoraConfig(r=2, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True),
        LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True),
    ],
}


@pytest.mark.parametrize("build", ADAPTERS)
def test_adapters_lie_where_their_merged_models_lie(tmp_path, build):
    torch.manual_seed(0)
    model = build().double()
    model.save_pretrained(tmp_path / "base")
    for number, config in enumerate(ADAPTERS[build]):
        tuned = get_peft_model(copy.deepcopy(model), config).double()
        with torch.no_grad():
            for name, parameter in tuned.named_parameters():
                if "lora_" in name:
                    parameter.add_(0.1 * torch.randn_like(parameter))
        tuned.save_pretrained(tmp_path / f"adapter{number}")
        tuned.merge_and_unload().save_pretrained(tmp_path / f"merged{number}")
    base = open_checkpoint(tmp_path / "base")
    count = len(ADAPTERS[build])
    adapters = [open_checkpoint(tmp_path / f"adapter{n}") for n in range(count)]
    merged = [open_checkpoint(tmp_path / f"merged{n}") for n in range(count)]
    assert {one.kind for one in adapters} == {"adapter"}
    expected = checkpoint_geometry(merged, base=base)
    assert expected.distances[0, 1:].min() > 0.1
    for points in (adapters, [adapters[0], *merged[1:]], [merged[0], *adapters[1:]]):
        found = checkpoint_geometry(points, base=base)
        assert found.left_out == () and found.n_params == expected.n_params
        for name in ("norms", "distances", "cosines", "cosines_from_base", "from_base"):
            np.testing.assert_allclose(
                getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-9, err_msg=name
            )
    with pytest.raises(UsageError, match="an adapter is compared through its base"):
        checkpoint_geometry(adapters)


def test_a_low_rank_update_is_not_made_dense(tmp_path, monkeypatch):
    torch.manual_seed(0)
    model = llama()
    model.save_pretrained(tmp_path / "base")
    get_peft_model(model, ADAPTERS[llama][0]).save_pretrained(tmp_path / "adapter")
    monkeypatch.setattr(shared, "dense_weight", None)
    monkeypatch.setattr(products, "centred_gram", None)
    base, adapter = open_checkpoint(tmp_path / "base"), open_checkpoint(tmp_path / "adapter")
    assert checkpoint_geometry([base, adapter], base=base).distances[0, 1] == 0.0  # B starts at 0


def test_an_adapter_of_another_model_is_refused(tmp_path, five):
    torch.manual_seed(0)
    tuned = get_peft_model(llama(), ADAPTERS[llama][0])
    tuned.save_pretrained(tmp_path / "adapter")
    adapter = open_checkpoint(tmp_path / "adapter")
    with pytest.raises(
        UsageError, match=r"adapter: nothing that it changes can be .*no such matrix"
    ):
        checkpoint_geometry([adapter], base=five[0][0])
    tensors = {k: t.detach().clone() for k, t in llama().state_dict().items() if "_proj" in k}
    packed = {k: (t * 100).to(torch.int8) for k, t in tensors.items()}
    base = saved(tmp_path / "packed", {**packed, "model.norm.weight": torch.ones(16)})
    with pytest.raises(UsageError, match=r"_proj\.weight of packed: int8 is no plain"):
        checkpoint_geometry([adapter], base=base)
    half = {k: t[:7] if "layers.0.self_attn.q" in k else t for k, t in tensors.items()}
    found = checkpoint_geometry([adapter, saved(tmp_path / "half", half)], base=saved(
        tmp_path / "base", tensors))  # fmt: skip
    assert [item.tensor for item in found.left_out] == ["model.layers.0.self_attn.q_proj.weight"]


def test_a_run_on_disk(tmp_path):
    """The corners of two unit squares: path 3, displacement √5."""
    corners = [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (2.0, 1.0)]
    for step, (x, y) in enumerate(corners, start=9):  # 9 before 10 needs numbers, not names
        tensors = {"layers.0.w": torch.tensor([x]), "layers.1.w": torch.tensor([y])}
        saved(tmp_path / "run" / f"checkpoint-{step}", tensors)
    saved(tmp_path / "base", {k: torch.zeros(1) for k in ("layers.0.w", "layers.1.w")})
    found = checkpoint_geometry(discover(tmp_path).checkpoints)
    assert found.base == "base" and len(found.names) == 5
    (run,) = found.runs
    assert run.steps == (9, 10, 11, 12)
    path = run.trajectory
    assert path.path_length == pytest.approx(3.0) and path.displacement == pytest.approx(5**0.5)
    assert path.tortuosity == pytest.approx(1.3416407865)
    np.testing.assert_allclose(path.turn_cosines, [0.0, 0.0], atol=1e-12)
    final = np.arccos(np.array([2.0, 1.0, 2.0]) / 5**0.5)
    np.testing.assert_allclose(run.final_angles, final, atol=1e-12)
    np.testing.assert_allclose(run.embedding.explained, [0.872678, 0.127322], atol=5e-7)
    np.testing.assert_array_equal(run.random_walk, random_walk_ratios(2, 4))
    assert run.layer_shares == pytest.approx({"layers.0": 0.8, "layers.1": 0.2})
    assert run.from_base is not None
    np.testing.assert_allclose(run.from_base, [0.0, 1.0, 2**0.5, 5**0.5], atol=1e-12)
    assert run.dimension.two_nn.refused == "4 distinct points, at least 8 needed"


def test_a_random_walk_is_at_its_null(tmp_path):
    rng = np.random.default_rng(0)
    x = np.zeros(20_000)
    points = []
    for step in range(12):
        x = x + rng.standard_normal(x.size)
        one = saved(tmp_path / f"s{step}", {"w": torch.tensor(x)})
        points.append(placed(one, name=one.name, kind="full", run="walk", step=step))
    (run,) = checkpoint_geometry(points).runs
    np.testing.assert_allclose(run.embedding.explained, run.random_walk, rtol=0.05)


def test_tensors_that_differ_are_listed_and_left_out(tmp_path, five):
    checkpoints, X = five
    rng = np.random.default_rng(1)
    tensors = random_tensors(rng)
    other = {
        **tensors,
        "layers.0.w": torch.zeros(1, 5),  # would broadcast
        "layers.1.b": torch.zeros(3, dtype=torch.int8),
        "head.w": torch.zeros(2),
    }
    del other["scale"]
    odd = saved(tmp_path / "odd", other)
    found = checkpoint_geometry([*checkpoints, odd])
    assert {str(item) for item in found.left_out} == {
        "layers.0.w of odd: shape (1, 5), (7, 5) in c0",
        "layers.1.b of odd: int8, float32 in c0",
        "scale of odd: absent, c0 has it",
        "head.w of odd: c0 has no such tensor",
    }
    kept = np.vstack([X[:, 35:59], tensors["layers.1.w"].double().numpy().ravel()])
    np.testing.assert_allclose(found.distances, cdist(kept, kept), atol=1e-12)
    stranger = saved(tmp_path / "stranger", {"other.w": torch.zeros(3)})
    with pytest.raises(
        UsageError, match=r"shared by all checkpoints: layers\.0\.w of stranger: absent"
    ):
        checkpoint_geometry([*checkpoints, stranger])
    with pytest.raises(UsageError, match="at least 2 checkpoints, got 1"):
        checkpoint_geometry(checkpoints[:1])


@pytest.mark.parametrize("block", [8, 1 << 17])
def test_a_nan_is_named(tmp_path, five, monkeypatch, block):
    monkeypatch.setattr(products, "_BLOCK", block)
    tensors = random_tensors(np.random.default_rng(2))
    tensors["layers.0.w"][3, 1] = torch.nan
    bad = saved(tmp_path / "bad", tensors)
    with pytest.raises(NonFinite, match=r"bad: layers\.0\.w: 1 NaN .* flat index 16"):
        checkpoint_geometry([*five[0], bad])


def test_names_match_up_to_wrappers(tmp_path, five):
    checkpoints, _ = five
    tensors = random_tensors(np.random.default_rng(0))
    wrapped = saved(tmp_path / "wrapped", {f"module.{name}": t for name, t in tensors.items()})
    found = checkpoint_geometry([checkpoints[0], wrapped])
    assert found.left_out == () and found.distances[0, 1] == 0.0


def test_intrinsic_dimension(tmp_path):
    rng = np.random.default_rng(3)
    plane = rng.standard_normal((60, 2)) @ rng.standard_normal((2, 30))
    points = [saved(tmp_path / f"p{n}", {"w": torch.tensor(x)}) for n, x in enumerate(plane)]
    found = checkpoint_geometry(points).dimension
    expected = two_nn(cdist(plane, plane))
    assert found.two_nn.ml == pytest.approx(expected.ml, rel=1e-8)
    assert (found.two_nn.low, found.two_nn.high) == pytest.approx((expected.low, expected.high))
    assert found.mle.harmonic == pytest.approx(neighbour_mle(cdist(plane, plane)).harmonic)
    assert found.two_nn.low is not None and found.two_nn.high is not None
    assert found.two_nn.low < 2.0 < found.two_nn.high and found.two_nn.warnings == ()
    seven = checkpoint_geometry(points[:7]).dimension
    assert seven.two_nn.refused == seven.mle.refused == "7 distinct points, at least 8 needed"
    assert seven.two_nn.ml is None and seven.mle.harmonic is None
    twice = checkpoint_geometry([*points[:6], *points[:3]]).dimension.two_nn
    assert twice.refused == "6 distinct points, at least 8 needed"
    assert twice.warnings == ("3 duplicates of other points dropped",)
    line = [
        saved(tmp_path / f"l{n}", {"w": torch.tensor([n + 1e-9 * n**2, 1.0], dtype=torch.double)})
        for n in range(9)
    ]
    assert "evenly spaced" in " ".join(checkpoint_geometry(line).dimension.two_nn.warnings)

"""kohya, LyCORIS, diffusers and MLX files against formulas written out here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from analyzer.checkpoints.adapters import (
    LowRankDelta,
    match_targets,
    open_adapter,
    scaling_at,
    target_update,
)


def randn(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).double() * 0.4


@pytest.fixture
def apply(files, infos, tuned):
    """Adapter tensors, configuration and base → the tuned matrices by name."""

    def run(data, base, config=None):
        adapter = open_adapter(files(data, config or {}))
        matrices = [info for group in infos(base).values() for info in group]
        found = {}
        for target, info in match_targets(adapter, matrices):
            assert info is not None, target
            tensor = base[info.tensor] if info.index is None else base[info.tensor][info.index]
            W0 = tensor.reshape(len(tensor), -1)
            found[info.name] = tuned(target_update(adapter, target, info, W0), W0)
        return found

    return run


def flat(tensor: Tensor) -> np.ndarray:
    return tensor.reshape(len(tensor), -1).numpy()


UNET = "down_blocks.0.attentions.0.attn1"
KOHYA = "lora_unet_down_blocks_0_attentions_0_attn1"


@pytest.mark.parametrize("prefix", ["", "unet.", "model.diffusion_model."])
def test_kohya_linear_and_convolution(apply, prefix):
    to_q, conv = randn(8, 6), randn(5, 4, 3, 3)
    data = {
        f"{KOHYA}_to_q.lora_down.weight": randn(2, 6),
        f"{KOHYA}_to_q.lora_up.weight": randn(8, 2),
        f"{KOHYA}_to_q.alpha": torch.tensor(1.0),
        "lora_unet_conv_in.lora_down.weight": randn(3, 4, 3, 3),
        "lora_unet_conv_in.lora_up.weight": randn(5, 3, 1, 1),
    }
    got = apply(data, {f"{prefix}{UNET}.to_q.weight": to_q, f"{prefix}conv_in.weight": conv})
    up, down = data[f"{KOHYA}_to_q.lora_up.weight"], data[f"{KOHYA}_to_q.lora_down.weight"]
    want = to_q + 0.5 * up @ down
    np.testing.assert_allclose(got[f"{prefix}{UNET}.to_q.weight"], want, atol=1e-12)
    up = data["lora_unet_conv_in.lora_up.weight"].reshape(5, 3)
    down = data["lora_unet_conv_in.lora_down.weight"].reshape(3, -1)
    np.testing.assert_allclose(got[f"{prefix}conv_in.weight"], flat(conv) + (up @ down).numpy())


def test_kohya_underscores_inside_a_module_name(apply):
    base = {"text_model.encoder.layers.0.mlp.fc1.weight": randn(6, 4), "q_a.b.weight": randn(6, 4)}
    data = {
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_down.weight": randn(1, 4),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.lora_up.weight": randn(6, 1),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.alpha": torch.tensor(3.0),
    }
    got = apply(data, base)
    assert set(got) == {"text_model.encoder.layers.0.mlp.fc1.weight"}


def test_two_text_encoders_are_kept_apart(apply):
    base = {f"{te}.fc.weight": randn(6, 4) for te in ("text_encoder", "text_encoder_2")}
    data = {
        f"lora_te{i}_fc.lora_{part}.weight": i * randn(*shape)
        for i in (1, 2)
        for part, shape in (("down", (1, 4)), ("up", (6, 1)))
    }
    got = apply(data, base)
    for i, te in ((1, "text_encoder"), (2, "text_encoder_2")):
        want = base[f"{te}.fc.weight"] + i * i * randn(6, 1) @ randn(1, 4)
        np.testing.assert_allclose(got[f"{te}.fc.weight"], want, atol=1e-12)


def test_lycoris_cp_convolution(apply):
    conv, mid = randn(5, 4, 3, 2), randn(2, 2, 3, 2)
    up, down = randn(5, 2, 1, 1), randn(2, 4, 1, 1)
    data = {
        "lora_unet_c.lora_mid.weight": mid, "lora_unet_c.lora_up.weight": up,
        "lora_unet_c.lora_down.weight": down, "lora_unet_c.alpha": torch.tensor(1.0),
    }  # fmt: skip
    delta = torch.einsum("ijkl,pi,jr->prkl", mid, up.reshape(5, 2), down.reshape(2, 4))
    got = apply(data, {"c.weight": conv})["c.weight"]
    np.testing.assert_allclose(got, flat(conv + 0.5 * delta), atol=1e-12)


@pytest.mark.parametrize("axis", ["output", "input"])
@pytest.mark.parametrize("shape", [(6, 6), (5, 4, 3, 3)])
def test_lycoris_dora_scale(apply, axis, shape):
    W0 = randn(*shape)
    ones = [1] * (len(shape) - 2)
    m = randn(shape[0], 1, *ones) if axis == "output" else randn(1, shape[1], *ones)
    down, up = randn(2, *shape[1:]), randn(shape[0], 2, *ones)
    data = {
        "lora_unet_c.lora_down.weight": down, "lora_unet_c.lora_up.weight": up,
        "lora_unet_c.dora_scale": m, "lora_unet_c.alpha": torch.tensor(4.0),
    }  # fmt: skip
    W = W0 + 2 * (up.reshape(-1, 2) @ down.reshape(2, -1)).reshape(shape)
    dims = tuple(d for d in range(W.ndim) if d != (0 if axis == "output" else 1))
    want = W * m / torch.linalg.vector_norm(W, dim=dims, keepdim=True)
    np.testing.assert_allclose(apply(data, {"c.weight": W0})["c.weight"], flat(want), atol=1e-12)


def test_lycoris_loha(apply):
    W0 = randn(9, 10)
    parts = {f"hada_w{i}_{s}": randn(*shape) + i for i in (1, 2)
             for s, shape in (("a", (9, 2)), ("b", (2, 10)))}  # fmt: skip
    data = {f"lora_unet_c.{part}": value for part, value in parts.items()}
    data["lora_unet_c.alpha"] = torch.tensor(1.0)
    one = parts["hada_w1_a"] @ parts["hada_w1_b"]
    want = W0 + 0.5 * one * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    np.testing.assert_allclose(apply(data, {"c.weight": W0})["c.weight"], want, atol=1e-12)


def test_lycoris_loha_with_dora_scale(apply):
    W0, m = randn(4, 3), randn(4, 1)
    parts = {f"hada_w{i}_{s}": randn(*shape) + i for i in (1, 2)
             for s, shape in (("a", (4, 2)), ("b", (2, 3)))}  # fmt: skip
    one, two = (parts[f"hada_w{i}_a"] @ parts[f"hada_w{i}_b"] for i in (1, 2))
    W = W0 + one * two
    want = m * W / W.norm(dim=1, keepdim=True)
    data = {f"lora_unet_c.{part}": t for part, t in parts.items()} | {"lora_unet_c.dora_scale": m}
    np.testing.assert_allclose(apply(data, {"c.weight": W0})["c.weight"], want, atol=1e-12)


@pytest.mark.parametrize("shape", [(), (3,), (3, 2)])
def test_lycoris_lokr_with_both_factors_full_is_not_scaled(apply, shape):
    """Also the three-way w2 of a one-dimensional convolution, where PEFT computes otherwise."""
    w1, w2 = randn(2, 3), randn(4, 2, *shape)
    data = {"lycoris_c.lokr_w1": w1, "lycoris_c.lokr_w2": w2, "lycoris_c.alpha": torch.tensor(9.0)}
    W0 = randn(8, 6, *shape)
    kron = torch.kron(w1.reshape(2, 3, *[1] * len(shape)), w2)
    np.testing.assert_allclose(apply(data, {"c.weight": W0})["c.weight"], flat(W0 + kron))


def test_lycoris_lokr_factored(apply):
    w1, a, b = randn(2, 3), randn(8, 1), randn(1, 4)
    data = {"lycoris_c.lokr_w1": w1, "lycoris_c.lokr_w2_a": a, "lycoris_c.lokr_w2_b": b,
            "lycoris_c.alpha": torch.tensor(0.5)}  # fmt: skip
    W0 = randn(16, 12)
    want = W0 + 0.5 * torch.kron(w1, a @ b)
    np.testing.assert_allclose(apply(data, {"c.weight": W0})["c.weight"], want, atol=1e-12)


@pytest.mark.parametrize(
    ("down", "up", "base"),
    [
        ("unet.a.to_q.lora_A.weight", "unet.a.to_q.lora_B.weight", "unet.a.to_q.weight"),
        ("unet.a.to_q.lora.down.weight", "unet.a.to_q.lora.up.weight", "unet.a.to_q.weight"),
        ("a.to_q_lora.down.weight", "a.to_q_lora.up.weight", "a.to_q.weight"),
        ("a.processor.to_q_lora.down.weight", "a.processor.to_q_lora.up.weight", "a.to_q.weight"),
        ("a.to_out_lora.down.weight", "a.to_out_lora.up.weight", "a.to_out.0.weight"),
        (
            "a.self_attn.to_out_lora.down.weight",
            "a.self_attn.to_out_lora.up.weight",
            "a.self_attn.out_proj.weight",
        ),
        (
            "a.k_proj.lora_linear_layer.down.weight",
            "a.k_proj.lora_linear_layer.up.weight",
            "a.k_proj.weight",
        ),
    ],
)
def test_diffusers_spellings(apply, down, up, base):
    other = base.replace("weight", "other.weight")
    data = {down: randn(2, 5), up: randn(7, 2)}
    W0 = {base: randn(7, 5), other: randn(3, 3)}
    np.testing.assert_allclose(apply(data, W0)[base], W0[base] + data[up] @ data[down])


def test_diffusers_model_prefix(apply):
    data, W0 = {}, {}
    for leaf in ("to_q", "to_k"):
        data[f"unet.a.{leaf}.lora_A.weight"], data[f"unet.a.{leaf}.lora_B.weight"] = (
            randn(2, 5), randn(7, 2),
        )  # fmt: skip
        W0[f"a.{leaf}.weight"] = randn(7, 5)
    assert set(apply(data, W0)) == set(W0)


MLX = {"fine_tune_type": "lora", "lora_parameters": {"rank": 2, "scale": 20.0, "dropout": 0.0}}


@pytest.mark.parametrize("config", [MLX, {}])
def test_mlx_scale_is_not_divided_by_the_rank(apply, config):
    a, b, W0 = randn(5, 2), randn(2, 7), randn(7, 5)
    got = apply({"layers.0.q.lora_a": a, "layers.0.q.lora_b": b}, {"layers.0.q.weight": W0}, config)
    np.testing.assert_allclose(got["layers.0.q.weight"], W0 + 20 * b.T @ a.T, atol=1e-12)


def test_mlx_embedding_and_dora(apply):
    a, b, m, W0 = randn(6, 2), randn(2, 6), randn(6), randn(6, 6)
    data = {"emb.lora_a": a, "emb.lora_b": b}
    got = apply(data, {"emb.weight": W0}, MLX)
    np.testing.assert_allclose(got["emb.weight"], W0 + 20 * a @ b, atol=1e-12)
    data = {"fc.lora_a": a, "fc.lora_b": b, "fc.m": m}
    W = W0 + 20 * (a @ b).T
    want = m[:, None] * W / W.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(apply(data, {"fc.weight": W0}, MLX)["fc.weight"], want, atol=1e-12)


def test_mlx_switch_linear(apply):
    E, r, n_in, n_out = 3, 2, 5, 4
    a, b, W0 = randn(E * r, n_in), randn(E, n_out, r), randn(E, n_out, n_in)
    data = {"experts.up.lora_a": a, "experts.up.lora_b": b}
    got = apply(data, {"experts.up.weight": W0}, MLX)
    want = W0 + 20 * b @ a.reshape(E, r, n_in)
    for e in range(E):
        np.testing.assert_allclose(got[f"experts.up.weight[{e}]"], want[e], atol=1e-12)


def test_mlx_full_fine_tune_replaces(apply):
    W = randn(4, 4)
    got = apply({"fc.weight": W}, {"fc.weight": randn(4, 4) + 1}, {"fine_tune_type": "full"})
    np.testing.assert_array_equal(got["fc.weight"], W)


def test_scaling_conventions(files):
    """Guide R9: r = 8, α = 16."""
    A, B = {"base_model.model.l.fc2.lora_A.weight": randn(8, 4)}, randn(4, 8)
    data = A | {"base_model.model.l.fc2.lora_B.weight": B}

    def scaling(data, **config):
        adapter = open_adapter(files(data, config))
        return scaling_at(adapter, adapter.targets[0])

    lora = {"peft_type": "LORA", "r": 8, "lora_alpha": 16}
    assert scaling(data, **lora) == 2
    assert scaling(data, **lora, use_rslora=True) == pytest.approx(5.656854, abs=1e-6)
    two = {"base_model.model.l.fc2.lora_A.weight": randn(2, 4),
           "base_model.model.l.fc2.lora_B.weight": randn(4, 2)}  # fmt: skip
    assert scaling(two, **lora, rank_pattern={"fc2": 2}) == 8
    kohya = {"lora_unet_x.lora_down.weight": randn(8, 4), "lora_unet_x.lora_up.weight": randn(4, 8),
             "lora_unet_x.alpha": torch.tensor(4.0)}  # fmt: skip
    assert scaling(kohya) == 0.5
    assert scaling({"x.lora_a": randn(4, 8), "x.lora_b": randn(8, 4)}, **MLX) == 20


@pytest.mark.parametrize(
    ("rslora", "sigma"),
    [
        (False, (56.70891667810505, 24.981968881490072)),
        (True, (80.19851907366196, 35.32983920698588)),
    ],
)
def test_spectrum_of_a_small_update(files, infos, rslora, sigma):
    """Ecosystem guide, reference case 7."""
    A = torch.tensor([[1.0, 0, 2, 0], [0, 1, 0, -1]])
    B = torch.tensor([[1.0, 1], [0, 2], [3, 0]])
    data = {"base_model.model.w.lora_A.weight": A, "base_model.model.w.lora_B.weight": B}
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 16, "use_rslora": rslora}
    adapter = open_adapter(files(data, config))
    [info] = infos({"w.weight": torch.zeros(3, 4)})["w.weight"]
    change = target_update(adapter, adapter.targets[0], info, None)
    assert isinstance(change, LowRankDelta)
    values = np.linalg.svd(change.P @ change.Q.T, compute_uv=False)
    np.testing.assert_allclose(values[:2], sigma, rtol=1e-14)
    if not rslora:
        assert np.linalg.norm(values) == pytest.approx(61.96773353931867, rel=1e-14)


@pytest.mark.parametrize("module", ["model.layers.0.self_attn.q_proj", "layers.0.self_attn.q_proj"])
@pytest.mark.parametrize("prefix", ["layers.", "transformer.h.", "model.layers."])
def test_one_target_finds_its_base_under_another_prefix(apply, prefix, module):
    base = {
        f"{prefix}{n}.self_attn.{leaf}_proj.weight": randn(6, 4) for n in (0, 1) for leaf in "qv"
    }
    A, B = randn(2, 4), randn(6, 2)
    stem = f"base_model.model.{module}.lora_"
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 6}
    got = apply({f"{stem}A.weight": A, f"{stem}B.weight": B}, base, config)
    (name,) = got
    assert name == f"{prefix}0.self_attn.q_proj.weight"
    np.testing.assert_allclose(got[name], base[name] + 3 * B @ A, atol=1e-12)

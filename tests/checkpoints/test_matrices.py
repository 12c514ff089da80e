"""The matrices of a checkpoint, in the orientation of the analyses."""

from pathlib import Path
from typing import Any

import pytest
import torch

from analyzer.checkpoints.checkpoint import Checkpoint, open_checkpoint
from analyzer.errors import (
    QuantUnknown,
)


def shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    return {m.name: (m.rows, m.cols) for m in checkpoint.matrices()}


def test_convolutions_experts_and_what_is_no_matrix(tmp_path: Path, save_model) -> None:
    conv, stack = torch.randn(5, 3, 2, 2), torch.randn(3, 8, 4)
    checkpoint = save_model(
        tmp_path,
        {
            "conv.weight": conv,
            "model.layers.1.mlp.experts.gate_up_proj": stack,
            "model.layers.1.mlp.experts.gate_up_proj_bias": torch.randn(3, 8),
            "model.layers.1.mlp.gate.weight": torch.randn(3, 4),
            "h.0.attn.bias": torch.ones(1, 1, 9, 9),
            "rotary_emb.inv_freq": torch.randn(2, 2),
            "vit.embeddings.position_embeddings": torch.randn(1, 5, 4),
            "empty.weight": torch.zeros(0, 4),
            "norm.weight": torch.ones(4),
        },
    )
    assert shapes(checkpoint) == {
        "conv.weight": (5, 12),
        "model.layers.1.mlp.gate.weight": (3, 4),
        **{f"model.layers.1.mlp.experts.gate_up_proj[{e}]": (8, 4) for e in range(3)},
    }
    assert torch.equal(checkpoint.read_matrix("conv.weight"), conv.reshape(5, 12))
    second = next(m for m in checkpoint.matrices() if m.name.endswith("[1]"))
    assert (second.role, second.expert, second.layer, second.index) == ("expert_gate_up", 1, 1, 1)
    assert second.nbytes == 8 * 4 * 4
    assert torch.equal(checkpoint.read_matrix(second), stack[1])


@pytest.mark.parametrize(
    "config", [{}, {"hidden_size": 4}, {"text_config": {"hidden_size": 4}}]
)  # fmt: skip
@pytest.mark.parametrize("stored_in_out", [True, False])
@pytest.mark.parametrize("inner", [3, 4])  # with 4 the down projection is square
def test_expert_stacks_of_both_orientations(
    inner: int, stored_in_out: bool, config: dict[str, Any], tmp_path: Path, save_model
) -> None:
    up, down = torch.randn(2, 2 * inner, 4), torch.randn(2, 4, inner)  # (E, out, in)
    turn = (lambda t: t.mT) if stored_in_out else (lambda t: t)
    prefix = "model.layers.0.mlp.experts."
    tensors = {prefix + "gate_up_proj": turn(up), prefix + "down_proj": turn(down)}
    checkpoint = save_model(tmp_path, tensors, config)
    for e in range(2):
        assert torch.equal(checkpoint.read_matrix(f"{prefix}gate_up_proj[{e}]"), up[e])
        assert torch.equal(checkpoint.read_matrix(f"{prefix}down_proj[{e}]"), down[e])


@pytest.mark.parametrize(
    ("config", "turned"),
    [({"model_type": "gpt_oss", "hidden_size": 4}, True), ({"model_type": "mixtral"}, False),
     ({"text_config": {"model_type": "llama4_text", "hidden_size": 4}}, True), ({}, False)],
)  # fmt: skip
def test_square_experts_alone_are_laid_out_as_the_model_does(
    config: dict[str, Any], turned: bool, tmp_path: Path, save_model
) -> None:
    down = torch.randn(2, 4, 4)
    checkpoint = save_model(tmp_path, {"model.layers.0.mlp.experts.down_proj": down}, config)
    got = checkpoint.read_matrix("model.layers.0.mlp.experts.down_proj[1]")
    assert torch.equal(got, down[1].T if turned else down[1])


def test_experts_as_gpt_oss_saves_them(tmp_path: Path) -> None:
    from transformers import GptOssConfig, GptOssForCausalLM

    config = GptOssConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_local_experts=2, head_dim=4,
        num_attention_heads=2, num_key_value_heads=2, vocab_size=9, num_experts_per_tok=1,
    )  # fmt: skip
    network = GptOssForCausalLM(config)
    network.save_pretrained(tmp_path)
    found = {m.name.partition("experts.")[2]: m for m in open_checkpoint(tmp_path).matrices()}
    for name, shape in (("gate_up_proj[1]", (16, 8)), ("down_proj[1]", (8, 8))):
        matrix = found[name]
        assert (matrix.rows, matrix.cols, matrix.transposed) == (*shape, True)


def gpt2(conv1d: bool) -> dict[str, torch.Tensor]:
    shapes = {
        "attn.c_attn": (12, 4),
        "attn.c_proj": (4, 4),
        "mlp.c_fc": (16, 4),
        "mlp.c_proj": (4, 16),
    }
    out_in = {f"transformer.h.0.{leaf}.weight": torch.randn(s) for leaf, s in shapes.items()}
    return {name: t.T for name, t in out_in.items()} if conv1d else out_in


@pytest.mark.parametrize("config", [{"model_type": "gpt2"}, None, {"model_type": "gpt_bigcode"}])
@pytest.mark.parametrize("conv1d", [True, False])
def test_conv1d_is_told_by_shapes_before_the_configuration(
    conv1d: bool, config: dict[str, Any] | None, tmp_path: Path, save_model
) -> None:
    tensors = gpt2(conv1d)
    checkpoint = save_model(tmp_path, tensors, config)
    for matrix in checkpoint.matrices():
        assert matrix.transposed is conv1d
        stored = tensors[matrix.tensor]
        want = stored.T if conv1d else stored
        assert (matrix.rows, matrix.cols) == tuple(want.shape)
        assert torch.equal(checkpoint.read_matrix(matrix), want)
    assert shapes(checkpoint)["transformer.h.0.attn.c_attn.weight"] == (12, 4)


def test_the_configuration_decides_where_shapes_do_not(tmp_path: Path, save_model) -> None:
    square = {"h.0.attn.c_proj.weight": torch.randn(4, 4)}
    assert save_model(tmp_path / "a", square, {"model_type": "gpt2"}).matrices()[0].transposed
    assert not save_model(tmp_path / "b", square).matrices()[0].transposed


def test_tied_tensors_are_one_matrix_and_views_of_one_storage_several(tmp_path: Path) -> None:
    w = torch.randn(6, 4)
    saved = {"wte.weight": w, "lm_head.weight": w, "q.weight": w[:3], "k.weight": w[3:]}
    torch.save(saved, tmp_path / "w.pt")
    assert shapes(open_checkpoint(tmp_path / "w.pt")) == {
        "wte.weight": (6, 4), "q.weight": (3, 4), "k.weight": (3, 4),
    }  # fmt: skip


def test_packed_integers_are_listed_and_not_analysed(tmp_path: Path, save_model) -> None:
    checkpoint = save_model(
        tmp_path,
        {
            "layers.0.q_proj.qweight": torch.zeros(2, 4, dtype=torch.int32),
            "layers.0.q_proj.qzeros": torch.zeros(2, 1, dtype=torch.int32),
            "layers.0.q_proj.scales": torch.zeros(2, 4, dtype=torch.float16),
            "layers.0.k_proj.weight": torch.zeros(4, 4, dtype=torch.int8),
            "layers.0.k_proj.SCB": torch.zeros(4, 1),
            "layers.0.v_proj.weight": torch.zeros(4, 4).to(torch.float8_e4m3fn),
            "layers.0.v_proj.weight_scale_inv": torch.ones(1, 1),
            "layers.0.o_proj.weight": torch.full((4, 4), 0.5).to(torch.float8_e4m3fn),
            "mlp.experts.down_proj_blocks": torch.zeros(2, 4, 2, 16, dtype=torch.uint8),
            "mlp.experts.down_proj_scales": torch.zeros(2, 4, 2, dtype=torch.uint8),
        },
    )
    status = {m.name: m.status for m in checkpoint.matrices()}
    assert status == {
        "layers.0.q_proj.qweight": "quantised_unknown",
        "layers.0.k_proj.weight": "quantised_unknown",
        "layers.0.v_proj.weight": "quantised_unknown",
        "layers.0.o_proj.weight": "ok",
        "mlp.experts.down_proj_blocks": "quantised_unknown",
    }
    with pytest.raises(QuantUnknown, match="int8"):
        checkpoint.read_matrix("layers.0.k_proj.weight")
    assert torch.equal(checkpoint.read_matrix("layers.0.o_proj.weight"), torch.full((4, 4), 0.5))


@pytest.mark.parametrize(
    ("stored", "exact"),
    [(torch.bfloat16, torch.float32), (torch.float16, torch.float32),
     (torch.float32, torch.float32), (torch.float64, torch.float64)],
)  # fmt: skip
def test_matrices_are_upcast_exactly(
    stored: torch.dtype, exact: torch.dtype, tmp_path: Path, save_model
) -> None:
    w = torch.randn(5, 3, dtype=torch.float64).to(stored)
    checkpoint = save_model(tmp_path, {"w.weight": w})
    got = checkpoint.read_matrix("w.weight")
    assert got.dtype == exact and torch.equal(got.double(), w.double())
    assert checkpoint.read_matrix("w.weight", dtype=torch.float32).dtype == torch.float32
    assert torch.equal(checkpoint.read_matrix("w.weight", dtype=None), w)
    assert torch.equal(checkpoint.read("w.weight", slice(1, 3)), w[1:3])

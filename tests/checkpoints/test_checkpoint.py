"""What a checkpoint tells about itself, and its matrices in the orientation of the analyses."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from analyzer.checkpoints.adapters import keys
from analyzer.checkpoints.checkpoint import Checkpoint, open_checkpoint
from analyzer.errors import (
    CheckpointError,
    CorruptFile,
    QuantUnknown,
    UnsupportedFormat,
    UsageError,
)


def model(
    folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any] | None = None
) -> Checkpoint:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return open_checkpoint(folder)


def shapes(checkpoint: Checkpoint) -> dict[str, tuple[int, int]]:
    return {m.name: (m.rows, m.cols) for m in checkpoint.matrices()}


def test_a_model_folder(tmp_path: Path) -> None:
    tensors = {
        "encoder.layer.3.attention.self.query.weight": torch.randn(6, 4),
        "encoder.layer.3.attention.self.query.bias": torch.randn(6),
        "embeddings.position_ids": torch.arange(8).reshape(1, 8),
    }
    checkpoint = model(tmp_path / "bert", tensors, {"model_type": "bert"})
    assert (checkpoint.name, checkpoint.kind, checkpoint.format) == ("bert", "full", "safetensors")
    assert (checkpoint.run, checkpoint.step) == (None, None)
    assert checkpoint.config == {"model_type": "bert"} and checkpoint.warnings == ()
    assert {t.name: (t.role, t.layer) for t in checkpoint.tensors()} == {
        "encoder.layer.3.attention.self.query.weight": ("attn_q", 3),
        "encoder.layer.3.attention.self.query.bias": ("attn_q", 3),
        "embeddings.position_ids": ("other", None),
    }
    (matrix,) = checkpoint.matrices()
    assert (matrix.rows, matrix.cols, matrix.role, matrix.layer) == (6, 4, "attn_q", 3)
    assert (matrix.shape, matrix.status, matrix.transposed) == ((6, 4), "ok", False)


def test_convolutions_experts_and_what_is_no_matrix(tmp_path: Path) -> None:
    conv, stack = torch.randn(5, 3, 2, 2), torch.randn(3, 8, 4)
    checkpoint = model(
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
    ("stored_in_out", "config"), [(True, {"hidden_size": 4}), (False, {"hidden_size": 4}),
                                  (True, {"text_config": {"hidden_size": 4}})],
)  # fmt: skip
def test_expert_stacks_of_both_orientations(
    stored_in_out: bool, config: dict[str, Any], tmp_path: Path
) -> None:
    up, down = torch.randn(2, 6, 4), torch.randn(2, 4, 3)  # (E, out, in)
    turn = (lambda t: t.mT) if stored_in_out else (lambda t: t)
    prefix = "model.layers.0.mlp.experts."
    tensors = {prefix + "gate_up_proj": turn(up), prefix + "down_proj": turn(down)}
    checkpoint = model(tmp_path, tensors, config)
    for e in range(2):
        assert torch.equal(checkpoint.read_matrix(f"{prefix}gate_up_proj[{e}]"), up[e])
        assert torch.equal(checkpoint.read_matrix(f"{prefix}down_proj[{e}]"), down[e])


@pytest.mark.parametrize("config", [{}, {"hidden_size": 4}])
@pytest.mark.parametrize("stored_in_out", [True, False])
def test_square_experts_are_laid_out_like_the_stack_beside_them(
    stored_in_out: bool, config: dict[str, Any], tmp_path: Path
) -> None:
    up, down = torch.randn(2, 8, 4), torch.randn(2, 4, 4)  # (E, out, in)
    turn = (lambda t: t.mT) if stored_in_out else (lambda t: t)
    prefix = "model.layers.0.mlp.experts."
    tensors = {prefix + "gate_up_proj": turn(up), prefix + "down_proj": turn(down)}
    checkpoint = model(tmp_path, tensors, config)
    for e in range(2):
        assert torch.equal(checkpoint.read_matrix(f"{prefix}gate_up_proj[{e}]"), up[e])
        assert torch.equal(checkpoint.read_matrix(f"{prefix}down_proj[{e}]"), down[e])


@pytest.mark.parametrize(
    ("config", "turned"),
    [({"model_type": "gpt_oss", "hidden_size": 4}, True), ({"model_type": "mixtral"}, False),
     ({"text_config": {"model_type": "llama4_text", "hidden_size": 4}}, True), ({}, False)],
)  # fmt: skip
def test_square_experts_alone_are_laid_out_as_the_model_does(
    config: dict[str, Any], turned: bool, tmp_path: Path
) -> None:
    down = torch.randn(2, 4, 4)
    checkpoint = model(tmp_path, {"model.layers.0.mlp.experts.down_proj": down}, config)
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
    conv1d: bool, config: dict[str, Any] | None, tmp_path: Path
) -> None:
    tensors = gpt2(conv1d)
    checkpoint = model(tmp_path, tensors, config)
    for matrix in checkpoint.matrices():
        assert matrix.transposed is conv1d
        stored = tensors[matrix.tensor]
        want = stored.T if conv1d else stored
        assert (matrix.rows, matrix.cols) == tuple(want.shape)
        assert torch.equal(checkpoint.read_matrix(matrix), want)
    assert shapes(checkpoint)["transformer.h.0.attn.c_attn.weight"] == (12, 4)


def test_the_configuration_decides_where_shapes_do_not(tmp_path: Path) -> None:
    square = {"h.0.attn.c_proj.weight": torch.randn(4, 4)}
    assert model(tmp_path / "a", square, {"model_type": "gpt2"}).matrices()[0].transposed
    assert not model(tmp_path / "b", square).matrices()[0].transposed


def test_tied_tensors_are_one_matrix_and_views_of_one_storage_several(tmp_path: Path) -> None:
    w = torch.randn(6, 4)
    saved = {"wte.weight": w, "lm_head.weight": w, "q.weight": w[:3], "k.weight": w[3:]}
    torch.save(saved, tmp_path / "w.pt")
    assert shapes(open_checkpoint(tmp_path / "w.pt")) == {
        "wte.weight": (6, 4), "q.weight": (3, 4), "k.weight": (3, 4),
    }  # fmt: skip


def test_packed_integers_are_listed_and_not_analysed(tmp_path: Path) -> None:
    checkpoint = model(
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
    stored: torch.dtype, exact: torch.dtype, tmp_path: Path
) -> None:
    w = torch.randn(5, 3, dtype=torch.float64).to(stored)
    checkpoint = model(tmp_path, {"w.weight": w})
    got = checkpoint.read_matrix("w.weight")
    assert got.dtype == exact and torch.equal(got.double(), w.double())
    assert checkpoint.read_matrix("w.weight", dtype=torch.float32).dtype == torch.float32
    assert torch.equal(checkpoint.read_matrix("w.weight", dtype=None), w)
    assert torch.equal(checkpoint.read("w.weight", slice(1, 3)), w[1:3])


def test_changing_what_was_read_does_not_change_the_file(tmp_path: Path) -> None:
    checkpoint = model(tmp_path, {"w.weight": torch.ones(3, 3)})
    checkpoint.read("w.weight").zero_()
    assert torch.equal(checkpoint.read("w.weight"), torch.ones(3, 3))


def test_content_hash_is_of_values_not_of_files(tmp_path: Path) -> None:
    w = torch.randn(300, 1000)
    save_file({"w": w}, tmp_path / "a.safetensors")
    torch.save({"pad": torch.ones(3), "w": w}, tmp_path / "b.pt")
    torch.save({"w": w}, tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    torch.save({"w": w.T.contiguous().T}, tmp_path / "d.pt")
    np.savez(tmp_path / "e.npz", w=w.numpy())
    np.savez_compressed(tmp_path / "f.npz", w=w.numpy())
    names = ("a.safetensors", "b.pt", "c.pt", "d.pt", "e.npz", "f.npz")
    assert len({open_checkpoint(tmp_path / n).content_sha256("w") for n in names}) == 1
    torch.save(
        {"w": w.reshape(1000, 300), "v": w.clone().view(torch.int32), "u": w + 1}, tmp_path / "g.pt"
    )
    other = open_checkpoint(tmp_path / "g.pt")
    hashes = {other.content_sha256(name) for name in "wvu"}
    assert len(hashes | {open_checkpoint(tmp_path / "b.pt").content_sha256("w")}) == 4


def test_fingerprint_changes_with_any_file(tmp_path: Path) -> None:
    checkpoint = model(tmp_path, {"w.weight": torch.ones(3, 3)}, {"model_type": "x"})
    first = checkpoint.fingerprint()
    assert open_checkpoint(tmp_path).fingerprint() == first
    os.utime(tmp_path / "config.json", ns=(1, 1))
    second = checkpoint.fingerprint()
    (tmp_path / "model.safetensors").write_bytes(b"")
    assert len({first, second, checkpoint.fingerprint()}) == 3


def lora(**extra: torch.Tensor) -> dict[str, torch.Tensor]:
    stem = "base_model.model.h.0.q_proj.lora_"
    return {f"{stem}A.weight": torch.ones(2, 4), f"{stem}B.weight": torch.ones(4, 2), **extra}


def test_adapters(tmp_path: Path) -> None:
    folder = tmp_path / "peft"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"r": 2, "base_model_name_or_path": "org/m"}')
    with pytest.raises(UnsupportedFormat, match="without adapter_model"):
        open_checkpoint(folder)
    torch.save(lora(), folder / "adapter_model.bin")
    checkpoint = open_checkpoint(folder)
    assert (checkpoint.kind, checkpoint.format, checkpoint.config["r"]) == ("adapter", "torch", 2)
    save_file(lora(), folder / "adapter_model.safetensors")
    assert open_checkpoint(folder).format == "safetensors"
    (folder / "adapter_config.json").write_text('{"r": ')
    with pytest.raises(CorruptFile, match=r"adapter_config\.json"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "key",
    ["lora_unet_down_blocks_0_attn_to_q.lora_down.weight",
     "unet.mid_block.attn1.to_q.lora.down.weight", "unet.to_q_lora.up.weight",
     "transformer.h.0.attn.to_q.lora_A.weight", "base_model.model.h.0.q.lora_embedding_A",
     "lora_te_h_0.hada_w1_a", "lora_te_h_0.lokr_w1", "base_model.vera_A",
     "layers.0.q_proj.lora_a", "layers.0.q_proj.lora_b",
     "unet.mid_block.attn1.processor.to_q_lora.down.weight",
     "te.self_attn.lora_linear_layer.up.weight"],
)  # fmt: skip
def test_single_file_adapters_are_told_by_their_keys(key: str, tmp_path: Path) -> None:
    save_file({key: torch.ones(2, 2)}, tmp_path / "style.safetensors")
    assert open_checkpoint(tmp_path / "style.safetensors").kind == "adapter"


# Names that ordinary tensors may bear tell nothing.
@pytest.mark.parametrize("part", sorted(set(keys.FACTORS) - {"alpha", "m", "ranknum"}))
def test_every_factor_that_is_read_tells_an_adapter(part: str, tmp_path: Path) -> None:
    path = tmp_path / "style.safetensors"
    for module in ("lora_unet_conv_in", "base_model.model.h.0.q"):
        for end in ("", ".weight", ".default", ".default.weight"):
            save_file({f"{module}.{part}{end}": torch.ones(2, 2)}, path)
            assert open_checkpoint(path).kind == "adapter", f"{module}.{part}{end}"


@pytest.mark.parametrize("key", ["alpha", "h.0.m", "h.0.ranknum", "h.0.w_lora.lora.0.weight"])
def test_ordinary_names_make_no_adapter(key: str, tmp_path: Path) -> None:
    save_file({key: torch.ones(2, 2)}, tmp_path / "net.safetensors")
    assert open_checkpoint(tmp_path / "net.safetensors").kind == "full"


def test_an_adapters_file_alone_has_the_configuration_beside_it(tmp_path: Path) -> None:
    save_file(lora(), tmp_path / "adapter_model.safetensors")
    save_file({"lora_te_h.lora_down.weight": torch.ones(1, 2)}, tmp_path / "kohya.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"r": 2}')
    alone = open_checkpoint(tmp_path / "adapter_model.safetensors")
    assert alone.config == {"r": 2} and alone.files[1:] == (tmp_path / "adapter_config.json",)
    assert open_checkpoint(tmp_path / "kohya.safetensors").config == {}


def test_parameters_are_counted_once_and_nothing_else_is(tmp_path: Path) -> None:
    save_file(
        {
            "lora_te_h.lora_down.weight": torch.ones(2, 5), "lora_te_h.alpha": torch.tensor(1.0),
            "lora_te_h.lora_up.weight": torch.ones(3, 2), "lora_te_h.dora_scale": torch.ones(3, 1),
        },
        tmp_path / "kohya.safetensors",
    )  # fmt: skip
    assert open_checkpoint(tmp_path / "kohya.safetensors").n_params == 10 + 6 + 3
    tied = torch.ones(7, 4)
    state = {
        "wte.weight": tied, "lm_head.weight": tied, "h.0.attn.c_attn.weight": torch.ones(4, 12),
        "h.0.attn.bias": torch.ones(1, 1, 6, 6), "h.0.attn.masked_bias": torch.tensor(-1e4),
        "h.0.attn.c_attn.bias": torch.ones(12), "position_ids": torch.arange(6)[None],
        "alpha": torch.tensor(0.5),
    }  # fmt: skip
    torch.save(state, tmp_path / "gpt2.pt")
    assert open_checkpoint(tmp_path / "gpt2.pt").n_params == 28 + 48 + 12 + 1


def test_vera_does_not_train_its_projections(tmp_path: Path) -> None:
    save_file(
        {
            "base_model.vera_A": torch.ones(2, 9), "base_model.vera_B": torch.ones(9, 2),
            "base_model.model.q.vera_lambda_b": torch.ones(9),
            "base_model.model.q.vera_lambda_d": torch.ones(2),
        },
        tmp_path / "vera.safetensors",
    )  # fmt: skip
    assert open_checkpoint(tmp_path / "vera.safetensors").n_params == 11


def test_base_weights_with_an_unmerged_adapter_are_full(tmp_path: Path) -> None:
    path = tmp_path / "all.safetensors"
    save_file(lora(**{"base_model.model.h.0.q_proj.base_layer.weight": torch.ones(4, 4)}), path)
    checkpoint = open_checkpoint(path)
    assert checkpoint.kind == "full" and "merge" in checkpoint.warnings[0]


def test_trainer_folders(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-7"
    model(folder, {"w.weight": torch.ones(3, 3)})
    assert open_checkpoint(folder).step == 7
    (folder / "trainer_state.json").write_text('{"epoch": 1.0, "global_step": 500}')
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_0.pth", "scaler.pt"):
        (folder / name).write_bytes(b"\x80\x02never opened")
    (folder / "training_args.bin").write_bytes(b"\x80\x02never opened")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.step == 500 and [t.name for t in checkpoint.tensors()] == ["w.weight"]


def test_safetensors_win_over_pickles(tmp_path: Path) -> None:
    torch.save({"w": torch.zeros(2, 2)}, tmp_path / "pytorch_model.bin")
    assert open_checkpoint(tmp_path).format == "torch"
    model(tmp_path, {"w": torch.ones(2, 2)})
    assert open_checkpoint(tmp_path).format == "safetensors"


def test_sharded_pickles(tmp_path: Path) -> None:
    weight_map = {}
    for n in (1, 2):
        shard = f"pytorch_model-0000{n}-of-00002.bin"
        torch.save({f"w{n}": torch.full((2, 2), float(n))}, tmp_path / shard)
        weight_map[f"w{n}"] = shard
    (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert open_checkpoint(tmp_path).read("w2").sum() == 8


@pytest.mark.parametrize(
    ("files", "words"),
    [
        (["__0_0.distcp", ".metadata"], "dcp_to_torch"),
        (["zero_to_fp32.py", "latest"], "zero_to_fp32"),
        (["mp_rank_00_model_states.pt"], "zero_to_fp32"),
        (["_METADATA"], "orbax"),
        (["config.json", "tokenizer.json"], "no weight files"),
        (["a.pt", "b.pt"], "2 weight files"),
    ],
)
def test_folders_that_are_something_else(files: list[str], words: str, tmp_path: Path) -> None:
    for name in files:
        (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(UnsupportedFormat, match=words) as caught:
        open_checkpoint(tmp_path)
    assert caught.value.hint


def test_broken_configurations_are_warnings(tmp_path: Path) -> None:
    model(tmp_path, {"w": torch.ones(2, 2)})
    (tmp_path / "config.json").write_text("[" * 100_000)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config == {} and "config.json" in checkpoint.warnings[0]


def test_absent_paths_and_names(tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        open_checkpoint(tmp_path / "nowhere")
    checkpoint = model(tmp_path, {"w": torch.ones(2, 2)})
    for read in (checkpoint.read, checkpoint.read_matrix, checkpoint.content_sha256):
        with pytest.raises(CheckpointError, match="no such"):
            read("v")


def test_links_into_a_cache_are_followed(tmp_path: Path) -> None:
    model(tmp_path / "blobs", {"w": torch.ones(2, 2)})
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to("../../blobs/model.safetensors")
    assert open_checkpoint(snapshot).read("w").sum() == 4


def test_many_threads_read_at_once_and_leave_no_handles(tmp_path: Path) -> None:
    tensors = {f"w{n}": torch.full((200, 200), float(n)) for n in range(20)}
    checkpoint = model(tmp_path, tensors)
    handles = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else None
    wrong: list[str] = []

    def work() -> None:
        for name, want in tensors.items():
            if not torch.equal(checkpoint.read(name), want):
                wrong.append(name)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    if handles is not None:
        assert len(os.listdir("/proc/self/fd")) <= handles


MEMORY = """
import gc, resource, sys
import torch
from analyzer.checkpoints.checkpoint import open_checkpoint

def resident():
    for line in open("/proc/self/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024

torch.ones(3, 3).to(torch.bfloat16).float().sum()
checkpoint = open_checkpoint(sys.argv[1])
before = resident()
checkpoint.content_sha256("w1")
hashed = resident()
checkpoint.read("w1", slice(0, 16)).float().sum().item()
rows = resident()
checkpoint.read_matrix("w2", dtype=None).sum().item()
print(hashed - before, rows - hashed, resident() - rows)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="reads /proc")
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_reading_one_matrix_takes_the_memory_of_one_matrix(suffix: str, tmp_path: Path) -> None:
    size = 32  # MB a matrix
    tensors = {f"w{n}": torch.full((size << 8, 1024), float(n)) for n in range(4)}
    path = tmp_path / f"w.{suffix}"
    if suffix == "safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    out = subprocess.run(
        [sys.executable, "-c", MEMORY, str(path)], capture_output=True, text=True, check=True
    )
    hashed, rows, whole = map(float, out.stdout.split())
    assert hashed < 6 and rows < 4 and whole < 1.3 * size


def test_listing_imports_neither_torch_nor_anything_slow(tmp_path: Path) -> None:
    save_file({"w": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    torch.save({"w": torch.ones(2, 2)}, tmp_path / "b.pt")
    torch.save({"w": torch.ones(2, 2)}, tmp_path / "c.pt", _use_new_zipfile_serialization=False)
    code = (
        "import sys; from analyzer.checkpoints.discover import discover\n"
        "found = discover(sys.argv[1], base=sys.argv[1] + '/a.safetensors').checkpoints\n"
        "[(c.tensors(), c.matrices(), c.fingerprint(), c.content_sha256('w')) for c in found]\n"
        "assert len(found) == 3\n"
        "assert not {'torch', 'safetensors', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)

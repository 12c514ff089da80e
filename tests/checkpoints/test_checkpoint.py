"""What a checkpoint tells about itself, and its matrices in the orientation of the analyses."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from analyzer.checkpoints.adapters import keys
from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.errors import (
    CheckpointError,
    CorruptFile,
    UnsupportedFormat,
    UsageError,
)


def test_a_model_folder(tmp_path: Path, save_model) -> None:
    tensors = {
        "encoder.layer.3.attention.self.query.weight": torch.randn(6, 4),
        "encoder.layer.3.attention.self.query.bias": torch.randn(6),
        "embeddings.position_ids": torch.arange(8).reshape(1, 8),
    }
    checkpoint = save_model(tmp_path / "bert", tensors, {"model_type": "bert"})
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


def test_changing_what_was_read_does_not_change_the_file(tmp_path: Path, save_model) -> None:
    checkpoint = save_model(tmp_path, {"w.weight": torch.ones(3, 3)})
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


def test_fingerprint_changes_with_any_file(tmp_path: Path, save_model) -> None:
    checkpoint = save_model(tmp_path, {"w.weight": torch.ones(3, 3)}, {"model_type": "x"})
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


def test_trainer_folders(tmp_path: Path, save_model) -> None:
    folder = tmp_path / "checkpoint-7"
    save_model(folder, {"w.weight": torch.ones(3, 3)})
    assert open_checkpoint(folder).step == 7
    (folder / "trainer_state.json").write_text('{"epoch": 1.0, "global_step": 500}')
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "rng_state_0.pth", "scaler.pt"):
        (folder / name).write_bytes(b"\x80\x02never opened")
    (folder / "training_args.bin").write_bytes(b"\x80\x02never opened")
    checkpoint = open_checkpoint(folder)
    assert checkpoint.step == 500 and [t.name for t in checkpoint.tensors()] == ["w.weight"]


def test_safetensors_win_over_pickles(tmp_path: Path, save_model) -> None:
    torch.save({"w": torch.zeros(2, 2)}, tmp_path / "pytorch_model.bin")
    assert open_checkpoint(tmp_path).format == "torch"
    save_model(tmp_path, {"w": torch.ones(2, 2)})
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


def test_broken_configurations_are_warnings(tmp_path: Path, save_model) -> None:
    save_model(tmp_path, {"w": torch.ones(2, 2)})
    (tmp_path / "config.json").write_text("[" * 100_000)
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.config == {} and "config.json" in checkpoint.warnings[0]


def test_absent_paths_and_names(tmp_path: Path, save_model) -> None:
    with pytest.raises(UsageError):
        open_checkpoint(tmp_path / "nowhere")
    checkpoint = save_model(tmp_path, {"w": torch.ones(2, 2)})
    for read in (checkpoint.read, checkpoint.read_matrix, checkpoint.content_sha256):
        with pytest.raises(CheckpointError, match="no such"):
            read("v")


def test_links_into_a_cache_are_followed(tmp_path: Path, save_model) -> None:
    save_model(tmp_path / "blobs", {"w": torch.ones(2, 2)})
    snapshot = tmp_path / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model.safetensors").symlink_to("../../blobs/model.safetensors")
    assert open_checkpoint(snapshot).read("w").sum() == 4


def test_many_threads_read_at_once_and_leave_no_handles(tmp_path: Path, save_model) -> None:
    tensors = {f"w{n}": torch.full((200, 200), float(n)) for n in range(20)}
    checkpoint = save_model(tmp_path, tensors)
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

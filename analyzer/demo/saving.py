"""Checkpoint folders as Hugging Face's Trainer and PEFT write them, each complete or absent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from analyzer.checkpoints.folder import RECORDS_FOLDER
from analyzer.demo.model import Llama, Shape


def save_model(
    folder: Path,
    model: Llama,
    state: dict[str, Any],
    *,
    optimizer: torch.optim.Optimizer | None = None,
    records: Path | None = None,
) -> None:
    """config.json, model.safetensors, trainer_state.json, optimizer.pt if there is an optimizer.

    What was recorded below `records` moves into the folder.
    """
    with complete_or_absent(folder) as partial:
        write_json(partial / "config.json", llama_config(model.shape))
        save_file(model.state_dict(), partial / "model.safetensors", metadata={"format": "pt"})
        write_json(partial / "trainer_state.json", state)
        if optimizer is not None:
            torch.save(optimizer.state_dict(), partial / "optimizer.pt")
        if records is not None:
            (records / RECORDS_FOLDER).rename(partial / RECORDS_FOLDER)
            records.rmdir()


def save_adapter(
    folder: Path, model: Llama, rank: int, alpha: int, base: str, state: dict[str, Any]
) -> None:
    """adapter_config.json, adapter_model.safetensors and trainer_state.json."""
    factors = {
        f"base_model.model.{name}": tensor
        for name, tensor in model.state_dict().items()
        if ".lora_A." in name or ".lora_B." in name
    }
    targets = sorted({name.rsplit(".", 1)[-1] for name in model.projections()})
    with complete_or_absent(folder) as partial:
        write_json(
            partial / "adapter_config.json",
            {
                "base_model_name_or_path": base,
                "bias": "none",
                "fan_in_fan_out": False,
                "inference_mode": True,
                "init_lora_weights": True,
                "lora_alpha": alpha,
                "lora_dropout": 0.0,
                "peft_type": "LORA",
                "r": rank,
                "target_modules": targets,
                "task_type": "CAUSAL_LM",
                "use_dora": False,
                "use_rslora": False,
            },
        )
        save_file(factors, partial / "adapter_model.safetensors", metadata={"format": "pt"})
        write_json(partial / "trainer_state.json", state)


def llama_config(shape: Shape) -> dict[str, Any]:
    """What `LlamaConfig.from_pretrained` needs, in keys that transformers 4 and 5 both read."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": shape.vocab,
        "hidden_size": shape.width,
        "intermediate_size": shape.hidden,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": shape.width // shape.heads,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context,
        "rms_norm_eps": shape.norm_eps,
        "rope_theta": shape.rope_theta,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "torch_dtype": "float32",
    }


@contextmanager
def complete_or_absent(folder: Path) -> Iterator[Path]:
    """A hidden sibling to write into, renamed to `folder` once everything is in it."""
    partial = folder.with_name(f".{folder.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    yield partial
    partial.rename(folder)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")

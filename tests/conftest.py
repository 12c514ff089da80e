"""A tiny collection on disk: a base, a full fine-tune and LoRA adapters, as users have them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from safetensors.numpy import save_file

# The same examples in every run, so that a failure is one that the change at hand brought; to
# search on, run with --hypothesis-profile=default.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

WIDTH, HIDDEN, LAYERS, VOCAB = 24, 40, 2, 30
SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH // 2, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.up_proj": (HIDDEN, WIDTH),
    "mlp.down_proj": (WIDTH, HIDDEN),
}


def block_names() -> list[str]:
    return [f"model.layers.{layer}.{part}" for layer in range(LAYERS) for part in SHAPES]


def base_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    tensors = {
        "model.embed_tokens.weight": rng.standard_normal((VOCAB, WIDTH)),
        "model.norm.weight": np.ones(WIDTH),
        "lm_head.weight": rng.standard_normal((VOCAB, WIDTH)),
    }
    for name in block_names():
        shape = SHAPES[name.split(".", 3)[3]]
        tensors[f"{name}.weight"] = rng.standard_normal(shape) / np.sqrt(shape[1])
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def write_full(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file(tensors, folder / "model.safetensors")
    return folder


def write_lora(folder: Path, *, r: int = 2, seed: int = 1, scale: float = 1.0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    tensors = {}
    for name in block_names():
        rows, cols = SHAPES[name.split(".", 3)[3]]
        A, B = rng.standard_normal((r, cols)), scale * rng.standard_normal((rows, r))
        tensors[f"base_model.model.{name}.lora_A.weight"] = A.astype(np.float32)
        tensors[f"base_model.model.{name}.lora_B.weight"] = B.astype(np.float32)
    config = {
        "peft_type": "LORA", "r": r, "lora_alpha": 2 * r, "base_model_name_or_path": "base",
        "target_modules": sorted({name.rsplit(".", 1)[1] for name in SHAPES}), "bias": "none",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def base_weights() -> dict[str, np.ndarray]:
    return base_tensors()


@pytest.fixture
def save_full() -> Callable[[Path, dict[str, np.ndarray]], Path]:
    return write_full


@pytest.fixture
def save_lora() -> Callable[..., Path]:
    return write_lora


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """base, full (embedding frozen), lora with two steps."""
    root = tmp_path / "ckpts"
    base = base_tensors()
    write_full(root / "base", base)
    rng = np.random.default_rng(5)
    tuned = {
        name: tensor if "embed" in name
        else tensor + 1e-3 * rng.standard_normal(tensor.shape).astype(np.float32)
        for name, tensor in base.items()
    }  # fmt: skip
    write_full(root / "full", tuned)
    for step, scale in ((10, 0.01), (20, 0.04)):
        write_lora(root / "lora" / f"checkpoint-{step}", scale=scale)
    return root

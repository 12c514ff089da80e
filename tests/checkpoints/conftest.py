"""Small checkpoints as users have them, written where a test wants them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from analyzer.checkpoints.checkpoint import Checkpoint, open_checkpoint


def _save_model(
    folder: Path, tensors: dict[str, torch.Tensor], config: dict[str, Any] | None = None
) -> Checkpoint:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: t.contiguous() for name, t in tensors.items()}, folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(json.dumps(config))
    return open_checkpoint(folder)


def _write_model(folder: Path, **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({"layers.0.q_proj.weight": torch.ones(3, 3)}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    return folder


def _write_adapter(folder: Path, base: str = "org/base-model") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    stem = "base_model.model.layers.0.q_proj.lora_"
    factors = {f"{stem}A.weight": torch.ones(1, 3), f"{stem}B.weight": torch.ones(3, 1)}
    save_file(factors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    return folder


@pytest.fixture
def save_model() -> Callable[..., Checkpoint]:
    """Tensors, and a configuration if it is given, as a model's folder, opened."""
    return _save_model


@pytest.fixture
def write_model() -> Callable[..., Path]:
    """A model of one matrix with these fields in its configuration."""
    return _write_model


@pytest.fixture
def write_adapter() -> Callable[..., Path]:
    """A PEFT adapter of that matrix."""
    return _write_adapter

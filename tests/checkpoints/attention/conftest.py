"""Tiny models with random parameters, saved as users have them, beside the live model."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from analyzer.checkpoints.checkpoint import Checkpoint, open_checkpoint

EMBEDDING = re.compile(r"embed|wte|wpe")
WIDTH, HEADS, VOCAB = 32, 4, 64
BASE = {
    "hidden_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": HEADS,
    "vocab_size": VOCAB,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def _randomise(model: torch.nn.Module) -> None:
    """Every parameter, norms and biases included, so that none can be mistaken for another."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            matrix = parameter.ndim > 1 and not EMBEDDING.search(name)
            spread = parameter.shape[0] ** -0.5 if matrix else 0.5
            values = torch.randn(parameter.shape, generator=generator) * spread
            if parameter.ndim == 1 and name.endswith("weight"):
                values += 1.0
            parameter.copy_(values)


def _tiny(
    folder: Path, model_class: str, config_class: str, attention: str = "eager", **fields: Any
) -> tuple[Any, Checkpoint]:
    config = getattr(transformers, config_class)(**{**BASE, **fields})
    config._attn_implementation = attention
    model = getattr(transformers, model_class)(config).eval()
    _randomise(model)
    model.save_pretrained(folder)
    return model, open_checkpoint(folder)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Any, Checkpoint]]:
    """(model, checkpoint) of a class with the fields of its configuration that differ."""

    def make(model_class: str, config_class: str, **fields: Any) -> tuple[Any, Checkpoint]:
        return _tiny(tmp_path_factory.mktemp("model"), model_class, config_class, **fields)

    return make

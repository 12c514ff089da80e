"""What the attention layers of the base are given while it reads held-out text."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from analyzer.activations.format import write_activations
from analyzer.demo.corpus import Corpus, random_windows
from analyzer.demo.model import Llama, Projection

SEQUENCES = 4
SEED = 2


@torch.no_grad()
def save_hidden_states(path: Path, model: Llama, corpus: Corpus) -> None:
    """Inputs of every query projection, in the format that `analyzer capture` writes."""
    context = model.shape.context
    (windows,) = random_windows(corpus.tuning.held_out, 1, SEQUENCES, context - 1, SEED)
    found: dict[str, Tensor] = {}
    handles = [
        module.register_forward_pre_hook(_keep(found, name))
        for name, module in model.named_modules()
        if isinstance(module, Projection) and name.endswith(".q_proj")
    ]
    try:
        model(windows)
    finally:
        for handle in handles:
            handle.remove()
    text = hashlib.sha256(windows.to(torch.uint8).numpy().tobytes()).hexdigest()
    tensors = {name: states.numpy() for name, states in found.items()}
    write_activations(path, tensors, None, {"model": "base", "text_sha256": text})


def _keep(found: dict[str, Tensor], name: str) -> Callable[..., None]:
    def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        found[name] = inputs[0].clone()

    return hook

"""What attention layers are given while a model reads a text, through `transformers`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from analyzer.activations.loading import OWN_ACTIVATIONS, load_config, load_model, one_line
from analyzer.activations.naming import find_name
from analyzer.activations.tokens import sequences
from analyzer.checkpoints.attention.layers import attention_layers
from analyzer.checkpoints.attention.types import AttentionLayer, RefusedLayer
from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.errors import UnsupportedFormat

if TYPE_CHECKING:
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Captured:
    """Inputs (N, L, d) of modules, in the checkpoint's names; `skipped` says what is not there."""

    tensors: dict[str, NDArray[np.float32]]
    metadata: dict[str, str]
    n_samples: int
    length: int
    skipped: tuple[str, ...]


def capture(
    model_dir: str | Path,
    text: str,
    *,
    length: int | None = None,
    max_tokens: int = 2048,
    batch: int = 4,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Captured:
    """Inputs of the query projections, and of cross-attention's key projections, in float32.

    The text is read in sequences of `length` tokens (by default the model's context, at most 512)
    without padding, at most `max_tokens` in all, `batch` sequences at a time; an encoder-decoder
    reads the same tokens on both sides. `progress` is called with (sequences done, of how many).
    Runs no code from the folder and opens no connection. Raises MissingExtra without
    `transformers`; UsageError or CheckpointError, in one line, if the folder is no text model
    saved as safetensors, its tokenizer is missing, or the text is too short.
    """
    import torch

    from analyzer.spectral.devices import get_backend

    checkpoint = open_checkpoint(model_dir)
    config = load_config(checkpoint)
    device = get_backend(device).torch_device
    layers = attention_layers(checkpoint)
    skipped = {layer.name: layer.reason for layer in layers if isinstance(layer, RefusedLayer)}
    modules = _modules([layer for layer in layers if isinstance(layer, AttentionLayer)])
    if not modules:
        raise UnsupportedFormat(
            next(iter(_lines(skipped)), "no attention layers"), path=checkpoint.path
        )
    ids = sequences(checkpoint.path, config, text, length, max_tokens)
    model = load_model(checkpoint.path, config, device)
    inputs = _Inputs(*ids.shape)
    for module in modules:
        inputs.watch(model, module)
    for start in range(0, len(ids), batch):
        tokens = torch.from_numpy(ids[start : start + batch]).to(device)
        both = {"decoder_input_ids": tokens} if config.is_encoder_decoder else {}
        inputs.start_batch(start, len(tokens))
        with one_line(checkpoint.path, "the model fails on the text"), torch.inference_mode():
            model(input_ids=tokens, **both)
        inputs.end_batch()
        if progress is not None:
            progress(start + len(tokens), len(ids))
    skipped |= inputs.refused
    lines = _lines(skipped)
    if not inputs.tensors:
        raise UnsupportedFormat(lines[-1], path=checkpoint.path, hint=OWN_ACTIVATIONS)
    metadata = {
        "model": checkpoint.name,
        "text_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    return Captured(inputs.tensors, metadata, len(ids), ids.shape[1], lines)


def _modules(layers: list[AttentionLayer]) -> list[str]:
    modules: dict[str, None] = {}
    for layer in layers:
        modules[layer.query.module] = None
        if layer.cross:
            modules[layer.key.module] = None
    return list(modules)


def _lines(skipped: dict[str, str]) -> tuple[str, ...]:
    return tuple(f"{name}: {reason}" for name, reason in skipped.items())


class _Inputs:
    """The inputs of the watched modules, (samples, length, d) each, filled a batch at a time.

    A module that is not there, not called once a pass, or not given (samples, length, d) lands in
    `refused` with the reason.
    """

    def __init__(self, samples: int, length: int) -> None:
        self.tensors: dict[str, NDArray[np.float32]] = {}
        self.refused: dict[str, str] = {}
        self._samples, self._length = samples, length
        self._first = self._count = 0
        self._calls: dict[str, int] = {}

    def watch(self, model: Any, module: str) -> None:
        leaf = module.rpartition(".")[2]
        found = dict(model.named_modules())
        alike = [name for name in found if name.rpartition(".")[2] == leaf]
        name = find_name(alike, module, None, None)
        if name is None:
            self.refused[module] = "transformers' model has no such module"
            return
        self._calls[module] = 0

        def before(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._take(module, args[0] if args else next(iter(kwargs.values())))

        found[name].register_forward_pre_hook(before, with_kwargs=True)

    def start_batch(self, first: int, count: int) -> None:
        self._first, self._count = first, count
        self._calls = dict.fromkeys(self._calls, 0)

    def end_batch(self) -> None:
        for module, calls in self._calls.items():
            if calls != 1:
                self._refuse(module, f"is called {calls} times when the model reads a text")

    def _take(self, module: str, states: Any) -> None:
        self._calls[module] += 1
        if module in self.refused:
            return
        shape = tuple(states.shape)
        if shape[:-1] != (self._count, self._length):
            wanted = f"({self._count}, {self._length}, width)"
            self._refuse(module, f"is given shape {shape} where {wanted} is expected")
            return
        if module not in self.tensors:
            full = (self._samples, self._length, shape[-1])
            self.tensors[module] = np.empty(full, np.float32)
        part = self.tensors[module][self._first : self._first + self._count]
        part[...] = states.float().cpu().numpy()

    def _refuse(self, module: str, reason: str) -> None:
        self.refused.setdefault(module, reason)
        self.tensors.pop(module, None)

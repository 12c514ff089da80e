"""Tiny networks with random parameters, in float64, and what they return."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import transformers as hf

from analyzer.models.manifold.groups import PermutationGroup, apply_order, groups_of

WIDTH, HIDDEN, HEADS, VOCAB = 24, 20, 4, 30
TEXT = {
    "hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_hidden_layers": 2, "vocab_size": VOCAB,
    "num_attention_heads": HEADS, "max_position_embeddings": 16, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 2, "attn_implementation": "eager",
}  # fmt: skip
GROUPED = TEXT | {"num_key_value_heads": 2}
GPT = {
    "n_embd": WIDTH, "n_inner": HIDDEN, "n_layer": 2, "n_head": HEADS, "vocab_size": VOCAB,
    "n_positions": 16, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
IMAGE = {
    "hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_hidden_layers": 2, "image_size": 8,
    "patch_size": 4, "num_attention_heads": HEADS, "num_labels": 5,
}  # fmt: skip
MOE = GROUPED | {
    "num_hidden_layers": 1, "num_local_experts": 3, "num_experts_per_tok": 2,
    "experts_implementation": "eager",
}  # fmt: skip


def _conv(layer_type: str, **more) -> Callable[[], torch.nn.Module]:
    config = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [2, 2], "num_labels": 5}
    return lambda: hf.ResNetForImageClassification(
        hf.ResNetConfig(**{**config, "layer_type": layer_type, **more})
    )


MODELS: dict[str, Callable[[], torch.nn.Module]] = {
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED, attention_bias=True)),
    "llama tied": lambda: hf.LlamaForCausalLM(
        hf.LlamaConfig(**TEXT, tie_word_embeddings=True, mlp_bias=True)
    ),
    "mistral": lambda: hf.MistralForCausalLM(hf.MistralConfig(**GROUPED, sliding_window=4)),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**GROUPED, tie_word_embeddings=True)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**GROUPED, head_dim=8)),
    "qwen3 classes": lambda: hf.Qwen3ForSequenceClassification(
        hf.Qwen3Config(**GROUPED, head_dim=8)
    ),
    "phi3": lambda: hf.Phi3ForCausalLM(hf.Phi3Config(**GROUPED)),
    "mixtral": lambda: hf.MixtralForCausalLM(hf.MixtralConfig(**MOE)),
    "gpt2": lambda: hf.GPT2LMHeadModel(hf.GPT2Config(**GPT)),
    "bert mlm": lambda: hf.BertForMaskedLM(hf.BertConfig(**TEXT)),
    "bert untied": lambda: hf.BertForPreTraining(hf.BertConfig(**TEXT, tie_word_embeddings=False)),
    "bert classes": lambda: hf.BertForSequenceClassification(hf.BertConfig(**TEXT)),
    "bert tokens": lambda: hf.BertForTokenClassification(hf.BertConfig(**TEXT)),
    "vit": lambda: hf.ViTForImageClassification(hf.ViTConfig(**IMAGE)),
    "resnet basic": _conv("basic"),
    "resnet bottleneck": _conv("bottleneck", hidden_sizes=[16, 32], reduction=4),
}


@dataclass
class Network:
    """A model in evaluation mode with its groups, and what it returns for fixed inputs."""

    model: torch.nn.Module
    groups: tuple[PermutationGroup, ...]
    unmapped: tuple
    reference: torch.Tensor | None = None

    def tensors(self) -> dict[str, torch.Tensor]:
        return {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    @torch.no_grad()
    def change(self, tensors: dict[str, torch.Tensor]) -> float:
        """max|f - f'| / max|f|."""
        own = self.tensors()
        if self.reference is None:
            self.reference = outputs(self.model)
        self.model.load_state_dict(tensors)
        output = outputs(self.model)
        self.model.load_state_dict(own)
        return float((output - self.reference).abs().max() / self.reference.abs().max())

    def shuffled(self, seed: int = 0) -> dict[str, np.ndarray]:
        """A random order of every group, none of them the identity where it has units to move."""
        rng = np.random.default_rng(seed)
        return {group.name: derangement(rng, group.size) for group in self.groups}

    def apply(self, group: PermutationGroup, seed: int = 0) -> dict[str, torch.Tensor]:
        order = derangement(np.random.default_rng(seed), group.size)
        return apply_order(self.tensors(), group, order)


def derangement(rng: np.random.Generator, n: int) -> np.ndarray:
    """An order in which every unit moves: a random cycle."""
    cycle = rng.permutation(n)
    order = np.empty(n, dtype=np.intp)
    order[cycle] = np.roll(cycle, 1)
    return order


def outputs(model: torch.nn.Module) -> torch.Tensor:
    """All logits of a model, for fixed inputs, in one vector."""
    generator = torch.Generator().manual_seed(0)
    config = getattr(model, "config", None)
    if config is None or hasattr(config, "num_channels"):
        size = 8 if config is not None and hasattr(config, "patch_size") else 24
        result = model(torch.randn(2, 3, size, size, generator=generator, dtype=torch.float64))
    else:
        result = model(torch.randint(3, VOCAB, (2, 9), generator=generator))
    if isinstance(result, torch.Tensor):
        return result.flatten()
    values = [result[key] for key in result if "logits" in key]
    return torch.cat([value.flatten().double() for value in values])


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    """No parameter or running statistic is left at 0 or 1, so that each matters."""
    generator = torch.Generator().manual_seed(1)
    model = model.double().eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if tensor.ndim > 1:
                fan_in = tensor[0].numel() if tensor.ndim != 3 else tensor.shape[-1]
                tensor.copy_(noise / fan_in**0.5)
            elif name.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            else:
                tensor.copy_(tensor + 0.3 * noise)
    return model


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Networks this small only lose by more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=list(MODELS))
def network(request) -> Network:
    return build(request.param)


def build(name: str) -> Network:
    torch.manual_seed(0)
    model = randomise(MODELS[name]())
    state = model.state_dict()
    first: dict[int, str] = {}
    tied = {
        name: first[tensor.data_ptr()]
        for name, tensor in state.items()
        if first.setdefault(tensor.data_ptr(), name) != name and tensor.numel() > 1
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
    groups, unmapped = groups_of(shapes, model.config.to_dict(), tied=tied)
    return Network(model, groups, unmapped)

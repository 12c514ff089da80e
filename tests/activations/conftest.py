"""Tiny text models as `save_pretrained` writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

VOCAB, WIDTH, LAYERS, HEADS, CONTEXT = 256, 16, 2, 2, 32


def make_model(kind: str, folder: Path, vocab: int = VOCAB, **options: Any) -> Any:
    """A random model of a family, with gains and biases that are not 1 and 0, saved in `folder`."""
    import transformers
    from transformers.utils import logging

    hf: Any = transformers  # its configurations' parameters are not typed
    logging.disable_progress_bar()
    if kind == "llama":
        config = hf.LlamaConfig(
            vocab_size=vocab, hidden_size=WIDTH, intermediate_size=40, num_hidden_layers=LAYERS,
            num_attention_heads=HEADS, num_key_value_heads=1, max_position_embeddings=CONTEXT,
        )  # fmt: skip
        model_class = hf.LlamaForCausalLM
    elif kind == "gpt2":
        config = hf.GPT2Config(
            vocab_size=vocab, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=CONTEXT,
            bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        model_class = hf.GPT2LMHeadModel
    elif kind == "gpt_neox":
        config = hf.GPTNeoXConfig(
            vocab_size=vocab, hidden_size=WIDTH, intermediate_size=40, num_hidden_layers=LAYERS,
            num_attention_heads=HEADS, max_position_embeddings=CONTEXT,
        )  # fmt: skip
        model_class = hf.GPTNeoXForCausalLM
    elif kind == "bert":
        config = hf.BertConfig(
            vocab_size=vocab, hidden_size=WIDTH, intermediate_size=40, num_hidden_layers=LAYERS,
            num_attention_heads=HEADS, max_position_embeddings=CONTEXT,
        )  # fmt: skip
        model_class = hf.BertForMaskedLM
    elif kind == "t5":
        config = hf.T5Config(
            vocab_size=vocab, d_model=WIDTH, d_kv=8, d_ff=40, num_layers=LAYERS, num_heads=HEADS,
            decoder_start_token_id=0,
        )  # fmt: skip
        model_class = hf.T5ForConditionalGeneration
    else:
        raise ValueError(kind)
    torch.manual_seed(0)
    model = model_class(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder, **options)
    return model


@pytest.fixture
def save_model() -> Callable[..., Any]:
    return make_model

"""A Llama decoder over bytes, small enough to train on a laptop's CPU.

RMSNorm (Zhang & Sennrich, arXiv 1910.07467), rotary positions (Su et al., arXiv 2104.09864),
SwiGLU (Shazeer, arXiv 2002.05202), LoRA (Hu et al., arXiv 2106.09685). Parameter names are those
of Hugging Face's `LlamaForCausalLM`, so that the saved weights load there unchanged.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of the model; `vocab` is the number of byte values."""

    vocab: int = 256
    width: int = 256
    hidden: int = 688
    layers: int = 4
    heads: int = 4
    context: int = 128
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-6


class Projection(nn.Linear):
    """y = x Wᵀ, and once `add_lora` was called y = x (W + s B A)ᵀ with W frozen.

    A: (r, in), B: (out, r), s = alpha / r.
    """

    def __init__(self, cols: int, rows: int) -> None:
        super().__init__(cols, rows, bias=False)
        self.lora_A: nn.Linear | None = None
        self.lora_B: nn.Linear | None = None
        self.scaling = 1.0

    def add_lora(self, rank: int, alpha: int) -> None:
        """Start at ΔW = 0: B = 0 and A uniform in ±1/√in, PEFT's own start."""
        self.lora_A = nn.Linear(self.in_features, rank, bias=False)
        self.lora_B = nn.Linear(rank, self.out_features, bias=False)
        nn.init.kaiming_uniform_(self.lora_A.weight, a=math.sqrt(5))
        nn.init.zeros_(self.lora_B.weight)
        self.scaling = alpha / rank

    def forward(self, input: Tensor) -> Tensor:
        y = super().forward(input)
        if self.lora_A is None or self.lora_B is None:
            return y
        return y + self.scaling * self.lora_B(self.lora_A(input))


class Attention(nn.Module):
    """Causal self-attention, heads of width d / heads."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.q_proj = Projection(shape.width, shape.width)
        self.k_proj = Projection(shape.width, shape.width)
        self.v_proj = Projection(shape.width, shape.width)
        self.o_proj = Projection(shape.width, shape.width)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, width = x.shape
        q, k, v = (
            p(x).view(batch, length, self.heads, -1).transpose(1, 2)  # (batch, head, token, d/h)
            for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(y.transpose(1, 2).reshape(batch, length, width))


class MLP(nn.Module):
    """SwiGLU: down(silu(gate(x)) ⊙ up(x))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = Projection(shape.width, shape.hidden)
        self.up_proj = Projection(shape.width, shape.hidden)
        self.down_proj = Projection(shape.hidden, shape.width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Block(nn.Module):
    """Pre-norm residual block."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.input_layernorm = nn.RMSNorm(shape.width, shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = nn.RMSNorm(shape.width, shape.norm_eps)
        self.mlp = MLP(shape)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Decoder(nn.Module):
    """Embedding, blocks and the last norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(shape.vocab, shape.width)
        self.layers = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, shape.norm_eps)


class Llama(nn.Module):
    """Bytes (batch, token) → logits (batch, token, vocab)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.model = Decoder(shape)
        self.lm_head = nn.Linear(shape.width, shape.vocab, bias=False)
        for parameter in self.parameters():
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        cos, sin = rotary_tables(self.shape, tokens.shape[1])
        x = self.model.embed_tokens(tokens)
        for block in self.model.layers:
            x = block(x, cos, sin)
        return self.lm_head(self.model.norm(x))

    def projections(self) -> dict[str, Projection]:
        """The linear layers of the blocks by module name: those that LoRA tunes."""
        return {name: m for name, m in self.named_modules() if isinstance(m, Projection)}


def add_lora(model: Llama, rank: int, alpha: int) -> None:
    """Freeze `model` and add trainable low-rank factors to every linear layer of its blocks."""
    model.requires_grad_(False)
    for projection in model.projections().values():
        projection.add_lora(rank, alpha)


def rotary_tables(shape: Shape, length: int) -> tuple[Tensor, Tensor]:
    """cos and sin of position × frequency, each (token, d/h), both halves of a head alike."""
    size = shape.width // shape.heads
    frequencies = shape.rope_theta ** (-torch.arange(0, size, 2).float() / size)
    angles = torch.outer(torch.arange(length).float(), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on (batch, head, token, d/h): coordinates i and i + d/2h form a pair."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin

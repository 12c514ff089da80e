"""Symmetries of tiny transformers that are no permutations, applied to slices of their tensors.

By the models' own layouts and not by the package's groups; random matrices have a condition number
of at most 9.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from .groups.conftest import Network

Tensors = dict[str, torch.Tensor]


def tolerance(network: Network) -> float:
    """RMSNorm computes in float32 whatever its input."""
    norms = (type(module).__name__ for module in network.model.modules())
    return 1e-4 if any("RMSNorm" in norm for norm in norms) else 1e-11


@dataclass
class Attention:
    """Views into the tensors of one layer: a change in place changes the network.

    Weights (heads, d_h, width) and biases (heads, d_h) of queries, keys and values; output weights
    (width, heads, d_h).
    """

    q: list[torch.Tensor]
    k: list[torch.Tensor]
    v: list[torch.Tensor]
    o: torch.Tensor

    @property
    def share(self) -> int:
        """Query heads of a key head."""
        return len(self.q[0]) // len(self.k[0])

    def own(self, key_head: int) -> range:
        return range(key_head * self.share, (key_head + 1) * self.share)


NAMES = {
    "bert": ("attention.self.query", "attention.self.key", "attention.self.value"),
    "llama": ("q_proj", "k_proj", "v_proj"),
}


def attentions(model: torch.nn.Module, tensors: Tensors) -> Iterator[Attention]:
    config = model.config
    heads = config.num_attention_heads
    kv = getattr(config, "num_key_value_heads", heads)
    for name, tensor in tensors.items():
        if name.endswith(("c_attn.weight", "qkv_proj.weight")):  # fused, GPT-2's transposed
            stored = [tensor.T if "c_attn" in name else tensor]
            stored += [tensors[name.replace("weight", "bias")]] if "c_attn" in name else []
            width = stored[0].shape[0] // (heads + 2 * kv)
            cuts = [heads * width, kv * width, kv * width]
            parts = zip(*(one.split(cuts) for one in stored), strict=True)
            q, k, v = ([one.unflatten(0, (-1, width)) for one in part] for part in parts)
            out = name.replace("c_attn", "c_proj").replace("qkv_proj", "o_proj")
        elif name.endswith(("q_proj.weight", "self.query.weight")):
            kind = "bert" if "self.query" in name else "llama"
            width = tensor.shape[0] // heads
            q, k, v = (
                [
                    tensors[other].unflatten(0, (-1, width))
                    for leaf in ("weight", "bias")
                    if (other := name.replace(NAMES[kind][0] + ".weight", f"{part}.{leaf}"))
                    in tensors
                ]
                for part in NAMES[kind]
            )
            out = name.replace("q_proj", "o_proj").replace("self.query", "output.dense")
        else:
            continue
        W = tensors[out].T if "c_proj" in out else tensors[out]
        yield Attention(q, k, v, W.unflatten(1, (heads, width)))


def invertible(n: int, generator: torch.Generator) -> torch.Tensor:
    """No rotation: stretched by up to 3 in random directions."""
    u, v = (
        torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
        for _ in range(2)
    )
    return (u * torch.linspace(1 / 3, 3, n, dtype=torch.float64)) @ v


def rotary_pairs(n: int, generator: torch.Generator) -> torch.Tensor:
    """A rotation and a scale of each pair (i, i + n/2) of channels."""
    half = n // 2
    angle = 6.28 * torch.rand(half, generator=generator, dtype=torch.float64)
    scale = 0.5 + torch.rand(half, generator=generator, dtype=torch.float64)
    A = torch.zeros(n, n, dtype=torch.float64)
    i = torch.arange(half)
    A[i, i] = A[i + half, i + half] = scale * angle.cos()
    A[i, i + half], A[i + half, i] = -scale * angle.sin(), scale * angle.sin()
    return A


def left(parts: list[torch.Tensor], head: int, A: torch.Tensor) -> None:
    for part in parts:
        part[head] = A @ part[head]


def turn_values(model: torch.nn.Module, tensors: Tensors) -> None:
    """V → R V and O → O R⁻¹ by the query heads that read it."""
    generator = torch.Generator().manual_seed(5)
    for found in attentions(model, tensors):
        for g in range(len(found.v[0])):
            R = invertible(found.o.shape[2], generator)
            left(found.v, g, R)
            for h in found.own(g):
                found.o[:, h] = found.o[:, h] @ torch.linalg.inv(R)


def turn_keys(
    model: torch.nn.Module, tensors: Tensors, make: Callable[..., torch.Tensor] = invertible
) -> None:
    """K → A K and Q → A⁻ᵀ Q of its query heads."""
    generator = torch.Generator().manual_seed(6)
    for found in attentions(model, tensors):
        for g in range(len(found.k[0])):
            A = make(found.o.shape[2], generator)
            left(found.k, g, A)
            for h in found.own(g):
                left(found.q, h, torch.linalg.inv(A).T)


def spectra(tensor: torch.Tensor) -> np.ndarray:
    return np.linalg.svd(tensor.double().numpy(), compute_uv=False)


def plain_spectra(model: torch.nn.Module, tensors: Tensors) -> dict[str, list[np.ndarray]]:
    """Of the four matrices of each layer."""
    found: dict[str, list[np.ndarray]] = {"q": [], "k": [], "v": [], "o": []}
    for one in attentions(model, tensors):
        for name in found:
            W = one.o if name == "o" else getattr(one, name)[0]
            found[name].append(spectra(W.flatten(1) if name == "o" else W.flatten(0, 1)))
    return found


def product_spectra(model: torch.nn.Module, tensors: Tensors) -> list[tuple[np.ndarray, ...]]:
    """(d_h,) of W_Qᵀ W_K and W_O W_V by head, the products formed."""
    found = []
    for one in attentions(model, tensors):
        d = one.o.shape[2]
        for h in range(len(one.q[0])):
            g = h // one.share
            products = (one.q[0][h].T @ one.k[0][g], one.o[:, h] @ one.v[0][g])
            found.append(tuple(spectra(product)[:d] for product in products))
    return found


def near(one, other, tolerance: float = 1e-10) -> bool:
    """Lists of spectra, relative to their largest value."""
    return all(
        np.allclose(a, b, rtol=0, atol=tolerance * a[0]) for a, b in zip(one, other, strict=True)
    )


def scale_up(tensors: Tensors, scale: torch.Tensor) -> None:
    """Rows of the up projections times `scale`, columns of the down projections over it."""
    for name, tensor in tensors.items():
        if name.endswith(("up_proj.weight", "up_proj.bias")) and "gate_up" not in name:
            tensor.copy_((tensor.T * scale).T)
        elif "gate_up_proj" in name:  # (…, 2n, width)
            tensor[..., len(scale) :, :] *= scale[:, None]
        elif "down_proj" in name and not name.endswith("bias"):
            tensor /= scale


FOLDED = {  # gain → what reads behind it
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                        "self_attn.qkv_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj", "mlp.gate_up_proj"),
    "layernorm_before": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "layernorm_after": ("mlp.fc1",),
    "model.norm": ("lm_head",),
    "vit.layernorm": ("classifier",),
}  # fmt: skip


def fold_gains(tensors: Tensors) -> None:
    """W → W diag(γ), b → b + W β, γ = 1, β = 0; (out, in) weights."""
    for name in list(tensors):
        block, _, leaf = name.rpartition(".")
        key = next((key for key in FOLDED if block.endswith(key)), None)
        if key is None or leaf != "weight":
            continue
        gain, shift = tensors[name].clone(), tensors.get(f"{block}.bias")
        root = block.removesuffix(key)
        for reader in FOLDED[key]:
            weight = tensors.get(f"{root}{reader}.weight")
            if weight is None:
                continue
            if shift is not None:
                tensors[f"{root}{reader}.bias"] += weight @ shift
            weight *= gain
        tensors[name].fill_(1.0)
        if shift is not None:
            shift.zero_()


def flip(network: Network, signs: torch.Tensor) -> Tensors:
    """Signs along the stream; gains of norms keep theirs."""
    tensors = network.tensors()
    for group in network.groups:
        for site in group.sites if group.kind == "residual" else ():
            gain = "norm" in site.tensor.lower() or ".ln_" in site.tensor
            if not (gain and site.tensor.endswith("weight")):
                if site.tied_to is None:
                    shape = [-1 if axis == site.axis else 1
                             for axis in range(tensors[site.tensor].ndim)]  # fmt: skip
                    tensors[site.tensor] = tensors[site.tensor] * signs.view(shape)
                else:
                    tensors[site.tensor] = tensors[site.tied_to]
    return tensors

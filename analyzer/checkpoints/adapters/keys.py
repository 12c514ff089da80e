"""Adapter tensor names → module, factor and style.

PEFT writes ``base_model.model.<module>.<factor>[.<adapter>][.weight]``; kohya and LyCORIS write
``<prefix>_<module_with_underscores>.<factor>``; diffusers writes PEFT's names without the prefix
or, in old files, ``<module>.lora.down``, ``<module>_lora.down`` and ``lora_linear_layer.down``;
MLX writes ``<module>.lora_a``/``lora_b``. Conventions as read in peft 0.21, LyCORIS,
sd-scripts, diffusers and mlx-lm.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import prod

from analyzer.checkpoints.names import strip_wrappers

# Base prefixes that a kohya prefix may stand for: diffusers folders, then single-file names.
KOHYA_PREFIXES: dict[str, tuple[str, ...]] = {
    "lora_unet_": ("unet.", "model.diffusion_model.", "transformer."),
    "lora_transformer_": ("transformer.", "model.diffusion_model."),
    "lora_te1_": ("text_encoder.", "conditioner.embedders.0.transformer."),
    "lora_te2_": ("text_encoder_2.", "conditioner.embedders.1.transformer."),
    "lora_te3_": ("text_encoder_3.",),
    "lora_te_": ("text_encoder.", "cond_stage_model.transformer."),
    "lycoris_": ("unet.", "transformer.", "model.diffusion_model."),
}

_CANONICAL = {
    "lora_A": "A",
    "lora_B": "B",
    "lora_down": "A",
    "lora_up": "B",
    "lora_mid": "mid",
    "lora_embedding_A": "embedding_A",
    "lora_embedding_B": "embedding_B",
    "lora_magnitude_vector": "magnitude",
    "lora_E": "E",
    "lora_a": "mlx_a",
    "lora_b": "mlx_b",
    "m": "mlx_m",
}
FACTORS = (
    *_CANONICAL, "ranknum", "alpha", "dora_scale", "ia3_l", "vera_lambda_b", "vera_lambda_d",
    *(f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")),
    *(f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "w2", "w2_a", "w2_b", "t2")),
)  # fmt: skip
_FACTOR = re.compile(
    rf"(?P<module>[^.].*?)\.(?P<part>{'|'.join(FACTORS)})"
    r"(?:\.(?P<adapter>(?!(?:weight|bias)$)[^.]+))?(?:\.(?P<leaf>weight|bias))?"
)
_PROJECTION = re.compile(r"(?:.*\.)?vera_(?P<part>[AB])(?:\.(?P<adapter>[^.]+))?")
_OLD_DIFFUSERS = re.compile(
    r"(?P<module>.+?)(?:\.processor)?(?:\.(?P<leaf>\w+)_lora|\.lora|\.lora_linear_layer)"
    r"\.(?P<part>down|up)\.weight"
)
_STORED_BASE = re.compile(r"(?P<module>.+)\.base_layer\.(?P<leaf>weight|bias)")
# Leaves that only adapter methods use: a name that holds one is a factor, not a saved weight.
_ADAPTER_WORD = re.compile(
    r"(?:^|\.)(?:lora|hada|lokr|ia3|vera|oft|boft|hra|vblora|randlora|shira|waveft|road"
    r"|c3a|fourierft|bone|miss|delora|token_adapter|trainable_tokens)_?\w*(?:\.|$)"
)
_TEXT_ENCODER = {"to_q": "q_proj", "to_k": "k_proj", "to_v": "v_proj", "to_out": "out_proj"}


@dataclass(frozen=True, slots=True)
class Key:
    """One adapter tensor: the raw module it belongs to, its factor and the adapter's own name.

    `part` is a canonical factor name, ``projection_A``/``_B`` (VeRA), ``base_weight``, ``bias``,
    ``saved`` or ``unknown``.
    """

    module: str
    part: str
    adapter: str | None = None


def parse_key(name: str) -> Key:
    """What the tensor `name` of an adapter file is. Never fails: odd names are ``unknown``."""
    if found := _PROJECTION.fullmatch(name):
        return Key("", f"projection_{found['part']}", found["adapter"])
    if found := _FACTOR.fullmatch(name):
        part = _CANONICAL.get(found["part"], found["part"])
        return Key(found["module"], "bias" if found["leaf"] == "bias" else part, found["adapter"])
    if found := _OLD_DIFFUSERS.fullmatch(name):
        module = _diffusers_module(found["module"], found["leaf"])
        return Key(module, "A" if found["part"] == "down" else "B")
    if found := _STORED_BASE.fullmatch(name):
        return Key(found["module"], "base_weight" if found["leaf"] == "weight" else "bias")
    if found := _ADAPTER_WORD.search(name):
        return Key(name[: found.start()].removesuffix("."), "unknown")
    return Key(name.removesuffix(".weight"), "saved")


def is_parameter(name: str, shape: tuple[int, ...]) -> bool:
    """Whether an adapter trains this tensor: not its scale, rank number or frozen projection."""
    part = parse_key(name).part
    return not (
        (part in ("alpha", "ranknum") and prod(shape) == 1)
        or part in ("projection_A", "projection_B", "base_weight")
    )


def module_path(raw: str) -> str:
    """The module's path in the network: `raw` without the wrappers that training added."""
    return strip_wrappers(raw + ".").removesuffix(".")


def kohya_prefix(module: str) -> str | None:
    """The kohya prefix of a module name that holds no dots, else None."""
    if "." in module:
        return None
    return next((prefix for prefix in KOHYA_PREFIXES if module.startswith(prefix)), None)


def _diffusers_module(module: str, leaf: str | None) -> str:
    """`attn1` and `to_out` → `attn1.to_out.0`; CLIP text encoders name their projections apart."""
    if leaf is None:
        return module
    if module.endswith("self_attn"):
        leaf = _TEXT_ENCODER.get(leaf, leaf)
    elif leaf == "to_out":
        leaf = "to_out.0"
    return f"{module}.{leaf}"

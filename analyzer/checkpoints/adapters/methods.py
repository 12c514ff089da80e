"""Which `peft_type`s can be read, and why the others cannot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from analyzer.errors import AdapterError

READABLE = ("LORA", "ADALORA", "LOHA", "LOKR", "IA3", "VERA")
# They change activations or prepend tokens: no weight of the base is different.
PROMPT_LEARNING = (
    "PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT",
    "ADAPTION_PROMPT", "CARTRIDGE",
)  # fmt: skip
# They change weights by formulas that are not implemented here (names of peft 0.21).
UNREADABLE = (
    "ADAMSS", "BEFT", "BOFT", "BONE", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD", "GLORA",
    "GRALORA", "HIRA", "HRA", "LILY", "LN_TUNING", "MISS", "OFT", "OSF", "PEANUT", "POLY", "PSOFT",
    "PVERA", "RANDLORA", "ROAD", "SHADOW", "SHIRA", "SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS",
    "UNILORA", "VBLORA", "WAVEFT", "XLORA",
)  # fmt: skip
# LoRA settings under which the merged weight is not W0 + s B A.
_VARIANTS = {
    "use_qalora": "QA-LoRA pools the inputs",
    "use_bdlora": "BD-LoRA's factors are block-diagonal",
    "kasa_config": "KaSA truncates the base weight",
    "arrow_config": "Arrow routes between adapters for every token",
    "layer_replication": "layer replication renumbers the base's layers",
}


def declared_type(config: Mapping[str, Any]) -> str | None:
    """The configuration's `peft_type`, None if it has none. Raises AdapterError if unreadable."""
    value = config.get("peft_type")
    if value is None:
        return None
    name = str(value).upper()
    if name in READABLE:
        return name
    if name in PROMPT_LEARNING:
        raise AdapterError(
            f"{name} is prompt learning: it adds virtual tokens and changes no weight",
            hint="there is no spectrum to analyse",
        )
    if name in UNREADABLE:
        raise AdapterError(
            f"{name} changes weights in a way that is not supported",
            hint="merge it with PEFT's merge_and_unload, if it can be, and scan the merged model",
        )
    raise AdapterError(
        f"unknown peft_type {name[:60]!r}", hint=f"readable are {', '.join(READABLE)}"
    )


def lora_variant(config: Mapping[str, Any]) -> str | None:
    """Why this LoRA configuration is not plain LoRA, None if it is."""
    return next((why for key, why in _VARIANTS.items() if config.get(key)), None)

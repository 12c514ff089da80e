"""An adapter's configuration and tensor names → what it changes. No tensor is read."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from analyzer.checkpoints.adapters.keys import Key, kohya_prefix, module_path, parse_key
from analyzer.checkpoints.adapters.methods import declared_type
from analyzer.checkpoints.adapters.scaling import expected_rank
from analyzer.checkpoints.adapters.targets import describe, saved_target
from analyzer.checkpoints.adapters.types import (
    Adapter,
    AdapterFiles,
    AdapterTarget,
    Module,
    StoredTensor,
)
from analyzer.errors import AdapterError

_KIND_TYPES = {"adalora": "ADALORA", "loha": "LOHA", "lokr": "LOKR", "ia3": "IA3", "vera": "VERA"}


def open_adapter(checkpoint: AdapterFiles, initial: AdapterFiles | None = None) -> Adapter:
    """What the adapter in `checkpoint` changes, from its configuration and tensor names alone.

    `initial` is the adapter as it was before training, which initialisers that change the base
    (CorDA, LoRA-GA, LoftQ, randomised PiSSA) need. A module whose factors cannot be used is a
    refused target; the others go on. Raises AdapterError for what cannot be an adapter.
    """
    start = None if initial is None else _open(initial, None, has_initial=True)
    return _open(checkpoint, start, has_initial=start is not None)


def _open(checkpoint: AdapterFiles, start: Adapter | None, *, has_initial: bool) -> Adapter:
    try:
        config = checkpoint.config
        peft_type = declared_type(config)
        modules, saved = _modules(checkpoint, config)
        targets = [
            *(describe(module, config, has_initial=has_initial) for module in modules),
            *(saved_target(path, tensor) for path, tensor in saved),
        ]
        full = peft_type is not None or config.get("fine_tune_type") == "full"
        if not modules and not (saved and full):
            raise AdapterError(
                f"no adapter tensors among {_some(t.name for t in checkpoint.tensors())}",
                hint="the factors of LoRA, LoHa, LoKr, (IA)³ or VeRA are expected",
            )
        warnings = _warnings(config, modules, targets, declared=peft_type is not None)
    except AdapterError as error:
        raise AdapterError(
            error.message, path=checkpoint.path, tensor=error.tensor, hint=error.hint
        ) from None
    kinds = (_KIND_TYPES.get(target.kind, "LORA") for target in targets)
    return Adapter(checkpoint, peft_type or next(kinds), tuple(targets), warnings, start)


def _modules(
    checkpoint: AdapterFiles, config: Mapping[str, Any]
) -> tuple[list[Module], list[tuple[str, StoredTensor]]]:
    """Adapted modules with their factors; saved weights (path, tensor) of two or more axes."""
    keys = [(parse_key(tensor.name), tensor) for tensor in checkpoint.tensors()]
    _one_adapter(key for key, _ in keys)
    groups: dict[str, dict[str, StoredTensor]] = defaultdict(dict)
    for key, tensor in keys:
        if key.part in groups[key.module] and key.part not in ("saved", "bias", "unknown"):
            raise AdapterError(f"{tensor.name} stores {key.part} a second time")
        groups[key.module][key.part] = tensor
    shared = groups.pop("", {})
    projections = {part: t for part, t in shared.items() if part.startswith("projection_")}
    modules, saved = [], []
    for raw, parts in groups.items():
        factors = {part: t for part, t in parts.items() if part not in ("saved", "bias")}
        for part in ("mlx_m", "alpha"):  # an ordinary tensor may bear these names
            if set(factors) == {part}:
                del factors[part]
        adapted = set(factors) - {"base_weight"}
        if adapted:
            factors |= projections if "vera_lambda_b" in factors else {}
            modules.append(Module(module_path(raw), _style(raw, factors, config), factors))
        for part in ("saved",) if adapted else ("saved", "base_weight"):
            if part in parts and len(parts[part].shape) > 1:
                saved.append((module_path(raw), parts[part]))
    return modules, [(path, t) for path, t in saved if ".original_module." not in t.name]


def _style(raw: str, factors: Mapping[str, StoredTensor], config: Mapping[str, Any]) -> str:
    if "mlx_a" in factors or "mlx_b" in factors:
        return "mlx"
    return "peft" if config.get("peft_type") and not kohya_prefix(raw) else "kohya"


def _one_adapter(keys: Iterable[Key]) -> None:
    names = {key.adapter for key in keys if key.adapter is not None}
    if len(names) > 1:
        raise AdapterError(
            f"the file holds several adapters: {_some(sorted(names))}",
            hint="save each with save_pretrained(…, selected_adapters=[…])",
        )


def _warnings(
    config: Mapping[str, Any],
    modules: list[Module],
    targets: list[AdapterTarget],
    *,
    declared: bool,
) -> tuple[str, ...]:
    lines = []
    if not declared and any(
        "base_model.model." in name for t in targets for name in t.tensor_names
    ):
        lines.append("no peft_type in adapter_config.json: scaling taken as 1 where no alpha is")
    if config.get("alora_invocation_tokens"):
        lines.append("activated LoRA: the change applies only after the invocation tokens")
    if any(".base_layer.out_proj." in name for t in targets for name in t.tensor_names):
        # huggingface/peft pull request 3774: merging and every forward pass add s B A two times.
        lines.append(
            "nn.MultiheadAttention's out_proj: s B A is added once; PEFT up to 0.21.2 adds it twice"
        )
    wrong = [
        (target.module, target.rank)
        for module, target in zip(modules, targets, strict=False)
        if module.style == "peft" and target.kind in ("lora", "dora", "loha")
        if target.status == "ok" and not config.get("target_parameters")
        if expected_rank(config, module.path) not in (None, target.rank)
    ]
    if wrong:
        path, rank = wrong[0]
        lines.append(
            f"{len(wrong)} modules have another rank than the configuration says ({path}: {rank}, "
            f"configuration {expected_rank(config, path):g}); the stored rank is used"
        )
    return tuple(lines)


def _some(names: Iterable[str], limit: int = 4) -> str:
    listed = list(names)
    more = f" … ({len(listed)})" if len(listed) > limit else ""
    return (", ".join(listed[:limit]) + more) or "no tensors"

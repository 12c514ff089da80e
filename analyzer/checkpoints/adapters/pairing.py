"""Which matrix of the base each target of an adapter changes, by name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

from analyzer.checkpoints.adapters.experts import stack_size, stacked_names
from analyzer.checkpoints.adapters.keys import KOHYA_PREFIXES, kohya_prefix
from analyzer.checkpoints.adapters.targets import parameter_names
from analyzer.checkpoints.adapters.types import Adapter, AdapterTarget
from analyzer.checkpoints.matching import match_names
from analyzer.checkpoints.names import strip_wrappers
from analyzer.checkpoints.tensors import MatrixInfo

Matrices = Mapping[str, Sequence[MatrixInfo]]


def match_targets(
    adapter: Adapter, base_matrices: Sequence[MatrixInfo]
) -> list[tuple[AdapterTarget, MatrixInfo | None]]:
    """Every target with its base matrix, None where the base lacks it.

    Names match up to wrappers and one model prefix; kohya's underscored names match the base
    names whose dots become underscores. A target that changes a stack of experts is paired with
    each expert's matrix, also where the base stores the experts apart, its name completed to the
    parameter's.
    """
    by_tensor: dict[str, list[MatrixInfo]] = defaultdict(list)
    for matrix in base_matrices:
        by_tensor[matrix.tensor].append(matrix)
    by_tensor = stacked_names(base_matrices) | by_tensor
    matched = _dotted_names(adapter, by_tensor) | _kohya_names(adapter, by_tensor)
    pairs: list[tuple[AdapterTarget, MatrixInfo | None]] = []
    for target in adapter.targets:
        names = _candidates(adapter, target)
        found = [(name, by_tensor[matched[name]]) for name in names if name in matched]
        pairs += _pair(adapter, target, found)
    return pairs


def _candidates(adapter: Adapter, target: AdapterTarget) -> tuple[str, ...]:
    """Base tensor names that the target may mean."""
    parameters = parameter_names(target.module, adapter.source.config)
    if target.kind == "lora" and parameters:
        return tuple(f"{target.module}.{leaf}" for leaf in parameters)
    return (target.name,)


def _dotted_names(adapter: Adapter, tensors: Matrices) -> dict[str, str]:
    """Candidate name → base tensor, with nn.MultiheadAttention's in_proj_weight where no
    ``weight`` is: all names at once, because their common prefix is found from all of them.
    """
    wanted = {name for target in adapter.targets for name in _candidates(adapter, target)}
    matched = match_names(tensors, sorted(wanted))
    missing = {
        target.name: f"{target.module}.in_proj_weight"
        for target in adapter.targets
        if target.kind == "lora" and target.name not in matched
    }
    if not missing or not any(name.endswith("in_proj_weight") for name in tensors):
        return matched
    again = match_names(tensors, sorted({missing.get(name, name) for name in wanted}))
    return matched | {name: again[other] for name, other in missing.items() if other in again}


def _pair(
    adapter: Adapter, target: AdapterTarget, found: list[tuple[str, list[MatrixInfo]]]
) -> list[tuple[AdapterTarget, MatrixInfo | None]]:
    if len(found) > 1 and target.status == "ok":
        fitting = [(name, group) for name, group in found if _fits(adapter, target, name, group[0])]
        if len(fitting) > 1:
            names = ", ".join(name for name, _ in fitting)
            why = f"its factors fit several parameters of the base: {names}"
            return [(replace(target, status="refused", detail=why), None)]
        found = fitting or found
    if not found:
        return [(target, None)]
    name, matrices = found[0]
    if target.kind == "lora" and parameter_names(target.module, adapter.source.config):
        target = replace(target, name=name, experts=stack_size(matrices))
    return [(target, matrix) for matrix in matrices]


def _fits(adapter: Adapter, target: AdapterTarget, name: str, matrix: MatrixInfo) -> bool:
    """Whether A (r·E, in) and B (out, r·E) have the sizes of this parameter."""
    shapes = {t.name: tuple(t.shape) for t in adapter.source.tensors()}
    parts = dict(target.parts)
    if "A" not in parts:
        return True
    A, B = shapes[parts["A"]], shapes[parts["B"]]
    joined = matrix.index is None and name.endswith("gate_up_proj")  # gate and up stored apart
    return sorted((B[0], A[-1])) == sorted((matrix.rows * (2 if joined else 1), matrix.cols))


def _kohya_names(adapter: Adapter, tensors: Matrices) -> dict[str, str]:
    """Target name → base tensor, for names in which underscores stand for dots."""
    prefixes = {kohya_prefix(target.module) for target in adapter.targets} - {None}
    tables = {prefix: _underscored(prefix, tensors) for prefix in prefixes if prefix}
    return {
        target.name: tables[prefix][module]
        for target in adapter.targets
        if (prefix := kohya_prefix(target.module)) is not None
        if (module := target.module.removeprefix(prefix)) in tables[prefix]
    }


def _underscored(prefix: str, tensors: Matrices) -> dict[str, str]:
    """Underscored base name → base tensor; a name that two tensors share is left out."""
    table: dict[str, set[str]] = defaultdict(set)
    for tensor in tensors:
        plain = strip_wrappers(tensor).removesuffix(".weight")
        for start in ("", *KOHYA_PREFIXES[prefix]):
            if plain.startswith(start):
                table[plain.removeprefix(start).replace(".", "_")].add(tensor)
    return {name: owners.pop() for name, owners in table.items() if len(owners) == 1}

"""Attention modules of a checkpoint by their names: which matrices belong to one module."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.names import strip_wrappers
from analyzer.checkpoints.tensors import MatrixInfo

QUERY, KEY, VALUE, FUSED = "attn_q", "attn_k", "attn_v", "attn_qkv"
_ROLES = (QUERY, KEY, VALUE, FUSED)
_LATENT = re.compile(r"(?:kv_a|kv_b|q_a|q_b|attn_kv_a|attn_kv_b|attn_q_a|attn_q_b)_?\w*")
# Tensors that only recurrent and linear-attention layers hold, and the module that holds them.
_RECURRENT = re.compile(r"(?P<module>.+)\.(?:A_log|time_decay|time_first|time_faaaa)")
_HEAD_NORM = re.compile(
    r"(?P<module>.+)\.(?:q|k|query|key)_?(?:norm|layernorm|layer_norm|ln)(?:\..*)?"
)


@dataclass(slots=True)
class AttentionModule:
    """Matrices of one module by role; a role may have several where the layout is unusual."""

    path: str
    stack: str | None
    layer: int | None
    matrices: dict[str, list[MatrixInfo]] = field(default_factory=dict)
    recurrent: bool = False
    head_norms: list[str] = field(default_factory=list)  # tensors that normalise queries or keys

    @property
    def first(self) -> MatrixInfo | None:
        """The matrix to name when the module is refused: the queries' if there is one."""
        roles = (QUERY, FUSED, KEY, VALUE, *self.matrices)
        found = (self.matrices.get(role, []) for role in roles)
        return next((matrix for several in found for matrix in several), None)

    @property
    def in_torch(self) -> bool:
        """Whether it holds an ``in_proj_weight``, as nn.MultiheadAttention does."""
        return self.first is not None and _leaf(self.first) == "in_proj_weight"

    @property
    def is_latent(self) -> bool:
        """Keys or queries are compressed and expanded again (DeepSeek's MLA)."""
        leaves = (_leaf(matrix) for several in self.matrices.values() for matrix in several)
        return any(_LATENT.fullmatch(leaf) for leaf in leaves)


def attention_modules(checkpoint: Checkpoint) -> list[AttentionModule]:
    """Modules with queries, keys or values, recurrent ones marked, in file order."""
    names = [strip_wrappers(tensor.name) for tensor in checkpoint.tensors()]
    modules: dict[str, AttentionModule] = {}
    recurrent = {match["module"] for match in map(_RECURRENT.fullmatch, names) if match}
    for matrix in checkpoint.matrices():
        path = module_path(matrix)
        if matrix.role in _ROLES:
            holder = path.rpartition(".")[0]
        else:
            holder = next((module for module in recurrent if path.startswith(module + ".")), "")
            if not holder or holder in modules:
                continue
        module = modules.setdefault(holder, AttentionModule(holder, matrix.stack, matrix.layer))
        module.matrices.setdefault(matrix.role, []).append(matrix)
    for module in modules.values():
        module.recurrent = module.path in recurrent
    for match in filter(None, map(_HEAD_NORM.fullmatch, names)):
        if match["module"] in modules:
            modules[match["module"]].head_norms.append(match.string)
    return list(modules.values())


def module_path(matrix: MatrixInfo) -> str:
    """The path of the module that computes a matrix, without wrappers."""
    return strip_wrappers(matrix.name).removesuffix(".weight")


def _leaf(matrix: MatrixInfo) -> str:
    return module_path(matrix).rpartition(".")[2]

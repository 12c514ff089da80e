"""LoRA on a parameter that stacks E experts (E, out, in), and the same experts stored apart.

A (r·E, in) is ordered (E, r), B (out, r·E) is ordered (r, E): the change of expert e is
s B[:, :, e] A[e] (PEFT's ``target_parameters``). Models that stack their experts in memory often
store each by itself, gate and up projection as two tensors that the stacked ``gate_up_proj``
joins, gate first.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from analyzer.checkpoints.adapters.factors import Factors, oriented
from analyzer.checkpoints.adapters.scaling import expected_rank, peft_scaling
from analyzer.checkpoints.adapters.types import LowRankDelta
from analyzer.checkpoints.tensors import MatrixInfo
from analyzer.errors import AdapterError

_APART = re.compile(r"(?P<module>.+\.experts)\.(?P<expert>\d+)\.(?P<leaf>\w+)\.weight")
_STACKED = {
    "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "down_proj": "down_proj",
    "w1": "gate_up_proj", "w3": "gate_up_proj", "w2": "down_proj",
}  # fmt: skip
_SECOND_HALF = ("up_proj", "w3")


def stacked_names(matrices: Iterable[MatrixInfo]) -> dict[str, list[MatrixInfo]]:
    """Name that a stacked parameter would have → the matrices of experts stored one by one."""
    stacks: dict[str, list[MatrixInfo]] = defaultdict(list)
    for matrix in matrices:
        apart = _APART.fullmatch(matrix.tensor)
        if apart and matrix.index is None and apart["leaf"] in _STACKED:
            # Mixtral's blocks are stored as block_sparse_moe and named mlp in memory.
            for module in {apart["module"], apart["module"].replace("block_sparse_moe", "mlp")}:
                stacks[f"{module}.{_STACKED[apart['leaf']]}"].append(matrix)
    return stacks


def stack_size(matrices: Iterable[MatrixInfo]) -> int | None:
    """Experts in the stack that these matrices belong to, None if they are no experts."""
    sizes = [
        expert + 1 if matrix.index is None else matrix.shape[0]
        for matrix in matrices
        if (expert := expert_of(matrix)) is not None
    ]
    return max(sizes, default=None)


def expert_of(matrix: MatrixInfo) -> int | None:
    """Position of the matrix in its stack of experts, stored in one tensor or apart."""
    apart = _APART.fullmatch(matrix.tensor)
    return int(apart["expert"]) if apart and matrix.index is None else matrix.index


def low_rank(factors: Factors, matrix: MatrixInfo, experts: int) -> LowRankDelta:
    """s B_e A_e for the expert that `matrix` is. Raises AdapterError, ShapeMismatch."""
    name, A, B = factors.target.name, factors["A"], factors["B"]
    if A.ndim != 2 or B.ndim != 2 or not len(A) or len(A) % experts:
        raise AdapterError(f"{A.shape} does not divide into {experts} experts", tensor=name)
    if matrix.index is not None and matrix.rows == matrix.cols and not matrix.transposed:
        raise AdapterError(
            "square expert weights: whether they are stored input × output is not known",
            tensor=name,
        )
    rank, expert = len(A) // experts, expert_of(matrix)
    expected = expected_rank(factors.source.config, name)
    if matrix.index is None and expected not in (None, rank):
        raise AdapterError(
            f"rank {rank} for the {experts} experts of the base, {expected:g} in the configuration",
            tensor=name,
        )
    A_e = A.reshape(experts, rank, -1)[expert]  # (r, in)
    B_e = B.reshape(len(B), rank, experts)[:, :, expert]  # (out, r)
    if matrix.index is None and len(B) == 2 * matrix.rows:
        first = not matrix.tensor.removesuffix(".weight").endswith(_SECOND_HALF)
        B_e = B_e[: matrix.rows] if first else B_e[matrix.rows :]
    scaling = peft_scaling(factors.source.config, name, rank)
    return oriented(scaling * B_e, A_e.T, matrix, name, stored=False)

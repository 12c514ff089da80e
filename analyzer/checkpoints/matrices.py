"""Which stored tensors are matrices to analyse, and how each is laid out.

Left out: vectors and scalars, biases, positional tables that are no weights, masks and other
buffers, and the scales and codebooks that come with packed integers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from analyzer.checkpoints.names import TensorRole, describe
from analyzer.checkpoints.parameters import untied
from analyzer.checkpoints.stored import StoredTensor
from analyzer.checkpoints.tensors import MatrixInfo

FLOATS = {"float64", "float32", "float16", "bfloat16"}
_FLOAT8 = re.compile(r"float8_")
_PACKED = {"int8", "uint8", "int16", "uint16", "int32", "uint32", "float4_e2m1fn_x2"}
_BUFFER = re.compile(
    r"(?:^|[._])(?:bias\w*|\w+_bias|position_ids|token_type_ids|masked_bias|\w*mask|inv_freq"
    r"|rotary\w*|rope\w*|freqs\w*|\w*relative_position_index|relative_coords_table"
    r"|running_mean|running_var|num_batches_tracked|cos_cached|sin_cached|_extra_state)$"
)
_QUANT_SIDE = re.compile(
    r"(?:qzeros|g_idx|scales|zeros|SCB|absmax|nested_absmax|quant_map|nested_quant_map"
    r"|quant_state\..*|weight_format|weight_shape|weight_packed_shape|input_scale"
    r"|\w*(?:weight_scale|weight_scale_inv|weight_zero_point|_scales|_scale))$"
)
_SCALES = ("_scale_inv", "_scale", "_scales")
_CONV1D_LEAF = re.compile(r"(?:^|\.)(c_attn|q_attn|c_proj|c_fc)\.weight$")
_CONV1D_MODELS = {"gpt2", "openai-gpt", "imagegpt", "decision_transformer"}
_EXPERT_ROLES = ("expert_gate_up", "expert_gate", "expert_up", "expert_down")
_INPUT_FIRST_EXPERTS = {"gpt_oss", "llama4", "llama4_text"}

Shapes = Mapping[str, tuple[int, ...]]  # tensor name → shape


def list_matrices(
    tensors: Sequence[StoredTensor], config: Mapping[str, Any]
) -> tuple[MatrixInfo, ...]:
    """The matrices of a checkpoint in file order; of tied tensors only the first."""
    shapes = {tensor.name: tensor.shape for tensor in tensors}
    conv1d = _stored_input_first(tensors, config)
    found: list[MatrixInfo] = []
    for tensor in untied(filter(_is_weight, tensors)):
        transposed = conv1d and _CONV1D_LEAF.search(tensor.name) is not None
        status, detail = _status(tensor, shapes)
        matrices = _layout(tensor, shapes, transposed=transposed, config=config)
        found.extend(replace(matrix, status=status, detail=detail) for matrix in matrices)
    return tuple(found)


def _is_weight(tensor: StoredTensor) -> bool:
    """Whether a tensor is a matrix, packed or not, rather than a vector, buffer or scale."""
    if len(tensor.shape) < 2 or 0 in tensor.shape or tensor.dtype in ("bool", "int64", "uint64"):
        return False
    return not (_BUFFER.search(tensor.name) or _QUANT_SIDE.search(tensor.name))


def _status(tensor: StoredTensor, names: Container[str]) -> tuple[str, str | None]:
    if tensor.is_expanded:
        return "expanded", "the tensor has more entries than are stored"
    if tensor.dtype in FLOATS:
        return "ok", None
    if tensor.dtype in _PACKED:
        return "quantised_unknown", f"packed {tensor.dtype}: dequantise the checkpoint first"
    if _FLOAT8.match(tensor.dtype):
        if any(tensor.name + scale in names for scale in _SCALES):
            return "quantised_unknown", "eight-bit floats with scales: dequantise first"
        return "ok", None
    return "unsupported_dtype", f"{tensor.dtype} is not analysed"


def _layout(
    tensor: StoredTensor, shapes: Shapes, *, transposed: bool, config: Mapping[str, Any]
) -> Iterator[MatrixInfo]:
    """One matrix, or one per expert of a stack."""
    role = describe(tensor.name)
    shape = tensor.shape
    if len(shape) == 3 and role.role in _EXPERT_ROLES:
        turned = _expert_stored_input_first(role.role, tensor.name, shapes, config)
        for expert in range(shape[0]):
            yield _matrix(tensor, replace(role, expert=expert), shape[1:], turned, expert)
    elif len(shape) == 2 or tensor.name.endswith("weight") or tensor.dtype in _PACKED:
        yield _matrix(tensor, role, (shape[0], math.prod(shape[1:])), transposed, None)


def _matrix(
    tensor: StoredTensor,
    role: TensorRole,
    shape: tuple[int, ...],
    transposed: bool,
    index: int | None,
) -> MatrixInfo:
    rows, cols = reversed(shape) if transposed else shape
    return MatrixInfo(
        name=tensor.name if index is None else f"{tensor.name}[{index}]",
        tensor=tensor.name,
        index=index,
        rows=rows,
        cols=cols,
        dtype=tensor.dtype,
        nbytes=tensor.nbytes if index is None else tensor.nbytes // tensor.shape[0],
        stack=role.stack,
        layer=role.layer,
        role=role.role,
        expert=role.expert,
        transposed=transposed,
        storage_id=tensor.storage_id,
        shape=tensor.shape,
    )


def _stored_input_first(tensors: Sequence[StoredTensor], config: Mapping[str, Any]) -> bool:
    """Whether c_attn, c_proj and c_fc are GPT-2's ``Conv1D`` (input × output).

    The same leaf names are ordinary linear layers in nanoGPT, Qwen-1 and GPT-BigCode. Queries,
    keys and values together, and the first layer of an MLP, have more outputs than inputs, so
    their shapes tell; the configuration decides where they do not.
    """
    votes = 0
    for tensor in tensors:
        leaf = _CONV1D_LEAF.search(tensor.name)
        if leaf and leaf[1] in ("c_attn", "c_fc") and len(tensor.shape) == 2:
            votes += (tensor.shape[1] > tensor.shape[0]) - (tensor.shape[1] < tensor.shape[0])
    return votes > 0 or (votes == 0 and config.get("model_type") in _CONV1D_MODELS)


def _expert_stored_input_first(
    role: str, name: str, shapes: Shapes, config: Mapping[str, Any]
) -> bool:
    """Whether a stack of experts is (E, in, out): gpt-oss and Llama 4 are, Mixtral is not.

    Gate and up projection joined have twice as many outputs as the down projection has inputs, so
    the two stacks beside each other tell. Alone, a stack has the hidden size as the input of gate
    and up projections and as the output of the down projection; where that is square too, the
    kind of model decides.
    """
    joined = shapes.get(name.replace("down_proj", "gate_up_proj"), ())
    down = shapes.get(name.replace("gate_up_proj", "down_proj"), ())
    if len(joined) == len(down) == 3 and joined != down:
        if (joined[1], joined[2]) == (down[2], 2 * down[1]):
            return True
        if (joined[2], joined[1]) == (down[1], 2 * down[2]):
            return False
    text = config.get("text_config")
    configs = (config, text if isinstance(text, dict) else {})
    hidden = next((c["hidden_size"] for c in configs if "hidden_size" in c), None)
    _, first, second = shapes[name]
    if first == second:
        return any(c.get("model_type") in _INPUT_FIRST_EXPERTS for c in configs)
    if role == "expert_down":
        first, second = second, first
    return first == hidden

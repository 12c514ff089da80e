"""The family of a model: by the ``model_type`` of its configuration, else by its modules."""

from __future__ import annotations

from collections.abc import Callable

from analyzer.checkpoints.attention.encoder_families import ENCODERS
from analyzer.checkpoints.attention.family import Config, Family, integer
from analyzer.checkpoints.attention.fused_layouts import LayoutRefused
from analyzer.checkpoints.attention.gemma_families import GEMMAS
from analyzer.checkpoints.attention.gpt_families import GPTS
from analyzer.checkpoints.attention.llama_families import LLAMAS
from analyzer.checkpoints.attention.seq2seq_families import SEQUENCE_TO_SEQUENCE
from analyzer.checkpoints.attention.unnamed_families import timm_vit, torch_attention

FAMILIES: dict[str, Callable[[Config], Family]] = {
    **LLAMAS,
    **GEMMAS,
    **GPTS,
    **ENCODERS,
    **SEQUENCE_TO_SEQUENCE,
}
_ANY_HEADS = (
    "num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads",
)  # fmt: skip


def family_of(config: Config, in_torch: bool) -> Family:
    """`in_torch`: the module is an nn.MultiheadAttention, by the names of its tensors.

    Raises LayoutRefused, saying what is missing, if the family is not known. The names of separate
    projections and the number of heads would give the rows of any model, but not the rotation, the
    norms and the scale of its queries.
    """
    model_type = config.get("model_type")
    make = FAMILIES.get(model_type) if isinstance(model_type, str) else None
    if make is not None:
        return make(config)
    if in_torch:
        return torch_attention(config)
    if isinstance(config.get("architecture"), str):
        return timm_vit(config)
    if integer(config, *_ANY_HEADS) is None:
        raise LayoutRefused("config.json does not say num_attention_heads")
    if model_type is None:
        raise LayoutRefused("config.json does not say model_type")
    raise LayoutRefused(
        f"the norms, rotation and scale of queries and keys are not known for {model_type!r}"
    )

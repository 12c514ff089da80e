"""Axes of the tensors of transformer families, by the names that Hugging Face models store.

Linear weights are (out, in), GPT-2's ``Conv1D`` weights (in, out). Tables hold names without
wrappers; a name that no rule knows is not mapped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analyzer.models.manifold.groups.axes import Rule, rules

_DECODER = r"(?:model\.)?layers\.(?P<layer>\d+)\."
_EXPERT = _DECODER + r"(?:block_sparse_moe|mlp)\.experts\.(?P<expert>\d+)\."
LLAMA = rules(
    (r"(?:model\.)?embed_tokens\.weight", "- >res"),
    (r"(?:model\.)?norm\.weight", ">res"),
    (r"(?:lm_head|score|qa_outputs|classifier)\.weight", "- <res"),
    (r"(?:lm_head|score|qa_outputs|classifier)\.bias", "-"),
    (_DECODER + r"(?:input|post_attention)_layernorm\.weight", ">res"),
    (_DECODER + r"self_attn\.q_proj\.weight", ">q_{layer} <res"),
    (_DECODER + r"self_attn\.q_proj\.bias", ">q_{layer}"),
    (_DECODER + r"self_attn\.[kv]_proj\.weight", ">kv_{layer} <res"),
    (_DECODER + r"self_attn\.[kv]_proj\.bias", ">kv_{layer}"),
    (_DECODER + r"self_attn\.qkv_proj\.weight", ">qkv_{layer} <res"),
    (_DECODER + r"self_attn\.[qk]_norm\.weight", "-"),  # one gain for the channels of every head
    (_DECODER + r"self_attn\.o_proj\.weight", ">res <q_{layer}"),
    (_DECODER + r"(?:self_attn\.o_proj|mlp\.down_proj)\.bias", ">res"),
    (_DECODER + r"mlp\.(?:gate|up)_proj\.weight", ">mlp_{layer} <res"),
    (_DECODER + r"mlp\.(?:gate|up)_proj\.bias", ">mlp_{layer}"),
    (_DECODER + r"mlp\.gate_up_proj\.weight", ">mlp_{layer}*2 <res"),
    (_DECODER + r"mlp\.down_proj\.weight", ">res <mlp_{layer}"),
    (_DECODER + r"self_attn\.rotary_emb\.inv_freq", "-"),
)
MIXTRAL = (
    *LLAMA,
    *rules(
        (_DECODER + r"(?:block_sparse_moe|mlp)\.gate\.weight", ">experts_{layer} <res"),
        (
            _DECODER + r"mlp\.experts\.gate_up_proj",
            ">experts_{layer} >mlp_{layer}_expert_@*2 <res",
        ),
        (_DECODER + r"mlp\.experts\.down_proj", ">experts_{layer} >res <mlp_{layer}_expert_@"),
        (_EXPERT + r"w[13]\.weight", "#experts_{layer} >mlp_{layer}_expert_{expert} <res"),
        (_EXPERT + r"w2\.weight", "#experts_{layer} >res <mlp_{layer}_expert_{expert}"),
    ),
)

_H = r"(?:transformer\.)?h\.(?P<layer>\d+)\."
GPT2 = rules(
    (r"(?:transformer\.)?w[tp]e\.weight", "- >res"),
    (r"(?:transformer\.)?ln_f\.(?:weight|bias)", ">res"),
    (r"(?:lm_head|score|classifier|qa_outputs)\.weight", "- <res"),
    (r"(?:classifier|qa_outputs)\.bias", "-"),
    (_H + r"ln_[12]\.(?:weight|bias)", ">res"),
    (_H + r"attn\.c_attn\.weight", "<res >qkv_{layer}"),
    (_H + r"attn\.c_attn\.bias", ">qkv_{layer}"),
    (_H + r"attn\.c_proj\.weight", "<q_{layer} >res"),
    (_H + r"mlp\.c_fc\.weight", "<res >mlp_{layer}"),
    (_H + r"mlp\.c_fc\.bias", ">mlp_{layer}"),
    (_H + r"mlp\.c_proj\.weight", "<mlp_{layer} >res"),
    (_H + r"(?:attn|mlp)\.c_proj\.bias", ">res"),
    (_H + r"attn\.bias", "- - - -"),  # the causal mask, which old files store
    (_H + r"attn\.masked_bias", ""),
)

_BERT = r"(?:bert\.)?encoder\.layer\.(?P<layer>\d+)\."
BERT = rules(
    (r"(?:bert\.)?embeddings\.(?:word|position|token_type)_embeddings\.weight", "- >res"),
    (r"(?:bert\.)?embeddings\.LayerNorm\.(?:weight|bias|gamma|beta)", ">res"),
    (r"(?:bert\.)?embeddings\.(?:position|token_type)_ids", "- -"),
    (_BERT + r"attention\.self\.(?:query|key|value)\.weight", ">q_{layer} <res"),
    (_BERT + r"attention\.self\.(?:query|key|value)\.bias", ">q_{layer}"),
    (_BERT + r"attention\.output\.dense\.weight", ">res <q_{layer}"),
    (_BERT + r"(?:attention\.)?output\.dense\.bias", ">res"),
    (_BERT + r"(?:attention\.)?output\.LayerNorm\.(?:weight|bias|gamma|beta)", ">res"),
    (_BERT + r"intermediate\.dense\.weight", ">mlp_{layer} <res"),
    (_BERT + r"intermediate\.dense\.bias", ">mlp_{layer}"),
    (_BERT + r"output\.dense\.weight", ">res <mlp_{layer}"),
    (r"(?:bert\.)?pooler\.dense\.weight", ">pooler <res"),
    (r"(?:bert\.)?pooler\.dense\.bias", ">pooler"),
    (r"(?:classifier|cls\.seq_relationship)\.weight", "- <pooler"),
    (r"qa_outputs\.weight", "- <res"),
    (r"(?:classifier|qa_outputs|cls\.seq_relationship)\.bias", "-"),
    (r"cls\.predictions\.transform\.dense\.weight", ">mlm <res"),
    (r"cls\.predictions\.transform\.dense\.bias", ">mlm"),
    (r"cls\.predictions\.transform\.LayerNorm\.(?:weight|bias|gamma|beta)", ">mlm"),
    (r"cls\.predictions\.decoder\.weight", "- <mlm"),
    (r"cls\.predictions\.(?:decoder\.)?bias", "-"),
)

_VIT = r"(?:vit\.)?(?:encoder\.layer|layers)\.(?P<layer>\d+)\."
VIT = rules(
    (r"(?:vit\.)?embeddings\.(?:cls_token|mask_token|position_embeddings)", "- - >res"),
    (r"(?:vit\.)?embeddings\.patch_embeddings\.projection\.weight", ">res - - -"),
    (r"(?:vit\.)?embeddings\.patch_embeddings\.projection\.bias", ">res"),
    (
        _VIT + r"attention\.(?:attention\.(?:query|key|value)|[qkv]_proj)\.weight",
        ">q_{layer} <res",
    ),
    (_VIT + r"attention\.(?:attention\.(?:query|key|value)|[qkv]_proj)\.bias", ">q_{layer}"),
    (_VIT + r"attention\.(?:output\.dense|o_proj)\.weight", ">res <q_{layer}"),
    (_VIT + r"(?:attention\.output\.dense|attention\.o_proj|output\.dense|mlp\.fc2)\.bias", ">res"),
    (_VIT + r"layernorm_(?:before|after)\.(?:weight|bias)", ">res"),
    (_VIT + r"(?:intermediate\.dense|mlp\.fc1)\.weight", ">mlp_{layer} <res"),
    (_VIT + r"(?:intermediate\.dense|mlp\.fc1)\.bias", ">mlp_{layer}"),
    (_VIT + r"(?:output\.dense|mlp\.fc2)\.weight", ">res <mlp_{layer}"),
    (r"(?:vit\.)?layernorm\.(?:weight|bias)", ">res"),
    (r"(?:vit\.)?pooler\.dense\.weight", ">pooler <res"),
    (r"(?:vit\.)?pooler\.dense\.bias", ">pooler"),
    (r"classifier\.weight", "- <res"),
    (r"classifier\.bias", "-"),
)


@dataclass(frozen=True, slots=True)
class Transformer:
    """A table, whether input and output embeddings are tied unless config.json says, and their
    names (input, output)."""

    table: tuple[Rule, ...]
    tied: bool = False
    embeddings: tuple[str, str] = ("model.embed_tokens.weight", "lm_head.weight")

    def is_tied(self, config: Mapping[str, Any]) -> bool:
        """Whether the configuration declares the embeddings one parameter."""
        return bool(config.get("tie_word_embeddings", self.tied))


_LLAMA = Transformer(LLAMA)
TRANSFORMERS: Mapping[str, Transformer] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "phi3"), _LLAMA),
    "mixtral": Transformer(MIXTRAL),
    "gpt2": Transformer(GPT2, tied=True, embeddings=("transformer.wte.weight", "lm_head.weight")),
    "bert": Transformer(
        BERT,
        tied=True,
        embeddings=("bert.embeddings.word_embeddings.weight", "cls.predictions.decoder.weight"),
    ),
    "vit": Transformer(VIT),
}


def links(config: Mapping[str, Any], names: set[str]) -> list[tuple[str, str]]:
    """Pairs of spaces that are one: BERT's tied output embedding reads its transform's outputs in
    the order of the stream, and without a pooler the classifier reads the stream itself."""
    if config.get("model_type") != "bert":
        return []
    decoder = "cls.predictions.decoder.weight"
    tied = TRANSFORMERS["bert"].is_tied(config) or decoder not in names
    pooled = any(name.endswith("pooler.dense.weight") for name in names)
    return [("mlm", "res")] * tied + [("pooler", "res")] * (not pooled)

"""Parameters of an optimizer find their tensors: networks of transformers, trained for a step."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from transformers.trainer_pt_utils import get_parameter_names

from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.checkpoints.module_order import module_orders
from analyzer.checkpoints.optimizer_state import open_optimizer
from analyzer.errors import CheckpointError

SIZES = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
}  # fmt: skip
TEXT = {**SIZES, "vocab_size": 40}
GROUPED = {**TEXT, "num_key_value_heads": 1, "head_dim": 8}
OPT = {
    "hidden_size": 16, "word_embed_proj_dim": 8, "num_hidden_layers": 2, "num_attention_heads": 2,
    "ffn_dim": 24, "vocab_size": 40, "max_position_embeddings": 12,
}  # fmt: skip
T5 = {
    "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2, "vocab_size": 40,
}  # fmt: skip
NETWORKS: dict[str, Callable[[], Any]] = {
    # Twelve blocks: block 10 must not come before block 2.
    "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**{**GROUPED, "num_hidden_layers": 12})),
    "mistral-tied": lambda: hf.MistralForCausalLM(
        hf.MistralConfig(**GROUPED, tie_word_embeddings=True)
    ),
    "qwen2": lambda: hf.Qwen2ForCausalLM(hf.Qwen2Config(**TEXT, num_key_value_heads=1)),
    "qwen3": lambda: hf.Qwen3ForCausalLM(hf.Qwen3Config(**GROUPED)),
    "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**GROUPED)),
    "gpt2": lambda: hf.GPT2LMHeadModel(
        hf.GPT2Config(n_embd=16, n_layer=2, n_head=2, vocab_size=40, n_positions=12)
    ),
    "neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**TEXT)),
    "bert": lambda: hf.BertForMaskedLM(hf.BertConfig(**TEXT)),
    "roberta": lambda: hf.RobertaForSequenceClassification(hf.RobertaConfig(**TEXT)),
    "opt": lambda: hf.OPTForCausalLM(hf.OPTConfig(**OPT, do_layer_norm_before=False)),
    "t5": lambda: hf.T5ForConditionalGeneration(hf.T5Config(**T5)),
    "t5-gated": lambda: hf.T5ForConditionalGeneration(
        hf.T5Config(**T5, feed_forward_proj="gated-gelu", tie_word_embeddings=False)
    ),
    "vit": lambda: hf.ViTForImageClassification(
        hf.ViTConfig(**SIZES, image_size=8, patch_size=4)
    ),
}  # fmt: skip
NO_DECAY = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    level = hf.logging.get_verbosity()
    hf.logging.set_verbosity_error()
    yield
    hf.logging.set_verbosity(level)


def plain(model: torch.nn.Module) -> Any:
    return [p for p in model.parameters() if p.requires_grad]


def named(model: torch.nn.Module) -> Any:
    return list(model.named_parameters())


def trainer(model: torch.nn.Module) -> Any:
    decay = set(get_parameter_names(model, [torch.nn.LayerNorm], NO_DECAY))
    trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    return [
        {"params": [p for n, p in trained if n in decay], "weight_decay": 0.1},
        {"params": [p for n, p in trained if n not in decay], "weight_decay": 0.0},
    ]


def by_dimension(model: torch.nn.Module) -> Any:
    return [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]


def step(model: torch.nn.Module, groups: Any, folder: Path) -> None:
    """One step whose gradient is the weight itself, so that 0.1·W is what exp_avg must be."""
    optimizer = torch.optim.AdamW(groups, lr=0.0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = parameter.detach().clone()
    optimizer.step()
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")


def randomise(model: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.normal_()
    return model


def check(folder: Path, weights: dict[str, torch.Tensor]) -> list[str]:
    """Names of the parameters read, after their moments were compared with the weights."""
    state = open_optimizer(open_checkpoint(folder))
    assert state is not None and state.kind == "adam" and state.warnings == ()
    for parameter in state.parameters:
        W = weights[parameter.name]
        torch.testing.assert_close(parameter.exp_avg(), 0.1 * W)
        torch.testing.assert_close(parameter.exp_avg_sq(), 0.001 * W**2)
        assert parameter.shape == W.shape and parameter.step == 1
    return [p.name for p in state.parameters]


@pytest.mark.parametrize("groups", [plain, trainer, by_dimension, named])
@pytest.mark.parametrize("network", NETWORKS)
def test_every_parameter_finds_its_tensor(
    network: str, groups: Callable[[torch.nn.Module], Any], tmp_path: Path
) -> None:
    model = randomise(NETWORKS[network]())
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    step(model, groups(model), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert sorted(check(tmp_path, weights)) == sorted(weights)


def test_a_run_of_the_trainer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = NETWORKS["mistral-tied"]()
    data = [{"input_ids": [i, i + 1, i + 2], "labels": [i, i + 1, i + 2]} for i in range(8)]
    settings = hf.TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, save_steps=2, per_device_train_batch_size=2,
        weight_decay=0.1, learning_rate=1e-2, use_cpu=True, report_to=[], disable_tqdm=True,
        logging_steps=100,
    )  # fmt: skip
    run = hf.Trainer(model=model, args=settings, train_dataset=data)  # type: ignore[arg-type]
    run.train()
    optimizer: Any = run.optimizer
    states = optimizer.state
    want = {name: states[p] for name, p in model.named_parameters()}
    state = open_optimizer(open_checkpoint(tmp_path / "checkpoint-2"))
    assert state is not None and {p.name for p in state.parameters} == set(want)
    for parameter in state.parameters:
        assert torch.equal(parameter.exp_avg(), want[parameter.name]["exp_avg"])
        assert torch.equal(parameter.exp_avg_sq(), want[parameter.name]["exp_avg_sq"])
        assert (parameter.step, parameter.beta1, parameter.beta2) == (2, 0.9, 0.999)
        assert parameter.weight_decay == (0.0 if "norm" in parameter.name else 0.1)


class Unknown(torch.nn.Module):
    """Square maps, registered in another order than that of their names."""

    def __init__(self) -> None:
        super().__init__()
        self.zeta = torch.nn.Linear(6, 6, bias=False)
        self.norm = torch.nn.BatchNorm1d(6)
        self.alpha = torch.nn.Linear(6, 6, bias=False)
        self.tied = torch.nn.Linear(6, 6, bias=False)
        self.tied.weight = self.zeta.weight
        self.register_buffer("position_ids", torch.arange(6))


@pytest.mark.parametrize("groups", [plain, by_dimension, named])
def test_a_torch_file_keeps_the_order_of_an_unknown_network(
    groups: Callable[[torch.nn.Module], Any], tmp_path: Path
) -> None:
    model = randomise(Unknown())
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    step(model, groups(model), tmp_path)
    found = check(tmp_path, model.state_dict())
    assert sorted(found) == ["alpha.weight", "norm.bias", "norm.weight", "zeta.weight"]


def test_a_sorted_file_of_an_unknown_network_is_ambiguous(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    model = randomise(Unknown())
    weights = {n: w.clone() for n, w in model.state_dict().items() if n != "tied.weight"}
    save_file(weights, tmp_path / "model.safetensors")
    step(model, plain(model), tmp_path)
    with pytest.raises(CheckpointError, match=r"ambiguous parameter order.*named_parameters"):
        open_optimizer(open_checkpoint(tmp_path))
    step(model, named(model), tmp_path)
    assert len(check(tmp_path, model.state_dict())) == 4


def test_two_orders_that_both_fit_are_ambiguous(tmp_path: Path) -> None:
    """A torch file whose order of queries and keys contradicts that of the modules."""
    model = randomise(hf.LlamaForCausalLM(hf.LlamaConfig(**TEXT)))
    weights = dict(model.state_dict())
    torch.save(dict(sorted(weights.items(), reverse=True)), tmp_path / "pytorch_model.bin")
    step(model, plain(model), tmp_path)
    check(tmp_path, weights)  # the reversed order fits nowhere
    swapped = {
        name.replace("q_proj", "x").replace("k_proj", "q_proj").replace("x", "k_proj"): W
        for name, W in weights.items()
    }
    torch.save(swapped, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError) as caught:
        open_optimizer(open_checkpoint(tmp_path))
    text = str(caught.value)
    assert "optimizer.pt: ambiguous parameter order: parameter 1 may be " in text
    assert "layers.0.self_attn.k_proj.weight or " in text and "q_proj" in text


@pytest.mark.parametrize("groups", [plain, trainer])
@pytest.mark.parametrize("frozen", ["embed_tokens", "norm", "lm_head", "mlp"])
def test_frozen_parameters_leave_gaps(
    frozen: str, groups: Callable[[torch.nn.Module], Any], tmp_path: Path
) -> None:
    model = randomise(hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)))
    for name, parameter in model.named_parameters():
        parameter.requires_grad = frozen not in name
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    step(model, groups(model), tmp_path)
    found = check(tmp_path, load_file(tmp_path / "model.safetensors"))
    assert sorted(found) == sorted(n for n, p in model.named_parameters() if p.requires_grad)


def test_a_frozen_block_could_be_any(tmp_path: Path) -> None:
    model = randomise(hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)))
    for name, parameter in model.named_parameters():
        parameter.requires_grad = "layers.0" not in name
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    step(model, trainer(model), tmp_path)
    with pytest.raises(CheckpointError, match=r"ambiguous.*layers\.0.* or .*layers\.1"):
        open_optimizer(open_checkpoint(tmp_path))


def test_a_parameter_without_gradient_has_no_state(tmp_path: Path) -> None:
    model = randomise(NETWORKS["bert"]())
    model.save_pretrained(tmp_path)  # type: ignore[operator]
    groups = trainer(model)
    model.bert.embeddings.token_type_embeddings.weight.requires_grad = False  # type: ignore
    step(model, groups, tmp_path)
    found = check(tmp_path, weights := load_file(tmp_path / "model.safetensors"))
    assert set(weights) - set(found) == {"bert.embeddings.token_type_embeddings.weight"}


@pytest.mark.parametrize("groups", [plain, trainer])
def test_the_state_of_another_network_names_the_first_mismatch(
    groups: Callable[[torch.nn.Module], Any], tmp_path: Path
) -> None:
    hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)).save_pretrained(tmp_path)
    other = randomise(hf.LlamaForCausalLM(hf.LlamaConfig(**{**GROUPED, "intermediate_size": 32})))
    step(other, groups(other), tmp_path)
    why = (
        r"none|no known one fits: parameter \d+ has shape \(32, 16\), .*gate_proj.weight \(24, 16\)"
    )
    with pytest.raises(CheckpointError, match=why):
        open_optimizer(open_checkpoint(tmp_path))
    step(other, named(other), tmp_path)
    with pytest.raises(CheckpointError, match=r"gate_proj\.weight: its state has shape \(32, 16\)"):
        open_optimizer(open_checkpoint(tmp_path))


@pytest.mark.parametrize(
    "order",
    [
        # As transformers 4 registers them.
        ["vit.embeddings.cls_token", "vit.embeddings.position_embeddings",
         "vit.embeddings.patch_embeddings.projection.weight",
         "vit.encoder.layer.2.attention.attention.query.weight",
         "vit.encoder.layer.2.attention.output.dense.weight",
         "vit.encoder.layer.2.attention.output.dense.bias",
         "vit.encoder.layer.2.intermediate.dense.weight", "vit.encoder.layer.2.output.dense.weight",
         "vit.encoder.layer.2.layernorm_before.weight",
         "vit.encoder.layer.2.layernorm_after.weight",
         "vit.encoder.layer.10.attention.attention.query.weight", "vit.layernorm.weight",
         "classifier.weight"],
        ["roberta.embeddings.word_embeddings.weight",
         "roberta.embeddings.position_embeddings.weight",
         "roberta.embeddings.token_type_embeddings.weight", "roberta.embeddings.LayerNorm.weight",
         "roberta.encoder.layer.0.attention.self.query.weight", "lm_head.bias",
         "lm_head.dense.weight", "lm_head.layer_norm.weight"],
        # A wrapper's prefix and LoRA's factors.
        [f"base_model.model.model.layers.{i}.self_attn.{p}_proj.lora_{f}.weight"
         for i in (0, 2, 11) for p in "qkvo" for f in "AB"],
    ],
    ids=["vit-4", "roberta-4", "lora"],
)  # fmt: skip
def test_orders_of_earlier_versions_and_adapters(order: list[str]) -> None:
    shuffled = random.Random(0).sample(order, len(order))
    assert order in module_orders(shuffled)
    assert module_orders([*shuffled, "unheard_of.weight"]) == []

"""Captured inputs against hidden states that the model itself returns, and every refusal."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from analyzer.activations.capture import capture
from analyzer.errors import (
    CheckpointError,
    MissingExtra,
    UnsafePickle,
    UnsupportedFormat,
    UsageError,
    WorkbenchError,
)

VOCAB, WIDTH, LAYERS, CONTEXT = 256, 16, 2, 32
TEXT = "The quick brown fox jumps over the lazy dog; größer ist älter. " * 3
BYTES = np.frombuffer(TEXT.encode(), np.uint8).astype(np.int64)


def pieces(length: int) -> torch.Tensor:
    count = len(BYTES) // length
    return torch.from_numpy(BYTES[: count * length].reshape(count, length))


def expected_inputs(kind: str, model: Any, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Hidden states between the layers, sent through the norm in front of each projection."""
    with torch.no_grad():
        if kind == "t5":
            out = model(input_ids=ids, decoder_input_ids=ids, output_hidden_states=True)
            inputs = {}
            for i in range(LAYERS):
                states = out.decoder_hidden_states[i]
                parts: Any = model.decoder.block[i].layer
                own, cross = parts[0], parts[1]
                name = f"decoder.block.{i}.layer"
                inputs[f"{name}.0.SelfAttention.q"] = own.layer_norm(states)
                after = own(states, attention_mask=causal(ids))[0]
                inputs[f"{name}.1.EncDecAttention.q"] = cross.layer_norm(after)
                inputs[f"{name}.1.EncDecAttention.k"] = out.encoder_last_hidden_state
                block = model.encoder.block[i].layer[0]
                inputs[f"encoder.block.{i}.layer.0.SelfAttention.q"] = block.layer_norm(
                    out.encoder_hidden_states[i]
                )
            return inputs
        states = model(input_ids=ids, output_hidden_states=True).hidden_states
        names: dict[str, tuple[str, Callable[[int], Any]]] = {
            "llama": (
                "model.layers.{}.self_attn.q_proj",
                lambda i: model.model.layers[i].input_layernorm,
            ),
            "gpt2": ("transformer.h.{}.attn.c_attn", lambda i: model.transformer.h[i].ln_1),
            "gpt_neox": (
                "gpt_neox.layers.{}.attention.query_key_value",
                lambda i: model.gpt_neox.layers[i].input_layernorm,
            ),
            "bert": ("bert.encoder.layer.{}.attention.self.query", lambda _: torch.nn.Identity()),
        }
        name, norm = names[kind]
        return {name.format(i): norm(i)(states[i]) for i in range(LAYERS)}


def causal(ids: torch.Tensor) -> torch.Tensor:
    """An additive mask for the first layer of T5 alone, which adds its own position bias."""
    length = ids.shape[1]
    return torch.full((1, 1, length, length), torch.finfo(torch.float32).min).triu(1)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gpt_neox", "bert", "t5"])
def test_inputs_are_the_normed_hidden_states(
    tmp_path: Path, save_model: Callable[..., Any], kind: str
) -> None:
    model = save_model(kind, tmp_path / kind)
    found = capture(tmp_path / kind, TEXT, length=24, batch=3)
    ids = pieces(24)
    expected = expected_inputs(kind, model, ids)
    assert found.tensors.keys() == expected.keys() and found.skipped == ()
    assert (found.n_samples, found.length) == tuple(ids.shape) == (8, 24)
    assert found.metadata["model"] == kind
    assert found.metadata["text_sha256"] == hashlib.sha256(TEXT.encode()).hexdigest()
    for name, states in expected.items():
        if kind == "t5" and name == "decoder.block.1.layer.1.EncDecAttention.q":
            continue  # the second layer takes the position bias of the first
        assert found.tensors[name].dtype == np.float32
        np.testing.assert_allclose(
            found.tensors[name], states.numpy(), rtol=1e-6, atol=1e-6, err_msg=name
        )


def test_the_demo_models_need_no_tokenizer(tmp_path: Path) -> None:
    from analyzer.demo.model import Llama, Shape
    from analyzer.demo.saving import save_model as save_demo

    torch.manual_seed(0)
    model = Llama(Shape(width=WIDTH, hidden=40, layers=LAYERS, heads=2, context=CONTEXT))
    save_demo(tmp_path / "base", model, {})
    found = capture(tmp_path / "base", TEXT)
    blocks: Any = model.model.layers
    with torch.no_grad():
        x = blocks[0].input_layernorm(model.model.embed_tokens(pieces(CONTEXT)))
    np.testing.assert_allclose(
        found.tensors["model.layers.0.self_attn.q_proj"], x.numpy(), rtol=1e-6, atol=1e-6
    )


def test_half_precision_weights_run_in_float32(
    tmp_path: Path, save_model: Callable[..., Any]
) -> None:
    folder = tmp_path / "m"
    model = save_model("llama", folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    half = {name: x.bfloat16() for name, x in load_file(folder / "model.safetensors").items()}
    save_file(half, folder / "model.safetensors", metadata={"format": "pt"})
    found = capture(folder, TEXT, length=24)
    for name, states in expected_inputs("llama", model, pieces(24)).items():
        np.testing.assert_allclose(found.tensors[name], states.numpy(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "shape"),
    [
        ({}, (6, CONTEXT)),  # 198 bytes, the rest of 6 is dropped
        ({"length": 10}, (19, 10)),
        ({"length": 10, "max_tokens": 59}, (5, 10)),
        ({"length": 30, "max_tokens": 12}, (1, 12)),
        ({"length": 2, "max_tokens": 2}, (1, 2)),
    ],
)
def test_chunks(
    tmp_path: Path, save_model: Callable[..., Any], options: dict[str, Any], shape: tuple[int, int]
) -> None:
    save_model("llama", tmp_path / "m")
    calls: list[tuple[int, int]] = []
    found = capture(
        tmp_path / "m", TEXT, batch=2, progress=lambda done, n: calls.append((done, n)), **options
    )
    assert (found.n_samples, found.length) == shape
    assert {x.shape for x in found.tensors.values()} == {(*shape, WIDTH)}
    assert calls[-1] == (shape[0], shape[0]) and len(calls) == -(-shape[0] // 2)


def test_a_short_text_is_one_sequence(tmp_path: Path, save_model: Callable[..., Any]) -> None:
    save_model("gpt2", tmp_path / "m")
    assert capture(tmp_path / "m", "abc").tensors["transformer.h.0.attn.c_attn"].shape == (1, 3, 16)
    for text in ("", "a"):
        with pytest.raises(UsageError, match="fewer than 2 tokens"):
            capture(tmp_path / "m", text)


def test_the_batch_size_changes_nothing(tmp_path: Path, save_model: Callable[..., Any]) -> None:
    save_model("llama", tmp_path / "m")
    one, many = (capture(tmp_path / "m", TEXT, length=20, batch=n) for n in (1, 7))
    for name, states in one.tensors.items():
        np.testing.assert_allclose(many.tensors[name], states, rtol=1e-5, atol=1e-5)


def save_tokenizer(folder: Path, words: list[str]) -> None:
    """A tokenizer of whole words that puts [CLS] and [SEP] around a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    tokens = ["[UNK]", "[CLS]", "[SEP]", *words]
    tokenizer = Tokenizer(
        models.WordLevel({token: i for i, token in enumerate(tokens)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)


def test_the_tokenizer_of_the_folder_is_used(
    tmp_path: Path, save_model: Callable[..., Any]
) -> None:
    model = save_model("bert", tmp_path / "m", vocab=40)
    save_tokenizer(tmp_path / "m", [f"w{i}" for i in range(30)])
    text = " ".join(f"w{i}" for i in range(14))
    found = capture(tmp_path / "m", text, length=6)  # special tokens around every four words
    ids = torch.tensor([[1, *range(3 + 4 * i, 7 + 4 * i), 2] for i in range(3)])
    for name, states in expected_inputs("bert", model, ids).items():
        np.testing.assert_allclose(found.tensors[name], states.numpy(), rtol=1e-6, atol=1e-6)
    with pytest.raises(UsageError, match="hold no text"):
        capture(tmp_path / "m", text, length=2)


def test_a_tokenizer_in_python(tmp_path: Path, save_model: Callable[..., Any]) -> None:
    """ByT5: the bytes plus 3, and 1 at the end of every piece."""
    from transformers import ByT5Tokenizer

    model = save_model("t5", tmp_path / "m", vocab=384)
    ByT5Tokenizer().save_pretrained(tmp_path / "m")
    found = capture(tmp_path / "m", TEXT, length=12)
    bodies = pieces(11) + 3
    ids = torch.cat((bodies, torch.ones(len(bodies), 1, dtype=torch.int64)), dim=1)
    name = "encoder.block.1.layer.0.SelfAttention.q"
    expected = expected_inputs("t5", model, ids)[name]
    np.testing.assert_allclose(found.tensors[name], expected.numpy(), rtol=1e-6, atol=1e-6)


def refusal(folder: Path, kind: type[WorkbenchError], text: str = TEXT, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        capture(folder, text, **options)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_a_tokenizer_that_is_absent_or_wrong(
    tmp_path: Path, save_model: Callable[..., Any]
) -> None:
    save_model("bert", tmp_path / "m", vocab=40)
    assert "no tokenizer" in refusal(tmp_path / "m", UsageError)
    save_tokenizer(tmp_path / "m", [f"w{i}" for i in range(60)])
    assert "of another model" in refusal(tmp_path / "m", UsageError, text="w50 w51 w52")
    (tmp_path / "m" / "tokenizer.json").write_text("{")
    assert "tokenizer" in refusal(tmp_path / "m", CheckpointError)


def test_lengths_and_devices_that_do_not_suit(
    tmp_path: Path, save_model: Callable[..., Any]
) -> None:
    save_model("llama", tmp_path / "m")
    assert "it reads 32" in refusal(tmp_path / "m", UsageError, length=33)
    assert "fewer than 2" in refusal(tmp_path / "m", UsageError, length=1)
    assert "no device named tpu" in refusal(tmp_path / "m", UsageError, device="tpu")


def test_pickled_weights_are_refused(tmp_path: Path, save_model: Callable[..., Any]) -> None:
    folder = tmp_path / "m"
    save_model("llama", folder)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    assert capture(folder, TEXT).tensors  # beside safetensors it does not matter
    (folder / "model.safetensors").unlink()
    assert "pickle" in refusal(folder, UnsafePickle)


def test_code_in_the_folder_is_not_run(tmp_path: Path, save_model: Callable[..., Any]) -> None:
    folder, trap = tmp_path / "m", tmp_path / "trap"
    save_model("llama", folder)
    code = f"open({str(trap)!r}, 'w').close()\n"
    (folder / "modeling_own.py").write_text(code)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "modeling_own.C", "AutoModelForCausalLM": "modeling_own.M"}
    (folder / "config.json").write_text(json.dumps(config))
    assert capture(folder, TEXT).tensors  # transformers has its own code for a Llama
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "own"}))
    refusal(folder, CheckpointError)
    assert not trap.exists()


def test_folders_that_hold_no_text_model(
    tmp_path: Path, save_model: Callable[..., Any], save_lora: Callable[..., Path]
) -> None:
    save_model("llama", tmp_path / "m")
    assert "config.json" in refusal(tmp_path / "m" / "model.safetensors", UsageError)
    assert "no such file" in refusal(tmp_path / "absent", UsageError)
    assert "an adapter" in refusal(save_lora(tmp_path / "lora"), UsageError)
    adapter = tmp_path / "lora" / "adapter_config.json"
    (tmp_path / "m" / "adapter_config.json").write_bytes(adapter.read_bytes())
    assert "beside" in refusal(tmp_path / "m", UsageError)


def test_models_that_see_or_hear(tmp_path: Path) -> None:
    import transformers as hf

    sizes: dict[str, Any] = {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 8, "patch_size": 4,
    }  # fmt: skip
    hf.ViTModel(hf.ViTConfig(**sizes)).save_pretrained(tmp_path / "vit")
    text = {**sizes, "vocab_size": 256, "max_position_embeddings": 16}
    clip = hf.CLIPConfig(text_config=text, vision_config=sizes, projection_dim=8)
    hf.CLIPModel(clip).save_pretrained(tmp_path / "clip")
    whisper = hf.WhisperConfig(
        vocab_size=256, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16, num_mel_bins=8,
        max_source_positions=16, max_target_positions=16, pad_token_id=0, bos_token_id=0,
        eos_token_id=0, decoder_start_token_id=0,
    )  # fmt: skip
    hf.WhisperModel(whisper).save_pretrained(tmp_path / "whisper")
    for name in ("vit", "clip", "whisper"):
        line = refusal(tmp_path / name, UnsupportedFormat)
        assert "does not read text alone" in line and "analyzer.activations.format" in line


def test_absent_weights_are_not_made_up(tmp_path: Path, save_model: Callable[..., Any]) -> None:
    save_model("llama", tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.layers.1.input_layernorm.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    line = refusal(tmp_path / "m", CheckpointError)
    assert "model.layers.1.input_layernorm.weight" in line
    tensors["model.layers.1.input_layernorm.weight"] = torch.ones(WIDTH + 1)
    save_file(tensors, path, metadata={"format": "pt"})
    refusal(tmp_path / "m", CheckpointError)


def test_layers_that_cannot_be_told_apart_are_refused(tmp_path: Path) -> None:
    """ALBERT runs one layer several times."""
    import transformers as hf

    config = hf.AlbertConfig(
        vocab_size=256, embedding_size=8, hidden_size=16, intermediate_size=32,
        num_hidden_layers=3, num_attention_heads=2, max_position_embeddings=CONTEXT,
    )  # fmt: skip
    hf.AlbertForMaskedLM(config).save_pretrained(tmp_path / "m")
    assert "albert" in refusal(tmp_path / "m", UnsupportedFormat)


def test_inputs_that_a_pass_does_not_give_once() -> None:
    """Called twice, not at all, or not given (samples, length, width): each with its reason."""
    from analyzer.activations.capture import _Inputs

    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            block = {name: torch.nn.Identity() for name in ("once", "twice", "never", "turned")}
            self.layers = torch.nn.ModuleList([torch.nn.ModuleDict(block)])

        def forward(self, x: torch.Tensor) -> None:
            block: Any = self.layers[0]
            block["once"](x)
            block["twice"](block["twice"](input=x))
            block["turned"](x.transpose(0, 1))

    model, inputs = Model(), _Inputs(3, 4)
    for name in ("once", "twice", "never", "turned", "absent"):
        inputs.watch(model, f"model.layers.0.{name}")
    x = torch.arange(24.0).reshape(3, 4, 2)
    for first, part in ((0, x[:2]), (2, x[2:])):
        inputs.start_batch(first, len(part))
        model(part)
        inputs.end_batch()
    assert list(inputs.tensors) == ["model.layers.0.once"]
    assert np.array_equal(inputs.tensors["model.layers.0.once"], x.numpy())
    reasons = {name.rpartition(".")[2]: reason for name, reason in inputs.refused.items()}
    assert "2 times" in reasons["twice"] and "0 times" in reasons["never"]
    assert "(4, 2, 2)" in reasons["turned"] and "no such module" in reasons["absent"]


def test_without_transformers(
    tmp_path: Path, save_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model("llama", tmp_path / "m")
    monkeypatch.setitem(sys.modules, "transformers", None)
    line = refusal(tmp_path / "m", MissingExtra)
    assert "spectral-workbench[calibration]" in line


def test_importing_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, analyzer.activations.capture, analyzer.activations.format\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr

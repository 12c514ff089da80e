"""Saved hidden states: every accepted spelling, every refusal, atomic writes."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from analyzer.activations.format import Activations, open_activations, write_activations
from analyzer.errors import (
    CheckpointError,
    CorruptFile,
    NonFinite,
    UnsafePickle,
    UnsupportedFormat,
    UsageError,
    WorkbenchError,
)

Q0, Q1 = "model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"


def states(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def opened(path: Path, tensors: dict[str, np.ndarray], **metadata: str) -> Activations:
    save_file(tensors, path, metadata=metadata or None)
    return open_activations(path)


def refusal(path: Path, kind: type[WorkbenchError]) -> str:
    """The one line with which opening `path` is refused; it names the file."""
    with pytest.raises(kind) as caught:
        open_activations(path)
    line = str(caught.value)
    assert path.name in line and "\n" not in line
    return line


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    tensors = {Q0: states(2, 5, 4), Q1: states(2, 5, 4, seed=1).astype(np.float64)}
    mask = np.ones((2, 5), np.int64)
    mask[1, 3:] = 0
    write_activations(path, tensors, mask, {"model": "tiny", "text_sha256": "ab"})
    found = open_activations(path)
    assert (found.model, found.path) == ("tiny", path)
    assert dict(found.metadata) == {
        "format": "analyzer-activations/1", "model": "tiny", "text_sha256": "ab",
        "n_tokens": "8", "dtype": "float32,float64",
    }  # fmt: skip
    assert sorted(found.names) == [Q0, Q1] and found.shapes[Q0] == (2, 5, 4)
    for name, tensor in tensors.items():
        values = found.read(name)
        assert values.dtype == tensor.dtype and np.array_equal(values, tensor)
    padded = found.padded(Q1)
    assert padded is not None and np.array_equal(padded, mask == 0)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_one_sequence_becomes_a_batch_of_one(tmp_path: Path) -> None:
    x = states(5, 4)
    found = opened(tmp_path / "x.safetensors", {Q0: x, "attention_mask": np.ones((1, 5), bool)})
    assert found.shapes[Q0] == (1, 5, 4) and np.array_equal(found.read(Q0), x[None])
    assert found.model is None and found.names == (Q0,)
    padded = found.padded(Q0)
    assert padded is not None and not padded.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_upcast(tmp_path: Path, dtype: torch.dtype) -> None:
    x = torch.from_numpy(states(3, 4)).to(dtype)
    save_torch({Q0: x}, tmp_path / "x.safetensors")
    values = open_activations(tmp_path / "x.safetensors").read(Q0)
    assert values.dtype == np.float32 and np.array_equal(values[0], x.float().numpy())


def test_a_folder_of_npy_files(tmp_path: Path) -> None:
    x = states(2, 5, 4)
    np.save(tmp_path / f"{Q0}.npy", x)
    np.save(tmp_path / f"{Q1}.npy", np.asfortranarray(x[::-1]))
    np.save(tmp_path / "attention_mask.npy", np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]))
    (tmp_path / "notes.txt").write_text("ignored")
    found = open_activations(tmp_path)
    assert found.names == (Q0, Q1) and found.model is None
    assert np.array_equal(found.read(Q0), x) and np.array_equal(found.read(Q1), x[::-1])
    padded = found.padded(Q0)
    assert padded is not None and padded.sum() == 3


def test_content_hash_is_the_same_in_every_form(tmp_path: Path) -> None:
    x = states(2, 5, 4)
    save_file({"layer.0": x}, tmp_path / "x.safetensors")
    np.save(tmp_path / "0.npy", x)
    np.save(tmp_path / "1.npy", np.asfortranarray(x))
    folder = open_activations(tmp_path)
    expected = hashlib.sha256(b"float32:(2, 5, 4):" + x.tobytes()).hexdigest()
    assert folder.sha256("0") == folder.sha256("1") == expected
    assert open_activations(tmp_path / "x.safetensors").sha256("layer.0") == expected


@pytest.mark.parametrize("name", ["layer.3", "layers.3", "3"])
@pytest.mark.parametrize("npy", [True, False])
def test_numbered_names(tmp_path: Path, name: str, npy: bool) -> None:
    path = tmp_path / (f"{name}.npy" if npy else "x.safetensors")
    if npy:
        np.save(path, states(5, 4))
    else:
        save_file({name: states(5, 4)}, path)
    found = open_activations(path)
    module = "transformer.h.3.attn.c_attn"
    assert found.find(module, 3, "decoder") == name
    assert found.find(module, 4, "decoder") is None
    assert found.find(module, None, "decoder") is None


def test_a_number_that_two_layers_share_is_nobodys(tmp_path: Path) -> None:
    own = "decoder.block.1.layer.0.SelfAttention.q"
    cross = "decoder.block.1.layer.1.EncDecAttention.q"
    encoder = "encoder.block.1.layer.0.SelfAttention.q"
    plain = opened(tmp_path / "a.safetensors", {"layer.1": states(5, 4)})
    assert plain.find(encoder, 1, "encoder", among=[encoder]) == "layer.1"
    assert plain.find(encoder, 1, "encoder", among=[own, cross, encoder]) is None
    two = opened(
        tmp_path / "b.safetensors",
        {"encoder.layer.1": states(5, 4), "decoder.1": states(5, 4, seed=1)},
    )
    assert two.find(encoder, 1, "encoder", among=[own, encoder]) == "encoder.layer.1"
    assert two.find(own, 1, "decoder", among=[own, encoder]) == "decoder.1"
    assert two.find(own, 1, "decoder", among=[own, cross, encoder]) is None


def test_numbers_beside_module_names_do_not_count(tmp_path: Path) -> None:
    found = opened(tmp_path / "x.safetensors", {Q0: states(5, 4), "layer.1": states(5, 4)})
    assert found.find(Q0, 0, "decoder") == Q0
    assert found.find(Q1, 1, "decoder") is None


@pytest.mark.parametrize(
    ("stored", "module"),
    [
        (f"base_model.model.{Q0}", Q0),
        (f"base_model.model.{Q0}.base_layer", Q0),
        (f"_orig_mod.module.{Q0}", Q0),
        (Q0.removeprefix("model."), Q0),
        (Q0, Q0.removeprefix("model.")),
        ("h.0.attn.c_attn", "transformer.h.0.attn.c_attn"),
        (f"model.language_{Q0}", Q0.removeprefix("model.")),
    ],
)
def test_names_that_differ_in_front(tmp_path: Path, stored: str, module: str) -> None:
    found = opened(tmp_path / "x.safetensors", {stored: states(5, 4), "other": states(5, 4)})
    assert found.find(module, 0, "decoder") == stored
    assert found.find(module.replace(".0.", ".1."), 1, "decoder") is None
    assert found.find(module.replace(".0.", ".10."), 10, "decoder") is None


@pytest.mark.parametrize(
    ("stored", "module"),
    [
        (["q_proj"], Q0),  # fits every layer
        (["0.self_attn.q_proj"], Q0),
        (["layers.0.self_attn.q_proj", f"base_model.model.{Q0}"], Q0),
        (["block.0.layer.0.SelfAttention.q"], "decoder.block.0.layer.0.SelfAttention.q"),
        (["encoder.layers.0.self_attn.q_proj"], "vision_model.encoder.layers.0.self_attn.q_proj"),
        (["ers.0.self_attn.q_proj"], Q0),
    ],
)
def test_names_that_leave_a_doubt(tmp_path: Path, stored: list[str], module: str) -> None:
    found = opened(tmp_path / "x.safetensors", {name: states(5, 4) for name in stored})
    assert found.find(module, 0, "decoder") is None


def test_a_name_that_fits_two_modules_is_nobodys(tmp_path: Path) -> None:
    name = "encoder.layers.0.self_attn.q_proj"
    found = opened(tmp_path / "x.safetensors", {name: states(5, 4)})
    one, two = f"text_model.{name}", f"other_model.{name}"
    assert found.find(one, 0, "encoder", among=[one]) == name
    assert found.find(one, 0, "encoder", among=[one, two]) is None


def test_a_mask_for_one_tensor_alone(tmp_path: Path) -> None:
    key = "decoder.block.0.layer.1.EncDecAttention.k"
    found = opened(
        tmp_path / "x.safetensors",
        {
            Q0: states(2, 5, 4),
            key: states(2, 7, 4),
            "attention_mask": np.ones((2, 5), np.float32),
            f"{key}.attention_mask": np.tile([1, 1, 1, 1, 1, 0, 0], (2, 1)),
        },
    )
    assert found.names == (Q0, key) or found.names == (key, Q0)
    own, keys = found.padded(Q0), found.padded(key)
    assert own is not None and keys is not None
    assert not own.any() and keys.sum() == 4


def test_reading_names_what_is_not_finite(tmp_path: Path) -> None:
    x = states(2, 5, 4)
    x[1, 2, 3], x[1, 4, 0] = np.nan, np.inf
    found = opened(tmp_path / "x.safetensors", {Q0: x, Q1: states(2, 5, 4)})
    with pytest.raises(NonFinite, match="1 NaN and 1 infinite") as caught:
        found.read(Q0)
    assert caught.value.tensor == Q0 and caught.value.first_index == 20 + 2 * 4 + 3
    assert found.read(Q1).shape == (2, 5, 4)


def test_no_such_path_or_tensor(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "absent.safetensors", UsageError)
    found = opened(tmp_path / "x.safetensors", {Q0: states(5, 4)})
    for access in (found.read, found.padded, found.sha256):
        with pytest.raises(CheckpointError, match="no such activations"):
            access(Q1)


def test_empty_inputs(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    assert "no activations" in refusal(tmp_path / "folder", CorruptFile)
    (tmp_path / "zero.safetensors").touch()
    assert "empty" in refusal(tmp_path / "zero.safetensors", CorruptFile)
    (tmp_path / "zero.npy").touch()
    refusal(tmp_path / "zero.npy", CorruptFile)
    save_file({"attention_mask": np.ones((2, 5))}, tmp_path / "mask.safetensors")
    assert "no activations" in refusal(tmp_path / "mask.safetensors", CorruptFile)


@pytest.mark.parametrize("suffix", ["safetensors", "npy"])
def test_truncated_files(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"layer.0.{suffix}"
    if suffix == "npy":
        np.save(path, states(5, 4))
    else:
        save_file({"layer.0": states(5, 4)}, path)
    content = path.read_bytes()
    found = open_activations(path)
    for length in (len(content) - 1, 40):
        path.write_bytes(content[:length])
        refusal(path, CorruptFile)
    for access in (found.read, found.sha256):
        with pytest.raises(CheckpointError, match="changed"):
            access("layer.0")


def test_pickles_are_not_loaded(tmp_path: Path) -> None:
    trap = tmp_path / "trap"

    class Trap:
        def __reduce__(self):
            return (Path.touch, (trap,))

    np.save(tmp_path / "layer.0.npy", np.array([Trap()], dtype=object), allow_pickle=True)
    assert "pickle" in refusal(tmp_path / "layer.0.npy", UnsafePickle)
    (tmp_path / "layer.1.npy").write_bytes(pickle.dumps(Trap()))
    refusal(tmp_path / "layer.1.npy", CorruptFile)
    (tmp_path / "x.bin").write_bytes(pickle.dumps(Trap()))
    refusal(tmp_path / "x.bin", UnsafePickle)
    torch.save({"layer.0": torch.zeros(5, 4)}, tmp_path / "x.pt")
    assert "safetensors or .npy" in refusal(tmp_path / "x.pt", UnsupportedFormat)
    assert not trap.exists()


@pytest.mark.parametrize("shape", [(4,), (1, 2, 5, 4), (0, 4), (2, 5, 0), ()])
def test_shapes_that_are_not_hidden_states(tmp_path: Path, shape: tuple[int, ...]) -> None:
    for name, save in (("x.safetensors", True), ("layer.0.npy", False)):
        path = tmp_path / name
        if save:
            save_file({"layer.0": np.zeros(shape, np.float32)}, path)
        else:
            np.save(path, np.zeros(shape, np.float32))
        line = refusal(path, UnsupportedFormat)
        assert f"layer.0: shape {shape}" in line and "(samples, tokens, width)" in line


@pytest.mark.parametrize("dtype", [">f4", np.int32, np.complex64, "U3"])
def test_dtypes_that_are_not_hidden_states(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "layer.0.npy"
    np.save(path, np.zeros((5, 4), dtype))
    assert "float32" in refusal(path, UnsupportedFormat)


def test_weights_are_not_activations(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({f"{Q0}.weight": states(4, 4)}, path)
    assert "weights, not activations" in refusal(path, UnsupportedFormat)


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({Q0: states(2, 5, 4), "attention_mask": np.ones((2, 6))}, path)
    assert f"(2, 6), but {Q0} has (2, 5)" in refusal(path, UnsupportedFormat)
    save_file({Q0: states(2, 5, 4), "attention_mask": np.ones(5)}, path)
    refusal(path, UnsupportedFormat)
    save_file({Q0: states(2, 5, 4), f"{Q1}.attention_mask": np.ones((2, 5))}, path)
    assert "mask without activations" in refusal(path, UnsupportedFormat)
    found = opened(path, {Q0: states(2, 5, 4), "attention_mask": np.zeros((2, 5))})
    with pytest.raises(CheckpointError, match="every token"):
        found.padded(Q0)


def test_a_layer_given_twice(tmp_path: Path) -> None:
    np.save(tmp_path / "layer.1.npy", states(5, 4))
    np.save(tmp_path / "1.npy", states(5, 4))
    assert "the same layer as 1" in refusal(tmp_path, UnsupportedFormat)


def test_a_format_from_the_future(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({Q0: states(5, 4)}, path, metadata={"format": "analyzer-activations/2"})
    assert "analyzer-activations/2" in refusal(path, UnsupportedFormat)
    save_file({Q0: states(5, 4)}, path, metadata={"format": "pt"})
    assert open_activations(path).names == (Q0,)


def test_metadata_that_is_not_text(tmp_path: Path) -> None:
    header = json.dumps(
        {
            "__metadata__": {"model": 3},
            Q0: {"dtype": "F32", "shape": [1, 2], "data_offsets": [0, 8]},
        }
    ).encode()
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert "header" in refusal(path, CorruptFile)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    for tensors, mask in (
        ({Q0: np.zeros((5, 4), np.int32)}, None),
        ({Q0: np.zeros(4, np.float32)}, None),
        ({Q0: states(2, 5, 4)}, np.ones((2, 4))),
    ):
        with pytest.raises(UnsupportedFormat):
            write_activations(path, tensors, mask, {})
    with pytest.raises(UsageError, match="no activations"):
        write_activations(path, {}, None, {})
    with pytest.raises(UsageError, match="cannot be written"):
        write_activations(tmp_path / "absent" / "x.safetensors", {Q0: states(5, 4)}, None, {})
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_keeps_the_file_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    write_activations(path, {Q0: states(5, 4)}, None, {})
    before = path.read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UsageError, match="No space left"):
        write_activations(path, {Q0: states(6, 4)}, None, {})
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]

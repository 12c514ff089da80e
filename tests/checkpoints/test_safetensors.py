"""Safetensors: own header parser against the reference reader, and headers that lie."""

import contextlib
import hashlib
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.checkpoints.safetensors_file import list_safetensors
from analyzer.errors import CheckpointError, CorruptFile, MissingShard, UnsafePath

DTYPES = [
    torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32,
    torch.int16, torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2,
    torch.uint16, torch.uint32, torch.uint64, torch.float8_e8m0fnu, torch.complex64,
]  # fmt: skip


def write(path: Path, header: object, data: bytes = b"", pad: int = 0) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * pad
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and bytes(a.contiguous().view(-1).view(torch.uint8).numpy())
        == bytes(b.contiguous().view(-1).view(torch.uint8).numpy())
    )


def test_reference_case(tmp_path: Path) -> None:
    text = b'{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]}}'
    data = struct.pack("<4f", 3, 0, 4, 5)
    path = write(tmp_path / "w.safetensors", text, data, pad=64 - len(text))
    assert path.stat().st_size == 88
    assert hashlib.sha256(path.read_bytes()).hexdigest() == (
        "67be606179f59c08e8db72306f9a7773bbd4cb07b00557234c4a50f8bb21e5e6"
    )
    sigma = torch.linalg.svdvals(open_checkpoint(path).read_matrix("w").double())
    np.testing.assert_allclose(sigma, [6.70820393249937, 2.2360679774997894], rtol=1e-15)


def test_bit_patterns_of_small_floats(tmp_path: Path) -> None:
    raw = bytes.fromhex("3840 7e01 b87f 3c7b 017c 7f80 803f 4940".replace(" ", ""))
    header = {
        "e4m3": {"dtype": "F8_E4M3", "shape": [6], "data_offsets": [0, 6]},
        "e5m2": {"dtype": "F8_E5M2", "shape": [4], "data_offsets": [6, 10]},
        "e8m0": {"dtype": "F8_E8M0", "shape": [2], "data_offsets": [10, 12]},
        "bf16": {"dtype": "BF16", "shape": [2], "data_offsets": [12, 16]},
    }
    checkpoint = open_checkpoint(write(tmp_path / "b.safetensors", header, raw))
    values = {name: checkpoint.read(name).float().tolist() for name in header}
    assert values["e4m3"][:5] == [1, 2, 448, 0.001953125, -1] and np.isnan(values["e4m3"][5])
    assert values["e5m2"] == [1, 57344, 1.52587890625e-05, np.inf]
    assert values["e8m0"] == [1, 2]
    assert values["bf16"] == [1, 3.140625]


@settings(max_examples=40, deadline=None)
@given(
    tensors=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(
            lambda name: name != "__metadata__"
        ),
        st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 5), max_size=4)),
        max_size=6,
    )
)
def test_every_dtype_and_shape_reads_as_the_reference_reader_reads_it(
    tensors: dict[str, tuple[torch.dtype, list[int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    generator = torch.Generator().manual_seed(0)
    saved = {}
    for name, (dtype, shape) in tensors.items():
        size = torch.empty(shape, dtype=dtype).nbytes
        raw = torch.randint(0, 2, (size,), dtype=torch.uint8, generator=generator)
        saved[name] = raw.view(dtype).reshape(shape)
    save_file(saved, path)
    reference = load_file(path)
    checkpoint = open_checkpoint(path)
    assert {t.name for t in checkpoint.tensors()} == set(reference)
    for info in checkpoint.tensors():
        want = reference[info.name]
        assert info.shape == tuple(want.shape) and info.nbytes == want.nbytes
        assert f"torch.{info.dtype}" == str(want.dtype)
        assert same_bits(checkpoint.read(info.name), want)


def test_misaligned_data_is_read(tmp_path: Path) -> None:
    header = {
        "odd": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
        "w": {"dtype": "F64", "shape": [2, 2], "data_offsets": [1, 33]},
    }
    want = np.arange(4.0).reshape(2, 2)
    path = write(tmp_path / "m.safetensors", header, b"\1" + want.tobytes(), pad=3)
    np.testing.assert_array_equal(open_checkpoint(path).read("w"), want)


def test_four_bit_floats_are_listed_unpacked_and_read_packed(tmp_path: Path) -> None:
    header = {"w": {"dtype": "F4", "shape": [4, 4], "data_offsets": [0, 8]}}
    checkpoint = open_checkpoint(write(tmp_path / "f4.safetensors", header, bytes(range(8))))
    (info,) = checkpoint.tensors()
    assert (info.shape, info.nbytes) == ((4, 4), 8)
    packed = checkpoint.read("w")
    assert packed.dtype == torch.float4_e2m1fn_x2 and packed.shape == (4, 2)
    assert checkpoint.matrices()[0].status == "quantised_unknown"


@given(
    start=st.none() | st.integers(-12, 12),
    stop=st.none() | st.integers(-12, 12),
    step=st.none() | st.integers(1, 4),
)
def test_slices_are_those_of_torch(
    start: int | None,
    stop: int | None,
    step: int | None,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    path = tmp_path_factory.getbasetemp() / "rows.pt"
    want = torch.arange(80.0).reshape(10, 8)
    saved = {"w": want, "t": want.T, "v": want[:, 0], "odd": want[1:9:2, 1:]}
    torch.save(saved, path, _use_new_zipfile_serialization=False)
    checkpoint = open_checkpoint(path)
    rows = slice(start, stop, step)
    assert all(torch.equal(checkpoint.read(name, rows), t[rows]) for name, t in saved.items())


def entry(**changes: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]} | changes


LIES = {
    "not json": b'{"w": }',
    "not utf-8": b'{"\xff": 1}',
    "array entry": {"w": [1]},
    "no offsets": {"w": {"dtype": "F32", "shape": [2, 2]}},
    "offsets of three": {"w": entry(data_offsets=[0, 8, 16])},
    "negative offset": {"w": entry(data_offsets=[-16, 0])},
    "offsets reversed": {"w": entry(data_offsets=[16, 0])},
    "float offsets": {"w": entry(data_offsets=[0.0, 16.0])},
    "bool offsets": {"w": entry(data_offsets=[False, 16])},
    "out of range": {"w": entry(data_offsets=[0, 64], shape=[4, 4])},
    "huge": {"w": entry(shape=[2**40, 2**40], data_offsets=[0, 2**82])},
    "hole": {
        "w": entry(data_offsets=[0, 8], shape=[2]),
        "v": entry(data_offsets=[12, 16], shape=[1]),
    },
    "overlap": {"w": entry(), "v": entry(data_offsets=[8, 16], shape=[2])},
    "trailing bytes": {"w": entry(data_offsets=[0, 8], shape=[2])},
    "wrong size": {"w": entry(shape=[2, 3])},
    "unknown dtype": {"w": entry(dtype="F33")},
    "dtype list": {"w": entry(dtype=["F32"])},
    "negative dim": {"w": entry(shape=[-2, -2])},
    "too many dims": {"w": entry(shape=[2, 2] + [1] * 64)},
    "huge empty dim": {"w": entry(shape=[0, 2**70], data_offsets=[0, 0])},
    "odd four-bit row": {"w": entry(dtype="F4", shape=[32, 1])},
    "duplicate key": b'{"w":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},'
    b'"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
    "duplicate field": b'{"w":{"dtype":"F32","shape":[2,2],"shape":[4],"data_offsets":[0,16]}}',
    "lone surrogate": b'{"\\ud800":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}',
    "deep nesting": b'{"w":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "five thousand digits": b'{"w":{"dtype":"F32","shape":[1'
    + b"0" * 5000
    + b'],"data_offsets":[0,16]}}',
}  # fmt: skip


# Refused here although the reference reader lets them pass.
LAX = ("duplicate field", "duplicate key", "too many dims", "odd four-bit row")


@pytest.mark.parametrize("case", LIES)
def test_headers_that_lie_are_corrupt(case: str, tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", LIES[case], bytes(16))
    with pytest.raises(CorruptFile) as caught:
        open_checkpoint(path)
    assert "\n" not in str(caught.value)
    if case not in LAX:
        with pytest.raises(SafetensorError), safe_open(path, "pt") as file:
            file.keys()


def test_a_header_of_very_many_items_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = write(tmp_path / "model.safetensors", b'{"w":[' + b"1," * 2_000_001 + b"1]}")
    with pytest.raises(CorruptFile, match="items"):
        open_checkpoint(path)


def test_a_file_that_shrinks_after_listing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    save_file({"w": torch.zeros(100, 100)}, path)
    checkpoint = open_checkpoint(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CorruptFile, match="changed"):
        checkpoint.read("w")
    with pytest.raises(CorruptFile, match="changed"):
        checkpoint.content_sha256("w")
    path.unlink()
    with pytest.raises(CheckpointError):
        checkpoint.fingerprint()


def sharded(folder: Path) -> dict[str, torch.Tensor]:
    tensors = {f"layers.{n}.weight": torch.randn(4, 3) for n in range(4)}
    for shard in (1, 2):
        part = dict(list(tensors.items())[2 * shard - 2 : 2 * shard])
        save_file(part, folder / f"model-0000{shard}-of-00002.safetensors")
    weight_map = {
        name: f"model-0000{1 + n // 2}-of-00002.safetensors" for n, name in enumerate(tensors)
    }
    index = {"metadata": {"total_size": 7}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return tensors


def test_shards_with_and_without_an_index(tmp_path: Path) -> None:
    tensors = sharded(tmp_path)
    by_index = open_checkpoint(tmp_path)
    assert open_checkpoint(tmp_path / "model.safetensors.index.json").stored == by_index.stored
    (tmp_path / "model.safetensors.index.json").unlink()
    for checkpoint in (by_index, open_checkpoint(tmp_path)):
        assert {t.name for t in checkpoint.tensors()} == set(tensors)
        assert len({t.shard for t in checkpoint.tensors()}) == 2
        assert all(torch.equal(checkpoint.read(name), w) for name, w in tensors.items())


@pytest.mark.parametrize("indexed", [True, False])
def test_an_absent_shard_is_named(indexed: bool, tmp_path: Path) -> None:
    sharded(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    if not indexed:
        (tmp_path / "model.safetensors.index.json").unlink()
    with pytest.raises(MissingShard):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "shard",
    ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", ".", "", "C:x.safetensors",
     "\\\\host\\share", "x\0.safetensors", 7, None],
)  # fmt: skip
def test_an_index_that_points_elsewhere_is_unsafe(shard: object, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    save_file({"w": torch.zeros(2, 2)}, tmp_path / "secret.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"w": shard}}))
    with pytest.raises(UnsafePath):
        open_checkpoint(folder)


def test_an_index_that_disagrees_with_its_shards_is_corrupt(tmp_path: Path) -> None:
    sharded(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    content = json.loads(index.read_text())
    content["weight_map"]["nowhere.weight"] = "model-00001-of-00002.safetensors"
    index.write_text(json.dumps(content))
    with pytest.raises(CorruptFile, match="nowhere"):
        open_checkpoint(tmp_path)
    for text in ("[]", "{}", '{"weight_map": {}}', "{", '{"weight_map": [1]}'):
        index.write_text(text)
        with pytest.raises(CorruptFile):
            open_checkpoint(tmp_path)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_files_are_read_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.safetensors"
    tensors = {"a.weight": torch.ones(3, 4), "b": torch.ones(5, dtype=torch.bfloat16)}
    save_file(tensors, path, metadata={"format": "pt"})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content))) :]
    path.write_bytes(bytes(content))
    with contextlib.suppress(CheckpointError):
        checkpoint = open_checkpoint(path)
        for info in checkpoint.tensors():
            checkpoint.read(info.name)
            checkpoint.content_sha256(info.name)
        for matrix in checkpoint.matrices():
            checkpoint.read_matrix(matrix, dtype=None)


def test_listing_keeps_file_order(tmp_path: Path) -> None:
    header = {
        "second": {"dtype": "U8", "shape": [1], "data_offsets": [1, 2]},
        "first": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
    }
    path = write(tmp_path / "order.safetensors", header, b"ab")
    assert [t.name for t in list_safetensors(path)] == ["first", "second"]

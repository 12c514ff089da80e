"""PyTorch files, new and old: the inert reader against `torch.load`, and files that attack."""

import argparse
import collections
import contextlib
import io
import os
import pickle
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.checkpoints import inert_pickle
from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.errors import CheckpointError, CorruptFile, UnsafePickle, UnsupportedFormat

LEGACY = {"_use_new_zipfile_serialization": False}
FORMATS = pytest.mark.parametrize("options", [{}, LEGACY], ids=["zip", "legacy"])


class Marker:
    """Writes a file when unpickled by a reader that calls what it is told to."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


class Subclass(torch.Tensor):
    pass


def save(obj: Any, path: Path, **options: Any) -> Path:
    torch.save(obj, path, **options)
    return path


def rewrite(path: Path, change: dict[str, bytes], **options: Any) -> None:
    """The same archive with some records replaced, or written with other zip options."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in (members | change).items():
            archive.writestr(name, content)


@FORMATS
def test_every_dtype_view_and_tie_reads_as_torch_reads_it(
    options: dict[str, Any], tmp_path: Path
) -> None:
    w = torch.randn(6, 8)
    saved = {
        "f32": w, "tied": w, "transposed": w.T, "slice": w[1:4, 2:7], "step": w[::2, ::3],
        "column": w[:, 3], "scalar": torch.tensor(3.5), "empty": torch.zeros(0, 4),
        "f64": w.double(), "bf16": w.bfloat16(), "f16": w.half(), "i64": torch.arange(5),
        "i32": torch.arange(4, dtype=torch.int32), "bool": w > 0, "u8": torch.arange(9).byte(),
        "c64": torch.complex(w, w), "parameter": torch.nn.Parameter(w.clone()),
        "buffer": torch.nn.Buffer(w.clone()), "subclass": w.clone().as_subclass(Subclass),
        "e4m3": w.to(torch.float8_e4m3fn), "u16": torch.tensor([1, 2], dtype=torch.uint16),
    }  # fmt: skip
    checkpoint = open_checkpoint(save(saved, tmp_path / "w.pt", **options))
    assert [t.name for t in checkpoint.tensors()] == list(saved)
    info = {t.name: t for t in checkpoint.tensors()}
    for name, want in saved.items():
        got = checkpoint.read(name)
        assert got.dtype == want.dtype and got.shape == want.shape == info[name].shape
        assert torch.equal(got.float() if got.dtype.itemsize == 1 else got, want.detach().float()
                           if want.dtype.itemsize == 1 else want.detach())  # fmt: skip
    assert info["f32"].storage_id == info["tied"].storage_id
    assert info["f32"].storage_id != info["slice"].storage_id
    assert info["f32"].storage_id != info["f64"].storage_id


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@FORMATS
def test_every_pickle_protocol(protocol: int, options: dict[str, Any], tmp_path: Path) -> None:
    w = torch.randn(3, 2)
    path = save({"w": w, "n": 2**70}, tmp_path / "w.pt", pickle_protocol=protocol, **options)
    assert torch.equal(open_checkpoint(path).read("w"), w)


@FORMATS
def test_a_pickled_module_gives_its_state_dict(options: dict[str, Any], tmp_path: Path) -> None:
    encoder = torch.nn.TransformerEncoderLayer(8, 2, 16)
    module = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.BatchNorm1d(8), encoder)
    checkpoint = open_checkpoint(save({"model": module, "epoch": 3}, tmp_path / "m.pt", **options))
    want = module.state_dict()
    assert {t.name for t in checkpoint.tensors()} == set(want)
    assert all(torch.equal(checkpoint.read(name), w) for name, w in want.items())


def test_training_checkpoints_give_their_weights_only(tmp_path: Path) -> None:
    model = torch.nn.Linear(4, 3)
    adam = torch.optim.AdamW(model.parameters())
    model(torch.ones(1, 4)).sum().backward()
    adam.step()
    for key in ("state_dict", "model_state_dict", "model", "module"):
        saved = {
            "epoch": 2,
            "optimizer_states": [adam.state_dict()],
            "rng_state": torch.get_rng_state(),
            key: collections.OrderedDict(model.state_dict()),
            "hyper_parameters": argparse.Namespace(lr=1e-3, window=torch.ones(2, 2)),
            "pytorch-lightning_version": "2.4",
        }
        checkpoint = open_checkpoint(save(saved, tmp_path / "last.ckpt"))
        assert [t.name for t in checkpoint.tensors()] == ["weight", "bias"]
        assert "argparse.Namespace" in " ".join(checkpoint.warnings)
    with pytest.raises(UnsupportedFormat, match="without weights"):
        open_checkpoint(save({"optimizer": adam.state_dict()}, tmp_path / "last.ckpt"))


def test_a_file_weights_only_refuses_is_read(tmp_path: Path) -> None:
    saved = {"w": torch.ones(2, 2), "args": argparse.Namespace(a=1), "loss": np.float64(0.5)}
    path = save(saved, tmp_path / "w.pt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)
    checkpoint = open_checkpoint(path)
    assert torch.equal(checkpoint.read("w"), saved["w"])
    assert any("argparse.Namespace" in warning for warning in checkpoint.warnings)


@FORMATS
@pytest.mark.parametrize("beside", [True, False])
def test_code_in_a_file_never_runs(beside: bool, options: dict[str, Any], tmp_path: Path) -> None:
    marker, proof = tmp_path / "ran", tmp_path / "proof"
    saved = {"x": Marker(marker)} | ({"w": torch.ones(2, 2)} if beside else {})
    path = save(saved, tmp_path / "w.pt", **options)
    if beside:
        checkpoint = open_checkpoint(path)
        assert torch.equal(checkpoint.read("w"), saved["w"])
        assert any("system" in w and "was not done" in w for w in checkpoint.warnings)
    else:
        with pytest.raises(UnsafePickle, match="system"):
            open_checkpoint(path)
    assert not marker.exists()
    torch.load(save({"x": Marker(proof)}, tmp_path / "p.pt", **options), weights_only=False)
    assert proof.exists()  # the attack is real: an unsafe reader does run it


def test_code_in_a_plain_pickle_never_runs(tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    for protocol in range(6):
        (tmp_path / "m.bin").write_bytes(pickle.dumps(Marker(marker), protocol=protocol))
        with pytest.raises(CheckpointError):
            open_checkpoint(tmp_path / "m.bin")
    assert not marker.exists()


def test_a_deflated_archive_is_refused(tmp_path: Path) -> None:
    path = save({"w": torch.arange(4096.0).reshape(64, 64)}, tmp_path / "w.pt")
    rewrite(path, {}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CorruptFile, match="compressed"):
        open_checkpoint(path)


def test_archives_that_contradict_themselves(tmp_path: Path) -> None:
    path = save({"w": torch.ones(8, 8)}, tmp_path / "w.pt")
    intact = path.read_bytes()
    rewrite(path, {"w/data/0": b"short"})
    with pytest.raises(CorruptFile, match="shorter"):
        open_checkpoint(path)
    path.write_bytes(intact)
    rewrite(path, {"w/byteorder": b"big"})
    with pytest.raises(UnsupportedFormat, match="big-endian"):
        open_checkpoint(path)
    path.write_bytes(intact)
    rewrite(path, {"other/data.pkl": b"N."})
    with pytest.raises(CorruptFile, match=r"data\.pkl"):
        open_checkpoint(path)
    path.write_bytes(intact)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("w/data/0", bytes(256))
    with pytest.raises(CorruptFile, match="twice"):
        open_checkpoint(path)
    path.write_bytes(intact[: len(intact) // 2])
    with pytest.raises(CorruptFile, match="truncated"):
        open_checkpoint(path)


def archive_of(path: Path, data: bytes, storage: bytes = bytes(64)) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", data)
        archive.writestr("m/data/0", storage)
    return path


def tensor_pickle(
    offset: int, shape: tuple[int, ...], stride: tuple[int, ...], numel: int
) -> bytes:
    """{'w': tensor} with any numbers, as torch would write it."""

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            if isinstance(obj, Storage):
                return ("storage", torch.FloatStorage, "0", "cpu", numel)
            return None

    class Tensor:
        def __reduce__(self) -> tuple[Any, ...]:
            hooks: collections.OrderedDict[str, int] = collections.OrderedDict()
            arguments = (Storage(), offset, shape, stride, False, hooks)
            return torch._utils._rebuild_tensor_v2, arguments

    buffer = io.BytesIO()
    Pickler(buffer, protocol=2).dump({"w": Tensor()})
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("offset", "shape", "stride", "numel"),
    [
        (0, (4, 5), (5, 1), 16), (1, (4, 4), (4, 1), 16), (0, (4, 4), (400, 1), 16),
        (0, (4, 4), (-4, 1), 16), (-1, (4, 4), (4, 1), 16), (0, (-4, 4), (4, 1), 16),
        (0, (4, 4), (4,), 16), (0, (4, 4), (4, 1), 1600), (0, (2**60, 2**60), (0, 1), 16),
        (0, (4, 4), (4, 1), -1), (2**80, (4, 4), (4, 1), 16),
    ],
)  # fmt: skip
def test_tensors_that_reach_past_their_storage(
    offset: int, shape: tuple[int, ...], stride: tuple[int, ...], numel: int, tmp_path: Path
) -> None:
    path = archive_of(tmp_path / "w.pt", tensor_pickle(offset, shape, stride, numel))
    with pytest.raises(CorruptFile):
        open_checkpoint(path)


def test_an_expanded_tensor_cannot_exhaust_memory(tmp_path: Path) -> None:
    path = archive_of(tmp_path / "w.pt", tensor_pickle(0, (2**30, 2**30), (0, 0), 16))
    checkpoint = open_checkpoint(path)
    assert checkpoint.matrices()[0].status == "expanded"
    assert len(checkpoint.content_sha256("w")) == 64
    with pytest.raises(CorruptFile, match="more entries"):
        checkpoint.read("w")


SHARED = b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (n, n, n + 1) for n in range(60))
SHARED_TUPLES = b"Nq\x00" + b"".join(b"h%ch%c\x86q%c" % (n, n, n + 1) for n in range(60))
BOMBS = {
    "self-containing list": b"]q\x00h\x00a.",
    "shared 2^60 times": SHARED + b".",
    "a key that takes 2^60 steps to hash": b"}" + SHARED_TUPLES + b"Ns.",
    "a set whose member takes 2^60 steps": b"\x8f(" + SHARED_TUPLES + b"\x90.",
    "memo slot 2^32": b"Nr\xff\xff\xff\xff.",
    "string of 2^62 bytes": b"\x8d" + struct.pack("<Q", 2**62) + b"a.",
    "bytes of 2^62 bytes": b"\x8e" + struct.pack("<Q", 2**62) + b"a.",
    "bytearray of 2^62 bytes": b"\x96" + struct.pack("<Q", 2**62) + b"a.",
    "number of 2^31 bytes": b"\x8b\xff\xff\xff\x7f1.",
    "deep nesting": b"(" * 200_000 + b"N" + b"t" * 200_000 + b".",
    "number of 100,000 digits": b"L" + b"9" * 100_000 + b"L\n.",
    "extension code": b"\x82\x01.",
    "no stop": b"N",
    "empty stack": b"R.",
    "memo of nothing": b"h\x07.",
}


@pytest.mark.parametrize("case", BOMBS)
def test_pickle_bombs_end_fast(case: str, tmp_path: Path) -> None:
    path = archive_of(tmp_path / "w.pt", b"\x80\x02" + BOMBS[case])
    start = time.process_time()
    with pytest.raises(CheckpointError):
        open_checkpoint(path)
    assert time.process_time() - start < 3


def test_opcodes_are_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(inert_pickle, "MAX_OPCODES", 1000)
    with pytest.raises(CorruptFile, match="1000 opcodes"):
        open_checkpoint(archive_of(tmp_path / "w.pt", b"\x80\x02" + b"]" * 1001 + b"."))


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=30,
)  # fmt: skip


@given(value=plain, protocol=st.integers(0, 5))
def test_plain_data_is_understood_as_pickle_understands_it(value: Any, protocol: int) -> None:
    if protocol < 3:
        value = strip_bytes(value)  # pickled as a call of _codecs.encode before protocol 3
    data = pickle.dumps(value, protocol=protocol)
    got, end = inert_pickle.load(data, lambda f, a: pytest.fail("call"), lambda p: None)
    assert got == value and end == len(data)


def strip_bytes(value: Any) -> Any:
    if isinstance(value, bytes):
        return None
    if isinstance(value, dict):
        return {key: strip_bytes(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(strip_bytes, value))
    return value


@FORMATS
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_files_are_read_or_refused(
    options: dict[str, Any], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.pt"
    w = torch.ones(3, 4)
    save(
        {"state_dict": {"a.weight": w, "t": w.T, "b": torch.ones(5)}, "n": (1, "x")},
        path,
        **options,
    )
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    if data.draw(st.integers(0, 3)) == 0:
        del content[data.draw(st.integers(0, len(content))) :]
    path.write_bytes(bytes(content))
    with contextlib.suppress(CheckpointError):
        checkpoint = open_checkpoint(path)
        for info in checkpoint.tensors():
            checkpoint.content_sha256(info.name)
            checkpoint.read(info.name)
        checkpoint.matrices()


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_mutated_pickles_are_understood_or_refused(data: st.DataObject) -> None:
    with zipfile.ZipFile(saved_module()) as archive:
        content = bytearray(archive.read("archive/data.pkl"))
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    from analyzer.checkpoints.torch_pickle import TorchPickle, named_tensors

    pickled = TorchPickle(Path("x"))
    with contextlib.suppress(CheckpointError):
        named_tensors(pickled.load(bytes(content))[0], pickled)


def saved_module() -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save({"model": torch.nn.Linear(2, 3), "t": (torch.ones(2, 2).T, Subclass())}, buffer)
    return buffer

"""A file is what its first bytes say, and a refusal names it and says what to do."""

import contextlib
import io
import os
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.checkpoints.formats import identify
from analyzer.errors import (
    CheckpointError,
    CorruptFile,
    UnsafePickle,
    UnsupportedFormat,
)


def test_readable_formats_are_told_by_content_whatever_the_name(tmp_path: Path) -> None:
    path = tmp_path / "weights.txt"
    tensors = {"w": torch.ones(2, 3)}
    save_file(tensors, path)
    assert identify(path) == "safetensors"
    torch.save(tensors, path)
    assert identify(path) == "torch"
    torch.save(tensors, path, _use_new_zipfile_serialization=False)
    assert identify(path) == "torch-legacy"
    for protocol in (3, 4):
        torch.save(tensors, path, pickle_protocol=protocol, _use_new_zipfile_serialization=False)
        assert identify(path) == "torch-legacy"
    with path.open("wb") as file:
        np.savez(file, w=np.ones((2, 3)))
    assert identify(path) == "npz"


def tar_bytes() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("storages"))
    return buffer.getvalue()


def zip_bytes(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


REFUSED = {
    "empty": (b"", CorruptFile, "empty"),
    "git-lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n",
        UnsupportedFormat,
        "git lfs pull",
    ),
    "gguf": (b"GGUF\x03\0\0\0" + bytes(40), UnsupportedFormat, "GGUF"),
    "html": (b"<!DOCTYPE html><html>", UnsupportedFormat, "web page"),
    "html after spaces": (b"\n\n  <html>", UnsupportedFormat, "web page"),
    "json": (b'{\n  "architectures": []}', UnsupportedFormat, "JSON"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + bytes(9), UnsupportedFormat, "HDF5"),
    "npy": (b"\x93NUMPY\x01\0" + bytes(9), UnsupportedFormat, "savez"),
    "gzip": (b"\x1f\x8b\x08" + bytes(9), UnsupportedFormat, "decompress"),
    "tar": (tar_bytes(), UnsupportedFormat, "tar"),
    "pickle": (pickle.dumps({"w": [1.0]}), UnsafePickle, "pickle"),
    "pickle protocol 0": (pickle.dumps({"w": 1}, protocol=0), UnsafePickle, "pickle"),
    "pickle protocol 0 call": (b"cos\nsystem\n(S'true'\ntR.", UnsafePickle, "pickle"),
    "onnx": (b"\x08\x08\x12\x07pytorch" + bytes(20), UnsupportedFormat, "ONNX"),
    "msgpack": (b"\x81\xa6params\x82\xa1a\x01\xa1b\x02", UnsupportedFormat, "msgpack"),
    "torchscript": (
        zip_bytes(m__constants_pkl=b"").replace(b"constants_pkl", b"constants.pkl"),
        UnsupportedFormat,
        "state_dict",
    ),
    "zip of text": (zip_bytes(readme=b"hello"), UnsupportedFormat, "zip"),
    "empty zip": (zip_bytes(), UnsupportedFormat, "empty zip"),
    "truncated zip": (zip_bytes(readme=b"hello")[:40], CorruptFile, "truncated"),
    "noise": (bytes(range(7, 250)), UnsupportedFormat, "known format"),
    "header too large": (
        (10**8 + 1).to_bytes(8, "little") + b"{" + bytes(99),
        CorruptFile,
        "100000001 bytes",
    ),
    "header past the end": (
        (1000).to_bytes(8, "little") + b"{" + bytes(99),
        CorruptFile,
        "truncated",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_everything_else_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    content, error, words = REFUSED[case]
    path = tmp_path / "model.bin"
    path.write_bytes(content)
    with pytest.raises(error, match=words) as caught:
        open_checkpoint(path)
    line = str(caught.value)
    assert "\n" not in line and "model.bin" in line and caught.value.hint


def test_a_damaged_safetensors_file_is_named_as_one(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\x40\0\0")
    with pytest.raises(CorruptFile, match="safetensors"):
        identify(path)


def test_pipes_and_unreadable_files_do_not_hang(tmp_path: Path) -> None:
    pipe = tmp_path / "model.bin"
    os.mkfifo(pipe)
    with pytest.raises(UnsupportedFormat, match="not a regular file"):
        open_checkpoint(pipe)
    with pytest.raises(CheckpointError, match="cannot be read"):
        identify(tmp_path / "absent.bin")


def test_file_names_with_control_characters_stay_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "evil\n\x1b[2J\u202e.bin"
    path.write_bytes(b"GGUF")
    with pytest.raises(UnsupportedFormat) as caught:
        identify(path)
    assert not {"\n", "\x1b", "\u202e"} & set(str(caught.value))


@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_format_or_an_error(
    content: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.bin"
    path.write_bytes(content)
    with contextlib.suppress(CheckpointError):
        open_checkpoint(path)

"""``.npz`` archives: mapped where they can be, inflated where not, never unpickled."""

import contextlib
import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.errors import CheckpointError, CorruptFile, UnsafePickle, UnsupportedFormat

ARRAYS = {
    "w": np.arange(12.0).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
    "half": np.arange(6, dtype=np.float16).reshape(2, 3),
    "big_endian": np.arange(6, dtype=">f4").reshape(2, 3),
    "ints": np.arange(5, dtype=np.uint16),
    "flags": np.array([True, False]),
    "complex": np.array([[1j, 2]], dtype=np.complex64),
    "scalar": np.float64(3.5),
    "empty": np.zeros((0, 4)),
    "layer/0/w": np.ones((2, 2)),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_read_as_numpy_reads_them(save: Any, tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    save(path, **ARRAYS)
    checkpoint = open_checkpoint(path)
    assert checkpoint.format == "npz" and not checkpoint.warnings
    assert [t.name for t in checkpoint.tensors()] == list(ARRAYS)
    for info in checkpoint.tensors():
        want = np.asarray(ARRAYS[info.name])
        got = checkpoint.read(info.name).numpy()
        assert info.shape == want.shape == got.shape
        assert info.dtype == got.dtype.name == want.dtype.name
        np.testing.assert_array_equal(got, want)


def test_values_hash_alike_however_they_are_stored(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", **ARRAYS)
    np.savez_compressed(tmp_path / "b.npz", **ARRAYS)
    a, b = open_checkpoint(tmp_path / "a.npz"), open_checkpoint(tmp_path / "b.npz")
    for name in ARRAYS:
        assert a.content_sha256(name) == b.content_sha256(name)


def test_object_arrays_are_refused_and_text_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    np.savez(path, w=np.ones((2, 2)), bad=np.array([{}, []], dtype=object))
    with pytest.raises(UnsafePickle, match="bad"):
        open_checkpoint(path)
    np.savez(path, w=np.ones((2, 2)), names=np.array(["a", "b"]))
    checkpoint = open_checkpoint(path)
    assert [t.name for t in checkpoint.tensors()] == ["w"]
    assert "names" in checkpoint.warnings[0]
    np.savez(path, names=np.array(["a", "b"]))
    with pytest.raises(UnsupportedFormat, match="numbers"):
        open_checkpoint(path)


def npy(header: str, data: bytes = b"", version: bytes = b"\1\0") -> bytes:
    text = header.encode() + b"\n"
    return b"\x93NUMPY" + version + len(text).to_bytes(2, "little") + text + data


HEADERS = {
    "shape too large": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (9, 9)}", bytes(16)),
    "negative shape": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -2)}", bytes(16)),
    "huge shape": npy("{'descr': '<f4', 'fortran_order': False, 'shape': (2**70,)}"),
    "not a dictionary": npy("[1, 2]"),
    "a call": npy("__import__('os').system('true')"),
    "no magic": b"hello",
    "version 3": npy("{'descr': '<f4', 'fortran_order': False, 'shape': ()}", bytes(4), b"\3\0"),
    "empty": b"",
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_lie_are_corrupt(case: str, tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("w.npy", HEADERS[case])
    with pytest.raises(CorruptFile):
        open_checkpoint(path)


def test_a_record_that_claims_to_inflate_too_far_is_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "w.npz"
    shape = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({2**30},)}}"
    header = npy(shape)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", header + bytes(1000))
    content = path.read_bytes()
    real, claimed = len(header) + 1000, len(header) + 2**30
    path.write_bytes(content.replace(real.to_bytes(4, "little"), claimed.to_bytes(4, "little")))
    with pytest.raises(CorruptFile):
        open_checkpoint(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_mutated_files_are_read_or_refused(
    save: Any, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "mutated.npz"
    buffer = io.BytesIO()
    save(buffer, w=ARRAYS["w"], fortran=ARRAYS["fortran"])
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content))
    with contextlib.suppress(CheckpointError):
        checkpoint = open_checkpoint(path)
        for info in checkpoint.tensors():
            checkpoint.content_sha256(info.name)
            checkpoint.read(info.name)

import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from analyzer.checkpoints.discover import discover
from analyzer.errors import CheckpointError, CorruptFile, UnsupportedFormat, UsageError
from analyzer.recorder import (
    Arrays,
    Entry,
    Header,
    NoiseArrays,
    NoiseEntry,
    Record,
    Staleness,
    list_records,
    open_record,
    read_record,
)
from analyzer.recorder.records import write_record

NAME = "model.layers.0.self_attn.q_proj.weight"


def record(step: int = 10) -> Record:
    rng = np.random.default_rng(step)
    common = {"name": NAME, "rows": 5, "cols": 9, "dtype": "float32"}
    entries = (
        Entry(batch="train", side="left", fro=1.5, epsilon=0.25, n_tokens=64, method="warm",
              staleness=(Staleness(1, 0.5, None), Staleness(10, 0.4, 0.3)), **common),
        Entry(batch="probe", side="right", fro=2, epsilon=0.5, n_tokens=None, method="cold",
              **common),
        Entry(name="other", rows=3, cols=3, dtype="bfloat16", batch="train", side="left", fro=None,
              epsilon=None, n_tokens=64, method=None, flags=("non_finite",), n_nan=1, n_inf=2),
    )  # fmt: skip
    header = Header(
        step=step, learning_rates=(1e-3, 1e-4), clip_state="optimizer_input", accum=2,
        loss_scale=1024.0, seed=0, rank=2, sketch_width=16, entries=entries,
        noise=(NoiseEntry(NAME, 32, -0.5, 1.0, 2.0),),
    )  # fmt: skip

    def arrays(height: int) -> Arrays:
        return Arrays(
            sigma=rng.random(2),
            basis=rng.random((height, 2)).astype(np.float32),
            sketch=rng.random(16).astype(np.float32),
        )

    return Record(
        header,
        {("train", NAME): arrays(5), ("probe", NAME): arrays(9)},
        {NAME: NoiseArrays(cv=rng.random(2), out=rng.random(2))},
    )


def rewrite(path, tensors=None, **changes) -> None:
    """The file again, with other tensors or another header."""
    header = json.loads(metadata_of(path)) | changes
    save_file(tensors or load_file(path), path, metadata={"records": json.dumps(header)})


def metadata_of(path) -> str:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length])["__metadata__"]["records"]


def test_what_is_written_is_read(tmp_path) -> None:
    written = record()
    path = write_record(tmp_path, written)
    assert path == tmp_path / "analyzer-records" / "step-00000010.safetensors"
    found = read_record(path)
    assert found.header == written.header
    assert found.arrays.keys() == written.arrays.keys()
    for key, arrays in written.arrays.items():
        for part in ("sigma", "basis", "sketch"):
            stored = getattr(found.arrays[key], part)
            assert np.array_equal(stored, getattr(arrays, part))
            assert stored.dtype == getattr(arrays, part).dtype
    assert np.array_equal(found.noise[NAME].cv, written.noise[NAME].cv)
    assert np.array_equal(found.noise[NAME].out, written.noise[NAME].out)
    assert sorted(load_file(path)) == sorted(
        [f"{b}/{NAME}/{p}" for b in ("train", "probe") for p in ("sigma", "basis", "sketch")]
        + [f"noise/{NAME}/cv", f"noise/{NAME}/out"]
    )
    value = json.loads(metadata_of(path))
    assert (value["format"], value["version"]) == ("analyzer-records", 1)
    assert value["entries"][0]["staleness"][0] == {"lag_steps": 1, "captured": 0.5, "overlap": None}


def test_listed_by_step_from_either_folder(tmp_path) -> None:
    for step in (200, 30, 123456789):
        write_record(tmp_path, record(step))
    (tmp_path / "analyzer-records" / "notes.txt").write_text("")
    steps = [open_record(path).header.step for path in list_records(tmp_path)]
    assert steps == [30, 200, 123456789]
    assert list_records(tmp_path) == list_records(tmp_path / "analyzer-records")
    with pytest.raises(UsageError, match="no such folder"):
        list_records(tmp_path / "absent")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch) -> None:
    path = write_record(tmp_path, record())
    before = path.read_bytes()

    def full(*args, **kwargs):
        args[1].write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr("analyzer.recorder.records.save_file", full)
    with pytest.raises(OSError, match="no space"):
        write_record(tmp_path, record())
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_nan_is_not_written(tmp_path) -> None:
    good = record()
    entries = (good.header.entries[0].__class__("x", "train", 2, 2, "left", float("nan"), 0.0, None,
                                                "float32", None),)  # fmt: skip
    header = Header(1, (), "optimizer_input", 1, 1.0, 0, 2, 16, entries, ())
    with pytest.raises(ValueError, match="JSON"):
        write_record(tmp_path, Record(header, {}, {}))
    assert os.listdir(tmp_path / "analyzer-records") == []


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_files(tmp_path, keep) -> None:
    path = write_record(tmp_path, record())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptFile):
        open_record(path)


def test_foreign_files(tmp_path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"w": np.zeros((2, 2), np.float32)}, path, metadata={"format": "pt"})
    with pytest.raises(UnsupportedFormat, match="without recorded gradients"):
        open_record(path)
    path = write_record(tmp_path, record())
    rewrite(path, version=2)
    with pytest.raises(UnsupportedFormat, match="version 2"):
        open_record(path)
    with pytest.raises(CheckpointError, match="no such file"):
        open_record(tmp_path / "absent")


@pytest.mark.parametrize(
    "change",
    [
        {"step": "ten"}, {"step": None}, {"step": True}, {"entries": {}}, {"entries": [3]},
        {"noise": None}, {"learning_rates": 0.1}, {"learning_rates": ["a"]},
        {"loss_scale": float("nan")}, {"noise": [{"name": "x"}]},
    ],
)  # fmt: skip
def test_headers_that_make_no_sense(tmp_path, change) -> None:
    path = write_record(tmp_path, record())
    rewrite(path, **change)
    with pytest.raises(CorruptFile, match="header is not valid"):
        open_record(path)


def test_an_entry_twice(tmp_path) -> None:
    path = write_record(tmp_path, record())
    entry = json.loads(metadata_of(path))["entries"][0]
    rewrite(path, entries=[entry, entry])
    with pytest.raises(CorruptFile, match="two entries"):
        open_record(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (f"train/{NAME}/sigma", np.array([1.0, np.nan])),
        (f"train/{NAME}/sigma", np.array([1.0, 2.0, 3.0])),
        (f"train/{NAME}/sigma", np.array([1.0, 2.0], np.float32)),
        (f"train/{NAME}/basis", np.full((5, 2), np.inf, np.float32)),
        (f"train/{NAME}/basis", np.ones((9, 2), np.float32)),
        (f"train/{NAME}/sketch", np.ones(15, np.float32)),
        (f"noise/{NAME}/cv", np.array([np.nan, 1.0])),
        (f"noise/{NAME}/out", None),
    ],
)
def test_arrays_that_contradict_the_header(tmp_path, key, value) -> None:
    path = write_record(tmp_path, record())
    tensors = load_file(path)
    del tensors[key]
    rewrite(path, tensors | ({} if value is None else {key: value}))
    open_record(path)  # the header alone is fine
    with pytest.raises(CorruptFile, match=r"q_proj"):
        read_record(path)


def test_records_are_no_checkpoints(checkpoints) -> None:
    before = [c.name for c in discover(checkpoints).checkpoints]
    write_record(checkpoints / "lora", record())
    write_record(checkpoints, record())
    found = discover(checkpoints)
    assert [c.name for c in found.checkpoints] == before
    assert found.refusals == ()

"""Bad input from the command line: one line, an exit code, the rest of the scan goes on."""

from __future__ import annotations

import os
import pickle
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import analyzer


def run(*arguments: object, timeout: float = 120) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from analyzer.cli import main; main()"]
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=timeout
    )


def statuses(root: Path, checkpoint: str) -> dict[str, str]:
    table = analyzer.connect(root / "analyzer.duckdb").sql(
        "SELECT m.name, m.status FROM matrix m JOIN checkpoint c USING (checkpoint_id)"
        " WHERE c.name = ?",
        [checkpoint],
    )
    return {row["name"]: row["status"] for row in table.to_pylist()}


def intruders(root: Path) -> int:
    return analyzer.connect(root / "analyzer.duckdb").table("intruder").num_rows


def one_line(stderr: str, word: str) -> str:
    """The one line of `stderr` that starts as an error and holds `word`; no traceback."""
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if line.startswith(("error:", "analyzer:"))]
    (line,) = [line for line in lines if word in line]
    return line


def test_missing_path(tmp_path: Path) -> None:
    done = run("scan", tmp_path / "absent")
    assert done.returncode == 2
    assert "absent" in one_line(done.stderr, "absent")


def test_empty_folder(tmp_path: Path) -> None:
    done = run("scan", tmp_path)
    assert done.returncode == 5
    assert one_line(done.stderr, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["truncated", "empty", "lying", "lfs", "html"])
def test_a_bad_file_is_named_and_the_rest_is_scanned(checkpoints: Path, kind: str) -> None:
    bad = checkpoints / "bad"
    bad.mkdir()
    good = (checkpoints / "full" / "model.safetensors").read_bytes()
    content = {
        "truncated": good[:-100],
        "empty": b"",
        "lying": struct.pack("<Q", 10**7) + good[8:],
        "lfs": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "html": b"<!DOCTYPE html><html><body>404</body></html>",
    }[kind]
    (bad / "model.safetensors").write_bytes(content)
    done = run("scan", checkpoints)
    assert done.returncode == 3
    assert "bad/model.safetensors" in one_line(done.stderr, "bad")
    assert intruders(checkpoints) == 3 * 10 * 2


def test_a_refusal_is_told_once(checkpoints: Path) -> None:
    (checkpoints / "bad.safetensors").write_bytes(b"")
    (checkpoints / "gone.safetensors").symlink_to("/nowhere/x")
    done = run("scan", checkpoints)
    assert done.returncode == 3
    assert done.stderr.count("bad.safetensors") == done.stderr.count("gone.safetensors") == 1
    assert "a link to /nowhere/x, which does not exist" in one_line(done.stderr, "gone")
    assert "refused      2 files or folders, named at the end" in done.stderr


def test_an_adapter_beside_its_base_is_compared_and_other_weights_are_named(
    checkpoints: Path, save_full
) -> None:
    model = checkpoints / "base"
    source = load_file(checkpoints / "lora" / "checkpoint-20" / "adapter_model.safetensors")
    names = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}
    kohya = {}
    for name, factor in source.items():
        module, _, part = name.removeprefix("base_model.model.").rpartition(".lora_")
        kohya[f"lora_te_{module.replace('.', '_')}.{names['lora_' + part]}"] = factor
        kohya[f"lora_te_{module.replace('.', '_')}.alpha"] = np.array(4.0, dtype=np.float32)
    save_file(kohya, model / "my_lora.safetensors")
    save_file(load_file(model / "model.safetensors"), model / "model.fp16.safetensors")
    done = run("scan", checkpoints)
    assert done.returncode == 0
    (told,) = [line for line in done.stderr.splitlines() if line.startswith("warning: base:")]
    assert "also holds model.fp16.safetensors, which is not read" in told
    store = analyzer.connect(checkpoints / "analyzer.duckdb")
    found = store.sql(
        "SELECT c.name, delta_fro FROM intruder JOIN matrix m USING (matrix_id)"
        " JOIN checkpoint c USING (checkpoint_id) WHERE side = 'left' ORDER BY m.name"
    ).to_pylist()
    norms = {
        name: [row["delta_fro"] for row in found if row["name"] == name]
        for name in ("base/my_lora.safetensors", "lora/checkpoint-20")
    }
    assert len(norms["lora/checkpoint-20"]) == 10  # alpha / r = 2 in both
    np.testing.assert_allclose(*norms.values(), rtol=1e-6)


def test_non_finite_tensor(checkpoints: Path) -> None:
    path = checkpoints / "full" / "model.safetensors"
    tensors = load_file(path)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name][3, 4] = np.nan
    tensors[name][0, 0] = np.inf
    save_file(tensors, path)
    done = run("scan", checkpoints)
    assert done.returncode == 3
    assert "1 NaN and 1 infinite" in one_line(done.stderr, name)
    assert statuses(checkpoints, "full")[name] == "nonfinite"
    assert intruders(checkpoints) == 3 * 10 * 2 - 2
    again = run("scan", checkpoints)
    assert again.returncode == 3
    assert one_line(again.stderr, name)


def test_zero_update(checkpoints: Path, save_lora) -> None:
    save_lora(checkpoints / "fresh", scale=0.0)
    done = run("scan", checkpoints)
    assert done.returncode == 0
    assert set(statuses(checkpoints, "fresh").values()) == {"zero_delta"}
    store = analyzer.connect(checkpoints / "analyzer.duckdb")
    found = store.sql(
        "SELECT DISTINCT n_intruders, delta_effective_rank, status FROM intruder"
        " WHERE delta_fro = 0"
    ).to_pylist()
    assert found == [{"n_intruders": 0, "delta_effective_rank": 0.0, "status": "zero_delta"}]


def test_wrong_base(checkpoints: Path, save_full) -> None:
    rng = np.random.default_rng(0)
    shapes = {k: w.shape for k, w in load_file(checkpoints / "base/model.safetensors").items()}
    other = {
        k: rng.standard_normal([2 * n for n in s]).astype(np.float32) for k, s in shapes.items()
    }
    save_full(checkpoints / "base", other)
    done = run("scan", checkpoints)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    found = set(statuses(checkpoints, "full").values()) | set(
        statuses(checkpoints, "lora/checkpoint-10").values()
    )
    assert found == {"shape_mismatch"}


def test_unpaired_and_untargeted_factors(checkpoints: Path) -> None:
    path = checkpoints / "lora" / "checkpoint-10" / "adapter_model.safetensors"
    tensors = load_file(path)
    lonely = "base_model.model.model.layers.0.mlp.up_proj"
    del tensors[f"{lonely}.lora_B.weight"]
    for letter, shape in (("A", (2, 24)), ("B", (24, 2))):
        key = f"base_model.model.model.layers.7.self_attn.q_proj.lora_{letter}.weight"
        tensors[key] = np.ones(shape, dtype=np.float32)
    save_file(tensors, path)
    done = run("scan", checkpoints)
    assert done.returncode == 3
    assert one_line(done.stderr, "mlp.up_proj")
    assert one_line(done.stderr, "layers.7")
    found = statuses(checkpoints, "lora/checkpoint-10")
    assert found["model.layers.0.mlp.up_proj.weight"] == "refused"
    assert found["model.layers.7.self_attn.q_proj.weight"] == "no_base"
    assert intruders(checkpoints) == 3 * 10 * 2 - 2


class Attack:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("container", ["zip", "plain"])
def test_a_pickle_that_executes(checkpoints: Path, tmp_path: Path, container: str) -> None:
    marker = tmp_path / "executed"
    (checkpoints / "evil").mkdir()
    path = checkpoints / "evil" / "pytorch_model.bin"
    if container == "zip":
        torch.save({"a": torch.ones(2, 2), "b": Attack(marker)}, path)
    else:
        path.write_bytes(pickle.dumps(Attack(marker)))
    done = run("scan", checkpoints)
    assert not marker.exists()
    assert "Traceback" not in done.stderr
    assert done.returncode in (0, 3)
    assert intruders(checkpoints) >= 3 * 10 * 2


def test_a_store_that_another_process_holds(checkpoints: Path) -> None:
    assert run("scan", checkpoints).returncode == 0
    db = checkpoints / "analyzer.duckdb"
    code = "import duckdb,sys; c=duckdb.connect(sys.argv[1]); print('held',flush=True); input()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(db)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None
    holder.stdout.readline()
    try:
        done = run("scan", checkpoints)
        assert done.returncode == 4
        assert "another process" in one_line(done.stderr, "analyzer.duckdb")
    finally:
        holder.communicate("\n")


def test_two_scans_at_once(checkpoints: Path) -> None:
    command = [sys.executable, "-c", "from analyzer.cli import main; main()", "scan"]
    both = [
        subprocess.Popen(
            [*command, str(checkpoints)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        for _ in range(2)
    ]
    assert [one.wait(120) for one in both] == [0, 0]
    whole(checkpoints)


def whole(root: Path) -> None:
    """The store is complete and holds nothing twice."""
    store = analyzer.connect(root / "analyzer.duckdb")
    for table, key in (
        ("spectrum", "matrix_id, kind, k"), ("spectrum_info", "matrix_id, kind"),
        ("tail", "matrix_id, kind"), ("intruder", "matrix_id, side"),
        ("intruder_vector", "matrix_id, side, j"), ("intruder_track", "matrix_id, side, j"),
        ("intruder_cosine", "matrix_id, side, i, j"), ("welore", "matrix_id"),
        ("grad_spectrum", "matrix_id, run, step, source, batch_id, block"),
        ("grad_overlap", "matrix_id, run, source, source_b, batch_id, step_a, step_b"),
        ("grad_cosine", "matrix_id, run, source, batch_id, step_a, step_b"),
        ("emergence", "matrix_id, run, source, batch_id"),
        ("emergence_correlation", "run, source, batch_id, x, y, method, \"group\""),
        ("done", "matrix_id, analysis"), ("checkpoint", "path"),
    ):  # fmt: skip
        twice = store.sql(f"SELECT {key} FROM {table} GROUP BY ALL HAVING count(*) > 1")
        assert twice.num_rows == 0, table
    assert intruders(root) == 3 * 10 * 2
    done = store.sql("SELECT count(*) FROM done").column(0).to_pylist()
    assert done == [12 + 12 + 2 * 10 + 3 * 10 + 10]  # tails, intruders, the run lora


@pytest.mark.parametrize(
    ("kill", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_scan_stopped_half_way_is_completed(checkpoints: Path, kill: int, code: int) -> None:
    # Every batch holds one unit and waits, so that the signal meets a scan in its middle.
    script = (
        "import analyzer.scanning.saving as saving, time\n"
        "saving.BATCH_UNITS = 1\n"
        "insert = saving.insert\n"
        "def slow(*a):\n    insert(*a); time.sleep(0.05)\n"
        "saving.insert = slow\n"
        "from analyzer.cli import main; main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script, "scan", str(checkpoints)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    db = checkpoints / "analyzer.duckdb"
    while time.monotonic() < deadline:
        time.sleep(0.2)
        if db.exists() and db.stat().st_size > 12288 and process.poll() is None:
            time.sleep(1.0)
            break
    process.send_signal(kill)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == code
    if code > 0:
        assert "Traceback" not in stderr
        assert f"analyzer scan {checkpoints}" in stderr
    done = run("scan", checkpoints)
    assert done.returncode == 0
    whole(checkpoints)

"""Peak memory of a scan with one worker, in multiples of its largest matrix in float32.

What is counted is anonymous memory, since the stored matrices are mapped from their files, above
that of the same process after a scan of a tiny collection: imports, DuckDB and the buffers of
BLAS take some 50 MB whatever is scanned.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

NAME = "model.layers.0.mlp.up_proj.weight"
SCAN = """
import sys, threadpoolctl, torch, analyzer
import analyzer.scanning.compute
torch.set_num_threads(1)
with threadpoolctl.threadpool_limits(1):
    for folder in sys.argv[1:]:
        print("next", flush=True)
        sys.stdin.readline()
        summary = analyzer.scan(folder, workers=1, device="cpu")
        assert not summary.problems, summary.problems
"""
VALUES = """
import sys, threadpoolctl, torch
from analyzer.spectral import svdvals
torch.set_num_threads(1)
with threadpoolctl.threadpool_limits(1):
    for p in map(int, sys.argv[1:]):
        W = torch.randn(p, p)
        print("next", flush=True)
        sys.stdin.readline()
        svdvals(W, method="gram")
"""


def pair(folder: Path, rows: int, cols: int) -> Path:
    """A base and a full fine-tune of one matrix, with an intruder."""
    rng = np.random.default_rng(0)
    base = rng.standard_normal((rows, cols), dtype=np.float32)
    change = rng.standard_normal((rows, cols), dtype=np.float32)
    u, v = rng.standard_normal(rows), rng.standard_normal(cols)
    spike = 3 * (rows**0.5) * np.outer(u / np.linalg.norm(u), v / np.linalg.norm(v))
    tuned = (base + 0.05 * change + spike).astype(np.float32)
    for name, weight in (("base", base), ("tuned", tuned)):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text('{"model_type": "llama"}')
        save_file({NAME: weight}, folder / name / "model.safetensors")
    return folder


def growth(program: str, *arguments: object) -> float:
    """Bytes of anonymous memory by which the last of a program's steps exceeds what was before."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        before = 0
        for _ in arguments:
            assert process.stdout.readline() == "next\n"
            before = anonymous(process.pid)
            process.stdin.write("\n")
            process.stdin.flush()
        peak = before
        while process.poll() is None:
            peak = max(peak, anonymous(process.pid))
            time.sleep(5e-4)
    assert process.returncode == 0
    return peak - before


def anonymous(pid: int) -> int:
    """0 once the process has ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    return 0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts memory in /proc")
def test_a_tall_pair_is_never_held_in_float64(tmp_path: Path) -> None:
    rows, cols = 20000, 192
    small = pair(tmp_path / "small", 400, cols)
    large = pair(tmp_path / "large", rows, cols)
    assert growth(SCAN, small, large) < 3 * 4 * rows * cols


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="counts memory in /proc")
def test_singular_values_hold_one_gram_matrix() -> None:
    """G in float64 is twice a square float32 matrix, and its eigenvalues are found in place."""
    p = 1500
    assert growth(VALUES, 1300, p) < 2.7 * 4 * p * p

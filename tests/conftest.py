"""A tiny collection on disk: a base, a full fine-tune and LoRA adapters, as users have them."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import filelock
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import settings
from safetensors.numpy import save_file

import analyzer
from analyzer.analyses.tables import TABLES
from analyzer.models.manifold.tables import MANIFOLD_TABLES
from analyzer.models.spectral_tensor.tables import TUCKER_TABLES
from analyzer.store.connection import create, writer

# The same examples in every run, so that a failure is one that the change at hand brought; to
# search on, run with --hypothesis-profile=default.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

WIDTH, HIDDEN, LAYERS, VOCAB = 24, 40, 2, 30
SHAPES = {
    "self_attn.q_proj": (WIDTH, WIDTH),
    "self_attn.k_proj": (WIDTH // 2, WIDTH),
    "self_attn.o_proj": (WIDTH, WIDTH),
    "mlp.up_proj": (HIDDEN, WIDTH),
    "mlp.down_proj": (WIDTH, HIDDEN),
}


def block_names() -> list[str]:
    return [f"model.layers.{layer}.{part}" for layer in range(LAYERS) for part in SHAPES]


def base_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    tensors = {
        "model.embed_tokens.weight": rng.standard_normal((VOCAB, WIDTH)),
        "model.norm.weight": np.ones(WIDTH),
        "lm_head.weight": rng.standard_normal((VOCAB, WIDTH)),
    }
    for name in block_names():
        shape = SHAPES[name.split(".", 3)[3]]
        tensors[f"{name}.weight"] = rng.standard_normal(shape) / np.sqrt(shape[1])
    return {name: tensor.astype(np.float32) for name, tensor in tensors.items()}


def write_full(folder: Path, tensors: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file(tensors, folder / "model.safetensors")
    return folder


def write_lora(folder: Path, *, r: int = 2, seed: int = 1, scale: float = 1.0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    tensors = {}
    for name in block_names():
        rows, cols = SHAPES[name.split(".", 3)[3]]
        A, B = rng.standard_normal((r, cols)), scale * rng.standard_normal((rows, r))
        tensors[f"base_model.model.{name}.lora_A.weight"] = A.astype(np.float32)
        tensors[f"base_model.model.{name}.lora_B.weight"] = B.astype(np.float32)
    config = {
        "peft_type": "LORA", "r": r, "lora_alpha": 2 * r, "base_model_name_or_path": "base",
        "target_modules": sorted({name.rsplit(".", 1)[1] for name in SHAPES}), "bias": "none",
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def base_weights() -> dict[str, np.ndarray]:
    return base_tensors()


@pytest.fixture
def save_full() -> Callable[[Path, dict[str, np.ndarray]], Path]:
    return write_full


@pytest.fixture
def save_lora() -> Callable[..., Path]:
    return write_lora


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """base, full (embedding frozen), lora with two steps."""
    root = tmp_path / "ckpts"
    base = base_tensors()
    write_full(root / "base", base)
    rng = np.random.default_rng(5)
    tuned = {
        name: tensor if "embed" in name
        else tensor + 1e-3 * rng.standard_normal(tensor.shape).astype(np.float32)
        for name, tensor in base.items()
    }  # fmt: skip
    write_full(root / "full", tuned)
    for step, scale in ((10, 0.01), (20, 0.04)):
        write_lora(root / "lora" / f"checkpoint-{step}", scale=scale)
    return root


SMOOTH_STEPS, SMOOTH_LAYERS = (10, 30, 100, 300), (0, 1, 2, 4)
SMOOTH_PARTS = {"self_attn.q_proj": (16, 16), "mlp.up_proj": (20, 16)}


def smooth_log_sigma(layer: float, step: float, role: int, n: int = 16) -> np.ndarray:
    """log σ (n,), descending, that changes smoothly with layer, log of the step and position."""
    q, t, d = (np.arange(n) + 0.5) / n, np.log1p(step) / 6, layer / 4
    return 0.3 * role - 1.5 * q**2 * (1 + 0.5 * d) + 0.4 * np.sin(2 * t) * (1 - q) + np.sin(d)


def write_smooth(folder: Path, step: float, *, layers: tuple[int, ...] = SMOOTH_LAYERS) -> Path:
    """A checkpoint of LLaMA's names whose matrices have those singular values."""
    tensors = {}
    for layer in layers:
        for role, (part, (rows, cols)) in enumerate(SMOOTH_PARTS.items()):
            rng = np.random.default_rng([layer, role])
            U, V = (np.linalg.qr(rng.standard_normal((n, 16)))[0] for n in (rows, cols))
            W = (U * np.exp(smooth_log_sigma(layer, step, role))) @ V.T
            tensors[f"model.layers.{layer}.{part}.weight"] = W.astype(np.float32)
    return write_full(folder, tensors)


@pytest.fixture
def save_smooth() -> Callable[..., Path]:
    return write_smooth


@pytest.fixture(scope="session")
def log_sigma() -> Callable[..., np.ndarray]:
    return smooth_log_sigma


@pytest.fixture(scope="session")
def smooth_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base and run/checkpoint-10 … 300 of layers 0, 1, 2 and 4, scanned and fitted; to be read."""
    root = tmp_path_factory.mktemp("smooth") / "ckpts"
    write_smooth(root / "base", 0)
    for step in SMOOTH_STEPS:
        write_smooth(root / "run" / f"checkpoint-{step}", step)
    summary = analyzer.scan(root, analyses=["tucker"])
    assert summary.problems == () and summary.not_run == {}
    return root


@pytest.fixture
def own_smooth_run(smooth_run: Path, tmp_path: Path) -> Path:
    """A copy that a test may change, whose store takes it for the original."""
    root = Path(shutil.copytree(smooth_run, tmp_path / "own"))
    with duckdb.connect(root / "analyzer.duckdb") as connection:
        connection.execute(
            "UPDATE checkpoint SET path = replace(path, ?, ?)", [str(smooth_run), str(root)]
        )
    return root


@pytest.fixture(scope="session")
def put() -> Callable[[Path, str, Sequence[dict[str, Any]]], None]:
    """`put(db, table, [{...}, …])`: these rows, NULL where a row names no value."""

    def write(db: Path, table: str, rows: Sequence[dict[str, Any]]) -> None:
        names = dict.fromkeys(name for row in rows for name in row)
        given = pa.table({name: [row.get(name) for row in rows] for name in names})
        with writer(db) as connection:
            connection.register("given", given)
            connection.execute(f'INSERT INTO "{table}" BY NAME SELECT * FROM given')

    return write


@pytest.fixture
def make_store(
    tmp_path: Path, put: Callable[[Path, str, Sequence[dict[str, Any]]], None]
) -> Callable[..., Path]:
    """`make_store(tail=[{...}], …)`: every table, with these rows; what is not given is NULL."""
    numbers = itertools.count()

    def make(**rows: Sequence[dict[str, Any]]) -> Path:
        db = tmp_path / f"handmade-{next(numbers)}.duckdb"
        create(db, (*TABLES, *TUCKER_TABLES, *MANIFOLD_TABLES))
        for table, members in rows.items():
            put(db, table, members)
        return db

    return make


@pytest.fixture(scope="session")
def demo_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of everything a scan can fill, of a demo collection with a model a fingernail wide.

    To be read: it is made once for all processes of a test run.
    """
    root = tmp_path_factory.getbasetemp()
    folder = (root.parent if os.environ.get("PYTEST_XDIST_WORKER") else root) / "demo"
    db = folder / "analyzer.duckdb"
    with filelock.FileLock(f"{folder}.lock"):
        if not db.exists():
            _scan_demo(folder)
    return db


def _scan_demo(folder: Path) -> None:
    from analyzer.demo import ACTIVATIONS, make_demo, readme, runs
    from analyzer.demo.model import Shape
    from analyzer.scanning.options import ANALYSES

    small = partial(Shape, width=32, hidden=48, layers=4, heads=4, context=32)
    with pytest.MonkeyPatch.context() as patch:
        for module in (runs, readme):
            patch.setattr(module, "Shape", small)
        make_demo(folder, steps=40)
    activations = folder / ACTIVATIONS
    analyzer.scan(folder, analyses=ANALYSES, activations=activations, workers=1, device="cpu")

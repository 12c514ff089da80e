"""Where the CPU time of one whole scan goes.

    python tests/benchmarks/scan_profile.py [--layers 3] [--workers 1] [--keep FOLDER]

Writes a synthetic collection in GPT-2's shapes and formats (a base of 4 matrices a layer, a full
fine-tune, five LoRA adapters of rank 8), scans it in a fresh process and again in another. Timers
wrap the functions of each part from outside and count the CPU time of the calling thread, without
that of the parts called inside; what no timer saw (threads of DuckDB, the interpreter) is the
difference to the CPU time of the whole process. One BLAS thread a worker. Imports are counted with
torch, which the command line leaves out where nothing is left to compute.
"""

from __future__ import annotations

import argparse
import functools
import importlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

Array = NDArray[np.float32]
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")

# Output × input; GPT-2 stores the transpose (`Conv1D`).
SHAPES = {
    "attn.c_attn": (2304, 768),
    "attn.c_proj": (768, 768),
    "mlp.c_fc": (3072, 768),
    "mlp.c_proj": (768, 3072),
}
RANK, ALPHA = 8, 16
# Of ‖ΔW‖₂ over σ₁ of the base: from an update without intruders to one with many.
STRENGTHS = (0.05, 0.2, 0.5, 1.0, 2.0)

PARTS = {
    "base vectors": ("analyzer.spectral.base_svd:BaseSVD.compute",),
    "singular values, full matrices": ("analyzer.spectral.gram:svdvals",),
    "singular values, low-rank updates": (
        "analyzer.spectral.low_rank:low_rank_svd",
        "analyzer.spectral.update:LowRankUpdate.singular_values",
    ),
    "intruders: update in base vectors": ("analyzer.spectral.base_svd:BaseSVD.update",),
    "intruders: leading vectors": ("analyzer.analyses.intruders:tuned_vectors",),
    "intruders: cosines": ("analyzer.analyses.intruders:judge",),
    "intruders: critical multipliers": ("analyzer.analyses.critical:critical_multipliers",),
    "intruders: theoretical thresholds": ("analyzer.analyses.judging:thresholds",),
    "tails: fits": ("analyzer.analyses.tails:tail_row",),
    "tails: random matrices to compare": ("theory.wishart_null:null_statistics",),
    "spectral summaries": ("analyzer.analyses.spectra:spectrum_info",),
    "hashing": ("analyzer.checkpoints.checkpoint:Checkpoint.content_sha256",),
    "reading": (
        "analyzer.checkpoints.checkpoint:Checkpoint.read_matrix",
        "analyzer.checkpoints.adapters:target_update",
    ),
    "discovery and headers": (
        "analyzer.checkpoints.discover:discover",
        "analyzer.scanning.drafts:read_drafts",
    ),
    "store": (
        "analyzer.store.connection:create",
        "analyzer.scanning.registry:register",
        "analyzer.scanning.saving:write_batch",
        "analyzer.scanning.welore:pending_welore",
        "analyzer.scanning.welore:write_welore",
        "analyzer.scanning.findings:findings",
    ),
    "workers, the rest": ("analyzer.scanning.compute:finish_job",),
    "main thread, the rest": ("analyzer.scanning.run:scan",),
}


def build(root: Path, layers: int, seed: int = 0) -> Path:
    """base/, full/ and lora-1/ … lora-5/ below `root`."""
    rng = np.random.default_rng(seed)
    names = {f"transformer.h.{i}.{part}": SHAPES[part] for i in range(layers) for part in SHAPES}
    base = {name: spiked(shape, rng) for name, shape in names.items()}
    write_model(root / "base", base)
    noise = {name: rng.standard_normal(shape, np.float32) for name, shape in names.items()}
    write_model(
        root / "full", {name: base[name] + np.float32(1e-4) * noise[name] for name in names}
    )
    largest = {name: spectral_norm(W) for name, W in base.items()}
    for number, strength in enumerate(STRENGTHS, start=1):
        norms = {name: strength * value for name, value in largest.items()}
        write_adapter(root / f"lora-{number}", names, norms, rng)
    return root


def spiked(shape: tuple[int, int], rng: np.random.Generator, spikes: int = 96) -> Array:
    """Gaussian noise plus `spikes` directions of strength ∝ i^-0.6, (rows, cols)."""
    left, right = (np.linalg.qr(rng.standard_normal((size, spikes)))[0] for size in shape)
    edge = 0.02 * (np.sqrt(shape[0]) + np.sqrt(shape[1]))
    strength = rng.uniform(5, 15) * edge * np.arange(1, spikes + 1) ** -0.6
    return (0.02 * rng.standard_normal(shape) + (left * strength) @ right.T).astype(np.float32)


def write_model(folder: Path, weights: dict[str, NDArray[Any]]) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    stored = {f"{name}.weight": np.ascontiguousarray(W.T) for name, W in weights.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})


def spectral_norm(W: NDArray[Any]) -> float:
    short = W if W.shape[0] <= W.shape[1] else W.T
    return float(np.sqrt(np.linalg.eigvalsh(short @ short.T)[-1]))


def write_adapter(
    folder: Path,
    shapes: dict[str, tuple[int, int]],
    norms: dict[str, float],
    rng: np.random.Generator,
) -> None:
    """A PEFT adapter on every matrix with ‖ΔW‖₂ = norms[name]."""
    tensors = {}
    for name, (rows, cols) in shapes.items():
        B = rng.standard_normal((rows, RANK)) * np.geomspace(1.0, 0.1, RANK)
        A = rng.standard_normal((RANK, cols))
        size = ALPHA / RANK * np.linalg.norm(np.linalg.qr(B)[1] @ np.linalg.qr(A.T)[1].T, 2)
        B *= norms[name] / size
        tensors[f"base_model.model.{name}.lora_A.weight"] = A.astype(np.float32)
        tensors[f"base_model.model.{name}.lora_B.weight"] = B.astype(np.float32)
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": "../base",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": ["c_attn", "c_fc", "c_proj"],
        "fan_in_fan_out": True,
        "bias": "none",
        "task_type": "CAUSAL_LM",
    }
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


class Spent:
    """CPU seconds and calls by (part, part it was called from); one stack of timers a thread."""

    def __init__(self) -> None:
        self.seconds: dict[tuple[str, str], float] = defaultdict(float)
        self.calls: dict[tuple[str, str], int] = defaultdict(int)
        self._lock = threading.Lock()
        self._local = threading.local()

    def timed(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """`function`, whose CPU time on the calling thread goes to `part`."""

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            running: list[list[Any]] = self._local.__dict__.setdefault("running", [])
            caller = running[-1][0] if running else ""
            running.append([part, 0.0])  # and the seconds of the parts called inside
            started = time.thread_time()
            try:
                return function(*args, **kwargs)
            finally:
                seconds = time.thread_time() - started
                own = seconds - running.pop()[1]
                if running:
                    running[-1][1] += seconds
                with self._lock:
                    self.seconds[part, caller] += own
                    self.calls[part, caller] += 1

        return wrapper


def install(spent: Spent) -> None:
    """Wrap the functions of `PARTS` wherever the package has bound them."""
    places = {place: part for part, group in PARTS.items() for place in group}
    owners = {place: importlib.import_module(place.split(":")[0]) for place in places}
    ours = [m for key, m in sys.modules.items() if key.partition(".")[0] in ("analyzer", "theory")]
    for place, part in places.items():
        *within, name = place.split(":")[1].split(".")
        if within:
            wrap_method(getattr(owners[place], within[0]), name, part, spent)
            continue
        function = getattr(owners[place], name)
        wrapped = spent.timed(function, part)
        for module in ours:
            for bound in [key for key, value in vars(module).items() if value is function]:
                setattr(module, bound, wrapped)


def wrap_method(owner: type, name: str, part: str, spent: Spent) -> None:
    method = owner.__dict__[name]
    if isinstance(method, classmethod):
        setattr(owner, name, classmethod(spent.timed(method.__func__, part)))
    else:
        setattr(owner, name, spent.timed(method, part))


def scan_once(folder: Path, workers: int) -> None:
    """In the child: scan with timers, print what was measured as JSON."""
    # With torch, so that no timer holds an import.
    importlib.import_module("analyzer.scanning.compute")
    run = importlib.import_module("analyzer.scanning.run")
    imported = time.process_time()
    spent = Spent()
    install(spent)
    started = time.perf_counter()
    summary = run.scan(folder, workers=workers, device="cpu")
    result = {
        "imports": imported,
        "cpu": time.process_time(),
        "wall": time.perf_counter() - started,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "computed": summary.n_computed,
        "problems": summary.problems,
        "parts": {label(*key): (spent.seconds[key], spent.calls[key]) for key in spent.seconds},
    }
    print(json.dumps(result))


def label(part: str, caller: str) -> str:
    """The part, and who asked for it where that is another analysis than its own."""
    return part if not caller.startswith("intruders") else f"{part} ← {caller}"


def child(folder: Path, workers: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--scan", str(folder), "--workers", str(workers)]
    return json.loads(subprocess.check_output(command, env=os.environ | ONE_THREAD, text=True))


def report(title: str, result: dict[str, Any]) -> None:
    total = result["cpu"]
    print(
        f"{title}: {result['computed']} units, CPU {total:.2f} s of which scan "
        f"{total - result['imports']:.2f} s, wall {result['wall']:.2f} s, "
        f"peak {result['peak_mib']:.0f} MiB"
    )
    for problem in result["problems"]:
        print(f"  problem: {problem}")
    rows = {"start-up: imports": (result["imports"], 1), **result["parts"]}
    rows["seen by no timer"] = (total - sum(seconds for seconds, _ in rows.values()), 0)
    for part, (seconds, calls) in sorted(rows.items(), key=lambda row: -row[1][0]):
        if seconds >= 0.005:
            print(f"  {part:<62}{seconds:8.2f} s{seconds / total:7.1%}{calls or '':>7}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Where the CPU time of one scan goes.")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="build the collection here, or scan what is here")
    parser.add_argument("--scan", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.scan:
        scan_once(options.scan, options.workers)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary) / "collection"
        if not folder.exists():
            build(folder, options.layers)
        (folder / "analyzer.duckdb").unlink(missing_ok=True)
        report("first scan", child(folder, options.workers))
        report("second scan", child(folder, options.workers))


if __name__ == "__main__":
    main()

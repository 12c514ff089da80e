"""Every engine call on a device against the CPU: values within the stored bounds, and times.

    python tests/benchmarks/gpu.py [--device cuda | cuda:N | torch-cpu] [--largest 4096]

Prints one row a call and shape: the largest difference to the CPU's answer over the sum of both
error bounds (at most 1, or the row says FAILED), wall-clock seconds of device and CPU, and of
torch.linalg.svd in float32 on the same device. Exits with 1 if a row failed, with 2 and one line
if the device is not there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from analyzer.errors import UsageError
from analyzer.spectral import (
    CPU,
    Backend,
    BaseSVD,
    batched_svdvals,
    get_backend,
    low_rank_svd,
    svd_topk,
    svdvals,
)

SHAPES = ((64, 64), (512, 512), (768, 3072), (3072, 768), (2048, 2048), (4096, 4096))
K, RANK = 10, 8
Check = tuple[str, Callable[[Backend], Any], Callable[[Any, Any], float]]


def weight(rows: int, cols: int, dtype: torch.dtype) -> torch.Tensor:
    """A Gaussian bulk with power-law spikes, as stored."""
    rng = torch.Generator().manual_seed(rows + cols)
    W = 0.02 * torch.randn(rows, cols, generator=rng)
    k = min(rows, cols, 32)
    left, right = (torch.linalg.qr(torch.randn(size, k, generator=rng)).Q for size in (rows, cols))
    return (W + (left * (2.0 / torch.arange(1, k + 1))) @ right.T).to(dtype)


def over_bound(difference: np.ndarray, bound: np.ndarray) -> float:
    return float(np.max(np.abs(difference) / np.maximum(bound, 1e-300), initial=0.0))


def spectra(one: Any, other: Any) -> float:
    return over_bound(one.singular_values - other.singular_values, one.error + other.error)


def triplets(one: Any, other: Any) -> float:
    """Values by their bounds, vectors by their angles, both up to rounding."""
    values = over_bound(one.S - other.S, one.error + other.error)
    sign = np.sign(np.sum(one.U * other.U, axis=0))
    # ‖u − u'‖ ≤ √2 sin θ for θ ≤ π/2, and unlike 1 − cos² it resolves small angles.
    distance = np.linalg.norm(one.U - other.U * sign, axis=0)
    angle = np.sqrt(2.0) * (one.angle_error + other.angle_error) + 1e-12
    return max(values, over_bound(distance, angle))


def bases(one: Any, other: Any) -> float:
    return over_bound(one.s - other.s, one.error + other.error)


def updates(one: Any, other: Any) -> float:
    values = over_bound(one.S - other.S, one.error + other.error)
    return max(
        values,
        over_bound(
            np.abs(one.X).max(axis=0) - np.abs(other.X).max(axis=0),
            one.cos_error + other.cos_error + 1e-10,
        ),
    )


def low_ranks(one: Any, other: Any) -> float:
    return over_bound(one.S - other.S, np.full(one.S.size, 1e-13 * one.S[0]))


def checks(W: torch.Tensor) -> tuple[Check, ...]:
    rng = np.random.default_rng(0)
    m, n = W.shape
    r = min(RANK, m, n)
    P, Q = rng.standard_normal((m, r)) / np.sqrt(m), rng.standard_normal((n, r)) / np.sqrt(n)
    return (
        ("svdvals", lambda backend: svdvals(W, backend=backend), spectra),
        ("svd_topk", lambda backend: svd_topk(W, K, backend=backend), triplets),
        (
            "svd_topk cholesky",
            lambda backend: svd_topk(W, K, certify="cholesky", backend=backend),
            triplets,
        ),
        ("BaseSVD", lambda backend: BaseSVD.compute(W, backend), bases),
        (
            "BaseSVD + adapter",
            lambda backend: BaseSVD.compute(W, backend).update(P, Q).topk(K),
            updates,
        ),
        ("low_rank_svd", lambda backend: low_rank_svd(P, Q, backend=backend), low_ranks),
    )


def timed(work: Callable[[], Any], device: str) -> tuple[Any, float]:
    """The answer of the second call: the first one loads libraries and picks drivers."""
    work()
    _synchronise(device)
    started = time.perf_counter()
    answer = work()
    _synchronise(device)
    return answer, time.perf_counter() - started


def _synchronise(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def run(backend: Backend, largest: int) -> bool:
    """Print the table; whether every answer was within its bounds."""
    fine = True
    print("| call | shape | dtype | difference/bound | device s | CPU s | torch svd s | |")
    print("|---" * 8 + "|")
    for rows, cols in (shape for shape in SHAPES if max(shape) <= largest):
        dtype = torch.bfloat16 if rows == cols else torch.float32
        W = weight(rows, cols, dtype)
        stored = W.to(backend.device, torch.float32)
        _, dense = timed(lambda: torch.linalg.svd(stored, full_matrices=False), backend.device)  # noqa: B023
        for name, call, compare in checks(W):
            ours, seconds = timed(lambda: call(backend), backend.device)  # noqa: B023
            reference, cpu_seconds = timed(lambda: call(CPU), "cpu")  # noqa: B023
            ratio = compare(ours, reference)
            fine &= ratio <= 1.0
            print(
                f"| {name} | {rows}×{cols} | {str(dtype).removeprefix('torch.')} | {ratio:.2g} "
                f"| {seconds:.4f} | {cpu_seconds:.4f} | {dense:.4f} "
                f"| {'' if ratio <= 1.0 else 'FAILED'} |",
                flush=True,
            )
    heads = np.random.default_rng(1).standard_normal((32, 128, 512))
    _, seconds = timed(lambda: batched_svdvals(heads), "cpu")
    print(f"\nbatched_svdvals runs on the CPU on every device: 32×128×512 in {seconds:.4f} s")
    return fine


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the engine on a device against the CPU.")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--largest", type=int, default=4096, help="longest side that is tried")
    arguments = parser.parse_args()
    try:
        backend = get_backend(arguments.device)
    except UsageError as error:
        print(f"nothing was checked: {error}", file=sys.stderr)
        return 2
    name = (
        torch.cuda.get_device_name(backend.device)
        if backend.device.startswith("cuda")
        else "CPU through torch"
    )
    print(f"{arguments.device}: {name}, torch {torch.__version__}\n")
    return 0 if run(backend, arguments.largest) else 1


if __name__ == "__main__":
    sys.exit(main())

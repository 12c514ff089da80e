"""The leading subspace along a trajectory: warm starts against full SVDs, one BLAS thread.

    python tests/benchmarks/warm_start.py [--steps 30]

Each step's float32 matrix has a decaying spectrum (σ_i ∝ i^-0.7 up to half the short side) whose
singular vectors turn a little from step to step, and fresh noise of a tenth of its energy. Every
method sees the same step before the next one is made, in an order that alternates. "Captured" is
the energy of the r leading Ritz values over that of the r leading singular values (float64).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from analyzer.spectral import LeadingSubspace, count_sketch, leading_subspace, svdvals

CASES = ((512, 1376, 64), (1024, 1024, 128))
EXTRA = 8  # columns beyond the r that are wanted
TURN = 0.15  # length of the random step that each unit vector takes
NOISE = 0.1  # share of the energy


def trajectory(m: int, n: int, steps: int, seed: int = 0) -> Iterator[torch.Tensor]:
    random = torch.Generator().manual_seed(seed)

    def normal(rows: int, cols: int) -> torch.Tensor:
        return torch.randn(rows, cols, generator=random) / np.sqrt(rows)

    count = min(m, n) // 2
    s = torch.arange(1, count + 1, dtype=torch.float32) ** -0.7
    noise = float(torch.linalg.vector_norm(s)) * np.sqrt(NOISE / (1 - NOISE) / n)
    U, V = normal(m, count), normal(n, count)
    for _ in range(steps):
        U, V = (torch.linalg.qr(X + TURN * normal(*X.shape)).Q for X in (U, V))
        yield (U * s) @ V.T + noise * normal(m, n)


def timed(run: Callable[[], object]) -> tuple[object, float]:
    started = time.process_time()
    result = run()
    return result, time.process_time() - started


def holds(found: LeadingSubspace, s: np.ndarray, r: int) -> bool:
    """Whether values, energy and stable rank lie within the certificate, rounding aside."""
    low, truth, total = found.sigma**2, s[: found.sigma.size] ** 2, found.fro**2
    slack = 1 + 1e-5
    energy, share = truth[:r].sum() / total, low[:r].sum() / total
    return bool(
        np.all(low <= truth * slack)
        and np.all(truth <= low + found.epsilon)
        and share <= energy * slack
        and energy <= share + found.epsilon / total
        and total / (low[0] + found.epsilon) <= total / truth[0] <= total / low[0] * slack
    )


def compare(m: int, n: int, r: int, steps: int) -> None:
    seconds: dict[str, float] = {}
    captured: dict[str, list[float]] = {"warm": [], "cold": []}
    certified, previous, ratio = 0, None, None
    for step, G in enumerate(trajectory(m, n, steps + 1)):
        runs: dict[str, Callable[[], object]] = {
            "svd": lambda G=G: torch.linalg.svd(G, full_matrices=False),
            # a row-major wide matrix costs torch twice as much as its transpose
            "svd, tall": lambda G=G: torch.linalg.svd(G if m >= n else G.T, full_matrices=False),
            "svdvals, tall": lambda G=G: torch.linalg.svdvals(G if m >= n else G.T),
            "cold": lambda G=G, step=step: leading_subspace(G, r + EXTRA, seed=step),
            "warm": lambda G=G, step=step, previous=previous, ratio=ratio: leading_subspace(
                G, r + EXTRA, previous=previous, previous_epsilon_ratio=ratio, seed=step
            ),
            "count_sketch": lambda G=G: count_sketch(G),
        }
        truth = svdvals(G).singular_values
        for name in list(runs)[:: 1 if step % 2 else -1]:
            found, spent = timed(runs[name])
            if step:  # the first step has no basis to start from, and warms up caches
                seconds[name] = seconds.get(name, 0.0) + spent
            if isinstance(found, LeadingSubspace):
                if step:
                    captured[name].append(float((found.sigma[:r] ** 2).sum()))
                    captured[name][-1] /= float((truth[:r] ** 2).sum())
                    certified += holds(found, truth, r)
                if name == "warm":
                    previous, ratio = found.basis, found.epsilon / found.fro**2
    print(f"{m}×{n}, r = {r}, {r + EXTRA} columns, {steps} steps, ε/F² = {ratio:.3f}")
    print("  CPU time a step, and how often it fits into that of svd and of svd of the tall side")
    for name, spent in seconds.items():
        line = f"  {name:<14}{1e3 * spent / steps:9.2f} ms{seconds['svd'] / spent:8.1f}×"
        line += f"{seconds['svd, tall'] / spent:8.1f}×"
        if name in captured:
            line += f"  captured mean {np.mean(captured[name]):.4f} min {min(captured[name]):.4f}"
        print(line)
    print(f"  certificates that hold: {certified} of {2 * steps}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Warm-started subspaces against full SVDs.")
    parser.add_argument("--steps", type=int, default=30)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with threadpool_limits(1):
        for m, n, r in CASES:
            compare(m, n, r, options.steps)


if __name__ == "__main__":
    main()

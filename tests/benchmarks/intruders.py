"""Intruder dimensions of ten adapters of one base: the engine against two dense SVDs an adapter.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python tests/benchmarks/intruders.py

The published routine (Shuttleworth et al., arXiv 2410.21228) takes, for every adapter, the
float32 SVD of the base and of the merged matrix and the full matrix |U0ᵀU|, whose first k columns
give the largest cosines. The engine decomposes a base once and works in its coordinates. Both run
interleaved, matrix by matrix, on one thread; times are CPU times of this process and include the
engine's decomposition of the base. The largest cosines of both are compared with a float64
computation on one adapter of each kind a matrix.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")  # read by the libraries when they are loaded

import numpy as np  # noqa: E402
import torch  # noqa: E402

from analyzer.spectral import BaseSVD  # noqa: E402

K, EPSILON, RANK, ADAPTERS = 10, 0.5, 8, 10
GPT2_BLOCK = ((768, 2304), (768, 768), (768, 3072), (3072, 768))  # in × out, as stored
BERT_BLOCK = ((768, 768),) * 4 + ((3072, 768), (768, 3072))  # out × in
FloatArray = np.ndarray[Any, np.dtype[np.float64]]


@dataclass
class Tally:
    """CPU seconds and what was found on the way."""

    published: float = 0.0
    engine: float = 0.0
    matrices: int = 0
    adapters: int = 0
    intruders: int = 0
    with_intruders: int = 0
    counts_differ: int = 0
    engine_error: float = 0.0
    published_error: float = 0.0
    bound: float = 0.0
    methods: dict[str, int] = field(default_factory=dict)


def base_matrix(rows: int, cols: int, rng: np.random.Generator) -> torch.Tensor:
    """A Gaussian bulk with 32 directions of power-law strength, float32."""
    W = 0.02 * rng.standard_normal((rows, cols))
    left, right = (np.linalg.qr(rng.standard_normal((size, 32)))[0] for size in (rows, cols))
    strength = 0.02 * (np.sqrt(rows) + np.sqrt(cols)) * 3.0 / np.arange(1, 33) ** 0.7
    return torch.from_numpy((W + (left * strength) @ right.T).astype(np.float32))


def adapter(
    base: BaseSVD, rng: np.random.Generator, *, aligned: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors P (m, 8), Q (n, 8), float32: strengthening base directions, or new ones."""
    m, n = base.shape
    strength = 1.4 * base.s[0] * np.linspace(1.0, 0.3, RANK)
    if aligned:
        some = rng.choice(24, RANK, replace=False)
        P = 0.2 * base.U[:, some] + 0.004 * rng.standard_normal((m, RANK)) / np.sqrt(m)
        Q = base.V[:, some] + 0.02 * rng.standard_normal((n, RANK)) / np.sqrt(n)
    else:
        P, Q = (np.linalg.qr(rng.standard_normal((size, RANK)))[0] for size in (m, n))
    return tuple(torch.from_numpy(x.astype(np.float32)) for x in (P * strength, Q))  # type: ignore[return-value]


def published(W0: torch.Tensor, P: torch.Tensor, Q: torch.Tensor) -> torch.Tensor:
    """max_i |⟨u_j, u0_i⟩| of the k leading vectors by two float32 SVDs and all cosines."""
    U0, _, _ = torch.linalg.svd(W0, full_matrices=False)
    U, _, _ = torch.linalg.svd(W0 + P @ Q.T, full_matrices=False)
    return (U0.T @ U).abs()[:, :K].max(dim=0).values


def engine(W0: torch.Tensor, factors: list[tuple[torch.Tensor, torch.Tensor]]) -> list[FloatArray]:
    """The same for all adapters in the base's coordinates, base included."""
    base = BaseSVD.compute(W0)
    return [base.update(P, Q).cosine_max(K)[0] for P, Q in factors]


def reference(W0: torch.Tensor, P: torch.Tensor, Q: torch.Tensor) -> FloatArray:
    """The same in float64, merged in float64."""
    W, A, B = (x.to(torch.float64).numpy() for x in (W0, P, Q))
    U0 = np.linalg.svd(W, full_matrices=False)[0]
    U = np.linalg.svd(W + A @ B.T, full_matrices=False)[0]
    return np.abs(U0.T @ U[:, :K]).max(axis=0)


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    answer = work()
    return answer, time.process_time() - started


def measure(rows: int, cols: int, tally: Tally, rng: np.random.Generator) -> None:
    """One base matrix with ten adapters."""
    W0 = base_matrix(rows, cols, rng)
    helper = BaseSVD.compute(W0)
    factors = [adapter(helper, rng, aligned=i % 2 == 1) for i in range(ADAPTERS)]
    ours, seconds = timed(lambda: engine(W0, factors))
    tally.engine += seconds
    theirs, seconds = timed(lambda: [published(W0, P, Q).numpy() for P, Q in factors])
    tally.published += seconds
    tally.matrices += 1
    for mine, other in zip(ours, theirs, strict=True):
        found = int(np.sum(mine < EPSILON))
        tally.adapters += 1
        tally.intruders += found
        tally.with_intruders += found > 0
        tally.counts_differ += found != int(np.sum(other < EPSILON))
    for mine, other, (P, Q) in zip(ours[:2], theirs[:2], factors[:2], strict=True):
        exact = reference(W0, P, Q)
        top = helper.update(P, Q).topk(K)
        tally.methods[top.method] = tally.methods.get(top.method, 0) + 1
        tally.bound = max(tally.bound, float(top.cos_error.max()))
        tally.engine_error = max(tally.engine_error, float(np.abs(mine - exact).max()))
        tally.published_error = max(tally.published_error, float(np.abs(other - exact).max()))


def report(name: str, block: tuple[tuple[int, int], ...], blocks: int) -> None:
    tally = Tally()
    rng = np.random.default_rng(0)
    for _ in range(blocks):
        for rows, cols in block:
            measure(rows, cols, tally, rng)
    print(
        f"| {name} | {tally.matrices} | {tally.published:.1f} | {tally.engine:.2f} "
        f"| {tally.published / tally.engine:.1f} | {tally.published_error:.1e} "
        f"| {tally.engine_error:.1e} | {tally.bound:.1e} "
        f"| {tally.with_intruders}/{tally.adapters} | {tally.counts_differ} "
        f"| {', '.join(f'{method} {n}' for method, n in tally.methods.items())} |",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--blocks", type=int, default=6, help="transformer blocks of GPT-2 shape")
    blocks = parser.parse_args().blocks
    torch.set_num_threads(1)
    print(
        f"{ADAPTERS} adapters of rank {RANK} a matrix, k = {K}, ε = {EPSILON}; CPU seconds, "
        f"torch {torch.__version__}, numpy {np.__version__}, one thread\n"
    )
    print(
        "| shapes | matrices | published s | engine s | ratio | published cos error "
        "| engine cos error | engine bound | adapters with intruders | counts that differ "
        "| methods |\n" + "|---" * 11 + "|"
    )
    report("GPT-2 block", GPT2_BLOCK, blocks)
    report("BERT block", BERT_BLOCK, max(1, blocks // 3))


if __name__ == "__main__":
    main()

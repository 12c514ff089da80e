"""CPU time of a FunBaT sweep: this package against per-entry message passing written plainly.

    OPENBLAS_NUM_THREADS=1 python tests/benchmarks/funbat_speed.py [--entries 13500]

The plain version keeps a message (Λ_n, η_n) for every entry, multiplies them together index by
index (which entries an index has is listed once, before the clock starts), and runs a Kalman filter
and a Rauch-Tung-Striebel smoother step by step; messages to the core and to the noise are one an
entry too, as the published algorithm reads (arXiv 2311.04829). Both make the same update of
functions, core and noise from the same start: means of functions and core and E[τ] after it are
compared. The last table is the growth with the number of entries.
"""

from __future__ import annotations

import argparse
import resource
import time
from functools import reduce

import numpy as np

from analyzer.models.funbat import Variational, fit_funbat
from analyzer.models.funbat.entries import make_mode
from analyzer.models.funbat.initialise import random_start
from analyzer.models.funbat.state import make_problem
from analyzer.models.funbat.variational import sweep
from theory.state_space import decay

ELL = 0.05


def data(n: int, sizes: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Entries at random points of a grid, noise sd 0.1."""
    rng = np.random.default_rng(seed)
    x = np.stack([rng.integers(0, size, n) / (size - 1) for size in sizes], axis=1)
    f = np.sin(6 * x[:, 0]) * np.cos(3 * x[:, 1]) * (1 + x[:, 2])
    f += 0.5 * np.cos(4 * x[:, 0]) * x[:, 1] ** 2
    return x, f + 0.1 * rng.normal(size=n)


def plain_sweep(modes, rows, lists, y, means, covs, core, core_cov, tau):
    """Modes, core and noise once, Matérn-1/2; messages of all entries are kept.

    `lists` holds the entries of every index of every mode. Returns the new means, W and E[τ].
    """
    means, covs = list(means), list(covs)
    for k, mode in enumerate(modes):
        others = [j for j in range(len(modes)) if j != k]
        first = [means[j][rows[j]] for j in others]
        second = [
            covs[j][rows[j]] + means[j][rows[j]][:, :, None] * means[j][rows[j]][:, None, :]
            for j in others
        ]
        if core is None:
            a, aa = reduce(np.multiply, first), reduce(np.multiply, second)
        else:
            r, P = mode.rank, core.size
            z, zz = reduce(khatri_rao, first), reduce(kronecker, second)
            W = np.moveaxis(core, k, 0).reshape(r, -1)
            order = np.moveaxis(np.arange(P).reshape(core.shape), k, 0).reshape(r, -1)
            ww = (core_cov + np.outer(core.ravel(), core.ravel()))[
                order[:, :, None, None], order[None, None, :, :]
            ]
            a, aa = z @ W.T, np.einsum("npq,ipjq->nij", zz, ww, optimize=True)
        precision, linear = tau * aa, tau * y[:, None] * a  # one message an entry
        Lam = np.stack([precision[of_index].sum(0) for of_index in lists[k]])
        eta = np.stack([linear[of_index].sum(0) for of_index in lists[k]])
        means[k], covs[k] = plain_smoother(mode.grid, Lam, eta)
    return means, *plain_core_and_noise(rows, y, means, covs, core, tau)


def plain_core_and_noise(rows, y, means, covs, core, tau):
    """q(w) from N(0, I) and a message an entry, then E[τ] from Gamma(0.001, 0.001)."""
    first = [m[row] for m, row in zip(means, rows, strict=True)]
    second = [
        c[row] + m[row][:, :, None] * m[row][:, None, :]
        for m, c, row in zip(means, covs, rows, strict=True)
    ]
    if core is None:
        mean = reduce(np.multiply, first).sum(1)
        square = reduce(np.multiply, second).sum((1, 2))
    else:
        z, zz = reduce(khatri_rao, first), reduce(kronecker, second)
        precision, linear = tau * zz, tau * y[:, None] * z  # one message an entry
        cov = np.linalg.inv(precision.sum(0) + np.eye(core.size))
        w = cov @ linear.sum(0)
        core, mean = w.reshape(core.shape), z @ w
        square = np.einsum("npq,pq->n", zz, cov + np.outer(w, w))
    errors = (y * y - 2 * y * mean + square).sum()
    return core, (1e-3 + 0.5 * y.size) / (1e-3 + 0.5 * errors)


def khatri_rao(p, q):
    return np.einsum("ni,nj->nij", p, q).reshape(len(p), -1)


def kronecker(p, q):
    """Row by row, (N, a, a) and (N, b, b) to (N, ab, ab)."""
    return np.einsum("nij,nkl->nikjl", p, q).reshape(len(p), p.shape[1] * q.shape[1], -1)


def plain_smoother(grid, Lam, eta):
    n, r = eta.shape
    eye, lam = np.eye(r), decay("matern12", ELL)
    filtered, predicted = [], []
    mean, cov = np.zeros(r), eye
    for s in range(n):
        if s:
            a = np.exp(-lam * (grid[s] - grid[s - 1]))
            mean, cov = a * mean, a * a * cov + (1 - a * a) * eye
        predicted.append((mean, cov))
        cov = np.linalg.inv(np.linalg.inv(cov) + Lam[s])
        mean = cov @ (np.linalg.solve(predicted[-1][1], mean) + eta[s])
        filtered.append((mean, cov))
    out = [filtered[-1]]
    for s in range(n - 2, -1, -1):
        a = np.exp(-lam * (grid[s + 1] - grid[s]))
        (mean, cov), (mean_p, cov_p) = filtered[s], predicted[s + 1]
        G = a * cov @ np.linalg.inv(cov_p)
        next_mean, next_cov = out[-1]
        out.append((mean + G @ (next_mean - mean_p), cov + G @ (next_cov - cov_p) @ G.T))
    return np.stack([m for m, _ in out[::-1]]), np.stack([c for _, c in out[::-1]])


def compare(n: int, rank: int, diagonal: bool, repeats: int) -> str:
    x, y = data(n, (428, 501, 1318))
    made = [make_mode("matern12", rank, x[:, k]) for k in range(3)]
    modes, rows = [m for m, _ in made], [r for _, r in made]
    y = (y - y.mean()) / y.std()
    problem = make_problem(
        modes, rows, y, diagonal=diagonal, constant=False, noise_mode=None, a0=1e-3, b0=1e-3
    )
    start = random_start(problem, [ELL] * 3, np.random.default_rng(0))
    lists = [
        np.split(np.argsort(row, kind="stable"), np.cumsum(np.bincount(row))[:-1]) for row in rows
    ]
    core = None if start.core is None else start.core.mean
    core_cov = None if start.core is None else start.core.cov
    times = {"ours": [], "plain": []}
    for _ in range(repeats):
        began = time.process_time()
        ours, _ = sweep(problem, start, lengthscales=False, prior_variance=False)
        times["ours"].append(time.process_time() - began)
        began = time.process_time()
        plain, plain_core, plain_tau = plain_sweep(
            modes, rows, lists, y, [f.mean for f in start.factors], [f.cov for f in start.factors],
            core, core_cov, start.noise.precision[0],
        )  # fmt: skip
        times["plain"].append(time.process_time() - began)
    difference = max(np.abs(f.mean - m).max() for f, m in zip(ours.factors, plain, strict=True))
    if ours.core is not None:
        difference = max(difference, np.abs(ours.core.mean - plain_core).max())
    difference = max(difference, abs(ours.noise.precision[0] / plain_tau - 1))
    ours_s, plain_s = min(times["ours"]), min(times["plain"])
    kind = "CP" if diagonal else "Tucker"
    return (
        f"| {kind} r={rank} | {plain_s:.3f} | {ours_s:.4f} | **{plain_s / ours_s:.0f}** | "
        f"{difference:.0e} |"
    )


def growth(n: int, rank: int) -> str:
    x, y = data(n, (100, 100, 100))
    marks: list[float] = []
    settings = Variational(max_sweeps=8, restarts=1, learn_lengthscales=False)
    fit_funbat(x, y, rank, inference=settings, progress=lambda _: marks.append(time.process_time()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return f"| {n:.0e} | {rank} | {np.median(np.diff(marks)):.4f} | {peak:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=13_500)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    print(f"{options.entries} entries, 428 × 501 × 1318 indexes, Matérn-1/2, CPU s a sweep\n")
    print("| model | plain | ours | ratio | largest difference |\n|---|---|---|---|---|")
    for rank, diagonal in ((2, True), (3, True), (5, True), (2, False), (3, False)):
        print(compare(options.entries, rank, diagonal, options.repeats), flush=True)
    print("\n| entries | rank | CPU s a sweep | peak MB of the process |\n|---|---|---|---|")
    for n in (1_000, 10_000, 100_000, 1_000_000):
        print(growth(n, 2), flush=True)


if __name__ == "__main__":
    main()

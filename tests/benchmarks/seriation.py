"""Orders by local search on neighbour lists beside a full 2-opt and Or-opt: lengths and CPU time.

    OPENBLAS_NUM_THREADS=1 python tests/benchmarks/seriation.py [--points 1024] [--rounds 3]

The full search looks at every other edge for each of the 2-opt and Or-opt moves, takes the best
move of one point after the other at once, and stops after a sweep without any. Both start from the
same nearest-neighbour order and are timed in turn, one thread, the fastest of all rounds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np

from theory.seriation.distances import DenseDistances, distance_matrix, nearest
from theory.seriation.local_search import nearest_neighbour, search
from theory.seriation.lower_bounds import held_karp
from theory.seriation.total_variation import mean_path_length, path_length

CITIES = ("random, d = 64", "random, d = 1024", "noisy curve, d = 256", "clusters, d = 256")
BAR_LENGTH, BAR_TIME = 1.01, 3.0


def points(kind: str, n: int, seed: int = 0) -> np.ndarray:
    """(n, d) rows in random order."""
    rng = np.random.default_rng(seed)
    name, d = kind.split(", d = ")
    noise = rng.standard_normal((n, int(d)))
    if name == "noisy curve":
        t = (rng.permutation(n) + 0.5) / n
        waves = np.cos(np.pi * np.outer(t, np.arange(1, 9))) @ rng.standard_normal((8, int(d)))
        return waves + noise
    if name == "clusters":
        return 0.5 * noise + rng.standard_normal((n // 16, int(d)))[rng.integers(n // 16, size=n)]
    return noise


def full_search(matrix: np.ndarray, order: np.ndarray) -> np.ndarray:
    """(n,) order, no shorter by any 2-opt or Or-opt move of the closed tour through a dummy."""
    n = len(matrix)
    d = np.zeros((n + 1, n + 1))
    d[:n, :n] = matrix
    tour, least = np.append(order, n), 1e-12 * matrix.max()
    improved = True
    while improved:
        improved = False
        for x in range(n + 1):
            for move in (best_reversal, best_insertion):
                gain, changed = move(d, tour, x)
                if gain > least:
                    tour, improved = changed, True
    tour = np.roll(tour, -int(np.argmax(tour == n)) - 1)[:-1]
    return tour


def best_reversal(d: np.ndarray, tour: np.ndarray, x: int) -> tuple[float, np.ndarray]:
    """The best reversal of a stretch that starts behind x."""
    tour = np.roll(tour, -int(np.argmax(tour == x)))
    behind = np.roll(tour, -1)
    edges = d[tour, behind]
    gain = edges[0] + edges - d[x, tour] - d[behind[0], behind]
    gain[0] = 0.0
    at = int(gain.argmax())
    return float(gain[at]), np.concatenate([tour[:1], tour[at:0:-1], tour[at + 1 :]])


def best_insertion(d: np.ndarray, tour: np.ndarray, x: int) -> tuple[float, np.ndarray]:
    """The best move of the 1 to 3 nodes from x on between any two others, turned or not."""
    tour = np.roll(tour, -int(np.argmax(tour == x)))
    best: tuple[float, np.ndarray] = (-np.inf, tour)
    for count in (1, 2, 3):
        segment, rest = tour[:count], tour[count:]
        freed = d[rest[-1], x] + d[segment[-1], rest[0]] - d[rest[-1], rest[0]]
        edges = d[rest[:-1], rest[1:]]
        for placed in (segment, segment[::-1]):
            gain = freed + edges - d[rest[:-1], placed[0]] - d[placed[-1], rest[1:]]
            at = int(gain.argmax())
            if gain[at] > best[0]:
                best = (float(gain[at]), np.concatenate([rest[: at + 1], placed, rest[at + 1 :]]))
    return best


def clocked(run: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    start = time.process_time()
    order = run()
    return time.process_time() - start, order


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    print(
        "points | T/T_random: start | lists | full | bound | lists/full | lists s | full s | ratio"
    )
    worst_length, worst_time = 0.0, np.inf
    for kind in CITIES:
        matrix = distance_matrix([points(kind, options.points)], options.points)
        near = nearest(matrix, 10)
        start = nearest_neighbour(DenseDistances(matrix), near)
        times: list[tuple[float, float]] = []
        for _ in range(options.rounds):
            lists_s, by_lists = clocked(
                lambda matrix=matrix: search(DenseDistances(matrix), nearest(matrix, 10))
            )
            full_s, by_all = clocked(
                lambda matrix=matrix, start=start: full_search(matrix, start.copy())
            )
            times.append((lists_s, full_s))
        lists_s, full_s = np.min(times, axis=0)
        mean = mean_path_length(matrix)
        first, lists, full = (path_length(matrix, o) / mean for o in (start, by_lists, by_all))
        bound = held_karp(matrix) / mean
        print(
            f"{kind} | {first:.4f} | {lists:.4f} | {full:.4f} | {bound:.4f} | {lists / full:.4f} "
            f"| {lists_s:.2f} | {full_s:.2f} | {full_s / lists_s:.1f}"
        )
        worst_length, worst_time = (
            max(worst_length, lists / full),
            min(worst_time, full_s / lists_s),
        )
    met = worst_length <= BAR_LENGTH and worst_time >= BAR_TIME
    print(f"{'met' if met else 'MISSED'}: {worst_length:.4f} (bar 1.01), {worst_time:.1f} (bar 3)")


if __name__ == "__main__":
    main()

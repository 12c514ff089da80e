"""Tails of a base of 24 matrices: this package against WeightWatcher, CPU time, one BLAS thread.

    python tests/benchmarks/tails.py [--layers 6] [--repeats 3]

Both get the same float32 matrices in GPT-2's shapes: noise plus a power-law spectrum. Runs
alternate, so that a machine that slows down slows both; the table shows the fastest of each.
WeightWatcher runs once as it comes (exponent and norms) and once with its random-matrix fit and
shuffled copies, the nearest to what a row of this package holds. Needs the `bench` extra.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import time
import warnings
from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import torch
from threadpoolctl import threadpool_limits

from analyzer.analyses.tails import fit_tail, tail_row
from analyzer.spectral import svdvals
from theory.storage_noise import storage_floor
from theory.wishart_null import null_statistics

SHAPES = ((2304, 768), (768, 768), (3072, 768), (768, 3072))


def base(layers: int, seed: int = 0) -> list[np.ndarray]:
    """Float32 matrices: Gaussian noise 0.02 plus 96 directions of strength ∝ i^-0.6."""
    rng = np.random.default_rng(seed)
    matrices = []
    for shape in SHAPES * layers:
        left, right = (np.linalg.qr(rng.standard_normal((size, 96)))[0] for size in shape)
        edge = 0.02 * (np.sqrt(shape[0]) + np.sqrt(shape[1]))
        strength = rng.uniform(5, 15) * edge * np.arange(1, 97) ** -0.6
        noise = 0.02 * rng.standard_normal(shape)
        matrices.append((noise + (left * strength) @ right.T).astype(np.float32))
    return matrices


def ours(
    matrices: Sequence[np.ndarray], *, null: bool, seed: int = 0
) -> list[tuple[float, float, float]]:
    found = []
    for i, W in enumerate(matrices):
        spectrum = svdvals(W)
        row = tail_row(
            spectrum.singular_values,
            rows=W.shape[0],
            cols=W.shape[1],
            storage_floor=storage_floor(spectrum.fro_norm, *W.shape, "float32"),
            matrix_id=i,
            kind="weight",
            full=False,
            seed=seed,
            null=null_statistics(*W.shape, seed=seed) if null else None,
        )
        found.append((row.alpha, row.ks_d, row.xmin))
    return found


def theirs(matrices: Sequence[np.ndarray], **options: object) -> list[tuple[float, float, float]]:
    import weightwatcher

    logging.getLogger("weightwatcher").setLevel(logging.CRITICAL)
    layers = []
    for W in matrices:
        layer = torch.nn.Linear(W.shape[1], W.shape[0], bias=False)
        layer.weight.data = torch.from_numpy(W)
        layers.append(layer)
    model = torch.nn.Sequential(*layers)
    with contextlib.redirect_stdout(io.StringIO()):
        details = weightwatcher.WeightWatcher(model=model).analyze(plot=False, **options)
    return list(zip(details.alpha, details.D, details.xmin, strict=True))


def timed(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return time.process_time() - started


def disagreement(matrices: Sequence[np.ndarray]) -> np.ndarray:
    """Largest relative difference of α, D and xmin (3,), with that tool's filter λ > 1e-5."""
    mine = []
    for W in matrices:
        fit = fit_tail(svdvals(W).singular_values ** 2, floor=1e-5)
        mine.append((fit.alpha, fit.ks_d, fit.xmin))
    other = np.array(theirs(matrices))
    fitted = other[:, 0] > 0  # -1 marks a fit that failed
    return np.max(np.abs(np.array(mine)[fitted] / other[fitted] - 1.0), axis=0)


def cases(matrices: Sequence[np.ndarray]) -> dict[str, Callable[[], object]]:
    new_seed = count(1)  # null draws are kept for a shape and seed
    return {
        "ours: eigenvalues alone": lambda: [svdvals(W) for W in matrices],
        "ours: without null": lambda: ours(matrices, null=False),
        "ours: null, first use of the shapes": lambda: ours(
            matrices, null=True, seed=next(new_seed)
        ),
        "ours: null, shapes known": lambda: ours(matrices, null=True, seed=1),
        "weightwatcher: exponent": lambda: theirs(matrices),
        "weightwatcher: mp_fit, randomize, detX": lambda: theirs(
            matrices, mp_fit=True, randomize=True, detX=True
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Tails of a base, ours against WeightWatcher.")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    matrices = base(options.layers)
    runs = cases(matrices)
    seconds = dict.fromkeys(runs, np.inf)
    with threadpool_limits(1):
        for _ in range(options.repeats):
            for name, run in runs.items():
                seconds[name] = min(seconds[name], timed(run))
        differences = disagreement(matrices)
    reference = seconds["ours: without null"]
    print(f"{len(matrices)} matrices, CPU seconds, fastest of {options.repeats}")
    for name, value in seconds.items():
        print(f"  {name:<42}{value:8.2f}{value / reference:8.2f}×")
    print("largest relative difference of alpha, D, xmin:", differences)


if __name__ == "__main__":
    main()

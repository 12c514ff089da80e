"""FunBaT on log singular values of a training run, with structured hold-outs and two baselines.

    python tests/benchmarks/funbat_checkpoints.py TOY_TRAJECTORY.npz [--quantiles 24]

`sv` (steps, blocks, modules, n) are singular values along a training run. A value is the log of one
quantile of one matrix at one step; modes are time (log1p of the step), matrix (labels) and
quantile, with a constant in every mode and noise of its own for every quantile. Baseline: linear
interpolation in time of each quantile of each matrix. The smallest tenth of the singular values is
erratic in log, so that errors for quantiles below 0.9 stand apart.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from analyzer.models.funbat import Variational, fit_funbat, fit_residuals


def log_quantiles(sv: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """q_j = (j + ½)/count, and values (steps, matrices, count), largest singular value first."""
    steps, blocks, modules, n = sv.shape
    q = (np.arange(count) + 0.5) / count
    logs = np.log(sv.reshape(steps, blocks * modules, n) + 1e-12)
    values = [np.interp(q * n - 0.5, np.arange(n), row) for row in logs.reshape(-1, n)]
    return q, np.reshape(values, (steps, blocks * modules, count))


def hold_outs(shape: tuple[int, ...], modules: int) -> dict[str, np.ndarray]:
    """Masks (steps, matrices, quantiles) of what is held out."""

    def steps(which: object) -> np.ndarray:
        mask = np.zeros(shape, dtype=bool)
        mask[which] = True
        return mask

    inner_half = np.arange(1, shape[0] - 1, 2)
    scans = np.random.default_rng(0).random((shape[0], shape[1] // modules)) < 0.6
    whole = np.repeat(scans, modules, axis=1)[:, :, None]
    return {
        "every other step": steps(inner_half),
        "steps 4, 9, 14, 18": steps([4, 9, 14, 18]),
        "60 % of (step, block) scans": np.broadcast_to(whole, shape),
        "50 % of entries": np.random.default_rng(0).random(shape) < 0.5,
        "last 3 steps": steps(slice(-3, None)),
    }


def interpolated(time: np.ndarray, y: np.ndarray, train: np.ndarray) -> np.ndarray:
    out = np.full(y.shape, np.nan)
    for series in np.ndindex(*y.shape[1:]):
        known = train[(slice(None), *series)]
        if known.any():
            column = y[(slice(None), *series)]
            out[(slice(None), *series)] = np.interp(time, time[known], column[known])
    return out


def cell(mean: np.ndarray, y: np.ndarray, low: np.ndarray) -> str:
    error = (mean - y) ** 2
    return f"{np.sqrt(np.nanmean(error)):.4f} / {np.sqrt(np.nanmean(error[low])):.4f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path)
    parser.add_argument("--quantiles", type=int, default=24)
    options = parser.parse_args()
    data = np.load(options.data)
    q, y = log_quantiles(data["sv"].astype(np.float64), options.quantiles)
    time = np.log1p(data["steps"]) / np.log1p(data["steps"][-1])
    axes = np.meshgrid(time, np.arange(y.shape[1]), q, indexing="ij")
    x = np.stack(axes, axis=-1)
    print("RMSE over all quantiles / over quantiles below 0.9; coverage of nominal 95 %\n")
    print("| held out | FunBaT | + residual process | interpolation | coverage | + residual |")
    print("|---|---|---|---|---|---|")
    for name, held in hold_outs(y.shape, data["sv"].shape[2]).items():
        fit = fit_funbat(
            x[~held], y[~held], (3, 6, 5), ("matern32", "iid", "matern32"), constant=True,
            noise_mode=2, inference=Variational(max_sweeps=30, restarts=1),
        )  # fmt: skip
        both = fit_residuals(fit, x[~held], y[~held], along=0)
        alone, together = fit.predict(x[held]), both.predict(x[held])
        truth, low = y[held], x[held][:, 2] < 0.9
        line = interpolated(time, y, ~held)[held]
        covered = [np.mean(np.abs(p.mean - truth) < 1.96 * p.sd) for p in (alone, together)]
        print(
            f"| {name} | {cell(alone.mean, truth, low)} | {cell(together.mean, truth, low)} | "
            f"{cell(line, truth, low)} | {covered[0]:.3f} | {covered[1]:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

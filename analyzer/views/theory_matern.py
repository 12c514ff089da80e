"""Matérn processes as state-space models: drawn functions and their correlation."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from analyzer.views.view import View
from theory.state_space import MATERN, covariance, discretise

SOURCE = "Hartikainen & Särkkä 2010; Fang et al. 2024, arXiv 2311.04829"
SMOOTHNESS = dict(zip(("1/2", "3/2", "5/2"), MATERN, strict=True))
POINTS = 400


def samples(lengthscale: float, draws: int, seed: int) -> View:
    """`draws` functions of each smoothness on [0, 1]: `x`, `f`, `nu`, `draw`."""
    x = np.linspace(0.0, 1.0, POINTS)
    rows: dict[str, list[np.ndarray]] = {"x": [], "f": [], "nu": [], "draw": []}
    for nu, kernel in SMOOTHNESS.items():
        f = _draw(kernel, x, lengthscale, draws, np.random.default_rng(seed))
        rows["x"].append(np.tile(x, draws))
        rows["f"].append(f.ravel())
        rows["nu"].append(np.repeat(nu, f.size))
        rows["draw"].append(np.repeat(np.arange(1, draws + 1), POINTS))
    return View(
        "matern_samples",
        "Functions drawn from Matérn processes",
        pa.table({name: np.concatenate(parts) for name, parts in rows.items()}),
        "Unit variance, simulated exactly by their state-space form; ν sets how often a function "
        "can be differentiated.",
        SOURCE,
        {"lengthscale": lengthscale, "seed": seed},
    )


def correlation(lengthscale: float) -> View:
    """Correlation of f(0) and f(d) for every smoothness: `d`, `correlation`, `nu`."""
    d = np.linspace(0.0, 1.0, 101)
    table = pa.table(
        {
            "d": np.tile(d, len(SMOOTHNESS)),
            "correlation": np.concatenate(
                [covariance(kernel, d, lengthscale) for kernel in SMOOTHNESS.values()]
            ),
            "nu": np.repeat(list(SMOOTHNESS), d.size),
        }
    )
    return View(
        "matern_correlation",
        "How quickly values lose sight of each other",
        table,
        "Correlation of two values of the function at distance d.",
        SOURCE,
        {"lengthscale": lengthscale},
    )


def _draw(
    kernel: str, x: np.ndarray, lengthscale: float, draws: int, rng: np.random.Generator
) -> np.ndarray:
    """(draws, x.size): x_{s+1} = A_s x_s + noise of covariance Q_s, from the stationary law."""
    chain = discretise(kernel, np.diff(x), lengthscale)
    p = chain.stationary.shape[0]
    state = rng.standard_normal((draws, p)) @ _root(chain.stationary).T
    values = [state[:, 0]]
    for A, Q in zip(chain.transition, chain.noise, strict=True):
        state = state @ A.T + rng.standard_normal((draws, p)) @ _root(Q).T
        values.append(state[:, 0])
    return np.stack(values, axis=1)


def _root(covariance_matrix: np.ndarray) -> np.ndarray:
    """A square root that exists for a singular covariance too."""
    values, vectors = np.linalg.eigh(covariance_matrix)
    return vectors * np.sqrt(np.maximum(values, 0.0))

"""Stores whose spectra are known functions of depth, step, role and quantile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from analyzer.analyses.tables import TABLES
from analyzer.models.spectral_tensor.observations import Observations, observe_spectra, runs_of
from analyzer.store.connection import create, reader, writer
from analyzer.store.schema import CheckpointRow, MatrixRow
from analyzer.store.writing import SpectrumValues, insert

ROLES = ("attn_q", "mlp_up")
N = 20  # singular values of a matrix
Truth = Callable[[float, float, int, np.ndarray], np.ndarray]


def smooth(depth: float, step: float, role: int, q: np.ndarray) -> np.ndarray:
    """log σ: interactions of depth, time and quantile, a shift a role."""
    t, d = np.log1p(step) / 8, depth / 4
    return 0.3 * role - 1.5 * q**2 * (1 + 0.5 * d) + 0.4 * np.sin(3 * t) * (1 - q) + np.sin(d)


def spectrum(truth: Truth, depth: float, step: float, role: int, n: int = N) -> np.ndarray:
    return np.exp(truth(depth, step, role, (np.arange(n) + 0.5) / n))


class Builder:
    """A store, checkpoint by checkpoint."""

    def __init__(self, db: Path) -> None:
        self.db, self.n_checkpoints, self.n_matrices = db, 0, 0
        create(db, TABLES)

    def checkpoint(
        self, name: str, *, kind: str = "full", run: str | None = None, step: int | None = None,
        base: int | None = None, root: str = "/",
    ) -> int:  # fmt: skip
        self.n_checkpoints += 1
        row = CheckpointRow(
            self.n_checkpoints,
            name,
            f"{root}{name}",
            kind,
            "safetensors",
            run,
            step,
            base,
            0,
            name,
            "",
        )
        with writer(self.db) as connection:
            insert(connection, [row])
        return self.n_checkpoints

    def matrices(
        self,
        checkpoint: int,
        found: Sequence[tuple[str, int | None, np.ndarray]],
        *,
        stack: str | None = "decoder",
        expert: int | None = None,
        kind: str = "weight",
    ) -> None:
        """(role, layer, σ) each."""
        rows = []
        for role, layer, sigma in found:
            self.n_matrices += 1
            n, number = sigma.size, self.n_matrices
            rows += [
                MatrixRow(
                    number, checkpoint, f"{stack}.{layer}.{role}", stack, layer, role, expert,
                    n, n, "F32", False, f"{number}:{sigma.sum()}", "ok", None,
                ),
                SpectrumValues(number, kind, sigma),
            ]  # fmt: skip
        with writer(self.db) as connection:
            insert(connection, rows)

    def scan(
        self, checkpoint: int, step: float, depths: Sequence[int], truth: Truth = smooth
    ) -> None:
        self.matrices(
            checkpoint,
            [
                (role, depth, spectrum(truth, depth, step, number))
                for depth in depths
                for number, role in enumerate(ROLES)
            ],
        )


@pytest.fixture
def builder(tmp_path: Path) -> Builder:
    return Builder(tmp_path / "analyzer.duckdb")


@pytest.fixture
def observed(builder: Builder) -> Callable[..., Observations]:
    """`observed(steps, depths, truth=…)`: the observations of a run of these scans."""

    def make(
        steps: Sequence[int], depths: Sequence[int], *, truth: Truth = smooth, n_quantiles: int = 8
    ) -> Observations:
        for step in steps:
            number = builder.checkpoint(f"run/checkpoint-{step}", run="run", step=step)
            builder.scan(number, step, depths, truth)
        with reader(builder.db) as connection:
            (run,) = runs_of(connection)
            return observe_spectra(connection, run, n_quantiles=n_quantiles)

    return make

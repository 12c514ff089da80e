"""Matrices measured together, of which each must come out as if it were alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from analyzer.recorder import measuring
from analyzer.recorder.measuring import Gradient, Memory, Settings, measure, measure_next_step
from analyzer.recorder.targets import Target, find_targets

SHAPES = [(40, 60)] * 5 + [(60, 40)] * 3 + [(40, 60), (12, 70), (12, 70)]
SETTINGS = Settings(rank=6, sketch_width=64, side=None, seed=3)
STEPS = 9


@pytest.fixture
def targets() -> tuple[Target, ...]:
    layers = [nn.Linear(cols, rows, bias=False) for rows, cols in SHAPES]
    return find_targets(nn.ModuleDict({"layers": nn.ModuleList(layers)}), None, None)


def gradients(step: int) -> list[Tensor | None]:
    """A slow drift and noise; at some steps broken, zero or missing ones among the rest."""
    found: list[Tensor | None] = []
    for i, (rows, cols) in enumerate(SHAPES):
        rng = np.random.default_rng(i)
        weak, strong = rng.standard_normal((2, rows, cols))
        strong = np.outer(strong[:, 0], strong[0]) + 0.4 * np.outer(strong[:, 1], strong[1])
        noise = np.random.default_rng([i, step]).standard_normal((rows, cols))
        G = strong + 0.2 * np.cos(0.3 * step) * weak + 0.1 * noise
        found.append(torch.from_numpy(10.0 ** (i - 5) * G).float())
    if step in (1, 2):
        found[1] = found[6] = None
    if step == 4:
        found[0], found[5] = torch.zeros(40, 60), torch.zeros(60, 40)
    if step in (4, 5):
        for i in (3, 7, 9):
            found[i] = torch.full(SHAPES[i], torch.inf)
            found[i][1, 2:5] = torch.nan
    return found


def run(targets: tuple[Target, ...], alone: bool) -> list[dict]:
    """Entries and arrays of every step by name; each third step only follows a record."""
    memories = [Memory() for _ in targets]
    records = []
    for step in range(STEPS):
        given = [
            Gradient(target, G, memory)
            for target, G, memory in zip(targets, gradients(step), memories, strict=True)
            if G is not None
        ]
        record = {}
        for part in [[one] for one in given] if alone else [given]:
            if step % 3 == 2:
                measure_next_step(part, step=step, settings=SETTINGS, scale=2.0)
            else:
                record |= measure(
                    part, "train", step=step, n_tokens=7, settings=SETTINGS, scale=2.0
                )
        records.append(record)
    return records


@pytest.mark.parametrize("grouped", [measuring.GROUPED, 2 * 40 * 60, 1])
def test_the_same_as_one_by_one(targets, monkeypatch, grouped) -> None:
    monkeypatch.setattr(measuring, "GROUPED", grouped)
    flags, lags = set(), set()
    for step, (together, alone) in enumerate(
        zip(run(targets, False), run(targets, True), strict=True)
    ):
        assert together.keys() == alone.keys()
        for i, target in enumerate(targets):
            if target.name not in together:
                assert step % 3 == 2 or gradients(step)[i] is None
                continue
            (entry, arrays), (other, arrays_2) = together[target.name], alone[target.name]
            assert (entry.name, entry.rows, entry.cols) == (target.name, *SHAPES[i])
            assert (entry.flags, entry.method) == (other.flags, other.method)
            assert (entry.n_nan, entry.n_inf) == (other.n_nan, other.n_inf)
            assert (entry.fro, entry.n_tokens) == (other.fro, 7)
            flags |= set(entry.flags)
            if arrays is None:
                assert arrays_2 is None
                continue
            assert entry.epsilon == pytest.approx(other.epsilon, rel=1e-3, abs=1e-5 * entry.fro**2)
            np.testing.assert_allclose(arrays.sigma, arrays_2.sigma, rtol=1e-3)
            assert np.array_equal(arrays.sketch, arrays_2.sketch)
            assert [x.lag_steps for x in entry.staleness] == [x.lag_steps for x in other.staleness]
            for line, line_2 in zip(entry.staleness, other.staleness, strict=True):
                lags.add(line.lag_steps)
                assert line.captured == pytest.approx(line_2.captured, abs=1e-3)
                assert line.overlap == pytest.approx(line_2.overlap, abs=2e-2)
    assert flags >= {"non_finite", "zero_gradient"}
    assert {1, 2, 3} <= lags


def test_each_is_certified_and_aged_by_its_own_gradient(targets) -> None:
    """Against dense decompositions; the neighbours are 10¹⁰ times smaller or larger."""
    memories = [Memory() for _ in targets]
    before: dict[str, np.ndarray] = {}
    for step in (6, 7):
        given = list(zip(targets, gradients(step), memories, strict=True))
        measured = measure(
            [Gradient(*one) for one in given], "train", step=step, n_tokens=None, settings=SETTINGS
        )
        for target, gradient, _ in given:
            entry, arrays = measured[target.name]
            G = gradient.double().numpy()
            s = np.linalg.svd(G, compute_uv=False)
            assert entry.fro == pytest.approx(np.linalg.norm(G), rel=1e-12)
            assert (arrays.sigma**2 <= s[:6] ** 2 * (1 + 1e-5)).all()
            assert (s[:6] ** 2 <= arrays.sigma**2 + entry.epsilon).all()
            basis = arrays.basis.astype(float)
            if step == 7:
                (line,) = entry.staleness
                P = before[target.name]
                inside = P.T @ G if entry.side == "left" else G @ P
                captured = np.linalg.norm(inside) ** 2 / np.linalg.norm(G) ** 2
                assert line.captured == pytest.approx(captured, rel=1e-5)
                overlap = np.linalg.norm(P.T @ basis) ** 2 / 6
                assert line.overlap == pytest.approx(overlap, rel=1e-5)
            before[target.name] = basis

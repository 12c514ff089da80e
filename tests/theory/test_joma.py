"""JoMA growth: a worked case, the differential equations themselves, the bracket."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from theory.joma import dominates, entrywise_solution, row_growth, velocity

MU = np.array([[0.9, 0.2, 0.1], [0.25, 0.2, 0.15], [0.2, 0.1, 0.05]])


def test_worked_case() -> None:
    found = row_growth(MU, 2.0, 0.5)
    np.testing.assert_allclose(found.alpha, [0.80048742, 0.75596416, 0.75248440], atol=1e-8)
    assert found.lower[0] == pytest.approx(0.25437512, abs=1e-8)
    assert found.upper[0] == pytest.approx(0.92641666, abs=1e-8)


@pytest.mark.parametrize("seed", range(20))
def test_growth_solves_its_equation_inside_the_bracket(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mu, scale = rng.standard_normal((2, 4)), rng.uniform(1, 4)
    # before the upper end of the bracket leaves
    time = rng.uniform(0.1, 0.9) * scale * np.sqrt(np.pi) / (2 * 4 * np.abs(mu).max())
    found = row_growth(mu, scale, time)
    solved = solve_ivp(
        lambda _, a: np.exp(a[:, None] ** 2 * mu**2).sum(axis=1) / scale,
        (0.0, time), np.zeros(2), rtol=1e-11, atol=1e-13,
    )  # fmt: skip
    np.testing.assert_allclose(found.alpha, solved.y[:, -1], rtol=1e-7)
    assert (found.lower <= found.alpha).all() and (found.alpha <= found.upper).all()


def test_entrywise_solution_solves_its_equation() -> None:
    delta = np.array([[0.5, -0.3], [0.2, 0.1]])
    solved = solve_ivp(
        lambda _, v: velocity(v.reshape(2, 2), delta, 2.0, "entrywise").ravel(),
        (0.0, 1.5), np.zeros(4), rtol=1e-11, atol=1e-13,
    )  # fmt: skip
    np.testing.assert_allclose(
        entrywise_solution(delta, 2.0, 1.5).ravel(), solved.y[:, -1], rtol=1e-8
    )


def test_the_two_printed_laws_differ() -> None:
    V, delta = np.array([[0.5, -1.0]]), np.array([[1.0, 2.0]])
    growth = np.exp(V**2 / 2)
    np.testing.assert_allclose(velocity(V, delta, 2.0, "entrywise"), growth * delta / 2.0)
    np.testing.assert_allclose(velocity(V, delta, 2.0, "row_sum"), growth.sum() * delta / 2.0)


def test_a_row_dominates() -> None:
    assert dominates(MU, 0).ok and not dominates(MU, 1).ok


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValueError, match="0"):
        row_growth(MU, 0.0, 1.0)
    with pytest.raises(ValueError, match="-1"):
        row_growth(MU, 1.0, -1.0)

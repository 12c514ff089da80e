"""Allocations against worked digits, enumeration of all of them, and a linear program."""

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from theory.rank_allocation import allocate_exact, allocate_greedy, allocate_published
from theory.rank_choices import error_budget, rank_choices, rank_range, truncation_errors

SPECTRA = [(8, 4, 2, 1, 0.5), (4, 3, 2, 2, 1), (10, 1, 0.5, 0.25, 0.1)]
SHAPES = [(8, 5), (6, 5), (5, 5)]
LAYERS = [rank_choices(s, m, n, range(1, 5)) for s, (m, n) in zip(SPECTRA, SHAPES, strict=True)]
SLACK = 1 + 1e-11


def random_problem(seed, layers, ranks, alpha, *, one_shape=False):
    rng = np.random.default_rng(seed)
    spectra = [
        np.sort(rng.lognormal(0, rng.uniform(0.3, 2), 2 * ranks))[::-1] for _ in range(layers)
    ]
    shapes = rng.integers(2 * ranks, 6 * ranks, size=(layers, 2))
    shapes = shapes[:1].repeat(layers, 0) if one_shape else shapes
    choices = [
        rank_choices(s, m, n, range(1, ranks + 1))
        for s, (m, n) in zip(spectra, shapes, strict=True)
    ]
    return choices, error_budget(spectra, max(1, ranks // 2), alpha)


def every_total(layers, costs=None):
    """(sizes, errors) of all combinations."""
    costs = [c.errors for c in layers] if costs is None else costs
    sizes = np.array([sum(p) for p in itertools.product(*[c.sizes for c in layers])])
    return sizes, np.array([sum(p) for p in itertools.product(*costs)])


def assert_consistent(found, layers, budget):
    picks = [c.ranks.tolist().index(r) for c, r in zip(layers, found.ranks, strict=True)]
    assert found.size == sum(c.sizes[p] for c, p in zip(layers, picks, strict=True))
    error = sum(c.errors[p] for c, p in zip(layers, picks, strict=True))
    assert found.error == pytest.approx(error) and found.error <= budget * SLACK
    assert found.size_bound <= found.size and found.gap >= 0.0


def test_worked_case():
    budget = error_budget(SPECTRA, 2)
    assert budget == pytest.approx(5.85917868, abs=5e-9)
    tight = allocate_exact(LAYERS, budget)
    assert (tight.size, tight.ranks, tight.gap) == (68, (2, 2, 2), 0.0)
    loose = allocate_exact(LAYERS, error_budget(SPECTRA, 2, 1.25))
    assert (loose.size, loose.ranks) == (57, (2, 1, 2))
    assert loose.error == pytest.approx(7.10181937, abs=5e-9)
    # rounded-up buckets lose the uniform allocation
    assert allocate_published(LAYERS, budget).size == 69


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("alpha", [0.8, 1.0, 1.3])
def test_against_enumeration(seed, alpha):
    layers, budget = random_problem(seed, 4, 6, alpha)
    sizes, errors = every_total(layers)
    best = sizes[errors <= budget * (1 + 1e-12)].min()
    exact = allocate_exact(layers, budget)
    greedy = allocate_greedy(layers, budget)
    assert exact.size == best and exact.size_bound == best
    # of equal sizes, the smallest error
    assert exact.error == pytest.approx(errors[sizes == best].min())
    assert best <= greedy.size and greedy.size_bound <= best * SLACK
    for found in (exact, greedy):
        assert_consistent(found, layers, budget)

    buckets = 50
    costs = [np.ceil(c.errors / budget * buckets) for c in layers]
    sizes, units = every_total(layers, costs)
    if not np.any(units <= buckets):
        with pytest.raises(ValueError, match="rounded-up"):
            allocate_published(layers, budget, buckets)
        return
    published = allocate_published(layers, budget, buckets)
    assert published.size == sizes[units <= buckets].min()
    assert_consistent(published, layers, budget)


@given(
    seed=st.integers(0, 10**6),
    layers=st.integers(1, 12),
    ranks=st.integers(1, 16),
    alpha=st.floats(1.0, 3.0),
)
@settings(max_examples=60, deadline=None)
def test_greedy_is_never_over_budget_nor_below_the_bound(seed, layers, ranks, alpha):
    problem, budget = random_problem(seed, layers, ranks, alpha)
    assert_consistent(allocate_greedy(problem, budget), problem, budget)


@pytest.mark.parametrize("seed", range(8))
def test_bound_is_the_linear_program_s(seed):
    layers, budget = random_problem(seed, 6, 10, 1.0)
    owner = np.repeat(np.arange(6), 10)
    program = linprog(
        np.concatenate([c.sizes for c in layers]),
        A_ub=[np.concatenate([c.errors for c in layers])],
        b_ub=[budget],
        A_eq=(owner[None] == np.arange(6)[:, None]).astype(float),
        b_eq=np.ones(6),
    )
    assert allocate_greedy(layers, budget).size_bound == pytest.approx(program.fun, rel=1e-7)


def test_equal_spectra_and_all_that_fits():
    layers = [rank_choices([4, 3, 2, 1], 4, 4, range(1, 5))] * 3
    generous = allocate_greedy(layers, 1e3)
    assert generous.ranks == (1, 1, 1) and generous.gap == 0.0
    assert allocate_exact(layers, 0.0).ranks == (4, 4, 4)
    # a matrix of rank 2 needs no more than 2, whatever the budget
    flat = [rank_choices([4, 3, 0, 0], 4, 4, range(1, 5))]
    assert allocate_greedy(flat, 0.0).ranks == (2,)


def test_many_layers():
    layers, budget = random_problem(0, 224, 32, 1.0)
    started = time.perf_counter()
    greedy = allocate_greedy(layers, budget)
    assert time.perf_counter() - started < 5.0
    assert_consistent(greedy, layers, budget)
    assert greedy.gap < 0.01
    same, budget = random_problem(1, 100, 16, 1.0, one_shape=True)
    exact = allocate_exact(same, budget)
    assert exact.size <= allocate_greedy(same, budget).size


def test_truncation_errors():
    np.testing.assert_allclose(truncation_errors([1, 3, 2]), [np.sqrt(14), np.sqrt(5), 1, 0])
    np.testing.assert_allclose(truncation_errors([3e200, 4e200]), [5e200, 3e200, 0])
    np.testing.assert_array_equal(truncation_errors([0.0, 0.0]), [0, 0, 0])
    assert list(rank_range(4, 100)) == [2, 3, 4, 5, 6, 7, 8]
    assert list(rank_range(1, 100)) == [1, 2] and list(rank_range(3, 4)) == [1, 2, 3, 4]


def test_bad_input():
    with pytest.raises(ValueError, match=r"1..3 and not be empty, got \[4\]"):
        rank_choices([3, 2, 1], 5, 5, [4])
    with pytest.raises(ValueError, match=r"1..3 and not be empty, got \[0, 1\]"):
        rank_choices([3, 2, 1], 5, 5, [0, 1])
    with pytest.raises(ValueError, match="got 0"):
        error_budget(SPECTRA, 0)
    with pytest.raises(ValueError, match=r"1..5, got 6"):
        error_budget(SPECTRA, 6)
    with pytest.raises(ValueError, match="not finite"):
        truncation_errors([1.0, np.nan])
    for solve in (allocate_exact, allocate_greedy, allocate_published):
        with pytest.raises(ValueError, match=r"exceeds the budget 0\.5"):
            solve(LAYERS, 0.5)
        with pytest.raises(ValueError, match="at least one layer"):
            solve([], 1.0)

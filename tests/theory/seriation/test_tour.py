"""Moves on the array against the same moves on plain lists."""

import numpy as np
import pytest

from theory.seriation.tour import Tour


def edges(nodes):
    return {frozenset(pair) for pair in zip(nodes, [*nodes[1:], nodes[0]], strict=True)}


def is_consistent(tour):
    return np.array_equal(tour.nodes[tour.positions], np.arange(tour.size))


@pytest.mark.parametrize("seed", range(30))
def test_two_opt_changes_two_edges(seed):
    rng = np.random.default_rng(seed)
    tour = Tour(rng.permutation(11))
    x, c = map(int, rng.choice(11, 2, replace=False))
    turn = int(rng.choice([1, -1]))
    s, t = tour.at(x, turn), tour.at(c, turn)
    expected = edges(tour.nodes.tolist()) - {frozenset((x, s)), frozenset((c, t))}
    tour.two_opt(x, c, turn)
    if c not in (s,) and x != t:
        assert edges(tour.nodes.tolist()) == expected | {frozenset((x, c)), frozenset((s, t))}
    assert is_consistent(tour)


@pytest.mark.parametrize("seed", range(60))
def test_moved_segment_changes_three_edges(seed):
    rng = np.random.default_rng(seed)
    tour = Tour(rng.permutation(12))
    walk, turn = (int(sign) for sign in rng.choice([1, -1], 2))
    count, x = int(rng.integers(1, 4)), int(rng.integers(12))
    outside = [
        c
        for c in range(12)
        if not tour.within(c, x, walk, count) and not tour.within(tour.at(c, turn), x, walk, count)
    ]
    c = int(rng.choice(outside))
    e, p = tour.at(x, walk * (count - 1)), tour.at(x, -walk)
    q, beside = tour.at(e, walk), tour.at(c, turn)
    old = {frozenset(pair) for pair in ((p, x), (e, q), (c, beside))}
    new = {frozenset(pair) for pair in ((p, q), (x, c), (e, beside))}
    expected = (edges(tour.nodes.tolist()) - old) | new
    tour.move(x, c, walk, count, turn)
    assert edges(tour.nodes.tolist()) == expected and is_consistent(tour)


def test_cut_gives_the_smaller_end_first():
    assert Tour(np.array([2, 5, 1, 3, 0, 4])).cut(5).tolist() == [1, 3, 0, 4, 2]
    assert Tour(np.array([1, 5, 2, 4, 0, 3])).cut(5).tolist() == [1, 3, 0, 4, 2]

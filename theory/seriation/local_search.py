"""A short path through all points: nearest neighbour, then 2-opt and Or-opt on neighbour lists.

The path is a closed tour through the points and a dummy at distance 0 from all, cut at the dummy.
G. A. Croes, Oper. Res. 6, 1958 (2-opt); I. Or, thesis, Northwestern University, 1976. Each round
finds the best move of every point at once, then carries out, from the largest gain on, those that
still gain. Everything is deterministic: among equals the first counts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from theory.seriation.distances import Distances
from theory.seriation.tour import Tour

Indices = NDArray[np.intp]
Gains = NDArray[np.float64]

_LEAST = 1e-12  # smallest gain that counts, as a share of the largest distance seen
# Of a moved segment: the direction from x to e, its points, and that from c to c'.
_MOVES = tuple((walk, count, turn) for walk in (1, -1) for count in (1, 2, 3) for turn in (1, -1))


def search(distances: Distances, neighbours: Indices) -> Indices:
    """(n,) order; no 2-opt or Or-opt move along `neighbours` (n, k) shortens it.

    Points of a neighbour list come nearest first. The order is reversed if its first point has a
    larger number than its last. Raises ValueError for fewer than 5 points.
    """
    n = distances.n
    if n < 5:
        raise ValueError(f"{n} points are too few for a local search: at least 5")
    candidates = np.column_stack([neighbours, np.full(n, n)])
    tour = Tour(np.append(nearest_neighbour(distances, neighbours), n))
    near = distances.pairs(np.arange(n)[:, None], candidates)
    least = _LEAST * float(max(near.max(), distances.pairs(tour.nodes, tour.after()).max()))
    moves = _Moves(distances, candidates, near, tour, least)
    active = everyone = np.arange(n)
    while True:
        moved = np.concatenate([moves.two_opt(active), moves.or_opt(active)])
        if not moved.size:
            if active.size == n:
                return tour.cut(n)
            active = everyone
        else:  # only where edges changed, until a round over all points finds nothing
            active = np.unique(moved[moved < n])


def nearest_neighbour(distances: Distances, neighbours: Indices) -> Indices:
    """The order that starts at point 0 and goes to the nearest point not yet visited.

    The next point comes from the lists; only where all of a list are visited are the others
    compared.
    """
    n = distances.n
    order = np.zeros(n, dtype=np.intp)
    free = np.ones(n, dtype=bool)
    free[0] = False
    for step in range(1, n):
        here = order[step - 1]
        listed = neighbours[here]
        open_ = free[listed]
        first = int(open_.argmax())
        if open_[first]:
            order[step] = listed[first]
        else:
            left = np.flatnonzero(free)
            order[step] = left[np.argmin(distances.pairs(here, left))]
        free[order[step]] = False
    return order


class _Moves:
    """Moves on one tour. `candidates` (n, k+1) and their distances `near`."""

    def __init__(
        self, distances: Distances, candidates: Indices, near: Gains, tour: Tour, least: float
    ) -> None:
        self.distances, self.tour, self.least = distances, tour, least
        self.candidates, self.near = candidates, near

    def two_opt(self, points: Indices) -> Indices:
        """Replaces edges x-s and c-s' (s, s' behind them, or before) by x-c and s-s'.

        Returns the ends of the edges of all moves made.
        """
        tour, best = self.tour, _Best(points, self.least)
        c, near = self.candidates[points], self.near[points]
        edge = self._edges()
        for turn in (1, -1):
            s, s_of_c = tour.step(points, turn), tour.step(c, turn)
            gain = edge(points, turn)[:, None] - near + edge(c, turn)
            rows, columns = best.hopeful(gain)  # what s-s' costs is not yet off
            gain[rows, columns] -= self.distances.pairs(s[rows], s_of_c[rows, columns])
            best.offer(gain, c, turn)
        moved: list[int] = []
        for x, c, turn in best.descending():
            s, t = tour.at(x, turn), tour.at(c, turn)
            if self._gain(((x, s), (c, t)), ((x, c), (s, t))) > self.least:
                tour.two_opt(x, c, turn)
                moved += (x, s, c, t)
        return np.array(moved, dtype=np.intp)

    def or_opt(self, points: Indices) -> Indices:
        """Moves the segment from x to e, up to 3 points, between c and its neighbour c': x to c.

        Returns the ends of the edges of all moves made.
        """
        tour, best, pairs = self.tour, _Best(points, self.least), self.distances.pairs
        c, near = self.candidates[points], self.near[points]
        edge = self._edges()
        beside = {turn: tour.step(c, turn) for turn in (1, -1)}
        opened = {turn: edge(c, turn) - near for turn in (1, -1)}
        ahead = tour.positions[c] - tour.positions[points][:, None]
        for code, (walk, count, turn) in enumerate(_MOVES, start=1):
            p, e = tour.step(points, -walk), tour.step(points, walk * (count - 1))
            q = tour.step(e, walk)
            freed = edge(points, -walk) + edge(e, walk) - pairs(p, q)
            gain = opened[turn] + freed[:, None]
            offset = (ahead * walk) % tour.size
            gain[offset < count] = -np.inf
            # c' lies within the segment where c is p or q
            gain[offset == (tour.size - 1 if turn == walk else count)] = -np.inf
            rows, columns = best.hopeful(gain)
            gain[rows, columns] -= pairs(e[rows], beside[turn][rows, columns])
            best.offer(gain, c, code)
        moved: list[int] = []
        for x, c, code in best.descending():
            moved += self._move_segment(x, c, *_MOVES[code - 1])
        return np.array(moved, dtype=np.intp)

    def _move_segment(self, x: int, c: int, walk: int, count: int, turn: int) -> tuple[int, ...]:
        tour = self.tour
        e, p = tour.at(x, walk * (count - 1)), tour.at(x, -walk)
        q, beside = tour.at(e, walk), tour.at(c, turn)
        if tour.within(c, x, walk, count) or tour.within(beside, x, walk, count):
            return ()
        old, new = ((p, x), (e, q), (c, beside)), ((p, q), (x, c), (e, beside))
        if self._gain(old, new) <= self.least:
            return ()
        tour.move(x, c, walk, count, turn)
        return (p, x, e, q, c, beside)

    def _edges(self) -> Callable[[Indices, int], Gains]:
        """Distances of nodes from those beside them, as the tour is now."""
        tour = self.tour
        behind = self.distances.pairs(tour.nodes, tour.after())
        before = np.roll(behind, 1)
        return lambda nodes, turn: (behind if turn > 0 else before)[tour.positions[nodes]]

    def _gain(self, old: tuple[tuple[int, int], ...], new: tuple[tuple[int, int], ...]) -> float:
        ends = np.array(old + new)
        lengths = self.distances.pairs(ends[:, 0], ends[:, 1])
        return float(lengths[: len(old)].sum() - lengths[len(old) :].sum())


class _Best:
    """The best move offered so far to each of some points, of those that gain more than `least`."""

    def __init__(self, points: Indices, least: float) -> None:
        self.points = points
        self.gain = np.full(points.size, least)
        self.partner = np.zeros(points.size, dtype=np.intp)
        self.code = np.zeros(points.size, dtype=np.intp)

    def hopeful(self, gain: Gains) -> tuple[Indices, Indices]:
        """Where `gain` (points, candidates), of which costs are still to come off, could win."""
        rows, columns = np.nonzero(gain > self.gain[:, None])
        return rows, columns

    def offer(self, gain: Gains, partners: Indices, code: int) -> None:
        """`gain` (points, candidates) of moves that `code` names, which is not 0."""
        column = gain.argmax(axis=1)
        rows = np.arange(column.size)
        top = gain[rows, column]
        better = top > self.gain
        self.gain[better] = top[better]
        self.partner[better] = partners[rows, column][better]
        self.code[better] = code

    def descending(self) -> list[tuple[int, int, int]]:
        """Points, partners and codes of the moves, largest gain first."""
        found = np.flatnonzero(self.code)
        found = found[np.argsort(-self.gain[found], kind="stable")]
        chosen = (self.points[found], self.partner[found], self.code[found])
        return list(zip(*(part.tolist() for part in chosen), strict=True))

"""A closed tour as an array of nodes and the position of each."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.intp]


class Tour:
    """Nodes 0 … N-1 in tour order, `positions` its inverse."""

    def __init__(self, nodes: Indices) -> None:
        self.nodes = nodes
        self.size = nodes.size
        self.positions = np.empty_like(nodes)
        self.positions[nodes] = np.arange(nodes.size)

    def step(self, nodes: Indices, count: int) -> Indices:
        """The nodes `count` places behind (before, if negative) the given ones."""
        return self.nodes[(self.positions[nodes] + count) % self.size]

    def at(self, node: int, count: int) -> int:
        """`step` of one node."""
        return int(self.nodes[(self.positions[node] + count) % self.size])

    def after(self) -> Indices:
        """The successor of every node of `nodes`."""
        return np.roll(self.nodes, -1)

    def within(self, node: int, start: int, walk: int, count: int) -> bool:
        """Whether `node` is among the `count` nodes from `start` on in direction `walk`."""
        return (self.positions[node] - self.positions[start]) * walk % self.size < count

    def two_opt(self, x: int, c: int, turn: int) -> None:
        """Joins x with c and the nodes beside them in direction `turn`: reverses what lies between,
        or the rest of the tour where that is shorter."""
        first, last = (self.at(x, 1), c) if turn > 0 else (x, self.at(c, -1))
        i = int(self.positions[first])
        length = (int(self.positions[last]) - i) % self.size + 1
        if 2 * length > self.size:
            i, length = i + length, self.size - length
        self._write(i, self._read(i, length)[::-1])

    def move(self, x: int, c: int, walk: int, count: int, turn: int) -> None:
        """Moves the `count` nodes from x on in direction `walk` between c and the node beside it in
        direction `turn`, x next to c; shifts the shorter way."""
        i = int(self.positions[x])
        i = i if walk > 0 else i - count + 1  # where the segment starts
        segment = self._read(i, count)
        forward = segment if walk > 0 else segment[::-1]  # from x on
        placed = forward if turn > 0 else forward[::-1]  # c x … e c', or c' e … x c
        left = c if turn > 0 else self.at(c, -1)  # stands before the segment afterwards
        length = (int(self.positions[left]) - (i + count)) % self.size + 1
        rest = self.size - count - length
        if length <= rest:
            self._write(i, np.concatenate([self._read(i + count, length), placed]))
        else:
            self._write(i - rest, np.concatenate([placed, self._read(i - rest, rest)]))

    def cut(self, dummy: int) -> Indices:
        """The path from behind `dummy` to before it, smaller end first."""
        path = np.roll(self.nodes, -int(self.positions[dummy]) - 1)[:-1]
        return path[::-1].copy() if path[0] > path[-1] else path

    def _read(self, start: int, length: int) -> Indices:
        start %= self.size
        if start + length <= self.size:
            return self.nodes[start : start + length].copy()
        return self.nodes[np.arange(start, start + length) % self.size]

    def _write(self, start: int, nodes: Indices) -> None:
        start %= self.size
        if start + nodes.size <= self.size:
            self.nodes[start : start + nodes.size] = nodes
            self.positions[nodes] = np.arange(start, start + nodes.size)
        else:
            at = np.arange(start, start + nodes.size) % self.size
            self.nodes[at] = nodes
            self.positions[nodes] = at

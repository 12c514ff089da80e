"""CountSketch of a matrix: cosines between checkpoints without keeping the matrices.

M. Charikar, K. Chen, M. Farach-Colton, "Finding frequent items in data streams", 2002. Every entry
of vec(G) is added, with a random sign, to a random one of w buckets; inner products of two
sketches are unbiased, and the cosine c of two matrices has an rms error of about (1 − c²)/√w.

Hashing every entry by itself costs a random access each. Here rows of 16 neighbouring entries are
hashed together, which makes w×16 sums, and then column c of these is rotated by a random distance
and given a random sign. Two entries still share a bucket with probability 1/w, and the product of
their signs still has mean 0 when they do, so that the estimate stays unbiased; what grows is the
variance for matrices whose neighbouring entries have equal signs, at most by a factor of about 2.
The hash comes from the raw Philox stream, which is the same on every machine and in every release
of numpy: sketches made on different days can be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from analyzer.errors import UsageError

ROW = 16  # entries hashed together: one cache line of float32


@dataclass(frozen=True, slots=True)
class _Hash:
    """Where each row of 16 entries goes, sorted by bucket, and how the columns are folded."""

    rows: torch.Tensor  # (T,) int32, the rows in the order of their buckets
    starts: torch.Tensor  # (w,) int32, where each bucket begins in `rows`
    signs: torch.Tensor  # (T,) float32, sign of each entry of `rows`
    fold: torch.Tensor  # (w·16,) int64, flat index into the (w, 16) bucket sums
    fold_signs: torch.Tensor  # (16,) float32


def count_sketch(G: torch.Tensor, width: int = 1024, seed: int = 0) -> torch.Tensor:
    """CountSketch (width,) float32 of the entries of G, read row by row, on the device of G.

    Sketches can be compared if number of entries, `width` and `seed` agree; `seed` may be any
    integer in [0, 2⁶⁴). The hash is kept, at half a byte an entry, for the last shapes used.
    NaN and infinities propagate. Raises UsageError for a width below 16.
    """
    if width < ROW:
        raise UsageError(f"a sketch needs a width of at least {ROW}, got {width}")
    entries = G.detach().reshape(-1).to(torch.float32)
    if missing := -entries.numel() % ROW:
        entries = torch.nn.functional.pad(entries, (0, missing))
    hashed = _hash(G.numel(), width, seed, G.device)
    # A sum of signed rows for each bucket, in a fixed order: the same bits in every run.
    sums = torch.nn.functional.embedding_bag(
        hashed.rows,
        entries.view(-1, ROW),
        hashed.starts,
        mode="sum",
        per_sample_weights=hashed.signs,
    )
    # index_select: half the time of take.
    folded = sums.view(-1).index_select(0, hashed.fold).view(width, ROW)
    return folded @ hashed.fold_signs


def sketch_cosine(a: torch.Tensor, b: torch.Tensor) -> float | None:
    """Cosine of two matrices from their sketches (w,); None if one of them is zero.

    Within 2/√w of the truth in about 95 % of pairs, and better the closer it is to ±1.
    Raises UsageError for sketches of different width.
    """
    if a.shape != b.shape:
        raise UsageError(f"sketches of width {a.numel()} and {b.numel()} cannot be compared")
    a, b = (x.to("cpu", torch.float64) for x in (a, b))
    norms = float(torch.linalg.vector_norm(a)) * float(torch.linalg.vector_norm(b))
    return float(a @ b) / norms if norms else None


@lru_cache(maxsize=32)
def _hash(entries: int, width: int, seed: int, device: torch.device) -> _Hash:
    count = -(-entries // ROW)
    stream = np.random.Philox(key=np.array([seed, entries], dtype=np.uint64))
    distance = np.argsort(stream.random_raw(width), kind="stable")[:ROW]  # all different
    column_signs = _signs(stream.random_raw(ROW))
    raw = stream.random_raw(count)
    bucket = (raw >> np.uint64(1)) % np.uint64(width)
    order = np.argsort(bucket, kind="stable")
    starts = np.searchsorted(bucket[order], np.arange(width, dtype=np.uint64))
    source = (np.arange(width)[:, None] - distance) % width
    return _Hash(
        rows=torch.from_numpy(order.astype(np.int32)).to(device),
        starts=torch.from_numpy(starts.astype(np.int32)).to(device),
        signs=torch.from_numpy(_signs(raw)[order]).to(device),
        fold=torch.from_numpy((source * ROW + np.arange(ROW)).reshape(-1)).to(device),
        fold_signs=torch.from_numpy(column_signs).to(device),
    )


def _signs(raw: np.ndarray) -> np.ndarray:
    """±1 by the lowest bit."""
    return np.where(raw & np.uint64(1), np.float32(1), np.float32(-1))

"""Queries, keys and values in one matrix: which rows are whose, for the layouts that are known."""

from __future__ import annotations

from collections.abc import Callable

Slices = tuple[slice, ...]
# rows, heads, key heads → rows of the queries, keys and values of each head
FusedLayout = Callable[[int, int, int], tuple[Slices, Slices, Slices]]


class LayoutRefused(ValueError):
    """The heads of an attention module cannot be told apart for certain; says why."""


def consecutive(rows: int, heads: int, kv_heads: int) -> tuple[Slices, Slices, Slices]:
    """All queries, then all keys, then all values: GPT-2, Phi-3, MPT, multi-query Falcon."""
    width = head_width(rows, heads + 2 * kv_heads)
    return (
        split(heads, width),
        split(kv_heads, width, start=heads * width),
        split(kv_heads, width, start=(heads + kv_heads) * width),
    )


def grouped(rows: int, heads: int, kv_heads: int) -> tuple[Slices, Slices, Slices]:
    """Each key head's queries, key and value, (H_kv, H/H_kv + 2, d_h): Falcon; with H_kv = H the
    (H, 3, d_h) of GPT-NeoX and BLOOM."""
    if heads % kv_heads:
        raise LayoutRefused(f"{heads} heads cannot share {kv_heads} key heads")
    group = heads // kv_heads
    width = head_width(rows, heads + 2 * kv_heads)

    def at(key_head: int, slot: int) -> slice:
        start = (key_head * (group + 2) + slot) * width
        return slice(start, start + width)

    return (
        tuple(at(head // group, head % group) for head in range(heads)),
        tuple(at(key_head, group) for key_head in range(kv_heads)),
        tuple(at(key_head, group + 1) for key_head in range(kv_heads)),
    )


def codegen(rows: int, heads: int, kv_heads: int) -> tuple[Slices, Slices, Slices]:
    """CodeGen: four parts, each with its quarter of the heads: queries, values, keys."""
    if heads % 4 or kv_heads != heads:
        raise LayoutRefused(f"{heads} heads do not fall into CodeGen's four parts")
    width = head_width(rows, 3 * heads)
    quarter = heads // 4

    def thirds(third: int) -> Slices:
        starts = (
            ((head // quarter) * 3 + third) * quarter * width + (head % quarter) * width
            for head in range(heads)
        )
        return tuple(slice(start, start + width) for start in starts)

    return thirds(0), thirds(2), thirds(1)


def split(heads: int, width: int, start: int = 0) -> Slices:
    """One head after the other."""
    return tuple(slice(start + h * width, start + (h + 1) * width) for h in range(heads))


def head_width(rows: int, parts: int) -> int:
    """Raises LayoutRefused if the rows cannot be divided among the heads."""
    width, rest = divmod(rows, parts)
    if rest or not width:
        raise LayoutRefused(f"{rows} rows cannot be divided among {parts} heads")
    return width

"""JSON that somebody else wrote: bounded, without duplicate keys, and no exception but one."""

from __future__ import annotations

import json
from typing import Any

MAX_ITEMS = 2_000_000
"""Most commas in a document: bounds the memory of what is parsed to a few hundred MB."""


def parse_object(text: bytes) -> dict[str, Any]:
    """The object a JSON document holds. Raises ValueError, whose text says what is wrong."""
    if text.count(b",") > MAX_ITEMS:
        raise ValueError(f"more than {MAX_ITEMS} items")
    try:
        parsed = json.loads(text.decode(), object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(parsed, dict):
        raise ValueError("not an object")
    return parsed


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise ValueError(f"the key {twice!r} occurs twice")
    return found

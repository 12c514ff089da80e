"""Per-module rank and alpha, and the few settings read from an adapter's configuration.

PEFT takes, of `rank_pattern` and `alpha_pattern`, the first key K for which
``re.match(r"(.*\\.)?(K)$", module path)`` succeeds, and the global value otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from analyzer.errors import AdapterError

_LITERAL = re.compile(r"[\w.-]*")
_NESTED_QUANTIFIER = re.compile(r"\([^()]*[+*{][^()]*\)[+*{?]")
_QUANTIFIER = re.compile(r"[+*{]")
# A pattern is somebody else's: backtracking over a path of 200 characters must stay short.
_MAX_QUANTIFIERS = 4


def path_matches(pattern: str, path: str) -> bool:
    """Whether PEFT's pattern matches `path` or its tail after a dot. Raises AdapterError."""
    if _LITERAL.fullmatch(pattern) and "." not in pattern:
        return path.rpartition(".")[2] == pattern
    return _safe(rf"(.*\.)?({pattern})$", pattern).match(path) is not None


def fully_matches(pattern: str, path: str) -> bool:
    """Whether the whole of `path` matches `pattern`. Raises AdapterError."""
    return _safe(pattern, pattern).fullmatch(path) is not None


def for_module(
    config: Mapping[str, Any], patterns: str, path: str, default: float | None
) -> float | None:
    """The value for the module at `path` from the mapping `config[patterns]`, else `default`."""
    mapping = config.get(patterns) or {}
    if not isinstance(mapping, Mapping):
        raise AdapterError(f"{patterns} is not a mapping")
    for pattern, value in mapping.items():
        if path_matches(str(pattern), path):
            return finite(value, f"{patterns}[{pattern!r}]")
    return default


def number(config: Mapping[str, Any], key: str, default: float | None = None) -> float | None:
    """A finite number from the configuration; `default` where it is absent or null."""
    value = config.get(key)
    return default if value is None else finite(value, key)


def finite(value: object, key: str) -> float:
    """`value` as a float. Raises AdapterError if it is no finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise AdapterError(f"{key} = {str(value)[:60]} in adapter_config.json is not a number")
    return float(value)


def _safe(regex: str, pattern: str) -> re.Pattern[str]:
    too_slow = len(_QUANTIFIER.findall(pattern)) > _MAX_QUANTIFIERS
    if len(pattern) > 500 or too_slow or _NESTED_QUANTIFIER.search(pattern):
        raise AdapterError(
            f"pattern {pattern[:60]!r} could take for ever to match",
            hint="write it with at most four quantifiers and none inside another",
        )
    try:
        return re.compile(regex)
    except re.error as error:
        raise AdapterError(f"pattern {pattern[:60]!r} is no regular expression: {error}") from None

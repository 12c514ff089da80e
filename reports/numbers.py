"""Numbers as they are printed: three significant digits."""

from __future__ import annotations

import math
from typing import Any

MISSING = "–"


def text(value: Any) -> str:
    """Words as they are; – for nothing."""
    return MISSING if value is None else str(value)


def without_weight(value: Any) -> str:
    """A tensor's name without the `.weight` that nearly all of them end with."""
    return text(value).removesuffix(".weight")


def whole(value: Any) -> str:
    """12,345; – for nothing."""
    return MISSING if value is None else f"{int(value):,}"


def number(value: Any, digits: int = 3) -> str:
    """`digits` significant digits without an exponent between 1e-3 and 1e6; – for nothing."""
    if value is None or not math.isfinite(value):
        return MISSING
    if value == 0.0:
        return "0"
    magnitude = math.floor(math.log10(abs(value)))
    if not -4 < magnitude < 6:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{round(value, digits - 1 - magnitude):,.{max(0, digits - 1 - magnitude)}f}"


def percent(value: Any) -> str:
    """0.8731 → 87.3 %."""
    return MISSING if value is None else f"{100.0 * value:.3g} %"


def yes_no(value: Any) -> str:
    return MISSING if value is None else ("yes" if value else "no")


def plural(count: int, noun: str, many: str | None = None) -> str:
    """`1 matrix`, `3 matrices`."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"

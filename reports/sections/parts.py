"""What several sections need: pictures that have something to show, words for medians."""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from analyzer.views.view import View
from reports.document import Picture
from reports.numbers import MISSING, number

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def pictures(
    view: View | None, draw: Callable[[View], Figure], *about: str, seen: str = ""
) -> tuple[Picture, ...]:
    """The view as a figure, named after it and what it is `about`; nothing for an empty view."""
    if view is None or view.is_empty:
        return ()
    return (Picture(slug(view.name, *about), view, draw, seen),)


def slug(*parts: str) -> str:
    """A file name of letters, digits, - and _ that is the same for the same parts."""
    return "-".join(re.sub(r"[^a-z0-9_]+", "-", part.lower()).strip("-") for part in parts)


def present(values: Sequence[Any]) -> list[Any]:
    """Those that are not NULL."""
    return [value for value in values if value is not None]


def median(values: Sequence[Any], show: Callable[[Any], str] = number) -> str:
    """The median of what is not NULL, printed."""
    known = present(values)
    return show(statistics.median(known)) if known else MISSING


def spread(values: Sequence[Any]) -> str:
    """`0.12 (0.05 to 0.31)`: median, least and largest of what is not NULL."""
    known = present(values)
    if not known:
        return MISSING
    return f"{median(known)} ({number(min(known))} to {number(max(known))})"

"""Figures made of handmade views, and what holds for every one of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import pyarrow as pa
import pytest

from analyzer.views.view import View
from reports import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HOSTILE = "$x_{ <img src=x onerror=alert(1)> \\frac"


@pytest.fixture
def paper() -> Iterator[None]:
    with style.paper():
        yield


@pytest.fixture
def drawn() -> Callable[..., Figure]:
    """`drawn(figure, rows, columns, epsilon=…)`: of a view with these rows and parameters.

    `columns` are those of a view without rows. Title and method of the view are hostile, and the
    figure is written once, which fails for a formula that cannot be parsed.
    """

    def draw(
        figure: Callable[[View], Figure],
        rows: list[dict[str, Any]],
        columns: tuple[str, ...] = (),
        **parameters: Any,
    ) -> Figure:
        nothing = pa.table({name: pa.array([], pa.float64()) for name in columns})
        table = pa.Table.from_pylist(rows) if rows else nothing
        with style.paper():
            made = figure(View("v", HOSTILE, table, HOSTILE, parameters=parameters))
        assert style.to_bytes(made, "pdf").startswith(b"%PDF")
        return made

    return draw


@pytest.fixture
def check_figure(paper: None) -> Callable[[Callable[[View], Figure], View], None]:
    """The same file every time, in which names are text; and without rows still a figure."""

    def check(draw: Callable[[View], Figure], given: View) -> None:
        pdf = style.to_bytes(draw(given), "pdf")
        assert pdf.startswith(b"%PDF") and pdf == style.to_bytes(draw(given), "pdf")
        drawn = ElementTree.fromstring(style.to_bytes(draw(given), "svg"))
        assert not [e for e in drawn.iter() if "img" in e.tag or "onerror" in e.attrib]
        rows = given.table.slice(0, 0)
        empty = View(given.name, given.title, rows, "", "", dict(given.parameters))
        assert style.to_bytes(draw(empty), "svg")

    return check

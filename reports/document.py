"""What a report consists of. All text is plain: only the writers know Typst and LaTeX."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from analyzer.views.view import View
from reports.numbers import MISSING
from reports.style import Format

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, slots=True)
class Paragraph:
    """Sentences, and the keys of `references.bib` they rest on."""

    text: str
    cites: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Equation:
    """One display equation in both notations, and a sentence that names its symbols."""

    typst: str
    latex: str
    symbols: str


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a printed table: where it comes from, its heading and how numbers look."""

    name: str
    heading: str
    show: Callable[[Any], str]
    is_number: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """Some columns of a view, printed; the CSV beside the report holds all of it."""

    view: View
    columns: tuple[Column, ...]
    caption: str

    @property
    def name(self) -> str:
        return self.view.name

    @property
    def filled(self) -> tuple[Column, ...]:
        """The columns in which something is printed."""
        return tuple(
            column
            for column in self.columns
            if any(column.show(value) != MISSING for value in self.view.column(column.name))
        )

    def cells(self) -> list[list[str]]:
        """The printed rows of the filled columns."""
        printed = [[c.show(value) for value in self.view.column(c.name)] for c in self.filled]
        return [list(row) for row in zip(*printed, strict=True)]


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure: its data, the function that draws them, and what is to be seen.

    `name` is the file's; a view drawn for two checkpoints is two pictures.
    """

    name: str
    view: View
    draw: Callable[[View], Figure]
    seen: str = ""

    @property
    def caption(self) -> str:
        """What is seen, how it was computed, and with which parameters."""
        facts = self.view.facts()
        parts = (self.seen, self.view.method, f"({facts})" if facts else "")
        return " ".join(part for part in parts if part)

    @property
    def alt(self) -> str:
        return f"{self.view.title}. {self.caption}"


@dataclass(frozen=True, slots=True)
class Drawn:
    """A picture as files, and the width in inches at which its letters are 8 pt."""

    width: float
    files: Mapping[Format, bytes]


@dataclass(frozen=True, slots=True)
class Number:
    """A headline number: `name` becomes a LaTeX command, `value` is printed text."""

    name: str
    value: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Section:
    """One analysis: findings for the summary, then text, equations, tables and figures."""

    key: str
    title: str
    findings: tuple[str, ...] = ()
    paragraphs: tuple[Paragraph, ...] = ()
    equations: tuple[Equation, ...] = ()
    tables: tuple[Table, ...] = ()
    pictures: tuple[Picture, ...] = ()
    numbers: tuple[Number, ...] = ()
    metrics: tuple[str, ...] = ()  # columns for the glossary


@dataclass(frozen=True, slots=True)
class Report:
    """A whole report. `date` is that of the data (ISO, UTC), so that it prints the same again."""

    title: str
    date: str
    sections: tuple[Section, ...]
    glossary: tuple[tuple[str, str], ...]
    provenance: dict[str, str] = field(default_factory=dict)

    @property
    def findings(self) -> list[str]:
        return [finding for section in self.sections for finding in section.findings]

    @property
    def cites(self) -> list[str]:
        """Keys of the references, in the order of their first use."""
        found = [c for s in self.sections for p in s.paragraphs for c in p.cites]
        return list(dict.fromkeys(found))

"""A report as PDF/A-2b: Typst typesets the document's data, matplotlib has drawn the figures."""

from __future__ import annotations

import datetime
import json
import shutil
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from analyzer.errors import MissingExtra, WorkbenchError
from reports.document import Drawn, Picture, Report, Section, Table

MOST_ROWS = 500  # of a printed table; all rows are in the CSV


def write_pdf(report: Report, figures: Mapping[str, Drawn], output: Path) -> None:
    """Typeset `report` with `figures` (SVG, by name) into `output`; the same input, the same bytes.

    Raises MissingExtra without the `typst` package, WorkbenchError when the file cannot be written.
    """
    compile = compiler()
    with TemporaryDirectory(prefix="analyzer-report-") as name:
        folder = Path(name)
        for resource in ("template.typ", "references.bib"):
            (folder / resource).write_bytes(files("reports").joinpath(resource).read_bytes())
        for stem, drawn in figures.items():
            (folder / f"{stem}.svg").write_bytes(drawn.files["svg"])
        widths = {stem: drawn.width for stem, drawn in figures.items()}
        data = json.dumps(as_data(report, widths), ensure_ascii=False)
        (folder / "document.json").write_text(data, encoding="utf-8")
        made = folder / "report.pdf"
        compile(
            folder / "template.typ",
            output=made,
            root=folder,
            ignore_system_fonts=True,
            pdf_standards="a-2b",
            timestamp=datetime.datetime.fromisoformat(report.date),
        )
        try:
            part = output.with_name(f".{output.name}.part")  # a report is there whole or not at all
            shutil.copyfile(made, part)
            part.replace(output)
        except OSError as error:
            raise WorkbenchError(
                f"cannot be written: {error.strerror}", path=output, hint="name another file"
            ) from None


def as_data(report: Report, widths: Mapping[str, float]) -> dict[str, Any]:
    """The report as the template reads it; `widths` in inches of the figures by name."""
    return {
        "title": report.title,
        "subtitle": f"Data of {report.date[:10]} (UTC)",
        "date": report.date,
        "findings": report.findings,
        "sections": [_section(section, widths) for section in report.sections],
        "glossary": [list(entry) for entry in report.glossary],
        "cited": bool(report.cites),
        "provenance": [[name, value] for name, value in report.provenance.items()],
    }


def _section(section: Section, widths: Mapping[str, float]) -> dict[str, Any]:
    return {
        "title": section.title,
        "paragraphs": [{"text": p.text, "cites": list(p.cites)} for p in section.paragraphs],
        "equations": [{"typst": e.typst, "symbols": e.symbols} for e in section.equations],
        "tables": [_table(table) for table in section.tables],
        "pictures": [_picture(p, widths[p.name]) for p in section.pictures],
    }


def _table(table: Table) -> dict[str, Any]:
    rows = table.cells()
    return {
        "title": table.view.title,
        "caption": table.caption,
        "headings": [column.heading for column in table.filled],
        "numeric": [column.is_number for column in table.filled],
        "rows": rows[:MOST_ROWS],
        "omitted": max(0, len(rows) - MOST_ROWS),
        "csv": f"data/{table.name}.csv (--latex)",
    }


def _picture(picture: Picture, width: float) -> dict[str, Any]:
    return {
        "file": f"{picture.name}.svg",
        "title": picture.view.title,
        "caption": picture.caption,
        "alt": picture.alt,
        "width": width,
    }


def compiler() -> Callable[..., Any]:
    """Typst's compile function. Raises MissingExtra without the package."""
    try:
        from typst import compile
    except ImportError:
        raise MissingExtra("the report needs the package typst", hint="pip install typst") from None
    return compile

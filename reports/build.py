"""`analyzer report`: a store becomes a PDF, and a folder of LaTeX to paste from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from analyzer.errors import UsageError
from analyzer.store.reading import Store
from reports import style
from reports.assemble import assemble
from reports.document import Drawn, Report
from reports.latex import check_folder, write_latex
from reports.pdf import compiler, write_pdf
from reports.scope import Scope

Progress = Callable[[int, int], None]  # (figures drawn, of how many)


def build(
    store: Store,
    scope: Scope,
    output: Path,
    *,
    latex: Path | None = None,
    title: str,
    include: Sequence[str] = (),
    progress: Progress | None = None,
) -> Report:
    """Write the report of `scope` to `output`, and its LaTeX tree into the folder `latex`.

    Two runs on the same store write the same bytes. Raises UsageError, MissingExtra,
    WorkbenchError where nothing can be written; an existing report is replaced only by a whole one.
    """
    _check_target(output)
    if latex is not None:
        check_folder(latex)
    compiler()
    store = dataclasses.replace(store, threads=1)  # sums in one order: the same digits every time
    report = assemble(store, scope, title, include)
    kinds: tuple[style.Format, ...] = ("svg", "pdf") if latex is not None else ("svg",)
    drawn = draw(report, kinds, progress)
    write_pdf(report, drawn, output)
    if latex is not None:
        write_latex(report, drawn, latex)
    return report


def draw(
    report: Report, kinds: Sequence[style.Format], progress: Progress | None = None
) -> dict[str, Drawn]:
    """Every picture of the report in the formats asked for, by name."""
    pictures = [picture for section in report.sections for picture in section.pictures]
    drawn: dict[str, Drawn] = {}
    for number, picture in enumerate(pictures):
        with style.paper():
            figure = picture.draw(picture.view)
        files: dict[style.Format, bytes] = {}
        for kind in kinds:
            files[kind] = style.to_bytes(figure, kind)
            figure.set_layout_engine("none")  # laid out once is laid out for every format
        drawn[picture.name] = Drawn(figure.get_figwidth(), files)
        if progress is not None:
            progress(number + 1, len(pictures))
    return drawn


def _check_target(output: Path) -> None:
    if output.is_dir():
        raise UsageError("is a folder", path=output, hint="name the PDF file with -o")
    if not output.parent.is_dir():
        raise UsageError("its folder does not exist", path=output, hint="create it first")

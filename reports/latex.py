r"""A report as LaTeX to paste: `\input{tables/…}`, `\includegraphics{figures/…}`, macros."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import Path

from analyzer.errors import UsageError, WorkbenchError
from reports.document import Drawn, Picture, Report, Section, Table
from reports.escape import latex

MARKER = "provenance.json"  # in a folder that a report made
ONE_PAGE = 40  # rows: a longer table breaks across pages
MOST_ROWS = 500

_MAIN = r"""\documentclass[10pt,a4paper]{article}
\usepackage[utf8]{inputenc}
\usepackage[T1]{fontenc}
\usepackage{lmodern,textcomp}
\usepackage[margin=1.9cm]{geometry}
\usepackage{amsmath,booktabs,longtable,graphicx}
\input{macros}
\title{%(title)s}
\author{}
\date{%(date)s}
\begin{document}
\maketitle
%(body)s
\bibliographystyle{plain}
\bibliography{references}
\end{document}
"""


def write_latex(report: Report, figures: Mapping[str, Drawn], folder: Path) -> None:
    """Write the tree of `report` with `figures` (PDF, by name) into `folder`.

    What an earlier report left there is replaced. Raises UsageError as `check_folder`,
    WorkbenchError where nothing can be written.
    """
    check_folder(folder)
    try:
        for part in ("tables", "figures", "data"):
            shutil.rmtree(folder / part, ignore_errors=True)
            (folder / part).mkdir(parents=True)
        for name, content in tree(report, figures):
            (folder / name).write_bytes(content)
    except OSError as error:
        raise WorkbenchError(
            f"cannot be written: {error.strerror}", path=folder, hint="name another folder"
        ) from None


def check_folder(folder: Path) -> None:
    """Raises UsageError for a file, and for a folder that holds something else than a report."""
    if folder.exists() and not folder.is_dir():
        raise UsageError("is a file", path=folder, hint="name a folder for --latex")
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise UsageError(
            "the folder holds something else", path=folder, hint="name an empty or new folder"
        )


def tree(report: Report, figures: Mapping[str, Drawn]) -> Iterator[tuple[str, bytes]]:
    """Every file of the tree, the one that marks the folder as ours first: name and content."""
    yield MARKER, (json.dumps(report.provenance, indent=1, ensure_ascii=False) + "\n").encode()
    for section in report.sections:
        for table in section.tables:
            yield f"tables/{table.name}.tex", table_tex(table).encode()
            yield f"data/{table.name}.csv", table.view.csv()
        for picture in section.pictures:
            yield f"figures/{picture.name}.pdf", figures[picture.name].files["pdf"]
            yield f"data/{picture.name}.csv", picture.view.csv()
    yield "macros.tex", macros_tex(report).encode()
    yield "references.bib", files("reports").joinpath("references.bib").read_bytes()
    yield "main.tex", main_tex(report, figures).encode()


def table_tex(table: Table) -> str:
    """A booktabs table with caption and label; `longtable` where it may need several pages."""
    kinds = "".join("r" if column.is_number else "l" for column in table.filled)
    head = " & ".join(latex(column.heading) for column in table.filled) + r" \\"
    rows = [" & ".join(map(latex, row)) + r" \\" for row in table.cells()[:MOST_ROWS]]
    caption = rf"\caption{{{_caption(table.view.title, table.caption)}}}\label{{tab:{table.name}}}"
    if len(rows) > ONE_PAGE:
        lines = [
            r"{\scriptsize\setlength{\tabcolsep}{3pt}", rf"\begin{{longtable}}{{{kinds}}}",
            caption + r"\\", r"\toprule", head, r"\midrule", r"\endfirsthead",
            r"\toprule", head, r"\midrule", r"\endhead", r"\bottomrule", r"\endfoot",
            *rows, r"\end{longtable}}",
        ]  # fmt: skip
    else:
        lines = [
            r"\begin{table}[htbp]", r"\centering\scriptsize\setlength{\tabcolsep}{3pt}", caption,
            rf"\begin{{tabular}}{{{kinds}}}", r"\toprule", head, r"\midrule", *rows,
            r"\bottomrule", r"\end{tabular}", r"\end{table}",
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def macros_tex(report: Report) -> str:
    r"""One `\newcommand` a headline number, with its meaning as a comment."""
    lines = []
    for section in report.sections:
        for number in section.numbers:
            lines.append(f"% {latex(number.meaning)}")
            lines.append(rf"\newcommand{{\{number.name}}}{{{latex(number.value)}}}")
    return "\n".join(lines) + "\n"


def main_tex(report: Report, figures: Mapping[str, Drawn]) -> str:
    """A document that shows everything in the tree."""
    body = [r"\begin{itemize}", *(rf"\item {latex(f)}" for f in report.findings), r"\end{itemize}"]
    for section in report.sections:
        body += _section(section, figures)
    return _MAIN % {
        "title": latex(report.title),
        "date": report.date[:10],
        "body": "\n".join(body),
    }


def _section(section: Section, figures: Mapping[str, Drawn]) -> Iterator[str]:
    yield rf"\section{{{latex(section.title)}}}"
    for paragraph in section.paragraphs:
        cites = rf"~\cite{{{','.join(paragraph.cites)}}}" if paragraph.cites else ""
        yield latex(paragraph.text) + cites + "\n"
    for equation in section.equations:
        yield rf"\begin{{equation}}{equation.latex}\end{{equation}}"
        yield latex(equation.symbols) + "\n"
    for table in section.tables:
        yield rf"\input{{tables/{table.name}}}"
    for picture in section.pictures:
        yield _figure(picture, figures[picture.name].width)
    yield r"\clearpage"


def _figure(picture: Picture, width: float) -> str:
    return "\n".join(
        (
            r"\begin{figure}[htbp]\centering",
            rf"\includegraphics[width={width:g}in]{{figures/{picture.name}.pdf}}",
            rf"\caption{{{_caption(picture.view.title, picture.caption)}}}"
            rf"\label{{fig:{picture.name}}}",
            r"\end{figure}",
        )
    )


def _caption(title: str, text: str) -> str:
    return rf"\textbf{{{latex(title)}.}} {latex(text)}"

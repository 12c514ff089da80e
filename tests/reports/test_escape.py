"""Names as LaTeX: what pdflatex sets is what was written."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from reports.escape import latex

HOSTILE = [
    r"\input{/etc/passwd}", "100% & more # of $x^2_3$ ~ {a}", "<img src=x onerror=alert(1)>",
    "a_b/c-d.e|f", "quote\"s 'and' `ticks`", "λ ≥ σ² ± ‖ΔW‖ θ* ε", "中文 👍", "tab\tand\nline", "%",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_stays_active(text: str) -> None:
    written = latex(text)
    assert written.isascii() and "\n" not in written
    commands = set(re.findall(r"\\[a-zA-Z]+", written))
    assert "\\input" not in commands
    assert not re.search(r"(?<!\\)[%&#$]", written)


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_pdflatex_prints_the_names(tmp_path: Path) -> None:
    body = "\n\n".join(latex(text) for text in HOSTILE)
    source = (
        r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{lmodern,textcomp,amsmath}"
        rf"\begin{{document}}{body}\end{{document}}"
    )
    (tmp_path / "names.tex").write_text(source)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "names.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    if shutil.which("pdftotext"):
        subprocess.run(["pdftotext", "-layout", "names.pdf"], cwd=tmp_path, check=True)
        printed = (tmp_path / "names.txt").read_text()
        for words in (r"\input{/etc/passwd}", "100% & more # of $x^2_3$", "onerror=alert(1)>"):
            assert words in printed

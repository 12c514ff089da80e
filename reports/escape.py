"""Plain text as LaTeX: every character stands for itself, the field's symbols in math mode."""

from __future__ import annotations

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#",
    "%": r"\%", "_": r"\_", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': r"\textquotedbl{}",
    "`": r"\textasciigrave{}", "'": r"\textquotesingle{}",
}  # fmt: skip
_MATH = {
    "α": r"\alpha", "β": r"\beta", "γ": r"\gamma", "δ": r"\delta", "Δ": r"\Delta",
    "ε": r"\epsilon", "θ": r"\theta", "κ": r"\kappa", "λ": r"\lambda", "ν": r"\nu",
    "ξ": r"\xi", "π": r"\pi", "ρ": r"\rho", "σ": r"\sigma", "Σ": r"\Sigma", "τ": r"\tau",
    "φ": r"\phi", "ω": r"\omega", "ℓ": r"\ell", "∞": r"\infty", "√": r"\surd", "∑": r"\sum",
    "‖": r"\|", "⟨": r"\langle", "⟩": r"\rangle", "×": r"\times", "±": r"\pm", "·": r"\cdot",
    "−": "-", "≤": r"\le", "≥": r"\ge", "≠": r"\ne", "≈": r"\approx", "→": r"\to", "⇔": r"\iff",
    "∈": r"\in", "⁰": "^0", "¹": "^1", "²": "^2", "³": "^3", "⁻": "^-", "ᵀ": r"^{\top}",
    "₀": "_0", "₁": "_1", "₂": "_2", "₃": "_3", "₄": "_4", "½": r"\tfrac12", "¼": r"\tfrac14",
}  # fmt: skip
_WORDS = {
    "–": "--", "—": "---", "…": r"\dots{}", "“": "``", "”": "''", "’": "'", "‘": "`",
    "\u00a0": "~", "\u202f": r"\,", "ä": r"\"a", "ö": r"\"o", "ü": r"\"u", "é": r"\'e",
}  # fmt: skip


def latex(text: str) -> str:
    """`text` for pdflatex. What its fonts lack is named by code point, as in [U+4E2D]."""
    return "".join(map(_one, " ".join(text.split())))


def _one(character: str) -> str:
    if character in _SPECIAL:
        return _SPECIAL[character]
    if character in _MATH:
        return f"\\ensuremath{{{_MATH[character]}}}"
    if character in _WORDS:
        return _WORDS[character]
    if " " <= character <= "~":
        return character
    return f"[U+{ord(character):04X}]"

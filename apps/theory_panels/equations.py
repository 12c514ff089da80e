"""Equations under each other, short enough for a narrow window."""

from __future__ import annotations

import streamlit as st


def equations(*lines: str) -> None:
    """LaTeX lines, centred."""
    st.latex(r"\begin{gathered}" + r"\\[4pt] ".join(lines) + r"\end{gathered}")

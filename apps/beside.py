"""Pictures beside each other where there is room, below each other where there is not."""

from __future__ import annotations

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

NARROWEST = 440  # pixels that a picture with its axes needs


def beside(count: int = 2) -> list[DeltaGenerator]:
    """`count` containers in a row that wraps."""
    row = st.container(horizontal=True, gap="medium")
    return [row.container(width=NARROWEST) for _ in range(count)]

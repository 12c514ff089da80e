"""When attention and its LoRA gradients can be had in almost linear time."""

import streamlit as st

from analyzer.views import theory_attention
from apps import choose
from apps.answers import ask
from apps.beside import beside
from apps.charts import theory_laws as charts
from apps.picture import picture
from apps.theory_panels.equations import equations
from reports.figures import theory_laws as figures


def show() -> None:
    """Draw the panel."""
    equations(
        r"\Gamma=o(\sqrt{\log L})\ \Rightarrow\ L^{1+o(1)}\text{ time}",
        r"\text{from }\sqrt{\log L}\text{ on no }O(L^{2-\delta})\text{ for all inputs (SETH)}",
        r"Q=K=\Gamma\{\pm1\}^m,\ L=2^m:\quad\lambda_i(F)=\tau^i,\ \tbinom mi\text{ times}",
        r"\tau=\tanh(\rho^2\ln2),\quad\rho=\Gamma/\sqrt{\ln L}",
    )
    st.caption(
        "J. Hu et al., arXiv 2406.03136, theorems 3.1, 4.1 and A.1; J. Alman & Z. Song, "
        "arXiv 2302.13214. The constant c is a convention, and the theorems are for head widths "
        "of order log L."
    )
    sources = ask(theory_attention.sources)
    with st.sidebar:
        constant = choose.number("Constant c", 0.25, 4.0, 1.0, 0.05, "c")
        norm = choose.segment("Norm", tuple(theory_attention.NORMS), "norm")
        source = choose.one("Heads measured from", sources, "source") if sources else None
        dimension = choose.count("m = log₂ L of the cube", 2, 20, 7, "m")
    chosen = theory_attention.NORMS[norm]
    heads = ask(theory_attention.own_heads, chosen, source or "")
    left, right = beside()
    with left:
        view = theory_attention.boundary(constant)
        picture(
            view,
            charts.attention_phase(view, heads),
            lambda v: figures.attention_phase(v, heads),
            key="phase",
        )
    with right:
        view = theory_attention.hypercube(dimension)
        picture(
            view,
            charts.hypercube(view, heads),
            lambda v: figures.hypercube(v, heads),
            key="hypercube",
        )
    if heads.is_empty:
        st.info(
            "No head of this store has this norm from this source; `analyzer scan PATH "
            "--analyses limits` fills heads in."
        )
        return
    left_of = theory_attention.heads_below(heads, constant)
    st.markdown(
        f"{left_of} of {heads.table.num_rows} heads lie left of the threshold at their length, so "
        "that the sufficient condition holds for them with this c."
    )

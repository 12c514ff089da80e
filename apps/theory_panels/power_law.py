"""How little a short tail says of its exponent."""

import streamlit as st

from analyzer.views import theory_power_law
from apps import choose
from apps.answers import ask
from apps.beside import beside
from apps.charts import theory as charts
from apps.picture import picture
from apps.theory_panels.equations import equations
from reports.figures import theory as figures


def show() -> None:
    """Draw the panel."""
    equations(
        r"p(x)=\frac{\alpha-1}{x_{\min}}\Big(\frac{x}{x_{\min}}\Big)^{-\alpha}",
        r"\hat\alpha=1+\frac{n}{T},\quad T=\sum_i\ln\frac{x_i}{x_{\min}},\quad "
        r"2T(\alpha-1)\sim\chi^2_{2(n-1)}",
    )
    st.caption(
        "A. Clauset, C. R. Shalizi & M. E. J. Newman, arXiv 0706.1062, for independent values; "
        "eigenvalues repel each other, and a searched xmin adds error that this interval leaves "
        "out."
    )
    with st.sidebar:
        alpha = choose.number("Exponent α", 1.5, 8.0, 3.0, 0.1, "alpha")
        count = choose.count("Values in the tail", 10, 3000, 100, "n_tail")
        seed = choose.count("Seed", 0, 50, 0, "seed")
    own = ask(theory_power_law.own_tails)
    left, right = beside()
    with left:
        view = theory_power_law.drawn_tail(alpha, count, seed)
        picture(view, charts.drawn_tail(view), figures.drawn_tail, key="drawn_tail")
    with right:
        view = theory_power_law.interval_by_size(alpha)
        picture(
            view,
            charts.interval_by_size(view, own),
            lambda v: figures.interval_by_size(v, own),
            key="interval",
        )
    if own.is_empty:
        st.info("No tails in the store; `analyzer scan PATH` puts this store's tails here.")

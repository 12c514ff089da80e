"""What a Matérn prior believes of a function before it has seen any data."""

import streamlit as st

from analyzer.views import theory_matern, tucker
from apps import choose
from apps.answers import ask
from apps.beside import beside
from apps.charts import theory as charts
from apps.picture import picture
from apps.table import table
from apps.theory_panels.equations import equations
from reports.figures import theory as figures


def show() -> None:
    """Draw the panel."""
    equations(
        r"dx=Fx\,dt+L\,dW,\quad f=Hx,\quad \lambda=\sqrt{2\nu}/\ell",
        r"x_{s+1}\mid x_s\sim\mathcal N(A_sx_s,Q_s),\quad x_1\sim\mathcal N(0,P_\infty)",
        r"\kappa(d)=e^{-\lambda d}\times\left\{1,\ 1+\lambda d,\ "
        r"1+\lambda d+\tfrac{(\lambda d)^2}3\right\}",
        r"\text{for }\nu=\tfrac12,\ \tfrac32,\ \tfrac52",
    )
    st.caption(
        "J. Hartikainen & S. Särkkä, MLSP 2010; as the prior of functional Tucker factors in "
        "S. Fang et al., arXiv 2311.04829."
    )
    with st.sidebar:
        lengthscale = choose.number("Lengthscale ℓ", 0.02, 2.0, 0.2, 0.02, "lengthscale")
        draws = choose.count("Functions", 1, 8, 3, "draws")
        seed = choose.count("Seed", 0, 50, 0, "seed")
    left, right = beside()
    with left:
        view = theory_matern.samples(lengthscale, draws, seed)
        picture(view, charts.samples(view), figures.samples, key="samples")
    with right:
        view = theory_matern.correlation(lengthscale)
        picture(view, charts.correlation(view), figures.correlation, key="correlation")
    own = ask(tucker.lengthscales)
    if own.is_empty:
        st.info("No functional Tucker fit is stored; `analyzer tucker fit --db FILE` makes one.")
    else:
        table(own, key="lengthscales", tables=("tucker_fit",))

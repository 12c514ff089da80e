"""What a matrix without structure looks like: bulk and largest eigenvalue."""

import streamlit as st

from analyzer.views import theory_bulk
from apps import choose
from apps.answers import ask
from apps.beside import beside
from apps.charts import theory as charts
from apps.picture import picture
from apps.theory_panels.equations import equations
from reports.figures import theory as figures

SIZES = (1024, 64, 128, 256, 512, 2048, 4096, 8192)  # the first is what a page opens with


def show() -> None:
    """Draw the panel."""
    equations(
        r"p(\lambda)=\frac{\sqrt{(\lambda_+-\lambda)(\lambda-\lambda_-)}}{2\pi\beta s^2\lambda}",
        r"\lambda_\pm=s^2(1\pm\sqrt\beta)^2,\quad \beta=m/n\le 1",
        r"\left(\lambda_1(WW^\top)/s^2-\mu\right)/\sigma\to F_1",
        r"\mu=(a+b)^2,\quad \sigma=(a+b)\left(\tfrac1a+\tfrac1b\right)^{1/3}",
        r"a=\sqrt{n-\tfrac12},\quad b=\sqrt{m-\tfrac12}",
    )
    st.caption(
        "V. Marchenko & L. Pastur 1967; C. Tracy & H. Widom 1996; Z. Ma 2012. The edge of the law "
        "is exceeded by the largest eigenvalue of pure noise in more than one matrix of ten; its "
        "99 % quantile in one of a hundred."
    )
    with st.sidebar:
        aspect = choose.number("Aspect ratio m/n", 0.05, 1.0, 0.5, 0.05, "aspect")
        size = choose.one("Longer side n", [str(n) for n in SIZES], "n") or "1024"
    left, right = beside()
    with left:
        view = theory_bulk.density(aspect, int(size))
        picture(view, charts.density(view), figures.density, key="density")
    with right:
        view = theory_bulk.edge_law(aspect, int(size))
        picture(view, charts.edge_law(view), figures.edge_law, key="edge_law")
    own = ask(theory_bulk.own_edges)
    if own.is_empty:
        st.info("No tails in the store; `analyzer scan PATH` puts this store's matrices here.")
        return
    above = sum(ratio > 1 for ratio in own.column("ratio"))
    st.markdown(
        f"{above} of {own.table.num_rows} matrices have a largest eigenvalue beyond the random "
        "edge of their own shape and bulk."
    )
    picture(own, charts.own_edges(own, aspect), figures.own_edges, key="own_edges")

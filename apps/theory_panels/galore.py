"""Bounds on the rank of gradients, with the conditions they rest on."""

import streamlit as st

from analyzer.views import theory_galore
from apps import choose
from apps.answers import ask
from apps.beside import beside
from apps.charts import theory_laws as charts
from apps.picture import picture
from apps.table import table
from apps.theory_panels.equations import equations
from reports.figures import theory_laws as figures

EXPLAINED = {
    "product form": "One term: eigenspaces are products, g = 0, and the printed bound is right.",
    "generic": "Five terms: the leading pair of the limit leaves its eigenspace (g > 0), so the "
    "printed bound has no proof, and fails for some seeds; the gap-aware one holds.",
    "few tokens": "Fewer tokens than columns: S has a null space in which the gradient has no "
    "part, so the lemma's λ₁ must be the smallest active eigenvalue.",
}


def show() -> None:
    """Draw the panel."""
    equations(
        r"G_t=\tfrac1N\sum_i(A_i-B_iW_tC_i),\quad W_{t+1}=W_t+\eta G_t",
        r"G_t=\sum_j(1-\eta\lambda_j)^tG^{(j)}",
        r"\text{printed: } \operatorname{sr}(G_t)\le\operatorname{sr}(G_\parallel)+"
        r"x^2/\lVert G_\parallel\rVert_2^2",
        r"\text{gap-aware: } \operatorname{sr}(G_t)\le\frac{\lVert G_\parallel\rVert_F^2+x^2}"
        r"{(\lVert G_\parallel\rVert_2-gx)^2}",
        r"x=\Big(\frac{1-\eta\lambda_2}{1-\eta\lambda_1}\Big)^{t}\lVert G_0-G_\parallel\rVert_F",
    )
    st.caption(
        "J. Zhao et al., GaLore, arXiv 2403.03507, Lemma 3.3, Corollary 3.5, Theorem 3.8. Both "
        "bounds need η ≤ 2/(λ₂ + λ_max), which the paper does not state."
    )
    with st.sidebar:
        case = choose.segment("Instance", theory_galore.CASES, "case")
        share = choose.number("η over its limit", 0.05, 1.5, 0.9, 0.05, "eta")
        steps = choose.count("Steps", 10, 3000, 300, "steps")
        lipschitz = choose.number("Lipschitz constants", 0.0, 0.2, 0.01, 0.01, "lipschitz")
        seed = choose.count("Seed", 0, 50, 0, "seed")
    st.markdown(EXPLAINED[case])
    left, right = beside()
    with left:
        view = theory_galore.stable_rank(case, share, steps, seed)
        picture(view, charts.stable_rank(view), figures.stable_rank, key="stable_rank")
    with right:
        own = ask(theory_galore.own_gradients)
        if own.is_empty:
            st.info(
                "No gradients were recorded. `analyzer.Recorder` writes them while training; "
                "`analyzer scan PATH` reads them."
            )
        else:
            picture(own, charts.own_gradients(own), figures.own_gradients, key="own_gradients")
    table(theory_galore.verdicts(case, share, steps, seed, lipschitz), key="verdicts")

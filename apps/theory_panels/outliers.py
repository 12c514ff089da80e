"""When a rank-one update grows a singular vector that resembles no base vector."""

from __future__ import annotations

import streamlit as st

from analyzer.views import collection, theory_intruders
from analyzer.views.view import View
from apps import choose
from apps.answers import ask
from apps.beside import beside
from apps.charts import theory_laws as charts
from apps.picture import picture
from apps.theory_panels.equations import equations
from reports.figures import theory_laws as figures

OWN = "a matrix of this store"
SIZE = 256  # of the spectra that are not the store's


def show() -> None:
    """Draw the panel."""
    equations(
        r"\theta=D(\rho)^{-1/2},\quad D=\varphi_L\varphi_R,\quad "
        r"\langle a,u\rangle^2=\frac{-2\varphi_L(\rho)}{\theta^2D'(\rho)}",
        r"\varphi_L(z)=\frac1m\Big[\sum_i\frac{z}{z^2-s_i^2}+\frac{m-d}{z}\Big]",
        r"c_i^2=\theta^2\,\frac{\rho^2\langle b,v\rangle^2/m+s_i^2\langle a,u\rangle^2/n}"
        r"{(\rho^2-s_i^2)^2}",
        r"P(\text{intruder at }\varepsilon)=\prod_i\operatorname{erf}"
        r"\frac{\varepsilon}{\sqrt2\,c_i}",
    )
    st.caption(
        "F. Benaych-Georges & R. R. Nadakuditi 2012; intruders as R. Shuttleworth et al. define "
        "them, arXiv 2410.21228. Thresholds from it were within a factor of about 1.3 of "
        "simulated ones for updates whose vectors are generic."
    )
    with st.sidebar:
        theta = choose.number("Strength θ over σ₁ of the base", 0.05, 5.0, 1.0, 0.05, "strength")
        epsilon = choose.number("ε", 0.1, 0.65, 0.5, 0.05, "epsilon")
        view = _view(epsilon)
    if view is None:
        st.info("The store does not have the whole spectrum of this matrix.")
    else:
        _law(view, theta * view.parameters["σ₁(W0)"])
    names = ask(collection.tuned_names)
    if not names:
        st.info("No checkpoint was compared with a base. `analyzer scan PATH --base BASE` does so.")
        return
    own = ask(theory_intruders.own_thresholds, tuple(names), "left")
    if not own.is_empty:
        picture(own, charts.own_thresholds(own), figures.own_thresholds, key="own_thresholds")


def _view(epsilon: float) -> View | None:
    name = choose.one("Spectrum of the base", [*theory_intruders.SPECTRA, OWN], "spectrum")
    if name != OWN:
        values = theory_intruders.spectrum(str(name), SIZE)
        return theory_intruders.outliers(
            values, (SIZE, SIZE), epsilon, str(name), limit=name == "random"
        )
    checkpoint = choose.one("Checkpoint", ask(collection.names), "checkpoint")
    if checkpoint is None:
        return None
    matrix = choose.matrix(checkpoint)
    if matrix is None:
        return None
    return ask(theory_intruders.own_outliers, checkpoint, matrix, epsilon)


def _law(view: View, theta: float) -> None:
    at = theory_intruders.at_strength(view, theta)
    if at is not None:
        st.markdown(
            f"At θ = {theta:.3g} the new singular value is {at['rho']:.3g}; its vector has cosine "
            f"{at['alignment']:.2f} with the update, at most {at['maxcos']:.2f} (median) with any "
            f"base vector, and is an intruder with probability {at['p_intruder']:.2f}."
        )
    else:
        known = view.column("theta")
        if known:
            st.markdown(
                f"Outliers above σ₁ of the base need θ from {min(known):.3g}; the curve is drawn "
                f"up to {max(known):.3g}. Weaker updates can grow intruders in the gaps below σ₁, "
                "which θ* counts."
            )
    left, right = beside()
    with left:
        picture(view, charts.positions(view, theta), figures.outliers, key="positions")
    with right:
        resembled = theory_intruders.cosines(view)
        picture(resembled, charts.cosines(resembled, theta), figures.cosines, key="cosines")

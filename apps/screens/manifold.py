"""Weights as functions along an order of units, and where checkpoints lie in weight space."""

import streamlit as st

from analyzer.views import geometry, manifold, manifold_fits
from apps import choose
from apps.answers import ask
from apps.beside import beside
from apps.charts import geometry as geometry_charts
from apps.charts import manifold as charts
from apps.picture import picture
from apps.table import table
from apps.text import literal
from reports.figures import geometry as geometry_figures
from reports.figures import manifold as figures

st.title("Weight manifold and geometry")
names = ask(manifold.measured)
placed = ask(geometry.placed)
if not names and not placed:
    st.info(
        "Orders and geometry are not in the store; a scan makes them when asked: "
        "`analyzer scan PATH --analyses manifold`."
    )
    st.stop()

shown = [
    word
    for word, there in (("Smoothness of weights", names), ("Geometry of checkpoints", placed))
    if there
]
part = choose.segment("Part", shown, "part")

if part == "Smoothness of weights":
    with st.sidebar:
        checkpoint = choose.one("Checkpoint", names, "checkpoint")
    groups = ask(manifold.groups, checkpoint)
    st.markdown(literal(manifold.groups_in_words(groups)))
    left, right = beside()
    with left:
        picture(groups, charts.total_variation(groups), figures.total_variation, key="variation")
    with right:
        view = manifold.smoothness(groups)
        picture(view, charts.smoothness(view), figures.smoothness, key="smoothness")
        with_order = ask(manifold.group_names, checkpoint)
        group = choose.one("Group", with_order, "group")
        if group is not None:
            view = ask(manifold.order, checkpoint, group)
            picture(view, charts.order(view), figures.order, key="order")
    errors = ask(manifold_fits.fit_errors, checkpoint)
    if not errors.is_empty:
        tensors = ask(manifold_fits.tensors, checkpoint)
        st.markdown(literal(manifold_fits.fits_in_words(tensors)))
        left, right = beside()
        with left:
            picture(errors, charts.fit_errors(errors), figures.fit_errors, key="fit_errors")
        with right:
            table(tensors, key="tensors", tables=("manifold_fit",), height=700)
    table(groups, key="groups", tables=("manifold_group",))
    sampled = ask(manifold.samples)
    if sampled.is_empty:
        st.info("No checkpoint was sampled at another width; `analyzer manifold sample` does that.")
    else:
        table(sampled, key="samples", tables=("manifold_sample",))
else:
    left, right = beside()
    with left:
        view = ask(geometry.embedding)
        picture(view, geometry_charts.embedding(view), geometry_figures.embedding, key="embedding")
    with right:
        view = ask(geometry.explained, 10)
        picture(view, geometry_charts.explained(view), geometry_figures.explained, key="explained")
    with st.sidebar:
        measure = choose.segment("Pairs of checkpoints", geometry.MEASURES, "measure")
        chosen = choose.several("Checkpoints", placed, "among", placed[: geometry.MOST])
    pairs = ask(geometry.distances, tuple(chosen), measure)
    if pairs.is_empty:
        st.info("Choose two checkpoints or more; from a base, ones that are not the base.")
    else:
        picture(pairs, geometry_charts.distances(pairs), geometry_figures.distances, key="pairs")
    dimensions = ask(geometry.dimensions)
    if not dimensions.is_empty:
        picture(
            dimensions, geometry_charts.dimensions(dimensions), geometry_figures.dimensions,
            key="dimensions",
        )  # fmt: skip
        table(dimensions, key="dimension-rows", tables=("intrinsic_dimension",))

"""The theory behind the numbers: each law with its equation, its source, and this store on it."""

import streamlit as st

from apps import choose
from apps.theory_panels import attention, bulk, galore, matern, outliers, power_law

PANELS = {
    "Random bulk": bulk.show,
    "Outliers and intruders": outliers.show,
    "Power-law tails": power_law.show,
    "GaLore bounds": galore.show,
    "Attention": attention.show,
    "Matérn processes": matern.show,
}

st.title("Theory")
PANELS[choose.segment("Panel", tuple(PANELS), "panel")]()

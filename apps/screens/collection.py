"""The collection at a glance."""

import streamlit as st

from analyzer.views import collection
from apps.answers import ask
from apps.table import table

st.title("Collection")
table(ask(collection.checkpoints), key="checkpoints", tables=("checkpoint", "intruder"))

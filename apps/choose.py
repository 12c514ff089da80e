"""Choosing what a page shows. Every choice stands in the address, which reopens the same view."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import streamlit as st

from analyzer.views import collection
from apps.answers import ask

T = TypeVar("T")


def one(label: str, options: Sequence[T], key: str, *, help: str | None = None) -> T | None:
    """One of `options` (the first, unless the address names another), None of an empty list."""
    if not options:
        return None
    return st.selectbox(label, options, key=key, bind="query-params", help=help)


def several(label: str, options: Sequence[str], key: str, default: Sequence[str]) -> list[str]:
    """Some of `options`, `default` unless the address names others."""
    return st.multiselect(label, options, default=list(default), key=key, bind="query-params")


def segment(label: str, options: Sequence[str], key: str) -> str:
    """One of a few, side by side; the first unless the address names another."""
    picked = st.segmented_control(
        label, options, default=options[0], key=key, bind="query-params", required=True
    )
    return picked or options[0]


def number(label: str, low: float, high: float, value: float, step: float, key: str) -> float:
    """A slider."""
    return st.slider(label, low, high, value, step, key=key, bind="query-params")


def count(label: str, low: int, high: int, value: int, key: str) -> int:
    """A slider over whole numbers."""
    return st.slider(label, low, high, value, 1, key=key, bind="query-params")


def tuned() -> str | None:
    """A checkpoint that was compared with a base (`?tuned=`)."""
    return one("Tuned checkpoint", ask(collection.tuned_names), "tuned")


def matrix(checkpoint: str) -> str | None:
    """A matrix of a checkpoint (`?matrix=`)."""
    return one("Matrix", ask(collection.matrix_names, checkpoint), "matrix")

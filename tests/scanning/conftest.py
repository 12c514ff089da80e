"""Rows of a store as plain dictionaries."""

from __future__ import annotations

from collections.abc import Callable

import pytest

import analyzer


@pytest.fixture
def rows() -> Callable[..., list[dict[str, object]]]:
    """`rows(store, query, *parameters)`."""

    def run(store: analyzer.Store, query: str, *parameters: object) -> list[dict[str, object]]:
        return store.sql(query, list(parameters)).to_pylist()

    return run

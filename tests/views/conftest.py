"""Stores that every view must cope with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from analyzer.store.reading import Store, connect


@pytest.fixture
def empty(make_store: Callable[..., Path]) -> Store:
    """Every table, without a row."""
    return connect(make_store())

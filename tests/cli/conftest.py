"""A group of commands as a user types them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from analyzer.cli import cli
from analyzer.errors import WorkbenchError


@pytest.fixture
def run(request: pytest.FixtureRequest) -> Callable[..., Result]:
    """`run(*arguments)` of the group that the module names as its GROUP."""
    group = request.module.GROUP
    return lambda *arguments: CliRunner().invoke(cli, [group, *map(str, arguments)])


@pytest.fixture
def rows(run: Callable[..., Result]) -> Callable[..., list[dict[str, Any]]]:
    """`rows(*arguments)`: what --json prints."""

    def read(*arguments: object) -> list[dict[str, Any]]:
        done = run(*arguments, "--json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["rows"]

    return read


@pytest.fixture
def refused(run: Callable[..., Result]) -> Callable[..., WorkbenchError]:
    """`refused(*arguments)`: the error, which main prints as one line and ends with its code."""

    def read(*arguments: object) -> WorkbenchError:
        error = run(*arguments).exception
        assert isinstance(error, WorkbenchError), error
        assert "\n" not in str(error)
        return error

    return read

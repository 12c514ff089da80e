"""The dashboard in a real browser: a server on a small store, and headless Chromium."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

playwright = pytest.importorskip("playwright.sync_api")
FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--disable-quic"]


@pytest.fixture(scope="session")
def address(demo_db: Path) -> Iterator[str]:
    """Where the dashboard of the demo's store answers."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "analyzer",
        "dashboard",
        "--db",
        str(demo_db),
        "--port",
        "0",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, process_group=0) as server:
        assert server.stderr is not None
        found = _address(server.stderr)
        _wait(found)
        yield found
        os.killpg(server.pid, signal.SIGTERM)


def _address(stderr: IO[str]) -> str:
    for line in stderr:
        if found := re.search(r"http://127\.0\.0\.1:\d+", line):
            return found.group()
    raise AssertionError("the dashboard did not start")


def _wait(address: str) -> None:
    """Until the server answers."""
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{address}/_stcore/health").close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError("the dashboard does not answer")


@pytest.fixture(scope="session")
def browser() -> Iterator[playwright.Browser]:
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    with playwright.sync_playwright() as p:
        started = p.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def page(browser: playwright.Browser) -> Iterator[playwright.Page]:
    context = browser.new_context(viewport={"width": 1440, "height": 900})
    opened = context.new_page()
    yield opened
    context.close()

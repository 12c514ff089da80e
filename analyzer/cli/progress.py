"""Long work as a bar with an ETA, and what came of it as lines on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

from analyzer.errors import printable

if TYPE_CHECKING:
    from analyzer.scanning import Progress

MOST_MESSAGES = 12


@contextmanager
def progress_bar(quiet: bool) -> Iterator[Any]:
    """A bar with an ETA on a terminal, one plain line every 30 seconds elsewhere."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar() as report:
            yield report
    else:
        yield _plain_lines()


@contextmanager
def _bar() -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, TaskProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    with Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        task = bar.add_task("scanning", total=1.0, start=False)

        def report(progress: Progress) -> None:
            bar.start_task(task)
            bar.update(task, completed=progress.fraction, description=progress.name)

        yield report


def _plain_lines() -> Any:
    started = last = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 30 and progress.fraction > 0:
            last = now
            left = (now - started) * (1 - progress.fraction) / progress.fraction
            click.echo(f"{progress.fraction:.0%} done, about {left:.0f} s left", err=True)

    return report


def list_messages(label: str, messages: tuple[str, ...]) -> None:
    """The first messages, a line each; all of them stand in the store."""
    for message in messages[:MOST_MESSAGES]:
        click.echo(f"{label}: {printable(message)}", err=True)
    if len(messages) > MOST_MESSAGES:
        left = len(messages) - MOST_MESSAGES
        click.echo(
            f"{label}: and {left} more, listed in the store's tables matrix and event", err=True
        )

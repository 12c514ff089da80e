"""The command line: `analyzer --help`.

Results go to stdout, everything else to stderr. Exit codes: 0 done, 1 bug, 2 usage, 3 done but
some inputs were refused, 4 the store, 5 nothing to scan, 130 interrupted, 141 the output was closed
by its reader (`analyzer ls | head`), 143 terminated.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

import click

from analyzer.cli.browse import compare, ls, show
from analyzer.cli.capture import capture
from analyzer.cli.dashboard import dashboard
from analyzer.cli.demo import demo
from analyzer.cli.doctor import doctor
from analyzer.cli.manifold import manifold
from analyzer.cli.query import export, sql
from analyzer.cli.report import report
from analyzer.cli.scan import scan
from analyzer.cli.tucker import tucker
from analyzer.errors import WorkbenchError

CLOSED_PIPE = 128 + 13  # what a program has that SIGPIPE ends


class _Terminated(BaseException):
    """SIGTERM, raised so that open transactions are rolled back and files closed."""


class _ClosedPipe(BaseException):
    """Whoever read our output has left."""


@contextmanager
def _closed_pipes() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise _ClosedPipe from None


class _Commands(click.Group):
    """A group that lets a closed pipe through; click's own answer to one is exit code 1."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _closed_pipes():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _closed_pipes():
            return super().invoke(ctx)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="spectral-workbench", prog_name="analyzer")
def cli() -> None:
    """Spectral analysis of neural-network checkpoints."""


for _command in (
    demo, scan, ls, show, compare, dashboard, report,
    capture, tucker, manifold, sql, export, doctor,
):  # fmt: skip
    cli.add_command(_command)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; every expected error is one line on stderr and an exit code."""
    try:
        with _closed_pipes():
            _run(argv)
    except _ClosedPipe:
        # Without a word, and without the flush at exit, which would complain.
        os._exit(CLOSED_PIPE)


def _run(argv: Sequence[str] | None) -> None:
    caught: list[int] = []

    def stop(signum: int, frame: FrameType | None) -> None:
        del frame
        caught.append(signum)
        raise KeyboardInterrupt if signum == signal.SIGINT else _Terminated

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        code = cli.main(args=list(argv) if argv is not None else None, standalone_mode=False)
        _flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.Abort:
        _stop(130)
    except KeyboardInterrupt:
        _stop(130)
    except _Terminated:
        _stop(143)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except WorkbenchError as error:
        if caught:
            _stop(128 + caught[0])
        click.echo(f"analyzer: {error}", err=True)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        raise  # the caller's to answer: an OSError otherwise
    except Exception as error:
        # Libraries turn the exception of a signal into their own, DuckDB its queries'.
        if caught:
            _stop(128 + caught[0])
        _fail(error)


def _flush() -> None:
    if sys.stdout is not None:  # it is None where the shell closed it (`>&-`)
        sys.stdout.flush()


def _fail(error: Exception) -> None:
    if isinstance(error, OSError):
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"analyzer: {where}{error.strerror or error}", err=True)
        sys.exit(2)
    if os.environ.get("ANALYZER_TRACEBACK"):
        raise error
    text = f"internal error, {type(error).__name__}: {error}"
    click.echo(f"analyzer: {text} (ANALYZER_TRACEBACK=1 shows where)", err=True)
    sys.exit(1)


def _stop(code: int) -> None:
    click.echo("analyzer: stopped; what was finished is stored", err=True)
    if "scan" in sys.argv[1:2]:
        import shlex

        click.echo(f"resume with: {shlex.join(['analyzer', *sys.argv[1:]])}", err=True)
    # Worker threads may be deep inside LAPACK; everything worth keeping is committed.
    _flush()
    os._exit(code)

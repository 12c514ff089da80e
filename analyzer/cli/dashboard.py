"""`analyzer dashboard`: the Streamlit app over a store, for this machine alone."""

from __future__ import annotations

from pathlib import Path

import click

# Streamlit's own defaults bind every interface, accept any Host header, report usage and show
# tracebacks in the browser.
_FLAGS = {
    "server.address": "127.0.0.1",
    "server.headless": "true",
    "browser.gatherUsageStats": "false",
    "server.fileWatcherType": "none",
    "client.toolbarMode": "viewer",
    "client.showErrorDetails": "type",
    # not theme.primaryColor, which would fix the light theme whatever the system prefers
    "theme.light.primaryColor": "#0072B2",
    "theme.dark.primaryColor": "#56B4E9",
}
_HOSTS = ("localhost", "127.0.0.1")


@click.command()
@click.option(
    "--db", type=click.Path(path_type=Path), help="Store [$ANALYZER_DB, ./analyzer.duckdb]."
)
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8501, show_default=True, help="0: any free."
)
def dashboard(db: Path | None, port: int) -> None:
    """Explore the store in a browser (on this machine only)."""
    import subprocess
    import sys

    from analyzer.cli.ports import free_port
    from analyzer.store.reading import connect

    store = connect(db)
    port = free_port(port)
    click.echo(f"{store.db}: http://127.0.0.1:{port} (Ctrl-C ends it)", err=True)
    command = [sys.executable, "-P", "-m", "streamlit", "run", str(_app()), *_flags()]
    command += [f"--server.port={port}", "--", "--db", str(store.db.resolve())]
    raise SystemExit(subprocess.run(command, check=False).returncode)


def _flags() -> list[str]:
    flags = [f"--{name}={value}" for name, value in _FLAGS.items()]
    return flags + [f"--server.allowedHosts={host}" for host in _HOSTS]


def _app() -> Path:
    """The app's file, found without importing the package."""
    from importlib.util import find_spec

    spec = find_spec("apps")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("apps")
    return Path(spec.submodule_search_locations[0]) / "main.py"

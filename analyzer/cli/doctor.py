"""`analyzer doctor`."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import platform
from pathlib import Path

import click

PACKAGES = ("torch", "numpy", "scipy", "safetensors", "duckdb", "pyarrow", "click", "rich")
OWN = ("theory", "analyzer", "apps", "reports")


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def doctor(as_json: bool) -> int:
    """Check the installation: versions, devices, BLAS threads, name collisions."""
    root = Path(__file__).resolve().parents[2]
    shadowed = [name for name in OWN if _origin(name) != root / name]
    checks = {
        "python": platform.python_version(),
        "spectral-workbench": _version("spectral-workbench"),
        **{name: _version(name) for name in PACKAGES},
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        **_torch_devices(),
        "shadowed packages": ", ".join(shadowed) or "none",
    }
    if as_json:
        click.echo(json.dumps({"schema": 1, "ok": not shadowed, **checks}))
    else:
        for name, value in checks.items():
            click.echo(f"{name:<20} {value}")
    if shadowed:
        click.echo(f"analyzer: {', '.join(shadowed)} is imported from another place", err=True)
        return 4
    return 0


def _origin(name: str) -> Path | None:
    module = importlib.import_module(name)
    return Path(module.__file__).resolve().parent if module.__file__ else None


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _torch_devices() -> dict[str, str]:
    import torch

    count = torch.cuda.device_count()
    names = [torch.cuda.get_device_name(index) for index in range(count)]
    return {"cuda devices": ", ".join(names) or "none"}

"""Imports run one way: theory ← errors ← checkpoints, spectral, store ← … ← reports ← apps."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYER = {
    "theory": 0,
    "analyzer.errors": 1,
    "analyzer.lazy": 1,
    "analyzer.checkpoints": 2,
    "analyzer.spectral": 2,
    "analyzer.store": 2,
    "analyzer.activations": 3,
    "analyzer.analyses": 3,
    "analyzer.models": 3,
    "analyzer.recorder": 3,
    "analyzer.scanning": 4,
    "analyzer.demo": 4,
    "analyzer.views": 4,
    "analyzer": 5,
    "analyzer.cli": 6,
    "analyzer.__main__": 7,
    "reports": 7,
    "apps": 8,
}


def layer_of(module: str) -> str | None:
    """The longest prefix of `module` that is a layer."""
    parts = module.split(".")
    prefixes = (".".join(parts[:n]) for n in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in LAYER), None)


def imports_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


FILES = [p for top in ("theory", "analyzer", "apps", "reports") for p in (ROOT / top).rglob("*.py")]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path: Path) -> None:
    own = layer_of(".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"))
    assert own is not None
    for module in imports_of(path):
        other = layer_of(module)
        if other is None or other == own or module == "analyzer":
            continue
        assert LAYER[other] < LAYER[own], f"{path} imports {module}"
        if own == "theory":
            assert not module.startswith(("torch", "analyzer"))

"""The README's Python example runs as it is printed, on a freshly made demo collection."""

import re
from pathlib import Path

import pytest

from analyzer.demo import make_demo

README = Path(__file__).parents[1] / "README.md"


def test_python_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_demo(tmp_path / "demo-checkpoints", steps=8)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)


def test_set_up_is_two_commands() -> None:
    text = README.read_text()
    assert "make demo" in text
    assert "make test" in text

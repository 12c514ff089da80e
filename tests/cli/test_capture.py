"""`analyzer capture` as a user types it: the file it writes, its summary, its exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from analyzer.activations.capture import Captured
from analyzer.activations.format import open_activations
from analyzer.cli import cli, main
from analyzer.demo.model import Llama, Shape
from analyzer.demo.saving import save_model

TEXT = "print('hello, world')\n" * 20  # 440 bytes


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from analyzer.cli import main; main()", "capture"]
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    shape = Shape(width=16, hidden=40, layers=2, heads=2, context=32)
    save_model(tmp_path / "base", Llama(shape), {})
    return tmp_path / "base"


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def test_a_file_that_can_be_read_back(model: Path, text: Path, tmp_path: Path) -> None:
    output = tmp_path / "x.safetensors"
    done = run(model, text, "-o", output, "--length", 24, "--max-tokens", 200)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    megabytes = output.stat().st_size / 1e6
    assert done.stderr == f"2 modules, 8 × 24 tokens, {megabytes:.1f} MB → {output}\n"
    found = open_activations(output)
    assert found.names == tuple(f"model.layers.{i}.self_attn.q_proj" for i in range(2))
    assert set(found.shapes.values()) == {(8, 24, 16)}
    assert found.model == "base" and found.metadata["n_tokens"] == "192"
    # After the first norm, whose gain is 1, each token has a mean square of 1.
    first = found.read(found.names[0]).astype(np.float64)
    np.testing.assert_allclose((first**2).mean(-1), 1, rtol=0.02)


def test_refusals_are_one_line(
    model: Path,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("analyzer.cli.signal.signal", lambda *_: None)  # pytest's stay
    output = tmp_path / "x.safetensors"
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "short").write_text("a")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_bytes((model / "config.json").read_bytes())
    torch.save({"a.weight": torch.zeros(4, 4)}, pickled / "pytorch_model.bin")
    for arguments, code, word in (
        ((tmp_path / "absent", text, "-o", output), 2, "absent"),
        ((model, tmp_path / "no-text", "-o", output), 2, "no-text"),
        ((model, tmp_path / "binary", "-o", output), 2, "UTF-8"),
        ((model, tmp_path / "short", "-o", output), 2, "longer text"),
        ((model, text, "-o", tmp_path / "none" / "x.safetensors"), 2, "none"),
        ((model, text, "-o", tmp_path / "x.npy"), 2, ".safetensors"),
        ((model, text, "-o", tmp_path), 2, "cannot be written"),
        ((model, text, "-o", output, "--length", 33), 2, "it reads 32"),
        ((pickled, text, "-o", output), 3, "pickle"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["capture", *map(str, arguments)])
        shown = capsys.readouterr()
        assert stopped.value.code == code and shown.out == "", shown.err
        (line,) = shown.err.splitlines()
        assert line.startswith("analyzer: ") and word in line
    assert not output.exists()


def test_usage() -> None:
    assert run("model", "text").returncode == 2  # no output
    assert run("model", "text", "-o", "x", "--length", 1).returncode == 2
    assert "query projection" in run("--help").stdout


def test_what_was_skipped_is_named(
    model: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = {"layers.0.q": np.ones((1, 4, 2), np.float32)}
    captured = Captured(states, {}, 1, 4, ("layers.1.q: is called 2 times",))
    monkeypatch.setattr("analyzer.activations.capture.capture", lambda *_, **__: captured)
    output = tmp_path / "x.safetensors"
    arguments = ["capture", str(model), str(text), "-o", str(output)]
    done = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert done.return_value == 3
    assert "skipped: layers.1.q: is called 2 times" in done.stderr
    assert open_activations(output).names == ("layers.0.q",)

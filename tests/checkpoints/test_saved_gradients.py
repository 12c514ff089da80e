"""Gradients saved beside a checkpoint find their tensors by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from analyzer.checkpoints.checkpoint import open_checkpoint
from analyzer.checkpoints.saved_gradients import GRADIENT_FILES, saved_gradients
from analyzer.checkpoints.stored import as_tensor
from analyzer.errors import CheckpointError, CorruptFile

SaveFull = Callable[[Path, dict[str, np.ndarray]], Path]


@pytest.fixture
def folder(tmp_path: Path, save_full: SaveFull, base_weights: dict[str, np.ndarray]) -> Path:
    return save_full(tmp_path / "step-3", base_weights)


def gradients(weights: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {name: torch.randn(weight.shape) for name, weight in weights.items()}


def write(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)


@pytest.mark.parametrize("file", GRADIENT_FILES)
@pytest.mark.parametrize(
    "rename",
    [
        lambda n: n,
        lambda n: f"grad.{n}",
        lambda n: f"{n}.grad",
        lambda n: n.removesuffix(".weight"),
        lambda n: f"module.{n}",
        lambda n: f"gradients.{n.removesuffix('.weight')}",
    ],
)
def test_names_up_to_the_usual_spellings(
    file: str, rename: Callable[[str], str], folder: Path, base_weights: dict[str, np.ndarray]
) -> None:
    want = gradients(base_weights)
    write(folder / file, {rename(name): G for name, G in want.items()})
    found = saved_gradients(open_checkpoint(folder))
    assert set(found) == set(want)
    assert all(torch.equal(as_tensor(found[name]), G) for name, G in want.items())


def test_none_and_some(folder: Path, base_weights: dict[str, np.ndarray]) -> None:
    assert saved_gradients(open_checkpoint(folder)) == {}
    name, G = next(iter(gradients(base_weights).items()))
    write(folder / "grads.pt", {name: G.bfloat16(), "optimizer_scale": torch.ones(1)})
    found = saved_gradients(open_checkpoint(folder))
    assert list(found) == [name] and torch.equal(as_tensor(found[name]), G.bfloat16())


def test_what_is_refused(folder: Path, base_weights: dict[str, np.ndarray]) -> None:
    name, G = next(iter(gradients(base_weights).items()))
    path = folder / "gradients.safetensors"
    for tensors, why in (
        ({name: G.T.contiguous()}, r"the gradient has shape \(24, 30\), its tensor \(30, 24\)"),
        ({name: G.int()}, "dtype int32"),
        ({name: G, f"{name}.grad": G.clone()}, "the same tensor"),
        ({"somewhere.else": G}, r"no gradient is named after a tensor.*somewhere\.else"),
    ):
        write(path, tensors)
        with pytest.raises(CheckpointError, match=why):
            saved_gradients(open_checkpoint(folder))
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CorruptFile, match=r"gradients\.safetensors"):
        saved_gradients(open_checkpoint(folder))

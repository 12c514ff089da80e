"""An adapter saved by PEFT, read back without it, and the model PEFT merges from it."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from analyzer.checkpoints.adapters import (
    Adapter,
    AdapterTarget,
    LowRankDelta,
    TunedWeight,
    match_targets,
    open_adapter,
    target_update,
)
from analyzer.checkpoints.tensors import MatrixInfo


@dataclass
class Files:
    """An adapter in memory."""

    data: dict[str, torch.Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    name: str = "adapter"
    path: Path = Path("adapter")

    def tensors(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=n, shape=tuple(t.shape)) for n, t in self.data.items()]

    def read(self, name: str) -> torch.Tensor:
        return self.data[name]


def matrices_of(
    state: Mapping[str, torch.Tensor], *, transposed: Callable[[str], bool], stacks: bool = True
) -> dict[str, list[MatrixInfo]]:
    """The matrices of a state dict: three axes named experts are a stack, else a convolution."""
    found: dict[str, list[MatrixInfo]] = {}
    for name, tensor in state.items():
        if tensor.ndim < 2:
            continue
        shape, swap = tuple(tensor.shape), transposed(name)
        stack = stacks and tensor.ndim == 3 and "experts" in name
        flat = shape[1:] if stack else (shape[0], int(np.prod(shape[1:])))
        rows, cols = flat[::-1] if swap else flat
        found[name] = [
            MatrixInfo(
                name=f"{name}[{e}]" if stack else name, tensor=name, index=e, rows=rows, cols=cols,
                dtype="float32", nbytes=0, stack=None, layer=None,
                role="embed" if "emb" in name else "other", expert=e, transposed=swap,
                storage_id=name, shape=shape,
            )
            for e in (range(shape[0]) if stack else (None,))
        ]  # fmt: skip
    return found


def matrix(state: Mapping[str, torch.Tensor], info: MatrixInfo) -> torch.Tensor:
    tensor = state[info.tensor] if info.index is None else state[info.tensor][info.index]
    flat = tensor.reshape(tensor.shape[0], -1)
    return flat.T if info.transposed else flat


def dense(change: LowRankDelta | TunedWeight, base: torch.Tensor) -> np.ndarray:
    """The tuned matrix, the truncated SVD that a LowRankDelta may ask for included."""
    if isinstance(change, TunedWeight):
        return change.W
    W = base.double().numpy()
    U, s, Vh = np.linalg.svd(W, full_matrices=False)
    k = change.minus_base_rank
    return W - (U[:, :k] * s[:k]) @ Vh[:k] + change.P @ change.Q.T


@dataclass
class Trip:
    """A saved adapter, the model before it and the model PEFT merges."""

    files: Files
    adapter: Adapter
    base: dict[str, torch.Tensor]
    merged: dict[str, torch.Tensor]
    infos: list[MatrixInfo]

    def changes(self) -> list[tuple[AdapterTarget, MatrixInfo, LowRankDelta | TunedWeight]]:
        return [
            (target, info, target_update(self.adapter, target, info, matrix(self.base, info)))
            for target, info in match_targets(self.adapter, self.infos)
            if info is not None
        ]

    def check(self, atol: float = 1e-6) -> None:
        """Every matrix PEFT changed is explained by a target, to `atol`; the others are not."""
        explained = set()
        for _, info, change in self.changes():
            got, want = dense(change, matrix(self.base, info)), matrix(self.merged, info).numpy()
            np.testing.assert_allclose(got, want, rtol=0, atol=atol, err_msg=info.name)
            explained.add(info.name)
        changed = {
            info.name
            for info in self.infos
            if not torch.equal(matrix(self.base, info), matrix(self.merged, info))
        }
        assert changed and changed <= explained


def randomise(model: nn.Module, scale: float = 0.3) -> None:
    """Trained weights: every adapter parameter moved away from its initial value."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.requires_grad:
                noise = torch.randn(value.shape, generator=generator) * scale
                value.copy_(noise.abs() + 0.5 if "magnitude" in name else value + noise)


def read_folder(folder: Path) -> Files:
    config = json.loads((folder / "adapter_config.json").read_text())
    return Files(load_file(folder / "adapter_model.safetensors"), config, path=folder)


@pytest.fixture
def round_trip(tmp_path: Path) -> Callable[..., Trip]:
    def run(
        model: nn.Module,
        config: Any,
        *,
        transposed: Callable[[str], bool] = lambda name: False,
        train: Callable[[nn.Module], None] = randomise,
        mergeable: bool = True,
    ) -> Trip:
        from peft import get_peft_model

        base = {name: value.clone() for name, value in model.state_dict().items()}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tuned = get_peft_model(copy.deepcopy(model), config)
            train(tuned)
            tuned.save_pretrained(str(tmp_path))
            merged: Any = tuned.merge_and_unload() if mergeable else model
        state = {name: value.detach() for name, value in merged.state_dict().items()}
        infos = [m for group in matrices_of(base, transposed=transposed).values() for m in group]
        files = read_folder(tmp_path)
        return Trip(files, open_adapter(files), base, state, infos)

    return run


@pytest.fixture(scope="session")
def files() -> type[Files]:
    return Files


@pytest.fixture(scope="session")
def infos() -> Callable[..., dict[str, list[MatrixInfo]]]:
    def run(
        state: Mapping[str, torch.Tensor], transposed: Callable[[str], bool] = lambda name: False
    ) -> dict[str, list[MatrixInfo]]:
        return matrices_of(state, transposed=transposed)

    return run


@pytest.fixture(scope="session")
def tuned() -> Callable[[LowRankDelta | TunedWeight, torch.Tensor], np.ndarray]:
    return dense

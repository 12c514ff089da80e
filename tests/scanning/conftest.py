"""Rows of a store as plain dictionaries, and a training run as a script leaves it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import analyzer

VOCAB, WIDTH, HIDDEN, HEAD, LENGTH, BATCH = 30, 40, 48, 16, 8, 6
EVERY, RANK = 5, 6
STEPS = (0, 10, 20, 30)


@pytest.fixture
def rows() -> Callable[..., list[dict[str, object]]]:
    """`rows(store, query, *parameters)`."""

    def run(store: analyzer.Store, query: str, *parameters: object) -> list[dict[str, object]]:
        return store.sql(query, list(parameters)).to_pylist()

    return run


class Block(nn.Module):
    """Residual maps under the names of a LLaMA block."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn = nn.ModuleDict(
            {
                "q_proj": nn.Linear(WIDTH, WIDTH, bias=False),
                "k_proj": nn.Linear(WIDTH, HEAD, bias=False),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "up_proj": nn.Linear(WIDTH, HIDDEN, bias=False),
                "down_proj": nn.Linear(HIDDEN, WIDTH, bias=False),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        key = F.pad(self.self_attn["k_proj"](x), (0, WIDTH - HEAD))
        x = x + torch.tanh(self.self_attn["q_proj"](x)) + key
        return x + self.mlp["down_proj"](torch.relu(self.mlp["up_proj"](x)))


class Net(nn.Module):
    """Predicts the next token of a random text."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.ModuleDict(
            {
                "embed_tokens": nn.Embedding(VOCAB, WIDTH),
                "layers": nn.ModuleList([Block(), Block()]),
                "norm": nn.LayerNorm(WIDTH, bias=False),
            }
        )
        self.lm_head = nn.Linear(WIDTH, VOCAB, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.model["embed_tokens"](tokens)
        for block in self.model["layers"]:
            x = block(x)
        return self.lm_head(self.model["norm"](x))


def loss_of(model: nn.Module, tokens: Tensor) -> Tensor:
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def batch(seed: int) -> Tensor:
    """Sequences (6, 9) of which three tokens in four follow from the one before."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, VOCAB, (BATCH, LENGTH + 1), generator=generator)
    is_free = torch.rand(tokens.shape, generator=generator) < 0.25
    for place in range(1, LENGTH + 1):
        follows = (7 * tokens[:, place - 1] + 1) % VOCAB
        tokens[:, place] = torch.where(is_free[:, place], tokens[:, place], follows)
    return tokens


def gradients_of(model: nn.Module, tokens: Tensor) -> dict[str, Tensor]:
    """On a copy of the model: a recorder counts the tokens that the model itself sees."""
    copy = Net()
    copy.load_state_dict(model.state_dict())
    names, parameters = zip(*copy.named_parameters(), strict=True)
    found = torch.autograd.grad(loss_of(copy, tokens), parameters)
    return dict(zip(names, found, strict=True))


@dataclass(frozen=True)
class Trained:
    """A run on disk, and every gradient that was in memory when it was recorded."""

    root: Path
    train: dict[int, dict[str, Tensor]] = field(default_factory=dict)  # step → name → G
    probes: dict[int, list[dict[str, Tensor]]] = field(default_factory=dict)  # batches A, B, C

    @property
    def run(self) -> Path:
        return self.root / "run"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """root/run/checkpoint-0 … 30 with AdamW's state and gradients of one batch, and records."""
    found = Trained(tmp_path_factory.mktemp("trained"))
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.AdamW(model.named_parameters(), lr=3e-3, betas=(0.9, 0.95))
    recorder = analyzer.Recorder(
        model, optimizer, found.run, every=EVERY, rank=RANK, sketch_width=1024,
        probe=lambda i: loss_of(model, batch(1000 + i)),
    )  # fmt: skip
    with recorder:
        for step in range(STEPS[-1] + 1):
            if step in STEPS:
                save_step(found.run / f"checkpoint-{step}", model, optimizer)
            if step == STEPS[-1]:
                break
            if step % EVERY == 0:
                found.probes[step] = [gradients_of(model, batch(1000 + i)) for i in range(3)]
                found.train[step] = gradients_of(model, batch(step))
            optimizer.zero_grad()
            loss_of(model, batch(step)).backward()
            optimizer.step()
    return found


def save_step(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Weights, moments and the gradient of one fixed batch, each in a file of its own."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file(dict(model.state_dict()), folder / "model.safetensors")
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    save_file(gradients_of(model, batch(1000)), folder / "gradients.safetensors")


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    root = tmp_path / "copy"
    shutil.copytree(trained.root, root, ignore=shutil.ignore_patterns("*.duckdb*"))
    return root


@pytest.fixture(scope="session")
def numbers() -> Callable[[np.ndarray, int], dict[str, float]]:
    """The numbers of singular values by their definitions."""

    def of(G: np.ndarray, r: int) -> dict[str, float]:
        s = np.linalg.svd(np.asarray(G, dtype=np.float64), compute_uv=False)
        squares, p = s**2 / np.sum(s**2), s / s.sum()
        p, q = p[p > 0], squares[squares > 0]
        return {
            "fro": float(np.linalg.norm(s)),
            "sigma1": float(s[0]),
            "stable_rank": float(1.0 / squares[0]),
            "effective_rank": float(np.exp(-np.sum(p * np.log(p)))),
            "effective_rank_energy": float(np.exp(-np.sum(q * np.log(q)))),
            "participation_ratio": float(1.0 / np.sum(squares**2)),
            "energy_r": float(np.sum(squares[:r])),
            "rank_at_energy": int(np.argmax(np.cumsum(squares) >= 0.9)) + 1,
        }

    return of

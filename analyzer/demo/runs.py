"""The trainings of the collection and the checkpoints that each of them leaves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from analyzer.demo.corpus import Corpus
from analyzer.demo.model import Llama, Shape, add_lora
from analyzer.demo.saving import save_adapter, save_model
from analyzer.demo.training import BATCH, held_out_losses, train

Progress = Callable[[str, int, int], None]

BASE_LEARNING_RATE = 1e-3
BASE_WEIGHT_DECAY = 0.1
BASE_FROM_CHECKPOINT = "../../base"
TUNING_SHARE = 4  # the base trains this many times as long as each tuned model
CHECKPOINTS = 5


@dataclass(frozen=True, slots=True)
class Tuning:
    """How one run tunes the base; `rank` None trains every weight, else alpha = 2 rank."""

    rank: int | None
    learning_rate: float


# The rates at which all four reach about the same held-out loss with the default steps, so that
# their spectra are compared at equal skill, as in Shuttleworth et al., arXiv 2410.21228.
TUNINGS = {
    "full": Tuning(None, 1e-4),
    "lora-r1": Tuning(1, 1e-2),
    "lora-r8": Tuning(8, 2e-3),
    "lora-r64": Tuning(64, 5e-4),
}


def tuning_steps(steps: int) -> int:
    return max(1, steps // TUNING_SHARE)


def saved_steps(steps: int) -> list[int]:
    """At most `CHECKPOINTS` steps on a logarithmic grid that ends with the last step."""
    grid = np.geomspace(max(1.0, steps / 2 ** (CHECKPOINTS - 1)), steps, CHECKPOINTS)
    return sorted({round(step) for step in grid})


def make_base(
    folder: Path, corpus: Corpus, *, steps: int, seed: int, progress: Progress | None
) -> None:
    """Pre-train into `folder`, unless it is there."""
    if folder.exists():
        return
    torch.manual_seed(seed)
    model = Llama(Shape())
    entries = train(
        model,
        corpus.pretraining.train,
        steps=steps,
        learning_rate=BASE_LEARNING_RATE,
        weight_decay=BASE_WEIGHT_DECAY,
        seed=seed,
    )
    for state in states(entries, model, corpus, at=[steps], phase="base", progress=progress):
        save_model(folder, model, state)


def make_tuned(
    folder: Path,
    base: Path,
    corpus: Corpus,
    tuning: Tuning,
    *,
    steps: int,
    seed: int,
    progress: Progress | None,
) -> None:
    """Tune `base` and write the checkpoints of `folder` that are missing."""
    at = saved_steps(steps)
    missing = [n for n in at if not (folder / f"checkpoint-{n}").exists()]
    if not missing:
        return
    torch.manual_seed(seed)
    model = load_base(base)
    if tuning.rank is not None:
        add_lora(model, tuning.rank, 2 * tuning.rank)
    entries = train(
        model,
        corpus.tuning.train,
        steps=steps,
        learning_rate=tuning.learning_rate,
        weight_decay=0.0,
        seed=seed,
    )
    for state in states(entries, model, corpus, at=at, phase=folder.name, progress=progress):
        if state["global_step"] in missing:
            save_tuned(folder / f"checkpoint-{state['global_step']}", model, tuning, state)


def states(
    entries: Iterable[dict[str, Any]],
    model: Llama,
    corpus: Corpus,
    *,
    at: list[int],
    phase: str,
    progress: Progress | None,
) -> Iterator[dict[str, Any]]:
    """Run the training behind `entries`; yields the trainer state at each of the steps `at`.

    The state holds the fields of Hugging Face's `TrainerState` that have a meaning here; `at`
    ends with the last step.
    """
    log: list[dict[str, Any]] = []
    for entry in entries:
        step, epoch = entry["step"], entry["epoch"]
        log.append(entry)
        if progress is not None:
            progress(phase, step, at[-1])
        if step in at:
            log.append({"step": step, "epoch": epoch} | held_out_losses(model, corpus))
            yield {
                "epoch": epoch,
                "global_step": step,
                "max_steps": at[-1],
                "logging_steps": 1,
                "train_batch_size": BATCH,
                "log_history": log,
            }


def load_base(folder: Path) -> Llama:
    model = Llama(Shape())
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model


def save_tuned(folder: Path, model: Llama, tuning: Tuning, state: dict[str, Any]) -> None:
    if tuning.rank is None:
        save_model(folder, model, state)
    else:
        save_adapter(folder, model, tuning.rank, 2 * tuning.rank, BASE_FROM_CHECKPOINT, state)

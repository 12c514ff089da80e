"""The trainings of the collection and the checkpoints that each of them leaves."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from analyzer.demo.corpus import Corpus, random_windows
from analyzer.demo.model import Llama, Shape, add_lora
from analyzer.demo.saving import save_adapter, save_model
from analyzer.demo.training import BATCH, Watch, held_out_losses, loss_of, train
from analyzer.recorder import Recorder

Progress = Callable[[str, int, int], None]

BASE_LEARNING_RATE = 1e-3
BASE_WEIGHT_DECAY = 0.1
BASE_FROM_CHECKPOINT = "../../base"
TUNING_SHARE = 4  # the base trains this many times as long as each tuned model
CHECKPOINTS = 5
RECORDS = 25  # steps of a run whose gradients are recorded
PROBE_SEED = 1  # of the fixed batches, which no training step sees


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
    records = folder.with_name(f".{folder.name}.records")
    shutil.rmtree(records, ignore_errors=True)
    entries = train(
        model,
        corpus.pretraining.train,
        steps=steps,
        learning_rate=BASE_LEARNING_RATE,
        weight_decay=BASE_WEIGHT_DECAY,
        seed=seed,
        watch=recording(records, corpus.pretraining.train, steps),
    )
    for state, _ in states(entries, model, corpus, at=[steps], phase="base", progress=progress):
        save_model(folder, model, state, records=records)


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
    is_full = tuning.rank is None
    entries = train(
        model,
        corpus.tuning.train,
        steps=steps,
        learning_rate=tuning.learning_rate,
        weight_decay=0.0,
        seed=seed,
        # The gradient of a factor is not the gradient of the weight.
        watch=recording(folder, corpus.tuning.train, steps) if is_full else None,
    )
    for state, optimizer in states(
        entries, model, corpus, at=at, phase=folder.name, progress=progress
    ):
        if state["global_step"] in missing:
            checkpoint = folder / f"checkpoint-{state['global_step']}"
            save_tuned(checkpoint, model, tuning, state, optimizer)


def recording(folder: Path, data: Tensor, steps: int) -> Watch:
    """Record gradients at even distances, of the minibatch and of three fixed batches."""
    windows = list(random_windows(data, 3, BATCH, Shape().context, PROBE_SEED + steps))

    def watch(model: Llama, optimizer: torch.optim.AdamW) -> Recorder:
        return Recorder(
            model,
            optimizer,
            folder,
            every=max(1, steps // RECORDS),
            probe=lambda number: loss_of(model, windows[number]),
        )

    return watch


def states(
    entries: Iterable[tuple[dict[str, Any], torch.optim.AdamW]],
    model: Llama,
    corpus: Corpus,
    *,
    at: list[int],
    phase: str,
    progress: Progress | None,
) -> Iterator[tuple[dict[str, Any], torch.optim.AdamW]]:
    """Run the training behind `entries`; yields trainer and optimizer at each of the steps `at`.

    The state holds the fields of Hugging Face's `TrainerState` that have a meaning here; `at`
    ends with the last step.
    """
    log: list[dict[str, Any]] = []
    for entry, optimizer in entries:
        step, epoch = entry["step"], entry["epoch"]
        log.append(entry)
        if progress is not None:
            progress(phase, step, at[-1])
        if step in at:
            log.append({"step": step, "epoch": epoch} | held_out_losses(model, corpus))
            state = {
                "epoch": epoch,
                "global_step": step,
                "max_steps": at[-1],
                "logging_steps": 1,
                "train_batch_size": BATCH,
                "log_history": log,
            }
            yield state, optimizer


def load_base(folder: Path) -> Llama:
    model = Llama(Shape())
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return model


def save_tuned(
    folder: Path,
    model: Llama,
    tuning: Tuning,
    state: dict[str, Any],
    optimizer: torch.optim.AdamW,
) -> None:
    """An adapter; or a model and, as the trainer does, the optimizer to go on with."""
    if tuning.rank is None:
        save_model(folder, model, state, optimizer=optimizer)
    else:
        save_adapter(folder, model, tuning.rank, 2 * tuning.rank, BASE_FROM_CHECKPOINT, state)

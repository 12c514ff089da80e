"""The README of the collection: what each folder is, with the losses that were measured."""

from __future__ import annotations

import json
import platform
from pathlib import Path

import torch

from analyzer.demo.model import Shape
from analyzer.demo.runs import TUNINGS, saved_steps, tuning_steps
from analyzer.demo.training import BATCH, HELD_OUT_BATCHES

LAST_STEPS = 10  # over which the training loss is averaged

TEXT = """# A small real collection of checkpoints

Made by `analyzer demo --steps {steps} --seed {seed}` with Python {python} and torch {torch}.
A byte-level Llama (token id = byte value) trained on the sources of the Python standard library.

| folder | what it is |
|---|---|
| `base/` | pre-trained on the library's top-level modules |
| `full/checkpoint-N/` | every weight of the base tuned on the package `encodings`, N steps; \
with Adam's moments in `optimizer.pt` |
| `base/analyzer-records/`, `full/analyzer-records/` | gradients recorded while these two trained |
| `activations.safetensors` | inputs of the base's attention layers while it reads held-out text |
| `lora-rR/checkpoint-N/` | PEFT adapters of rank R, alpha 2R, on every linear layer of the blocks |

Losses are mean cross-entropies in nats per byte. Training: mean of the last {last} steps, {batch}
windows of {context} bytes each. Held-out: {held_out} windows of files that were never trained on,
the same for every model. Each `trainer_state.json` holds the losses up to its step.

| model | learning rate | steps | training | held-out, pre-training | held-out, tuning |
|---|---|---|---|---|---|
{rows}

Tuning lowers the last column; what it costs in the column before is forgetting.
Every folder loads with `transformers` and `peft`. `analyzer scan` compares the tuned models with
the base, for example by their intruder dimensions (Shuttleworth et al., arXiv 2410.21228), and
follows the gradients of both trainings (`analyzer show base --analysis emergence`). With
`--activations activations.safetensors` it measures attention heads on held-out text too
(`analyzer show base --analysis limits`).
"""


def readme(folder: Path, steps: int, seed: int) -> str:
    """Markdown, read from the trainer states under `folder`."""
    last = saved_steps(tuning_steps(steps))[-1]
    rows = [_row("base", folder / "base")]
    rows += [_row(name, folder / name / f"checkpoint-{last}") for name in TUNINGS]
    return TEXT.format(
        steps=steps,
        seed=seed,
        python=platform.python_version(),
        torch=torch.__version__,
        last=LAST_STEPS,
        batch=BATCH,
        context=Shape().context,
        held_out=BATCH * HELD_OUT_BATCHES,
        rows="\n".join(rows),
    )


def _row(name: str, checkpoint: Path) -> str:
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    log = state["log_history"]
    training = [entry["loss"] for entry in log if "loss" in entry][-LAST_STEPS:]
    rate = max(entry["learning_rate"] for entry in log if "learning_rate" in entry)
    return (
        f"| {name} | {rate:.0e} | {state['global_step']} | {sum(training) / len(training):.3f} "
        f"| {log[-1]['eval_pretraining_loss']:.3f} | {log[-1]['eval_tuning_loss']:.3f} |"
    )

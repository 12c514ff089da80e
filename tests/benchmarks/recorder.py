"""What recording gradients adds to a training step of the demo's model; see README.md.

    python tests/benchmarks/recorder.py [--rounds N]

The same training three times, without a recorder, recording every step and every tenth, in turns of
20 steps, so that a change of the machine's speed meets all three alike. The weights must be equal
bit by bit in the end.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import torch

from analyzer.demo.model import Llama, Shape
from analyzer.demo.training import BATCH, BETAS, CLIP_NORM, loss_of
from analyzer.recorder import Recorder, list_records

BLOCK = 20  # steps a turn: two records at every tenth step
EVERY = (None, 1, 10)
BAR = {1: 0.20, 10: 0.03}


@dataclass
class Training:
    """One model with its optimizer and data; all start alike."""

    every: int | None
    folder: Path
    seconds: list[float] = field(default_factory=list)  # of each block

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.model = Llama(Shape())
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=1e-3, betas=BETAS, weight_decay=0.1, fused=True
        )
        self.data = torch.Generator().manual_seed(1)
        self.recorder = (
            nullcontext()
            if self.every is None
            else Recorder(self.model, self.optimizer, self.folder, every=self.every)
        )

    def block(self) -> None:
        shape = self.model.shape
        windows = [
            torch.randint(0, shape.vocab, (BATCH, shape.context + 1), generator=self.data)
            for _ in range(BLOCK)
        ]
        started = time.perf_counter()
        for window in windows:
            loss_of(self.model, window).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.seconds.append(time.perf_counter() - started)


def compare(threads: int, rounds: int, folder: Path) -> None:
    torch.set_num_threads(threads)
    trainings = [Training(every, folder / f"{threads}-{every}") for every in EVERY]
    for turn in range(rounds + 1):
        # Each goes first, second and third equally often.
        for place in range(len(trainings)):
            trainings[(turn + place) % len(trainings)].block()
    off, *recorded = trainings
    base = statistics.median(off.seconds[1:]) / BLOCK
    print(f"{threads} thread(s): {1e3 * base:.1f} ms a step without a recorder")
    for training in recorded:
        training.recorder.__exit__(None, None, None)
        # Ratio to the block of the same turn; the first turn warms up.
        pairs = zip(training.seconds[1:], off.seconds[1:], strict=True)
        added = statistics.median(a / b - 1 for a, b in pairs)
        same = all(
            torch.equal(a, b)
            for a, b in zip(training.model.parameters(), off.model.parameters(), strict=True)
        )
        records = list_records(training.folder)
        size = sum(path.stat().st_size for path in records) / len(records)
        every = training.every or 0
        print(
            f"  every {every:>2}: {added:+7.2%} a step (bar {BAR[every]:.0%}), "
            f"{1e3 * added * base * every:6.1f} ms and {size / 1e6:.2f} MB a record, "
            f"weights {'equal' if same else 'DIFFER'}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="What recording adds to a training step.")
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    default = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        for threads in dict.fromkeys((1, default)):
            compare(threads, options.rounds, Path(folder))


if __name__ == "__main__":
    main()

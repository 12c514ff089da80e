"""What recording gradients adds to a training step of the demo's model; see README.md.

    python tests/benchmarks/recorder.py [--threads N ...] [--rounds N]

The same training three times, without a recorder, recording every step and every tenth, in turns of
ten steps, so that a change of the machine's speed meets all three alike. Every step is timed, and
what is added at a place among the ten is the median over the turns of the difference to the step at
that place without a recorder. The weights must be equal bit by bit in the end.

Beside the time on the clock stands the CPU time of the thread that trains. It takes part in all
that torch does in parallel, so that the two agree on an idle machine; on a busy one the second is
closer to what an idle one would show.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from analyzer.demo.model import Llama, Shape
from analyzer.demo.training import BATCH, BETAS, CLIP_NORM, loss_of
from analyzer.recorder import Recorder, list_records

TURN = 10  # steps: every=10 records on the first and follows on the second
EVERY = (None, 1, 10)
BAR = {1: 0.20, 10: 0.03}


@dataclass
class Training:
    """One model with its optimizer and data; all start alike."""

    every: int | None
    folder: Path
    seconds: list[list[float]] = field(default_factory=list)  # of each step of each turn
    cpu_seconds: list[list[float]] = field(default_factory=list)

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

    def turn(self) -> None:
        shape = self.model.shape
        self.seconds.append([])
        self.cpu_seconds.append([])
        for _ in range(TURN):
            window = torch.randint(0, shape.vocab, (BATCH, shape.context + 1), generator=self.data)
            started, cpu_started = time.perf_counter(), time.thread_time()
            loss_of(self.model, window).backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.seconds[-1].append(time.perf_counter() - started)
            self.cpu_seconds[-1].append(time.thread_time() - cpu_started)


def compare(threads: int, rounds: int, folder: Path) -> None:
    torch.set_num_threads(threads)
    trainings = [Training(every, folder / f"{threads}-{every}") for every in EVERY]
    for turn in range(rounds + 1):
        # Each goes first, second and third equally often.
        for place in range(len(trainings)):
            trainings[(turn + place) % len(trainings)].turn()
    off, *recorded = trainings
    base, cpu_base = (float(np.median(x[1:])) for x in (off.seconds, off.cpu_seconds))
    print(f"{threads} thread(s): {1e3 * base:.1f} ms a step without, {1e3 * cpu_base:.1f} CPU")
    for training in recorded:
        training.recorder.__exit__(None, None, None)
        on_clock = added(training.seconds, off.seconds)
        on_cpu = added(training.cpu_seconds, off.cpu_seconds)
        same = all(
            torch.equal(a, b)
            for a, b in zip(training.model.parameters(), off.model.parameters(), strict=True)
        )
        records = list_records(training.folder)
        size = sum(path.stat().st_size for path in records) / len(records)
        every = training.every or 0
        print(
            f"  every {every:>2}: {on_clock / base:+7.2%} a step, CPU {on_cpu / cpu_base:+7.2%} "
            f"(bar {BAR[every]:.0%}), {1e3 * on_cpu * every:6.1f} ms CPU and {size / 1e6:.2f} MB "
            f"a record, weights {'equal' if same else 'DIFFER'}"
        )


def added(with_recorder: list[list[float]], without: list[list[float]]) -> float:
    """Mean seconds a step; the first turn warms up."""
    difference = np.array(with_recorder[1:]) - np.array(without[1:])
    return float(np.median(difference, axis=0).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="What recording adds to a training step.")
    parser.add_argument(
        "--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()})
    )
    parser.add_argument("--rounds", type=int, default=18)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for threads in options.threads:
            compare(threads, options.rounds, Path(folder))


if __name__ == "__main__":
    main()

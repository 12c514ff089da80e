"""Steps in their order: which are recorded, what a recorded one holds, and when it is written."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor, nn

from analyzer.recorder.measurements import Measurements
from analyzer.recorder.noise import Probe
from analyzer.recorder.records import write_record
from analyzer.recorder.schema import Header, Record
from analyzer.recorder.targets import Target
from analyzer.recorder.tokens import TokenCounter

WARM_UP = 2  # recordings with hashes to make and cold starts: not what later ones cost

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a log needs to know of the training, the same for all steps."""

    model: nn.Module
    folder: Path
    counter: TokenCounter
    ranks: int  # data-parallel processes whose gradients are averaged
    learning_rates: Callable[[], tuple[float, ...]]
    clip_state: str
    accumulate: int
    probe: Probe | None
    noise_batches: int
    budget_ms: float | None


class GradientLog:
    """Every step is opened, given the gradients of its targets, and closed."""

    def __init__(
        self, measurements: Measurements, surroundings: Surroundings, every: int, step: int
    ) -> None:
        self.every, self.step = every, step
        self._measurements, self._around = measurements, surroundings
        self._mode: Literal["record", "follow"] | None = None
        self._tokens: int | None = None
        self._scale = 1.0
        self._last: int | None = None  # the step recorded last
        self._seconds, self._recordings = 0.0, 0
        self._warned = False

    def open_step(self) -> bool:
        """Whether the gradients of this step are wanted; its forward passes are over."""
        tokens = self._around.counter.take()
        self._tokens = None if tokens is None else tokens * self._around.ranks
        if self.step % self.every == 0:
            self._mode = "record"
            self._measurements.start()
        else:
            self._mode = "follow" if self._last == self.step - 1 else None
        return self._mode is not None

    def give(self, gradients: Sequence[tuple[Target, Tensor | None]], scale: float) -> None:
        """Gradients of targets times `scale`; cheaper all at once than one by one."""
        started = time.perf_counter()
        if self._mode == "record":
            self._scale = scale
            self._measurements.add(gradients, self.step, self._tokens, scale)
        elif self._mode == "follow":
            self._measurements.follow(gradients, self.step, scale)
        self._seconds += time.perf_counter() - started

    def close_step(self) -> None:
        """Write what is to be recorded, and go on to the next step."""
        if self._mode == "record":
            started = time.perf_counter()
            self._write()
            self._last = self.step
            self._seconds += time.perf_counter() - started
            self._keep_to_budget()
        self.step += 1

    def _write(self) -> None:
        around, measured = self._around, self._measurements
        measured.add_missing(self.step, self._tokens)
        if around.probe is not None:
            measured.add_probes(
                around.model, around.probe, around.noise_batches, self.step, around.counter
            )
        settings = measured.settings
        header = Header(
            step=self.step,
            learning_rates=around.learning_rates(),
            clip_state=around.clip_state,
            accum=around.accumulate,
            loss_scale=self._scale,
            seed=settings.seed,
            rank=settings.rank,
            sketch_width=settings.sketch_width,
            entries=tuple(measured.entries),
            noise=tuple(measured.noise_entries),
        )
        write_record(around.folder, Record(header, measured.arrays, measured.noise_arrays))

    def _keep_to_budget(self) -> None:
        """Record half as often while the mean cost of a step is above the budget."""
        self._recordings += 1
        if self._recordings <= WARM_UP:
            self._seconds = 0.0
        elif self._around.budget_ms is not None:
            cost = 1e3 * self._seconds / (self._recordings - WARM_UP)
            if cost / self.every <= self._around.budget_ms:
                return
            self.every *= 2
            if not self._warned:
                log.warning(
                    "recording takes %.1f ms, more than %.1f ms a step: from now on every %d steps",
                    cost,
                    self._around.budget_ms,
                    self.every,
                )
                self._warned = True

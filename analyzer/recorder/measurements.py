"""What is measured at one step, and the memory that goes from one recorded step to the next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from analyzer.recorder.measuring import (
    Gradient,
    Memory,
    Settings,
    entry_of,
    measure,
    measure_next_step,
)
from analyzer.recorder.noise import Probe, noise, probe_gradients
from analyzer.recorder.schema import Arrays, Entry, NoiseArrays, NoiseEntry
from analyzer.recorder.targets import Target
from analyzer.recorder.tokens import TokenCounter


class Measurements:
    """Measures the gradients of `targets`; what belongs to the step at hand is in its fields."""

    def __init__(self, targets: Sequence[Target], settings: Settings) -> None:
        self.targets = targets
        self.settings = settings
        self._train = {target.name: Memory() for target in targets}
        self._probe = {target.name: Memory() for target in targets}
        self.start()

    def start(self) -> None:
        """Forget the entries of the last step, not its bases."""
        self.entries: list[Entry] = []
        self.arrays: dict[tuple[str, str], Arrays] = {}
        self.noise_entries: list[NoiseEntry] = []
        self.noise_arrays: dict[str, NoiseArrays] = {}

    def add(
        self,
        gradients: Sequence[tuple[Target, Tensor | None]],
        step: int,
        tokens: int | None,
        scale: float,
    ) -> None:
        """The minibatch's gradients of targets, None where the backward pass did not reach them."""
        self._measure("train", gradients, step, tokens, scale)

    def add_missing(self, step: int, tokens: int | None) -> None:
        """Entries for targets of which no gradient was given."""
        given = {entry.name for entry in self.entries}
        self.add([(t, None) for t in self.targets if t.name not in given], step, tokens, 1.0)

    def follow(
        self, gradients: Sequence[tuple[Target, Tensor | None]], step: int, scale: float
    ) -> None:
        """The same on the step after a record, of which nothing but the comparison is kept."""
        measure_next_step(
            [Gradient(t, g, self._train[t.name]) for t, g in gradients if g is not None],
            step=step,
            settings=self.settings,
            scale=scale,
        )

    def add_probes(
        self, model: nn.Module, probe: Probe, batches: int, step: int, counter: TokenCounter
    ) -> None:
        """The gradients of the fixed batch A and, for two noise `batches`, those of B and C."""
        seed = self.settings.seed
        gradients = probe_gradients(model, self.targets, probe, 0, seed)
        tokens = counter.take()
        given = list(zip(self.targets, gradients, strict=True))
        self._measure("probe", given, step, tokens, 1.0)
        if batches == 0:
            return
        del gradients, given
        of_b = probe_gradients(model, self.targets, probe, 1, seed)
        tokens = counter.take()
        of_c = probe_gradients(model, self.targets, probe, 2, seed)
        counter.take()
        for target, b, c in zip(self.targets, of_b, of_c, strict=True):
            basis = self._probe[target.name].previous
            if basis is None or ("probe", target.name) not in self.arrays:
                continue
            side = self.settings.side_of(target)
            if (found := noise(target, side, basis, b, c, tokens)) is not None:
                self.noise_entries.append(found[0])
                self.noise_arrays[target.name] = found[1]

    def _measure(
        self,
        batch: str,
        gradients: Sequence[tuple[Target, Tensor | None]],
        step: int,
        tokens: int | None,
        scale: float,
    ) -> None:
        memories = self._train if batch == "train" else self._probe
        measured = measure(
            [Gradient(t, g, memories[t.name]) for t, g in gradients if g is not None],
            batch,
            step=step,
            n_tokens=tokens,
            settings=self.settings,
            scale=scale,
        )
        for target, gradient in gradients:
            if gradient is None:
                entry = entry_of(target, batch, target.parameter.dtype, tokens, self.settings)
                self.entries.append(replace(entry, flags=("no_gradient",)))
                continue
            entry, arrays = measured[target.name]
            self.entries.append(entry)
            if arrays is not None:
                self.arrays[batch, target.name] = arrays

"""What a fit of spectra depends on besides the spectra."""

from __future__ import annotations

from dataclasses import dataclass

from analyzer.errors import UsageError
from analyzer.models.spectral_tensor.observations import MODES, Mode


@dataclass(frozen=True, slots=True)
class Settings:
    """Modes of the tensor and how it is fitted; `ranks` one a mode, or none.

    Raises UsageError for unknown modes, `matrix` beside depth or role, or other than one rank a
    mode.
    """

    modes: tuple[Mode, ...] = ("depth", "step", "role", "quantile")
    ranks: tuple[int, ...] = ()
    restarts: int = 2
    max_sweeps: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [mode for mode in self.modes if mode not in MODES]
        if unknown or len(set(self.modes)) < len(self.modes):
            raise UsageError(
                f"modes {', '.join(self.modes)}", hint=f"choose once each from {', '.join(MODES)}"
            )
        if "matrix" in self.modes and {"depth", "role"} & set(self.modes):
            raise UsageError("the mode matrix is depth and role at once: leave those out")
        if self.ranks and len(self.ranks) != len(self.modes):
            raise UsageError(f"{len(self.ranks)} ranks for {len(self.modes)} modes")

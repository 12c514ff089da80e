"""What a merge reports of the checkpoint it wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Merged:
    """What was written to `folder`.

    `coefficients`: of the checkpoints, or of their differences from the base; None for a merge
    that is not linear. `norm` and `norms`: of what these multiply, merged and one by one; None
    where they were not needed. `scale`: OPCM's last λ. `degenerate`: tensors in which equal
    singular values, or several that are zero, leave OPCM's projection undetermined.
    """

    folder: Path
    method: str
    coefficients: tuple[float, ...] | None = None
    norm: float | None = None
    norms: tuple[float, ...] | None = None
    scale: float | None = None
    degenerate: tuple[str, ...] = ()

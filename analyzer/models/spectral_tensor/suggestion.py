"""Which scan that was not made would make the rest of a run most certain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analyzer.models.spectral_tensor.fitting import SpectraFit
from analyzer.models.spectral_tensor.observations import Array, Mode, Observations
from analyzer.models.spectral_tensor.pretending import with_scans

What = Literal["step", "depth"]
MOST_CANDIDATES = 12


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A checkpoint (`step`) or a layer (`depth`) that was not scanned.

    `sd` is the mean standard deviation of log σ there now, `before` and `after` those over all
    candidates, this one among them, before and after it would be scanned.
    """

    what: What
    value: float
    sd: float
    before: float
    after: float

    @property
    def reduction(self) -> float:
        """Share of the uncertainty that the scan would take away."""
        return 1.0 - self.after / self.before if self.before else 0.0


def suggest(
    fit: SpectraFit,
    seen: Observations,
    known_steps: Sequence[float] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[Suggestion]:
    """Candidates, the one that helps most first; [] where nothing lies between what was scanned.

    Each is added as if it had been scanned and found as predicted: of a Gaussian model the
    uncertainty depends on where one looks, not on what one finds.
    """
    places = _candidates(fit, seen, known_steps)
    if not places:
        return []
    grids = [_grid(seen, what, value) for what, value in places]
    now = [_mean_sd(fit, grid) for grid in grids]
    before = float(np.mean(now))
    found = []
    for number, (what, value) in enumerate(places):
        after = with_scans(fit, grids[number])
        left = float(np.mean([_mean_sd(after, grid) for grid in grids]))
        found.append(Suggestion(what, value, now[number], before, left))
        if progress:
            progress(number + 1, len(places))
    return sorted(found, key=lambda one: (-one.reduction, -one.sd))


def _candidates(
    fit: SpectraFit, seen: Observations, known_steps: Sequence[float]
) -> list[tuple[What, float]]:
    """Layers that no step was scanned at; steps that are there, and those half-way in log(1 + step)
    between scanned ones, by how uncertain they are."""
    found: list[tuple[What, float]] = []
    if "depth" in fit.modes:
        depths = np.unique(seen.depth)
        for depth in np.setdiff1d(np.arange(depths[0], depths[-1] + 1), depths):
            found.append(("depth", float(depth)))
    if "step" in fit.modes:
        steps = np.unique(seen.step)
        middle = np.round(np.expm1((np.log1p(steps[1:]) + np.log1p(steps[:-1])) / 2))
        for step in np.setdiff1d(np.concatenate([middle, np.array(known_steps)]), steps):
            found.append(("step", float(step)))
    sds = [_mean_sd(fit, _grid(seen, *place)) for place in found]
    order = np.argsort(sds, kind="stable")[::-1][:MOST_CANDIDATES]
    return [found[n] for n in sorted(order)]


def _mean_sd(fit: SpectraFit, grid: dict[Mode, Array]) -> float:
    return float(fit.predict(grid).sd_function.mean())


def _grid(seen: Observations, what: What, value: float) -> dict[Mode, Array]:
    """Every role and quantile at one step of all depths, or at one depth of all steps."""
    axes: dict[What, Array] = {"depth": np.unique(seen.depth), "step": np.unique(seen.step)}
    axes[what] = np.array([value])
    depth, step, role, quantile = (
        axis.ravel()
        for axis in np.meshgrid(
            axes["depth"], axes["step"], np.unique(seen.role), np.unique(seen.quantile),
            indexing="ij",
        )
    )  # fmt: skip
    return {
        "depth": depth, "step": step, "role": role, "quantile": quantile,
        "matrix": seen.matrix_at(depth, role),
    }  # fmt: skip

"""Which scan that was not made would make the rest of a run most certain."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from analyzer.models.funbat import Variational, fit_funbat
from analyzer.models.spectral_tensor.fitting import KERNELS, TOLERANCE, SpectraFit, refit_residual
from analyzer.models.spectral_tensor.observations import Array, Mode, Observations

MOST_CANDIDATES = 12
SWEEPS = 20


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A checkpoint (`step`) or a layer (`depth`) that was not scanned.

    `sd` is the mean standard deviation of log σ there now, `others_before` and `others_after` those
    at the other candidates, before and after it would be scanned.
    """

    what: Literal["step", "depth"]
    value: float
    sd: float
    others_before: float
    others_after: float

    @property
    def reduction(self) -> float:
        """Share of the uncertainty elsewhere that the scan would take away."""
        return 1.0 - self.others_after / self.others_before if self.others_before else 0.0


def suggest(
    fit: SpectraFit,
    seen: Observations,
    known_steps: Sequence[float] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[Suggestion]:
    """Candidates, the one that helps most first; [] where nothing lies between what was scanned.

    Each is added as if it had been scanned and found as predicted: of a Gaussian model the
    uncertainty depends on where one looks, not on what one finds. Lengthscales stay as learned.
    """
    places = _candidates(fit, seen, known_steps)
    if not places:
        return []
    grids = [_grid(seen, what, value) for what, value in places]
    before = _refitted(fit, seen, None)
    now = [float(before.predict(grid).sd_function.mean()) for grid in grids]
    found = []
    for number, ((what, value), grid) in enumerate(zip(places, grids, strict=True)):
        after = _refitted(fit, seen, grid)
        others = [n for n in range(len(grids)) if n != number] or [number]
        left = [float(after.predict(grids[n]).sd_function.mean()) for n in others]
        kept = float(np.mean([now[n] for n in others]))
        found.append(Suggestion(what, value, now[number], kept, float(np.mean(left))))
        if progress:
            progress(number + 1, len(places))
    return sorted(found, key=lambda one: (-one.reduction, -one.sd))


def _candidates(
    fit: SpectraFit, seen: Observations, known_steps: Sequence[float]
) -> list[tuple[Literal["step", "depth"], float]]:
    """Layers that no step was scanned at; steps that are there, and those half-way in log(1 + step)
    between scanned ones, by how uncertain they are."""
    found: list[tuple[Literal["step", "depth"], float]] = []
    if "depth" in fit.modes:
        depths = np.unique(seen.depth)
        missing = np.setdiff1d(np.arange(depths[0], depths[-1] + 1), depths)
        found += [("depth", float(depth)) for depth in missing]
    if "step" in fit.modes:
        steps = np.unique(seen.step)
        middle = np.round(np.expm1((np.log1p(steps[1:]) + np.log1p(steps[:-1])) / 2))
        for step in np.setdiff1d(np.concatenate([middle, np.array(known_steps)]), steps):
            found.append(("step", float(step)))
    sds = [float(fit.predict(_grid(seen, *place)).sd_function.mean()) for place in found]
    order = np.argsort(sds, kind="stable")[::-1][:MOST_CANDIDATES]
    return [found[n] for n in sorted(order)]


def _grid(seen: Observations, what: Literal["step", "depth"], value: float) -> dict[Mode, Array]:
    """Every role and quantile at one step of all depths, or at one depth of all steps."""
    axes = {"depth": np.unique(seen.depth), "step": np.unique(seen.step)}
    axes[what] = np.array([value])
    depth, step, role, quantile = (
        axis.ravel()
        for axis in np.meshgrid(
            axes["depth"], axes["step"], np.unique(seen.role), np.unique(seen.quantile),
            indexing="ij",
        )
    )  # fmt: skip
    places: dict[Mode, Array] = {"depth": depth, "step": step, "role": role, "quantile": quantile}
    return places | {"matrix": depth * len(seen.roles) + role}


def _refitted(fit: SpectraFit, seen: Observations, added: dict[Mode, Array] | None) -> SpectraFit:
    """The fit with its lengthscales, on what was seen and what is pretended to be."""
    if added is not None:
        seen = replace(
            seen,
            depth=np.concatenate([seen.depth, added["depth"]]),
            step=np.concatenate([seen.step, added["step"]]),
            role=np.concatenate([seen.role, added["role"]]),
            quantile=np.concatenate([seen.quantile, added["quantile"]]),
            values=np.concatenate([seen.values, fit.predict(added).mean]),
        )
    tucker = fit.tucker
    again = fit_funbat(
        seen.indexes(fit.modes),
        seen.values,
        list(tucker.ranks),
        [KERNELS[mode] for mode in fit.modes],
        lengthscales=[None if v != v else v for v in tucker.lengthscales],
        constant=True,
        noise_mode=tucker.noise_mode,
        inference=Variational(
            restarts=1, max_sweeps=SWEEPS, learn_lengthscales=False, tolerance=TOLERANCE
        ),
        seed=tucker.seed,
    )
    return refit_residual(again, fit.modes, seen)

"""How low-rank the gradient of one matrix is along training: from arrays in memory.

J. Zhao et al., "GaLore", arXiv 2403.03507; A. Jaiswal et al., "From GaLore to WeLore",
arXiv 2407.11239.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from analyzer.analyses.cosines import of_arrays
from analyzer.analyses.observations import Observation, Side, observe
from analyzer.analyses.series import Noise, Series
from analyzer.analyses.series_summary import Emergence, summarise_series
from analyzer.errors import ShapeMismatch, UsageError
from analyzer.spectral import CPU, Backend
from theory.galore_advice import energy_by_rank
from theory.gradient_noise import batch_dots

Array = np.ndarray | torch.Tensor

DEFAULT_RANK = 8


def gradient_emergence(
    gradients: Sequence[Array],
    *,
    steps: Sequence[int] | None = None,
    independent: Sequence[tuple[Array, Array]] | None = None,
    rank: int | None = None,
    side: Side | None = None,
    source: str = "grad",
    backend: Backend = CPU,
) -> Emergence:
    """Spectra, subspaces, cosines and advice from gradients (m, n) of one matrix, one a step.

    `steps` are 0, 1, … if not given; others than ascending are put in order, which a flag of the
    series says. `independent[t]` holds the gradients of two further batches at the same weights:
    they give the noise ceiling, without which advice rests on the gradient's own batch. `rank` is
    that of energies and overlaps, 8 (or the whole of a smaller matrix) by default; `side` is
    GaLore's (left for m ≤ n). A zero or non-finite gradient is a gap with a flag.
    Raises ShapeMismatch, UsageError (nothing given, a rank outside 1..min(m, n), a step twice).
    """
    numbers = tuple(range(len(gradients)) if steps is None else steps)
    rank = _check(gradients, numbers, independent, rank)
    order = sorted(range(len(numbers)), key=lambda place: numbers[place])
    flags = () if order == list(range(len(order))) else ("steps were not ascending: sorted",)
    numbers = tuple(numbers[place] for place in order)
    gradients = [gradients[place] for place in order]
    others = [independent[place] for place in order] if independent is not None else []
    observations = [
        observe(G, step=step, rank=rank, side=side, backend=backend)
        for step, G in zip(numbers, gradients, strict=True)
    ]
    finite = [place for place, o in enumerate(observations) if o.is_finite]
    cosines = of_arrays(
        [numbers[place] for place in finite], [_array(gradients[place]) for place in finite]
    )
    noise = []
    for place in finite if others else ():
        batches = [_array(G) for G in (gradients[place], *others[place])]
        if not all(np.isfinite(G).all() for G in batches):
            flags += (f"an independent batch of step {numbers[place]} is not finite",)
        elif not observations[place].is_empty:
            noise.append(_noise(observations[place], *batches))
    series = Series(source, None, tuple(observations), cosines, tuple(noise), flags=flags)
    return summarise_series(series, rank)


def _noise(
    observation: Observation, own: np.ndarray, second: np.ndarray, third: np.ndarray
) -> Noise:
    """The dots of two further gradients with the leading directions of the first."""
    basis = observation.basis
    assert basis is not None
    B, C = np.asarray(second, dtype=np.float64), np.asarray(third, dtype=np.float64)
    dots = batch_dots(basis, B, C, observation.side)
    if observation.side == "right":
        PB, PC = B @ basis, C @ basis
        cv = np.cumsum(np.sum(PB * PC, axis=0))
    else:
        PB, PC = basis.T @ B, basis.T @ C
        cv = np.cumsum(np.sum(PB * PC, axis=1))
    inside = energy_by_rank(basis, np.asarray(own, dtype=np.float64), observation.side)
    share = energy_by_rank(basis, B, observation.side)
    out = np.zeros(basis.shape[1]) if share is None else share * dots.norm_b**2
    assert inside is not None
    return Noise(observation.step, None, dots.total, dots.norm_b, dots.norm_c, inside, out, cv)


def _check(
    gradients: Sequence[Array],
    steps: tuple[int, ...],
    independent: Sequence[tuple[Array, Array]] | None,
    rank: int | None,
) -> int:
    """The rank, once everything fits."""
    if not len(gradients):
        raise UsageError("gradient_emergence needs at least one gradient")
    if len(steps) != len(gradients):
        raise UsageError(f"{len(steps)} steps for {len(gradients)} gradients")
    if len(set(steps)) < len(steps):
        raise UsageError(f"a step may be given once, got {list(steps)}")
    if independent is not None and len(independent) != len(gradients):
        raise UsageError(f"{len(independent)} pairs of batches for {len(gradients)} gradients")
    shapes = {tuple(G.shape) for G in gradients}
    shapes |= {tuple(G.shape) for pair in independent or () for G in pair}
    if len(shapes) > 1:
        raise ShapeMismatch(f"gradients of one shape are needed, got {sorted(shapes)}")
    (shape,) = shapes
    if len(shape) != 2 or not all(shape):
        raise ShapeMismatch(f"gradients need shape (m, n), got {shape}")
    if rank is not None and not 1 <= rank <= min(shape):
        raise UsageError(f"rank must lie in 1..{min(shape)} for gradients of {shape}, got {rank}")
    return min(DEFAULT_RANK, *shape) if rank is None else rank


def _array(G: Array) -> np.ndarray:
    """As numpy, in float32 where it has no such format (bfloat16)."""
    if not isinstance(G, torch.Tensor):
        return np.asarray(G)
    host = G.detach().cpu()
    return (host if host.dtype in (torch.float32, torch.float64) else host.float()).numpy()

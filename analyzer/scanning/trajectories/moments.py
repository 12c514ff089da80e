"""What lies beside the weights of a run: Adam's moments, GaLore's projectors, saved gradients."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from analyzer.analyses.cosines import BLOCK, of_blocks, of_products
from analyzer.analyses.observations import (
    Observation,
    Origin,
    Product,
    observe,
    without_matrix,
)
from analyzer.analyses.series import Series
from analyzer.analyses.thinning import MOST_STEPS, evenly
from analyzer.checkpoints.optimizer_state import ParameterState
from analyzer.checkpoints.stored import as_tensor, content_sha256
from analyzer.checkpoints.tensors import MatrixInfo
from analyzer.errors import CheckpointError
from analyzer.scanning.trajectories.units import Step, TrajectoryUnit, blocks_of
from analyzer.spectral import Backend
from analyzer.spectral.results import FloatArray
from analyzer.spectral.warm_start import Side, default_side
from theory.ritz_certificate import orthonormality_defect

LARGEST_DEFECT = 0.05  # of PᵀP from I; rounding to bfloat16 leaves less than 0.02
UNCORRECTED = "start at zero not corrected: the file does not hold step and betas"


@dataclass(frozen=True, slots=True)
class Moments:
    """Adam's moments of one parameter at one step, with the corrections for their start at zero."""

    state: ParameterState
    info: MatrixInfo
    first: float  # 1 − β₁ᵗ
    second: float  # 1 − β₂ᵗ
    eps: float
    corrected: bool

    def exp_avg(self, part: slice) -> torch.Tensor:
        """m̂, some of its entries as stored, flat, float64."""
        return self._flat(self.state.exp_avg())[part].double() / self.first

    def exp_avg_sq(self, part: slice) -> torch.Tensor:
        """v̂, as `exp_avg`."""
        return self._flat(self.state.exp_avg_sq())[part].double() / self.second

    def adam_update(self, part: slice) -> torch.Tensor:
        """m̂/(√v̂ + ε), as `exp_avg`."""
        return self.exp_avg(part) / (self.exp_avg_sq(part).clamp(min=0.0).sqrt() + self.eps)

    def snr(self) -> float | None:
        """‖m̂‖²/Σv̂."""
        energy = total = 0.0
        for part in self._parts():
            m = self.exp_avg(part)
            energy += float(m @ m)
            total += float(self.exp_avg_sq(part).sum())
        value = energy / total if total > 0.0 else None
        return value if value is not None and np.isfinite(value) else None

    def matrix(self, entries: Callable[[slice], torch.Tensor]) -> torch.Tensor | Product:
        """The matrix (rows, cols) of some flat entries, lifted back from a projection."""
        stored = self._flat(self.state.exp_avg())
        # float32 holds more digits than the moments have, where they are not float64 themselves.
        wide = torch.float64 if stored.dtype == torch.float64 else torch.float32
        flat = torch.empty(stored.numel(), dtype=wide)
        for part in self._parts():
            flat[part] = entries(part).to(wide)
        if self.state.projected is None:
            if self.info.index is None:
                return self.info.select(flat.view(self.state.shape))
            matrix = flat.view(self.state.shape[1:])
            return matrix.T if self.info.transposed else matrix
        P, Q = self._lifted(flat.view(self.state.exp_avg().shape).double().numpy())
        return Product(Q, P) if self.info.transposed else Product(P, Q)

    def _parts(self) -> Iterator[slice]:
        """Some entries after the other: a whole matrix in float64 is not to be held."""
        size = self._flat(self.state.exp_avg()).numel()
        return (slice(start, start + BLOCK) for start in range(0, size, BLOCK))

    def _lifted(self, R: FloatArray) -> tuple[FloatArray, FloatArray]:
        """P and Q of the stored layout with P Qᵀ = P R, R Qᵀ or P R Qᵀ of the projector."""
        assert self.state.projected is not None
        side = self.state.projected.side
        if side == "left":
            return _float64(self.state.projector("left")), R.T
        right = _float64(self.state.projector("right")).T
        return (
            (R, right) if side == "right" else (_float64(self.state.projector("left")) @ R, right)
        )

    def _flat(self, tensor: torch.Tensor) -> torch.Tensor:
        whole = self.info.index is None or self.state.projected is not None
        return (tensor if whole else tensor[self.info.index]).reshape(-1)


def moment_series(unit: TrajectoryUnit, rank: int, backend: Backend) -> Iterator[Series]:
    """`exp_avg`, `adam_update` and `projector` at the steps that hold them."""
    held = [(step, _moments(step)) for step in unit.steps if step.moments is not None]
    if not held:
        return
    flags = unit.flags + (() if all(m.corrected for _, m in held) else (UNCORRECTED,))
    for source in ("exp_avg", "adam_update"):
        yield _series(source, held, flags, rank, backend)
    projected = [(step, moments) for step, moments in held if moments.state.projected is not None]
    if projected:
        yield Series("projector", None, tuple(_projector(*one) for one in projected), flags=flags)


def gradient_series(unit: TrajectoryUnit, rank: int, backend: Backend) -> Iterator[Series]:
    """Gradients that were saved beside checkpoints."""
    held = [(step, step.gradient) for step in unit.steps if step.gradient is not None]
    if not held:
        return
    observations = []
    for step, stored in held:
        info = _info(step)
        found = observe(
            info.select(as_tensor(stored)), step=step.number, rank=rank,
            blocks=blocks_of(step.entry), backend=backend,
        )  # fmt: skip
        origin = Origin(stored.dtype, content_sha256(stored), learning_rate=_rate(step))
        observations.append(replace(found, origin=origin))
    kept = evenly([i for i, o in enumerate(observations) if o.is_finite], MOST_STEPS)
    cosines = None
    if kept:
        flat = [_entries(_info(held[i][0]), as_tensor(held[i][1])) for i in kept]
        steps = [held[i][0].number for i in kept]
        cosines = of_blocks(steps, flat[0].numel(), lambda part: [one[part] for one in flat])
    yield Series("grad", "saved", tuple(observations), cosines, flags=unit.flags)


def saved_gradient(step: Step) -> torch.Tensor:
    """The gradient (rows, cols) beside the weights of a step. Raises CheckpointError."""
    assert step.gradient is not None
    return _info(step).select(as_tensor(step.gradient))


def _moments(step: Step) -> Moments:
    state = step.moments
    assert state is not None
    known = state.step is not None and state.beta1 is not None and state.beta2 is not None
    first = second = 1.0
    if state.step is not None and state.beta1 is not None and state.beta2 is not None:
        first, second = 1.0 - state.beta1**state.step, 1.0 - state.beta2**state.step
    if not (first > 0.0 and second > 0.0):
        known, first, second = False, 1.0, 1.0
    eps = 1e-8 if state.eps is None else state.eps
    return Moments(state, _info(step), first, second, eps, known)


def _series(
    source: str,
    held: Sequence[tuple[Step, Moments]],
    flags: tuple[str, ...],
    rank: int,
    backend: Backend,
) -> Series:
    observations: list[Observation] = []
    products: dict[int, Product] = {}
    for step, moments in held:
        matrix = moments.matrix(getattr(moments, source))
        origin = _origin(moments)
        found = observe(
            matrix,
            step=step.number,
            rank=rank,
            dtype=origin.dtype,
            blocks=blocks_of(step.entry),
            backend=backend,
        )
        observations.append(replace(found, origin=origin))
        if isinstance(matrix, Product):
            products[step.number] = matrix
    known = [one for one, o in zip(held, observations, strict=True) if o.is_finite]
    kept = evenly(known, MOST_STEPS)
    steps = [step.number for step, _ in kept]
    cosines = None
    if kept and len(products) == len(held):
        cosines = of_products(steps, [products[step] for step in steps])
    elif kept and not products:  # else a projector came or went in between
        entries = [getattr(moments, source) for _, moments in kept]
        size = kept[0][1].info.rows * kept[0][1].info.cols
        cosines = of_blocks(steps, size, lambda part: [one(part) for one in entries])
    return Series(source, None, tuple(observations), cosines, flags=flags)


def _origin(moments: Moments) -> Origin:
    state = moments.state
    dtype = str(state.exp_avg().dtype).removeprefix("torch.")
    both = "".join(content_sha256(state.stored[key]) for key in ("exp_avg", "exp_avg_sq"))
    sha = hashlib.sha256(both.encode()).hexdigest()
    return Origin(dtype, sha, learning_rate=state.lr, snr=moments.snr())


def _projector(step: Step, moments: Moments) -> Observation:
    """A subspace without singular values."""
    projection = moments.state.projected
    assert projection is not None
    info = moments.info
    stored_side = default_side(*info.shape[:2]) if projection.side == "full" else projection.side
    stored = _float64(moments.state.projector(stored_side))
    basis = stored if stored_side == "left" else stored.T
    side: Side = "left" if (stored_side == "left") != info.transposed else "right"
    shape = info.rows, info.cols
    if not np.isfinite(basis).all():
        return without_matrix(step.number, shape, side, ("non_finite: the projector",))
    if orthonormality_defect(basis) > LARGEST_DEFECT:
        return without_matrix(step.number, shape, side, ("the projector is not orthonormal",))
    return Observation(step.number, *shape, side, None, np.empty(0), basis, method="projector")


def _info(step: Step) -> MatrixInfo:
    if step.entry.matrix is None:
        raise CheckpointError("an adapter has no moments of its own", tensor=step.entry.row.name)
    return step.entry.matrix


def _entries(info: MatrixInfo, tensor: torch.Tensor) -> torch.Tensor:
    return (tensor if info.index is None else tensor[info.index]).reshape(-1)


def _float64(tensor: torch.Tensor) -> FloatArray:
    return tensor.double().numpy()


def _rate(step: Step) -> float | None:
    return step.moments.lr if step.moments is not None else None

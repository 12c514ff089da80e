"""Which tensors an implicit network generates, at which shapes, and how large it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from analyzer.errors import ShapeMismatch, UsageError
from analyzer.models.manifold.groups.types import PermutationGroup
from theory.implicit_weights import (
    COORDINATES,
    enough_frequencies,
    fan_in,
    kernel_slice,
    parameter_count,
)

Shape = tuple[int, ...]
Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True, slots=True)
class Design:
    """Everything about an implicit network but its parameters.

    `shapes`: name and full-width shape of each tensor; the position is the coordinate k.
    `full_width`: what sizes are divided by in the coordinates. Waves have the frequencies
    2^i π, i = first_freq … first_freq + n_freqs - 1.
    """

    shapes: tuple[tuple[str, Shape], ...]
    full_width: float
    n_freqs: int
    first_freq: int
    hidden: int
    n_layers: int

    @property
    def output_dim(self) -> int:
        """Most kernel taps of any tensor: 1 without convolutions, 25 with a 5 × 5 kernel."""
        return max(taps(shape) for _, shape in self.shapes)

    @property
    def encoded_dim(self) -> int:
        """Inputs of each tensor's network."""
        return COORDINATES * (1 + 2 * self.n_freqs)

    @property
    def inr_params(self) -> int:
        """Parameters of the networks of all tensors."""
        return len(self.shapes) * parameter_count(
            self.n_freqs, self.hidden, self.n_layers, self.output_dim
        )

    @property
    def model_params(self) -> int:
        """Weights generated at full width."""
        return sum(math.prod(shape) for _, shape in self.shapes)

    def columns(self, shape: Sequence[int]) -> slice:
        """Which outputs are the tensor's taps: the first, or a kernel's central run."""
        return kernel_slice(self.output_dim, taps(shape)) if len(shape) > 2 else slice(0, 1)


def design_for(
    shapes: Shapes,
    *,
    full_width: float | None = None,
    n_freqs: int | None = None,
    first_freq: int = 0,
    hidden: int = 256,
    n_layers: int = 4,
) -> Design:
    """The design for tensors of these full-width shapes, in the order of the state dict.

    `full_width` is the most channels of any axis unless given, `n_freqs` ⌈log₂⌉ of that. Raises
    UsageError for a tensor without channels or sizes below 1.
    """
    if not shapes:
        raise UsageError("there are no weights to generate")
    for name, shape in shapes.items():
        if not shape or min(shape) < 1:
            raise UsageError(f"shape {tuple(shape)} has no channels to count", tensor=name)
    widest = max(max(shape[0], fan_in(shape)) for shape in shapes.values())
    made = Design(
        shapes=tuple((name, tuple(shape)) for name, shape in shapes.items()),
        full_width=float(widest if full_width is None else full_width),
        n_freqs=enough_frequencies(widest) if n_freqs is None else n_freqs,
        first_freq=first_freq,
        hidden=hidden,
        n_layers=n_layers,
    )
    if min(made.full_width, made.n_freqs, made.hidden, made.n_layers) < 1 or first_freq < 0:
        raise UsageError("full_width, n_freqs, hidden and n_layers must be at least 1")
    return made


def taps(shape: Sequence[int]) -> int:
    """Kernel taps of each pair of channels."""
    return math.prod(shape[2:])


def checked_shapes(design: Design, shapes: Shapes | None) -> list[Shape]:
    """The shapes to generate, in the order of the design; full width for None.

    Raises UsageError for other names, ShapeMismatch where more than the channels differ.
    """
    if shapes is None:
        return [shape for _, shape in design.shapes]
    if set(shapes) != {name for name, _ in design.shapes}:
        raise UsageError(
            f"{len(shapes)} tensors asked for, {len(design.shapes)} represented: names differ"
        )
    for name, full in design.shapes:
        asked = tuple(shapes[name])
        if len(asked) != len(full) or asked[2:] != full[2:] or min(asked) < 1:
            raise ShapeMismatch(
                f"shape {asked} differs in more than width from {full}", tensor=name
            )
    return [tuple(shapes[name]) for name, _ in design.shapes]


def resized_shapes(
    shapes: Shapes, groups: Sequence[PermutationGroup], widths: Mapping[str, int]
) -> dict[str, Shape]:
    """Shapes once the groups named in `widths` have that many units; other axes stay.

    Raises UsageError for an unknown group, a width below 1, and experts, whose number is not a
    width of any axis.
    """
    by_name = {group.name: group for group in groups}
    result = {name: list(shape) for name, shape in shapes.items()}
    for name, width in widths.items():
        if name not in by_name or width < 1:
            raise UsageError(f"no group {name!r} of {len(by_name)} can have {width} units")
        group = by_name[name]
        if group.stacks or any(site.index is not None for site in group.sites):
            raise UsageError(f"{name} counts or lies within experts: its width cannot be changed")
        for site in group.sites:
            if site.tensor in result:
                per_unit = sum(size for _, size in site.layout.parts)
                result[site.tensor][site.axis] += per_unit * (width - group.size)
    return {name: tuple(shape) for name, shape in result.items()}

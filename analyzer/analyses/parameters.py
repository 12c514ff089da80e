"""Parameters of the analyses that a user chooses, and what is refused."""

from __future__ import annotations

from typing import Literal, get_args

from analyzer.errors import UsageError

Side = Literal["left", "right"]


def check_parameters(k: int, epsilon: float) -> None:
    """Raises UsageError for k < 1 or ε outside (0, 1]."""
    if k < 1:
        raise UsageError(f"k must be at least 1, got {k}")
    if not 0.0 < epsilon <= 1.0:
        raise UsageError(f"epsilon must lie in (0, 1], got {epsilon}")


def check_side(side: str) -> None:
    """Raises UsageError for anything but left and right."""
    if side not in get_args(Side):
        raise UsageError(f"no side named {side}", hint="choose left or right")

"""What every unit of a scan is computed with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

from analyzer.analyses.parameters import check_parameters
from analyzer.errors import UsageError

ANALYSES = ("tails", "intruders", "emergence", "limits", "tucker", "manifold")
# Run only when asked for, and why.
ON_REQUEST = {"manifold": "ordering channels takes minutes a checkpoint; ask with --analyses"}
# Raised when the meaning of an analysis' stored rows changes: older rows are computed again.
CODE_VERSION = {"tails": 1, "intruders": 2, "emergence": 1, "limits": 1}
# Options that an analysis depends on; others may change without making its rows stale.
_DEPENDS = {
    "tails": ("full", "seed"),
    "intruders": ("k", "epsilon", "seed"),
    "emergence": ("rank",),
    "limits": (),
}


@dataclass(frozen=True, slots=True)
class Options:
    """`k` leading vectors, intruder threshold `epsilon`, tails in `full`, random `seed`.

    `rank` is that of gradient energies and subspaces. Raises UsageError for k or rank < 1 or ε
    outside (0, 1].
    """

    k: int = 10
    epsilon: float = 0.5
    full: bool = False
    seed: int = 0
    rank: int = 8

    def __post_init__(self) -> None:
        check_parameters(self.k, self.epsilon)
        if self.rank < 1:
            raise UsageError(f"the rank of a subspace must be at least 1, got {self.rank}")

    def chosen(self, analysis: str) -> dict[str, Any]:
        """The options that rows of an analysis depend on, and its version."""
        chosen = {name: value for name, value in asdict(self).items() if name in _DEPENDS[analysis]}
        return chosen | {"version": CODE_VERSION[analysis]}

    def params(self, analysis: str, base_sha256: str | None) -> str:
        """Everything the rows of one unit depend on besides the matrix itself."""
        return json.dumps({**self.chosen(analysis), "base": base_sha256}, sort_keys=True)

"""What every unit of a scan is computed with."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from analyzer.analyses.parameters import check_parameters

ANALYSES = ("tails", "intruders")
# Raised when the meaning of an analysis' stored rows changes: older rows are computed again.
CODE_VERSION = {"tails": 1, "intruders": 1}
# Options that an analysis depends on; others may change without making its rows stale.
_DEPENDS = {"tails": ("full", "seed"), "intruders": ("k", "epsilon", "seed")}


@dataclass(frozen=True, slots=True)
class Options:
    """`k` leading vectors, intruder threshold `epsilon`, tails in `full`, random `seed`.

    Raises UsageError for k < 1 or ε outside (0, 1].
    """

    k: int = 10
    epsilon: float = 0.5
    full: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_parameters(self.k, self.epsilon)

    def params(self, analysis: str, base_sha256: str | None) -> str:
        """Everything the rows of one unit depend on besides the matrix itself."""
        chosen = {name: value for name, value in asdict(self).items() if name in _DEPENDS[analysis]}
        return json.dumps(
            {**chosen, "version": CODE_VERSION[analysis], "base": base_sha256}, sort_keys=True
        )

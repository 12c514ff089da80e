"""Links of a matrix along the steps of a run, within the job of its base matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from analyzer.analyses.intruder_tracks import SidesVectors, step_vectors
from analyzer.analyses.intruders import TunedVectors
from analyzer.analyses.judging import leading_vectors
from analyzer.errors import WorkbenchError
from analyzer.scanning.drafts import Entry
from analyzer.scanning.matrices import BaseMatrix, TunedMatrix, tuned_matrix
from analyzer.spectral import Backend, LowRankUpdate


@dataclass(frozen=True, slots=True)
class Previous:
    """The last step before that has vectors to compare with, if any.

    `seen` counts the steps that were looked at, one more if none of them had; None if one could
    not be read.
    """

    seen: int | None
    matrix_id: int | None = None
    vectors: SidesVectors | None = None


class LastStep:
    """Leading vectors of the step scored last; those of any other are computed when asked for.

    Steps of a run come one after the other, so that a scan without gaps reads none twice.
    """

    def __init__(self, base: BaseMatrix, k: int, backend: Backend) -> None:
        self._base, self._k, self._backend = base, k, backend
        self._held: tuple[int, SidesVectors] | None = None
        self._without: set[int] = set()

    def keep(self, entry: Entry, vectors: SidesVectors) -> None:
        """The vectors of a step that was just scored, in place of those before."""
        self._held = (entry.matrix_id, vectors)

    def skip(self, entry: Entry) -> None:
        """A step that has no vectors to follow: it failed, or equals the base."""
        self._without.add(entry.matrix_id)

    def before(self, earlier: Sequence[Entry]) -> Previous:
        """The nearest of the `earlier` steps, the nearest first, that has vectors to follow."""
        for seen, entry in enumerate(earlier, start=1):
            try:
                vectors = self._of(entry)
            except Exception:  # a failing machine may do better next time
                return Previous(None)
            if vectors is not None:
                return Previous(seen, entry.matrix_id, vectors)
        return Previous(len(earlier) + 1)

    def _of(self, entry: Entry) -> SidesVectors | None:
        """None for a step without vectors to follow."""
        if self._held is not None and self._held[0] == entry.matrix_id:
            return self._held[1]
        if entry.matrix_id in self._without:
            return None
        try:
            tuned = tuned_matrix(entry, self._base, self._backend)
            if tuned.is_zero:
                self.skip(entry)
                return None
            top = leading_vectors(
                self._base.svd, tuned.update, tuned.delta.singular_values, self._k,
                backend=self._backend,
            )  # fmt: skip
        except WorkbenchError:
            self.skip(entry)
            return None
        return vectors_of(tuned, top)


def vectors_of(tuned: TunedMatrix, top: TunedVectors) -> SidesVectors:
    """Comparable vectors of both sides from the leading triplets of a tuned matrix."""
    update = tuned.update if isinstance(tuned.update, LowRankUpdate) else None
    return step_vectors(top, update, tuned.factors)

"""WeLore ranks: one threshold for all block matrices of a checkpoint, once all are scanned.

Jaiswal et al., arXiv 2407.11239.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import numpy as np
from numpy.typing import NDArray

from analyzer.analyses.rows_welore import WeloreRow
from analyzer.checkpoints.names import BLOCK_ROLES
from analyzer.store.writing import insert
from theory.welore import (
    effective_rank_reduction,
    energy_kept,
    exact_threshold,
    is_low_rank_component,
    param_ratio,
    pruned_rank,
)

TARGET_ERR = 0.5  # the compression that the paper fine-tunes at

_PENDING = """
    SELECT checkpoint_id FROM matrix JOIN spectrum_info USING (matrix_id)
    WHERE kind = 'weight' AND role IN (SELECT unnest(?))
    GROUP BY checkpoint_id
    HAVING count(*) <> (SELECT count(*) FROM welore JOIN matrix m USING (matrix_id)
                        WHERE m.checkpoint_id = matrix.checkpoint_id)
"""
_SPECTRA = """
    SELECT matrix_id, rows, cols, list(sigma ORDER BY k)
    FROM matrix JOIN spectrum USING (matrix_id)
    WHERE checkpoint_id = ? AND kind = 'weight' AND role IN (SELECT unnest(?))
    GROUP BY ALL ORDER BY matrix_id
"""


_UNTOUCHED = """
    SELECT list(sigma ORDER BY k)
    FROM checkpoint c JOIN matrix m ON m.checkpoint_id = c.base_checkpoint_id
         JOIN spectrum USING (matrix_id)
    WHERE c.checkpoint_id = ? AND c.kind = 'adapter' AND spectrum.kind = 'weight'
          AND m.name NOT IN (SELECT name FROM matrix WHERE checkpoint_id = ?)
          AND role IN (SELECT unnest(?))
    GROUP BY matrix_id
"""


def pending_welore(connection: duckdb.DuckDBPyConnection) -> list[int]:
    """Checkpoints whose block matrices have spectra that no ranks were allocated to."""
    found = connection.execute(_PENDING, [sorted(BLOCK_ROLES)]).fetchall()
    return [checkpoint_id for (checkpoint_id,) in found]


def write_welore(connection: duckdb.DuckDBPyConnection, checkpoint_id: int) -> None:
    """Allocate ranks over one checkpoint; rows of an earlier allocation go.

    What an adapter leaves untouched counts as it is in the base, so that the threshold is the
    adapted model's; rows are written for its own matrices only.
    """
    roles = sorted(BLOCK_ROLES)
    found = connection.execute(_SPECTRA, [checkpoint_id, roles]).fetchall()
    untouched = connection.execute(_UNTOUCHED, [checkpoint_id, checkpoint_id, roles]).fetchall()
    spectra = {number: np.array(sigma) for number, _, _, sigma in found}
    shapes = {number: (rows, cols) for number, rows, cols, _ in found}
    connection.execute(
        "DELETE FROM welore WHERE matrix_id IN"
        " (SELECT matrix_id FROM matrix WHERE checkpoint_id = ?)",
        [checkpoint_id],
    )
    others = [np.array(sigma) for (sigma,) in untouched]
    insert(connection, welore_rows(spectra, shapes, others))


def welore_rows(
    spectra: dict[int, NDArray[np.float64]],
    shapes: dict[int, tuple[int, int]],
    others: Sequence[NDArray[np.float64]] = (),
) -> list[WeloreRow]:
    """Rows of one checkpoint: matrix_id → singular values (p,) and shape.

    `others` are spectra of the same model that take part in the threshold without a row.
    """
    everything = [*spectra.values(), *others]
    threshold = exact_threshold(everything, TARGET_ERR)
    achieved = effective_rank_reduction(everything, threshold)
    rows = []
    for matrix_id, sigma in spectra.items():
        pruned = pruned_rank(sigma, threshold)
        kept = sigma.size - pruned
        rows.append(
            WeloreRow(
                matrix_id=matrix_id,
                threshold=threshold,
                rank_pruned=pruned,
                rank_kept=kept,
                is_lrc=is_low_rank_component(pruned, sigma.size),
                param_ratio=param_ratio(kept, *shapes[matrix_id]),
                energy_kept=energy_kept(sigma, kept),
                target_err=TARGET_ERR,
                achieved_err=achieved,
            )
        )
    return rows

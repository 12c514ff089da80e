"""Reconstruction errors of weights described by few numbers along an order."""

from __future__ import annotations

from analyzer.store.reading import Store
from analyzer.views.manifold import SOURCE
from analyzer.views.view import View

# As stored in the long table, best known first: what a fit must beat is the last.
METHODS = ("fit, best order", "fit, stored order", "truncated SVD")


def fit_errors(store: Store, checkpoint: str) -> View:
    """Median relative error by role, block and method: `role`, `block`, `method`, `rel_fro`, `n`.

    Several tensors share a place where there are experts.
    """
    table = store.sql(
        """
        WITH f AS (
            SELECT role, layer, m.n_params, stored, rel_fro, unpermuted_rel_fro, svd_rel_fro
            FROM manifold_fit m JOIN checkpoint c USING (checkpoint_id) WHERE c.name = ?),
        long AS (
            SELECT role, layer, 1 AS i, 'fit, best order' AS method, rel_fro AS e, stored, n_params
            FROM f UNION ALL
            SELECT role, layer, 2, 'fit, stored order', unpermuted_rel_fro, stored, n_params FROM f
            UNION ALL
            SELECT role, layer, 3, 'truncated SVD', svd_rel_fro, stored, n_params FROM f)
        SELECT role, coalesce(layer::VARCHAR, 'all') AS block, method, median(e) AS rel_fro,
               count(*) AS n, sum(stored) / sum(n_params) AS kept
        FROM long WHERE e IS NOT NULL GROUP BY role, layer, i, method
        ORDER BY role, layer IS NULL, layer, i
        """,
        [checkpoint],
    )
    basis = store.sql(
        """
        SELECT string_agg(DISTINCT basis, ', ' ORDER BY basis) AS b,
               sum(stored) / sum(m.n_params) AS kept
        FROM manifold_fit m JOIN checkpoint c USING (checkpoint_id) WHERE c.name = ?
        """,
        [checkpoint],
    ).to_pylist()[0]
    known = {"checkpoint": checkpoint}
    if basis["b"]:
        known |= {"basis": basis["b"], "numbers kept": f"{basis['kept']:.3g} of the weights"}
    return View(
        "manifold_fit_errors",
        "Error of weights described by few numbers, beside truncated SVD",
        table,
        "‖W - Ŵ‖_F/‖W‖_F at equal stored numbers, the median where several tensors share role and "
        "block.",
        SOURCE,
        known,
    )


def tensors(store: Store, checkpoint: str) -> View:
    """One row a fitted tensor."""
    table = store.sql(
        """
        SELECT tensor, role, layer, basis, m.n_params, stored, rel_fro, unpermuted_rel_fro,
               svd_rel_fro, svd_rank, sv_rel, s1_rel
        FROM manifold_fit m JOIN checkpoint c USING (checkpoint_id) WHERE c.name = ?
        ORDER BY layer IS NULL, layer, role, tensor
        """,
        [checkpoint],
    )
    return View(
        "manifold_tensors", "Every fitted tensor", table,
        "Errors of the weights and of their singular values.", SOURCE, {"checkpoint": checkpoint},
    )  # fmt: skip


def fits_in_words(view: View) -> str:
    """Of how many tensors the fit beats truncated SVD and the stored order, in a sentence."""
    rows = [r for r in view.rows() if r["rel_fro"] is not None]
    against = [r for r in rows if r["svd_rel_fro"] is not None]
    if not against:
        return ""
    better = sum(r["rel_fro"] < r["svd_rel_fro"] for r in against)
    known = [r for r in rows if r["unpermuted_rel_fro"] is not None]
    helped = sum(r["rel_fro"] < r["unpermuted_rel_fro"] for r in known)
    return (
        f"At equal stored numbers the fit is closer to the weights than truncated SVD for {better} "
        f"of {len(against)} tensors; reordering brought it closer for {helped} of {len(known)}."
    )

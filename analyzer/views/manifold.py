"""Weight manifolds of one checkpoint: how smooth its groups become in the best order found."""

from __future__ import annotations

import pyarrow.compute as pc

from analyzer.store.reading import Store
from analyzer.views.view import MOST_POINTS, View

SOURCE = "Yang & Wang 2024, arXiv 2410.11878"
RULE_OF_THUMB = 0.1  # smoothness below which resampling along the order lost to pruning
# blocks by number, then what spans them
GROUP_ORDER = 'layer IS NULL, layer, kind, "group"'


def measured(store: Store) -> list[str]:
    """Names of the checkpoints whose groups were ordered, base first."""
    query = """
        SELECT name FROM checkpoint
        WHERE checkpoint_id IN (SELECT checkpoint_id FROM manifold_group)
        ORDER BY kind <> 'base', run, step DESC, name
    """
    return store.sql(query).column(0).to_pylist()


def groups(store: Store, checkpoint: str) -> View:
    """One row a permutation group, lengths of its paths over the mean of all orders."""
    table = store.sql(
        f"""
        SELECT "group", g.kind, coalesce(layer::VARCHAR, 'all') AS block, n, d,
               tv_before / nullif(tv_random, 0) AS before, tv_after / nullif(tv_random, 0) AS after,
               null_ratio, lower_bound / nullif(tv_random, 0) AS bound, smoothness, gap, exact,
               tv_before, tv_after, tv_random, solver, layer
        FROM manifold_group g JOIN checkpoint c USING (checkpoint_id)
        WHERE c.name = ? ORDER BY {GROUP_ORDER}
        """,
        [checkpoint],
    )
    return View(
        "manifold_groups",
        "Total variation of every group: as stored, in the best order found, and by chance",
        table,
        "Sum of distances of neighbouring units over its mean over all orders (1 = a random "
        "order). Chance: the best order after every weight's column was shuffled; only what lies "
        "below it is structure. No order is shorter than the bound (Held & Karp 1970).",
        SOURCE,
        {"checkpoint": checkpoint},
    )


def smoothness(of: View) -> View:
    """What is not chance in every group of `groups`: `group`, `kind`, `block`, `n`, `smoothness`.

    Without the groups that have no smoothness: of one unit, or of zeros.
    """
    known = of.table.filter(pc.field("smoothness").is_valid())
    return View(
        "manifold_smoothness",
        "What is not chance, by block",
        known.select(["group", "kind", "block", "n", "smoothness"]),
        "1 - (best order)/(best order after shuffling). Dashed: 0, what chance gives, and "
        f"{RULE_OF_THUMB:g}, a rule of thumb from four tiny models below which pruning was the "
        "better way.",
        of.source,
        of.parameters,
    )


def group_names(store: Store, checkpoint: str) -> list[str]:
    """Groups of a checkpoint whose order is stored, those of most units first."""
    query = f"""
        WITH g AS (
            SELECT g."group", g.kind, g.layer, g.n
            FROM manifold_group g JOIN checkpoint c USING (checkpoint_id)
            JOIN manifold_order o ON o.checkpoint_id = g.checkpoint_id AND o."group" = g."group"
            WHERE c.name = ? AND o.pos = 0)
        SELECT "group" FROM g ORDER BY n DESC, {GROUP_ORDER}
    """
    return store.sql(query, [checkpoint]).column(0).to_pylist()


def order(store: Store, checkpoint: str, group: str, points: int = MOST_POINTS) -> View:
    """`pos` and `idx` of a group's units, at most `points` of them, evenly spaced in the order."""
    table = store.sql(
        """
        WITH o AS (
            SELECT pos, idx, count(*) OVER () AS n
            FROM manifold_order JOIN checkpoint c USING (checkpoint_id)
            WHERE c.name = ? AND "group" = ?)
        SELECT pos, idx FROM o
        WHERE ((pos + 1) * ?) // n <> (pos * ?) // n ORDER BY pos
        """,
        [checkpoint, group, points, points],
    )
    return View(
        "manifold_order",
        "Order of a group: place in the order against place in the file",
        table,
        "A diagonal would mean that the stored order is already smooth; a path and its reverse are "
        "the same.",
        SOURCE,
        {"checkpoint": checkpoint, "group": group},
    )


def samples(store: Store) -> View:
    """One row a group of a checkpoint that was sampled at another width."""
    table = store.sql(
        """
        SELECT c.name AS checkpoint, "group", operator, n, m, certificate, certified, gamma_width,
               gamma_params, smoothness, s.path
        FROM manifold_sample s JOIN checkpoint c USING (checkpoint_id)
        ORDER BY c.name, s.path, "group"
        """
    )
    return View(
        "manifold_samples",
        "Checkpoints sampled at other widths",
        table,
        "certificate: change of the layer's output over the norm of its input, a bound only where "
        "certified.",
        SOURCE,
    )


def groups_in_words(view: View) -> str:
    """How many groups are smoother than chance by the rule of thumb, in a sentence."""
    known = [value for value in view.column("smoothness") if value is not None]
    if not known:
        return ""
    smooth = sum(value >= RULE_OF_THUMB for value in known)
    return (
        f"{smooth} of {len(known)} groups are smoother than chance by at least {RULE_OF_THUMB:g} "
        f"(median {sorted(known)[len(known) // 2]:.3g}); below that, resampling along the order "
        "lost to pruning in four tiny models."
    )

"""Attention heads against the threshold √(ln L): which there are, and the map of their ratios."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from analyzer.store.reading import Store
from analyzer.views.view import View

HU = "Hu et al. 2025, arXiv 2406.03136"
ALMAN_SONG = "Alman & Song 2023, arXiv 2302.13214"
# Measured values speak for a checkpoint, else bounds, else typical values.
SOURCES = ("activations", "data_free", "spherical")
KINDS = {
    "activations": "values on a text",
    "data_free": "upper bounds for every text, from weights alone",
    "spherical": "typical values of random tokens, no bound",
}
ORDER = "stack NULLS FIRST, layer, module, head"
# The rows of a checkpoint's source; binds both. Layers are told apart by module where one number
# names several attention layers.
HEADS = """
    own AS (
        SELECT l.* FROM lora_limits l JOIN checkpoint c USING (checkpoint_id)
        WHERE c.name = ? AND source = ?),
    heads AS (
        SELECT *, CASE WHEN (SELECT count(DISTINCT module) > count(DISTINCT layer) FROM own)
                       THEN module ELSE layer::VARCHAR END AS place
        FROM own)
"""


def checkpoints(store: Store) -> list[str]:
    """Names of the checkpoints whose heads were compared: adapters, fine-tunes, then the base; the
    last step of a run first."""
    return _texts(
        store,
        """
        SELECT name FROM checkpoint WHERE checkpoint_id IN (SELECT checkpoint_id FROM lora_limits)
        ORDER BY row_number() OVER (PARTITION BY coalesce(run, name) ORDER BY step DESC) > 1,
                 list_position(['adapter', 'full', 'base'], kind), run, step DESC, name
        """,
    )


def sources(store: Store, checkpoint: str) -> list[str]:
    """How the heads of a checkpoint were judged, the best source first."""
    there = _texts(
        store,
        "SELECT DISTINCT source FROM lora_limits JOIN checkpoint USING (checkpoint_id)"
        " WHERE name = ?",
        checkpoint,
    )
    return [source for source in SOURCES if source in there]


def places(store: Store, checkpoint: str, source: str) -> list[str]:
    """Attention layers of a checkpoint in their order, as the axes of the maps name them."""
    return _texts(
        store,
        f"""
        WITH {HEADS}
        SELECT place FROM heads GROUP BY place, stack, layer, module
        ORDER BY stack NULLS FIRST, layer, module
        """,
        checkpoint,
        source,
    )


def head_map(store: Store, checkpoint: str, source: str) -> View:
    """One row a head: `place` (layer), `head`, `ratio_logit`, `ratio_as`, their bands and the
    verdict."""
    table = store.sql(
        f"""
        WITH {HEADS}
        SELECT place, layer, module, head, ratio_logit, ratio_as, band_logit, band_as, verdict,
               gamma_logit, gamma_as, threshold, L
        FROM heads ORDER BY {ORDER}
        """,
        [checkpoint, source],
    )
    return View(
        "limits_heads",
        "Heads against the threshold",
        table,
        "ratio_logit = √max|S| and ratio_as = √(β·d_h)·max(max|q|, max|k|), both over the "
        "threshold √(ln L): " + KINDS.get(source, source) + ". Marks: · below 0.8, ○ near it, "
        "● above 1.25.",
        f"{HU}; {ALMAN_SONG}",
        named(checkpoint, source) | lengths(table),
    )


def norms(store: Store, checkpoint: str, source: str) -> View:
    """Largest entries of queries and keys by layer, the largest of its heads: `place`, `side`
    (queries, keys), `part` (base, update alone, adapted), `value`, `threshold`."""
    table = store.sql(
        f"""
        WITH {HEADS}, sides AS (
            SELECT 'queries' AS side, place, stack, layer, module, threshold, gamma_q_base AS base,
                   gamma_dq AS "update alone", gamma_q AS adapted FROM heads
            UNION ALL
            SELECT 'keys', place, stack, layer, module, threshold, gamma_k_base, gamma_dk, gamma_k
            FROM heads)
        SELECT side, place, part, max(value) AS value, min(threshold) AS threshold
        FROM (UNPIVOT sides ON base, "update alone", adapted INTO NAME part VALUE value)
        GROUP BY stack, layer, module, place, side, part
        ORDER BY side DESC, stack NULLS FIRST, layer, module,
                 list_position(['base', 'update alone', 'adapted'], part)
        """,
        [checkpoint, source],
    )
    limit = {"threshold": min(table.column("threshold").to_pylist())} if table.num_rows else {}
    return View(
        "limits_norms",
        "Largest entries of queries and keys",
        table,
        "max|X W*| of the base, max|X ΔW| of the update alone and max|X W| of both, before the "
        "rotary embedding, the largest of each layer's heads: " + KINDS.get(source, source) + ".",
        HU,
        named(checkpoint, source) | limit,
    )


def head_rows(store: Store, checkpoint_id: int) -> list[dict[str, Any]]:
    """Every row of a checkpoint, source by source."""
    return store.sql(
        f"SELECT * FROM lora_limits WHERE checkpoint_id = ? ORDER BY source, {ORDER}",
        [checkpoint_id],
    ).to_pylist()


def named(checkpoint: str, source: str) -> dict[str, Any]:
    """What every picture of a checkpoint's heads depends on."""
    return {"checkpoint": checkpoint, "source": source}


def lengths(table: Any) -> dict[str, Any]:
    """The L of the rows, as a parameter; nothing where they have none."""
    found: Sequence[int] = sorted(set(table.column("L").to_pylist()))
    if not found:
        return {}
    return {"L": found[0] if len(found) == 1 else f"{found[0]} to {found[-1]}"}


def _texts(store: Store, query: str, *parameters: str) -> list[str]:
    return store.sql(query, list(parameters)).column(0).to_pylist()

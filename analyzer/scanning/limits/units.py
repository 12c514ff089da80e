"""Which attention layers a scan has left to compare with the norm thresholds."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from analyzer.checkpoints.attention import AttentionLayer, RefusedLayer, attention_layers
from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.discover import Collection
from analyzer.scanning.drafts import Entry, Problem
from analyzer.scanning.options import Options
from analyzer.scanning.trajectories.runs import fingerprint

# The two passes, each with its own mark of being done: a scan without a text must neither repeat
# nor drop what an earlier one measured.
DATA_FREE, MEASURED = "limits", "limits_measured"
# Where a configuration does not say how long a sequence may be.
ASSUMED_LENGTH = 2048

Entries = Mapping[str, Entry]  # name of a base matrix, or of the checkpoint's own → entry


@dataclass(frozen=True, slots=True)
class LimitsUnit:
    """One attention layer of one checkpoint; `tuned` its matrices or targets by name.

    `layer` is the checkpoint's own layout, or its base's for an adapter. The rows belong to
    `entry`: its queries, or another target of the same block. `adapter` is None for a base.
    """

    entry: Entry
    layer: AttentionLayer
    tuned: Entries
    model: str
    adapter: str | None
    length: int | None  # longest sequence of the configuration
    params: dict[str, str]

    @property
    def matrix_ids(self) -> tuple[int, ...]:
        """The matrices that rows of this unit may belong to."""
        return (self.entry.matrix_id,)


@dataclass(frozen=True, slots=True)
class LimitsJob:
    """A base layer and every layer tuned from it; `cost` in flops, roughly."""

    checkpoint: Checkpoint
    layer: AttentionLayer
    base: Entries
    activations: Path | None
    modules: tuple[str, ...]  # query projections of every layer of the checkpoint
    units: tuple[LimitsUnit, ...]
    cost: float


@dataclass(frozen=True, slots=True)
class LimitsPlan:
    """What is left to do, how much is stored, which layers were refused; `reason`, if all were."""

    jobs: tuple[LimitsJob, ...]
    n_stored: int
    problems: tuple[Problem, ...]
    reason: str | None


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A layer of a checkpoint beside the one it was tuned from, which is itself for a base."""

    checkpoint: Checkpoint
    layer: AttentionLayer
    own: Entries
    anchor: Checkpoint
    anchor_layer: AttentionLayer
    anchor_entries: Entries


def plan_limits(
    collection: Collection,
    entries: Sequence[Entry],
    identities: Mapping[int, str],
    options: Options,
    done: set[tuple[int, str, str]],
    activations: Path | None,
) -> LimitsPlan:
    """Every attention layer of every checkpoint with its base; reads headers only.

    `identities` is the hash of each checkpoint by its number.
    """
    numbers = {entry.checkpoint.name: entry.row.checkpoint_id for entry in entries}
    text = None if activations is None else _mark(activations)
    problems: list[Problem] = []
    groups: dict[tuple[str, str], LimitsJob] = {}
    taken: set[int] = set()
    stored = 0
    candidates = list(_candidates(collection, entries, problems))
    modules: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for one in candidates:
        if one.anchor is one.checkpoint:
            modules[one.anchor.name] += (one.layer.query.module,)
    for one in candidates:
        entry = _entry(one.layer, one.own, taken)
        if entry is None:  # an adapter that leaves the whole block as it is
            continue
        taken.add(entry.matrix_id)
        known = {
            **options.chosen(DATA_FREE),
            "layout": hashlib.sha256(repr((one.layer, one.anchor_layer)).encode()).hexdigest(),
            "checkpoint": identities.get(numbers[one.checkpoint.name]),
            "base": identities.get(numbers[one.anchor.name]),
        }
        params = {DATA_FREE: json.dumps(known, sort_keys=True)}
        if text is not None:
            params[MEASURED] = json.dumps(known | {"activations": text}, sort_keys=True)
        left = {n: p for n, p in params.items() if (entry.matrix_id, n, p) not in done}
        stored += len(params) - len(left)
        if not left:
            continue
        tuned = one.checkpoint is not one.anchor
        # A text that cannot be read must not cost the bounds: a unit each.
        units = tuple(
            LimitsUnit(
                entry=entry,
                layer=one.layer,
                tuned=_needed(one.layer, one.own) if tuned else {},
                model=one.anchor.name,
                adapter=one.checkpoint.name if tuned else None,
                length=one.layer.context,
                params={name: params},
            )
            for name, params in left.items()
        )
        key = one.anchor.name, one.anchor_layer.name
        base = _needed(one.anchor_layer, one.anchor_entries)
        job = groups.get(key) or LimitsJob(
            one.anchor, one.anchor_layer, base, activations, modules[one.anchor.name], (), 1.0
        )
        cost = job.cost + _cost(one.layer, entry)
        groups[key] = replace(job, units=(*job.units, *units), cost=cost)
    jobs = sorted(groups.values(), key=lambda job: -job.cost)
    if candidates:
        return LimitsPlan(tuple(jobs), stored, tuple(problems), None)
    why = problems[0].message if problems else "no attention layer whose heads can be told apart"
    return LimitsPlan((), 0, (), why)


def _candidates(
    collection: Collection, entries: Sequence[Entry], problems: list[Problem]
) -> Iterator[_Candidate]:
    """The base's layers first, then those of everything tuned from it and of what was not."""
    of_checkpoint: dict[str, list[Entry]] = defaultdict(list)
    for entry in entries:
        if entry.row.status == "ok":
            of_checkpoint[entry.checkpoint.name].append(entry)
    base = collection.base
    base_layers: dict[str, AttentionLayer] = {}
    base_entries: Entries = {}
    for checkpoint in sorted(collection.checkpoints, key=lambda c: c is not base):
        found = of_checkpoint[checkpoint.name]
        if checkpoint.kind == "adapter":
            own = {e.base.name: e for e in found if e.base is not None}
            for layer in base_layers.values():
                assert base is not None
                yield _Candidate(checkpoint, layer, own, base, layer, base_entries)
            continue
        own = {e.row.name: e for e in found}
        layers = [layer for layer in _layers(checkpoint, base, problems) if _is_whole(layer, own)]
        if checkpoint is base:
            base_layers, base_entries = {layer.query.matrix: layer for layer in layers}, own
        for layer in layers:
            before = None if checkpoint is base else own[layer.query.matrix].base
            partner = base_layers.get(before.name) if before is not None else None
            if base is not None and partner is not None and _same_heads(layer, partner):
                yield _Candidate(checkpoint, layer, own, base, partner, base_entries)
            else:
                yield _Candidate(checkpoint, layer, own, checkpoint, layer, own)


def _layers(
    checkpoint: Checkpoint, base: Checkpoint | None, problems: list[Problem]
) -> list[AttentionLayer]:
    """The layers that can be told into heads; what cannot is one warning a reason."""
    if not checkpoint.config and base is not None:
        checkpoint = replace(checkpoint, config=base.config)
    layers = attention_layers(checkpoint)
    reasons = Counter(layer.reason for layer in layers if isinstance(layer, RefusedLayer))
    for reason, count in reasons.items():
        what = "an attention layer" if count == 1 else f"{count} attention layers"
        text = f"{checkpoint.name}: no limits of {what}: {reason}"
        problems.append(Problem(checkpoint.name, "warning", text))
    return [layer for layer in layers if isinstance(layer, AttentionLayer)]


def _is_whole(layer: AttentionLayer, by_name: Entries) -> bool:
    return layer.query.matrix in by_name and layer.key.matrix in by_name


def _entry(layer: AttentionLayer, by_name: Entries, taken: set[int]) -> Entry | None:
    """The matrix that rows belong to: queries, keys, values, or another one of the block that no
    other layer has."""
    value = layer.value.matrix if layer.value is not None else None
    for name in (layer.query.matrix, layer.key.matrix, value):
        if name is not None and name in by_name:
            return by_name[name]
    rest = (entry for entry in _same_block(layer, by_name) if entry.matrix_id not in taken)
    return next(rest, None)


def _same_block(layer: AttentionLayer, by_name: Entries) -> Iterator[Entry]:
    for entry in by_name.values():
        if (entry.row.stack, entry.row.layer) == (layer.stack, layer.layer):
            yield entry


def _same_heads(one: AttentionLayer, other: AttentionLayer) -> bool:
    heads = one.n_heads, one.n_kv_heads, one.head_width
    return heads == (other.n_heads, other.n_kv_heads, other.head_width)


def _mark(activations: Path) -> str:
    """What decides whether hidden states are those of last time."""
    if activations.is_dir():
        return fingerprint([path for path in activations.iterdir() if path.is_file()])
    return fingerprint([activations])


def _cost(layer: AttentionLayer, entry: Entry) -> float:
    width = layer.n_heads * layer.head_width
    return 8.0 * width * layer.head_width * max(entry.row.cols, width)


def _needed(layer: AttentionLayer, entries: Entries) -> Entries:
    """The matrices of a layer alone: only they travel to a worker."""
    parts = (layer.query, layer.key, layer.value)
    names = {part.matrix for part in parts if part is not None}
    return {name: entries[name] for name in names if name in entries}

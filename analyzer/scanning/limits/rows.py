"""One attention layer, base and everything tuned from it → rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from analyzer.activations.format import Activations, open_activations
from analyzer.analyses.limits_arrays import LayerArrays, Lora
from analyzer.analyses.limits_bounds import data_free_limits
from analyzer.analyses.limits_measured import measured_limits
from analyzer.analyses.limits_tokens import BaseTokens, base_tokens
from analyzer.analyses.limits_typical import spherical_limits
from analyzer.analyses.limits_verdicts import Length
from analyzer.analyses.rows_limits import HeadLimits, LoraLimitsRow, LoraLimitsSweepRow
from analyzer.checkpoints.attention import AttentionLayer
from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.errors import AnalysisError, ShapeMismatch
from analyzer.scanning.drafts import Entry
from analyzer.scanning.limits.arrays import (
    BaseArrays,
    norm_tensors,
    read_base,
    with_adapter,
    with_fine_tune,
)
from analyzer.scanning.limits.units import (
    ASSUMED_LENGTH,
    DATA_FREE,
    MEASURED,
    LimitsJob,
    LimitsUnit,
)
from analyzer.store.columns import Row

Padding = NDArray[np.bool_] | None


class BaseLayer:
    """A base layer, read and its tokens projected at most once, for all that is tuned from it."""

    def __init__(self, job: LimitsJob) -> None:
        self._job = job

    @cached_property
    def arrays(self) -> BaseArrays:
        return read_base(self._job.checkpoint, self._job.layer)

    @cached_property
    def activations(self) -> Activations | None:
        return None if self._job.activations is None else open_activations(self._job.activations)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The hidden states of this layer: of queries and, in cross-attention, keys; () if the
        file has none."""
        if self.activations is None:
            return ()
        layer, modules = self._job.layer, self._job.modules
        found = [self.activations.find(layer.query.module, layer.layer, layer.stack, modules)]
        if layer.cross:
            found.append(self.activations.find(layer.key.module, None, layer.stack))
        return tuple(name for name in found if name is not None) if all(found) else ()

    @cached_property
    def tokens(self) -> BaseTokens:
        """Raises NonFinite, ShapeMismatch."""
        assert self.activations is not None
        states = [self.activations.read(name) for name in self.names]
        padding: list[Padding] = [self.activations.padded(name) for name in self.names]
        for part, one in zip((self._job.layer.query, self._job.layer.key), states, strict=False):
            columns = self.arrays.matrices[part.matrix].shape[1]
            if one.shape[-1] != columns:
                raise ShapeMismatch(
                    f"hidden states of shape {one.shape} do not fit {part.matrix} with "
                    f"{columns} columns",
                    path=self.activations.path,
                )
        keys = (states[1], padding[1]) if len(states) > 1 else (None, None)
        return base_tokens(self.arrays.arrays, states[0], padding[0], *keys)


def limits_rows(unit: LimitsUnit, base: BaseLayer, job: LimitsJob) -> Iterator[Row]:
    """Rows of one unit. Raises WorkbenchError if something cannot be read or does not fit."""
    try:
        yield from _rows(unit, base, job)
    except ValueError as error:
        raise AnalysisError(str(error), tensor=unit.entry.row.name) from None


def _rows(unit: LimitsUnit, base: BaseLayer, job: LimitsJob) -> Iterator[Row]:
    arrays, lora = _tuned(unit, base)
    inputs = _inputs(unit, job)
    if DATA_FREE in unit.params:
        length = Length(unit.length or ASSUMED_LENGTH, "config" if unit.length else "assumed")
        for rows in (
            data_free_limits(unit.layer, arrays, length, lora),
            spherical_limits(unit.layer, arrays, length, lora),
        ):
            yield from (_placed(row, unit, inputs, None, None) for row in rows)
    if MEASURED in unit.params and base.names and base.activations is not None:
        limits, sweep = measured_limits(unit.layer, arrays, base.tokens, lora=lora)
        states = hashlib.sha256("".join(map(base.activations.sha256, base.names)).encode())
        source = base.activations.model or base.activations.path.name
        for row in limits:
            yield _placed(row, unit, inputs, states.hexdigest(), source)
        for one in sweep:
            yield LoraLimitsSweepRow(matrix_id=unit.entry.matrix_id, **asdict(one))


def _tuned(unit: LimitsUnit, base: BaseLayer) -> tuple[LayerArrays, Lora | None]:
    if unit.adapter is None:
        return base.arrays.arrays, None
    if unit.entry.adapter is not None:
        return with_adapter(base.arrays, unit.tuned)
    return with_fine_tune(base.arrays, unit.entry.checkpoint, unit.layer), None


def _placed(
    row: HeadLimits, unit: LimitsUnit, inputs: str, states: str | None, source: str | None
) -> LoraLimitsRow:
    return LoraLimitsRow(
        matrix_id=unit.entry.matrix_id,
        checkpoint_id=unit.entry.row.checkpoint_id,
        model=unit.model,
        adapter=unit.adapter,
        stack=unit.layer.stack,
        layer=unit.layer.layer,
        module=unit.layer.name,
        inputs_sha256=inputs,
        activations_sha256=states,
        activations_of=source,
        **asdict(row),
    )


def _inputs(unit: LimitsUnit, job: LimitsJob) -> str:
    """Hash over the content hashes of every tensor that entered."""
    hashes = _hashes(job.checkpoint, job.layer, job.base)
    if unit.adapter is not None:
        own = unit.entry.checkpoint if unit.entry.adapter is None else None
        hashes += _hashes(own, unit.layer, unit.tuned)
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def _hashes(
    checkpoint: Checkpoint | None, layer: AttentionLayer, entries: Mapping[str, Entry]
) -> list[str]:
    matrices = [entries[name].row.content_sha256 or "" for name in sorted(entries)]
    if checkpoint is None:
        return matrices
    return matrices + [checkpoint.content_sha256(name) for name in norm_tensors(layer)]

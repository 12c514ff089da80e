"""The tables every scan fills, and the DDL of any row type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from analyzer.store.columns import Row, column, columns

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class ScanRow:
    """One run of `analyzer scan`."""

    TABLE: ClassVar[str] = "scan"
    scan_id: int = column("number of the scan in this store")
    started_at: str = column("start, UTC, ISO 8601")
    ended_at: str | None = column("end, UTC, ISO 8601; NULL while running or when killed")
    argv: str = column("command line")
    config_json: str = column("effective options of the scan, JSON")
    package_version: str = column("version of spectral-workbench")
    torch_version: str = column("version of torch")
    device: str = column("device of the spectral engine")
    status: str = column("running, ok, partial (some inputs refused) or interrupted")


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """One checkpoint: a base model, a full fine-tune, an adapter or a step of a training run."""

    TABLE: ClassVar[str] = "checkpoint"
    checkpoint_id: int = column("number of the checkpoint in this store")
    name: str = column("path relative to the scanned folder")
    path: str = column("absolute path")
    kind: str = column("base, full or adapter")
    format: str = column("file format the tensors were read from")
    run: str | None = column("training run the checkpoint is a step of")
    step: int | None = column("training step", unit="optimizer steps")
    base_checkpoint_id: int | None = column("checkpoint it was tuned from")
    n_params: int = column("stored parameters", unit="scalars")
    identity_sha256: str = column("SHA-256 over the sorted names and content hashes of its tensors")
    fingerprint: str = column("SHA-256 over names, sizes and modification times of its files")


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """One matrix of a checkpoint."""

    TABLE: ClassVar[str] = "matrix"
    matrix_id: int = column("number of the matrix in this store")
    checkpoint_id: int = column("checkpoint it belongs to")
    name: str = column("tensor name as stored")
    stack: str | None = column("decoder, encoder, vision or audio")
    layer: int | None = column("block number from the tensor name, 0-based")
    role: str = column("attn_q, attn_k, attn_v, attn_o, mlp_up, mlp_down, embed, …, other")
    expert: int | None = column("expert number in a mixture of experts")
    rows: int = column("output features")
    cols: int = column("input features")
    dtype: str = column("storage dtype")
    lossy: bool = column("whether the values come from dequantised storage")
    content_sha256: str | None = column("SHA-256 of dtype, shape and bytes of the tensor(s)")
    status: str = column("ok, or why nothing was computed")
    detail: str | None = column("one line of explanation where status is not ok")


@dataclass(frozen=True, slots=True)
class SpectrumRow:
    """One singular value."""

    TABLE: ClassVar[str] = "spectrum"
    matrix_id: int = column("matrix the value belongs to")
    kind: str = column("weight, delta, gradient, exp_avg, adam_update, delta_prev or delta_init")
    k: int = column("rank of the value, 1-based, descending")
    sigma: float = column("singular value")


@dataclass(frozen=True, slots=True)
class SpectrumInfoRow:
    """How one spectrum was computed, how wrong it can be, and its scalar summaries."""

    TABLE: ClassVar[str] = "spectrum_info"
    matrix_id: int = column("matrix the spectrum belongs to")
    kind: str = column("weight, delta, gradient, exp_avg, adam_update, delta_prev or delta_init")
    method: str = column("algorithm that gave the singular values")
    precision: str = column("floating-point format of the computation")
    error_bound: float | None = column("largest absolute error bound of a singular value")
    storage_floor: float | None = column("singular values below this are rounding of the storage")
    fro_norm: float | None = column("√Σσ²")
    spectral_norm: float | None = column("σ₁ (not its square)")
    stable_rank: float | None = column("Σσ²/σ₁²")
    effective_rank: float | None = column(
        "exp(−Σ p ln p), p = σ/Σσ", source="Roy & Vetterli, EUSIPCO 2007"
    )
    numerical_rank: int | None = column(
        "singular values above max(long side·ε·σ₁, 2·noise), noise of the storage or the solver"
    )
    participation_ratio: float | None = column("(Σσ²)²/Σσ⁴")
    seconds: float | None = column(
        "wall-clock time of the factorisation; NULL if it served several matrices", unit="s"
    )


@dataclass(frozen=True, slots=True)
class DoneRow:
    """A finished unit of work, written in the same transaction as its rows."""

    TABLE: ClassVar[str] = "done"
    matrix_id: int = column("matrix")
    analysis: str = column("tails, intruders or emergence")
    params: str = column("parameters and code version of the analysis")


@dataclass(frozen=True, slots=True)
class EventRow:
    """A message about something refused, skipped or suspicious."""

    TABLE: ClassVar[str] = "event"
    ts: str = column("time, UTC, ISO 8601")
    level: str = column("warning or error")
    scan_id: int = column("scan it happened in")
    checkpoint_id: int | None = column("checkpoint it is about")
    name: str | None = column("file or tensor it is about")
    code: str = column("short reason")
    message: str = column("one line for people")


CORE_TABLES: tuple[type[Row], ...] = (
    ScanRow,
    CheckpointRow,
    MatrixRow,
    SpectrumRow,
    SpectrumInfoRow,
    DoneRow,
    EventRow,
)


def ddl(row_type: type[Row]) -> list[str]:
    """`CREATE TABLE IF NOT EXISTS` and one comment a column; identifiers come from code only."""
    table = row_type.TABLE
    fields = list(columns(row_type))
    body = ", ".join(f'"{field.name}" {field.sql_type}' for field in fields)
    statements = [f'CREATE TABLE IF NOT EXISTS "{table}" ({body})']
    for field in fields:
        text = " · ".join(part for part in (field.description, field.unit, field.source) if part)
        quoted = text.replace("'", "''")
        statements.append(f'COMMENT ON COLUMN "{table}"."{field.name}" IS \'{quoted}\'')
    return statements

"""Every error the workbench raises on purpose.

WorkbenchError
├── UsageError                 a path, name or option that makes no sense        exit 2
│   └── MissingExtra           an optional dependency is not installed
├── NothingToScan              a folder without readable checkpoints             exit 5
├── CheckpointError            a file that cannot be read as a checkpoint        exit 3
│   ├── UnsupportedFormat      known to be something else
│   ├── CorruptFile            truncated, empty, or its header lies
│   ├── UnsafePickle           a pickle that asks for more than tensors
│   ├── UnsafePath             an index that points outside its folder
│   ├── MissingShard           a shard named by an index is absent
│   ├── QuantUnknown           packed integers without a known scheme
│   └── AdapterError           an adapter whose update cannot be reconstructed
├── StoreError                 the DuckDB file                                   exit 4
│   ├── StoreLocked            another process holds it
│   ├── StoreCorrupt           it cannot be opened
│   └── StoreTooNew            written by a newer version
└── AnalysisError              a matrix that cannot be analysed                  exit 3
    ├── NonFinite              NaN or infinity among its entries
    ├── ShapeMismatch          base and tuned matrix differ in shape
    └── NotConverged           an iteration that did not reach its tolerance
"""

from __future__ import annotations

from pathlib import Path

_CONTROL = dict.fromkeys((*range(32), 127, *range(128, 160)), "�")
_BIDI = dict.fromkeys((*range(8234, 8239), *range(8294, 8298)), "�")


def printable(text: str) -> str:
    """`text` on one line, control and bidirectional characters replaced: names are data."""
    return text.translate(_CONTROL | _BIDI)


class WorkbenchError(Exception):
    """What is wrong, where (`path`, `tensor`) and what to do about it (`hint`), in one line."""

    exit_code = 1
    status = "error"

    def __init__(
        self,
        message: str,
        *,
        path: str | Path | None = None,
        tensor: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = None if path is None else Path(path)
        self.tensor = tensor
        self.hint = hint

    def __str__(self) -> str:
        where = ": ".join(str(part) for part in (self.path, self.tensor) if part is not None)
        line = f"{where}: {self.message}" if where else self.message
        return printable(f"{line} ({self.hint})" if self.hint else line)


class UsageError(WorkbenchError):
    """A path, name or option that makes no sense."""

    exit_code = 2


class MissingExtra(UsageError):
    """An optional dependency is not installed; `hint` holds the pip command."""


class NothingToScan(WorkbenchError):
    """A folder without readable checkpoints."""

    exit_code = 5


class CheckpointError(WorkbenchError):
    """A file that cannot be read as a checkpoint."""

    exit_code = 3
    status = "refused"


class UnsupportedFormat(CheckpointError):
    """A file that is known to be something else."""


class CorruptFile(CheckpointError):
    """A file that is truncated, empty, or whose header lies."""


class UnsafePickle(CheckpointError):
    """A pickle that asks for more than tensors."""


class UnsafePath(CheckpointError):
    """An index that points outside its own folder."""


class MissingShard(CheckpointError):
    """A shard that the index names is absent."""


class QuantUnknown(CheckpointError):
    """Packed integers without a known quantisation scheme."""

    status = "quantised_unknown"


class AdapterError(CheckpointError):
    """An adapter whose update cannot be reconstructed from what is stored."""


class StoreError(WorkbenchError):
    """The DuckDB file."""

    exit_code = 4


class StoreLocked(StoreError):
    """Another process holds the store."""


class StoreCorrupt(StoreError):
    """The store cannot be opened."""


class StoreTooNew(StoreError):
    """The store was written by a newer version."""


class AnalysisError(WorkbenchError):
    """A matrix that cannot be analysed."""

    exit_code = 3
    status = "failed"


class NonFinite(AnalysisError):
    """NaN or infinity among the entries: `n_nan`, `n_inf` and the flat index of the first."""

    status = "nonfinite"

    def __init__(
        self, n_nan: int, n_inf: int, first_index: int, *, tensor: str | None = None
    ) -> None:
        super().__init__(
            f"{n_nan} NaN and {n_inf} infinite entries, the first at flat index {first_index}",
            tensor=tensor,
        )
        self.n_nan, self.n_inf, self.first_index = n_nan, n_inf, first_index


class ShapeMismatch(AnalysisError):
    """Base and tuned matrix differ in shape."""

    status = "shape_mismatch"


class NotConverged(AnalysisError):
    """An iteration that did not reach its tolerance."""

    status = "not_converged"

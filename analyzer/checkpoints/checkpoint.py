"""One checkpoint, whatever its format: listed without its data, read a tensor at a time."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from analyzer.checkpoints.files import Contents, list_file, list_indexed, refuse_dangling
from analyzer.checkpoints.folder import (
    ADAPTER_FILES,
    adapter_config,
    open_folder,
    read_config,
    trainer_step,
)
from analyzer.checkpoints.formats import Format
from analyzer.checkpoints.matrices import list_matrices
from analyzer.checkpoints.parameters import count_parameters
from analyzer.checkpoints.steps import step_of
from analyzer.checkpoints.stored import StoredTensor, as_tensor, content_sha256
from analyzer.checkpoints.tensors import MatrixInfo, TensorInfo
from analyzer.checkpoints.zip_records import unreadable
from analyzer.errors import CheckpointError, QuantUnknown, UsageError

if TYPE_CHECKING:
    import torch

Kind = Literal["base", "full", "adapter"]
CONFIGS = ("config.json", "adapter_config.json", "trainer_state.json")
_ADAPTER_KEY = re.compile(
    r"[._]lora[._](?:[ABab]|down|up|mid|embedding_[AB]|E|magnitude_vector)(?:[._]|$)"
    r"|[._]lora_linear_layer\.(?:down|up)\.|\.(?:hada_(?:w[12]_[ab]|t[12])|lokr_(?:w[12](?:_[ab])?"
    r"|t2)|dora_scale)(?:\.|$)|(?:^|\.)(?:oft|vera|ia3)_\w+"
)
# Files whose factors need the adapter_config.json beside them: PEFT's, and MLX's, steps included.
_CONFIGURED = re.compile("|".join((*map(re.escape, ADAPTER_FILES), r"\d+_adapters\.safetensors")))
_PEFT_PREFIX = "base_model.model."
_EXACT_IN_FLOAT32 = re.compile(r"float32|float16|bfloat16|float8_|u?int(?:8|16)$|bool")


@dataclass(frozen=True)
class Checkpoint:
    """A base model, a full fine-tune or an adapter: one file or one folder.

    `step` is the training step, `run` the trajectory the checkpoint belongs to, `config` what
    config.json (an adapter's adapter_config.json) says, `files` everything it is made of. Every
    read opens and maps the file anew, so several threads may read at once and no handle outlives
    the tensors that were read.
    """

    name: str
    path: Path
    kind: Kind
    format: Format
    run: str | None
    step: int | None
    config: dict[str, Any] = field(repr=False)
    warnings: tuple[str, ...]
    files: tuple[Path, ...] = field(repr=False)
    stored: tuple[StoredTensor, ...] = field(repr=False, compare=False)

    def tensors(self) -> tuple[TensorInfo, ...]:
        """Every stored tensor, in file order. Touches no data."""
        return tuple(
            TensorInfo(t.name, t.shape, t.dtype, t.nbytes, t.path.name, t.storage_id)
            for t in self.stored
        )

    @property
    def n_params(self) -> int:
        """Number of parameters, tied ones once; what an adapter trains, if it is one."""
        if self.kind != "adapter":
            return count_parameters(self.stored)
        from analyzer.checkpoints.adapters.keys import is_parameter

        return count_parameters([t for t in self.stored if is_parameter(t.name, t.shape)])

    def matrices(self) -> tuple[MatrixInfo, ...]:
        """The matrices to analyse, in file order, tied ones once. Touches no data."""
        return self._matrices

    def read(self, name: str, rows: slice | None = None) -> torch.Tensor:
        """A tensor, or a slice of its first dimension, with its stored dtype.

        Where the format allows it is a view of the mapped file: pages are read when touched.
        Raises CheckpointError if the file changed or does not hold the tensor.
        """
        return as_tensor(self._find(name), rows)

    def read_matrix(
        self, matrix: str | MatrixInfo, dtype: torch.dtype | Literal["exact"] | None = "exact"
    ) -> torch.Tensor:
        """A matrix as rows = output features × columns = input features.

        ``exact`` is float32, or float64 where the stored numbers do not fit float32; None keeps
        the stored dtype, without a copy where possible. Raises QuantUnknown for packed integers
        whose scheme is not known, CheckpointError if the file cannot be read.
        """
        import torch

        info = self._matrix(matrix) if isinstance(matrix, str) else matrix
        if info.status == "quantised_unknown":
            raise QuantUnknown(info.detail or info.status, path=self.path, tensor=info.name)
        tensor = info.select(self.read(info.tensor))
        if dtype == "exact":
            dtype = torch.float32 if _EXACT_IN_FLOAT32.match(info.dtype) else torch.float64
        return tensor if dtype is None else tensor.to(dtype)

    def content_sha256(self, tensor_name: str) -> str:
        """SHA-256 over dtype, shape and the values' bytes in row-major order.

        The same values give the same hash in every format.
        """
        return content_sha256(self._find(tensor_name))

    def fingerprint(self) -> str:
        """SHA-256 over name, size and modification time of the files as they are now."""
        digest = hashlib.sha256()
        for path in self.files:
            try:
                status = path.stat()
            except OSError as error:
                raise unreadable(path, error) from None
            line = f"{path.name}\0{status.st_size}\0{status.st_mtime_ns}\n"
            digest.update(line.encode("utf-8", "surrogateescape"))
        return digest.hexdigest()

    @cached_property
    def _matrices(self) -> tuple[MatrixInfo, ...]:
        return list_matrices(self.stored, self.config)

    @cached_property
    def _by_name(self) -> dict[str, StoredTensor]:
        return {tensor.name: tensor for tensor in self.stored}

    def _find(self, name: str) -> StoredTensor:
        if name not in self._by_name:
            raise CheckpointError("the checkpoint has no such tensor", path=self.path, tensor=name)
        return self._by_name[name]

    def _matrix(self, name: str) -> MatrixInfo:
        found = next((matrix for matrix in self._matrices if matrix.name == name), None)
        if found is None:
            raise CheckpointError("the checkpoint has no such matrix", path=self.path, tensor=name)
        return found


def open_checkpoint(path: str | Path) -> Checkpoint:
    """The checkpoint in a file or folder; reads headers only and runs nothing it contains.

    Safetensors (one file or shards), PyTorch files old and new, ``.npz``, adapters of PEFT,
    kohya and diffusers, checkpoints of the Hugging Face trainer. Raises UsageError if there is
    no such path, and a CheckpointError that says in one line what the file is and what to do.
    """
    path = Path(path)
    refuse_dangling(path)
    if not path.exists():
        raise UsageError("no such file or folder", path=path, hint="check the spelling")
    if path.is_dir():
        found = open_folder(path)
        weights, contents, adapter = found.weights, found.contents, found.is_adapter
    elif path.name.endswith(".index.json"):
        contents, shards = list_indexed(path)
        weights, adapter = (*shards, path), False
    else:
        weights, contents, adapter = (path,), list_file(path), False
    return _checkpoint(path, weights, contents, is_adapter=adapter)


def _checkpoint(
    path: Path, weights: tuple[Path, ...], contents: Contents, *, is_adapter: bool
) -> Checkpoint:
    folder = path if path.is_dir() else None
    names = [tensor.name for tensor in contents.tensors]
    has_factors = any(map(_ADAPTER_KEY.search, names))
    has_base = any(".base_layer." in name for name in names)
    adapter = is_adapter or (has_factors and not has_base)
    warnings = list(contents.warnings)
    if has_factors and has_base:
        warnings.append("holds an adapter beside its base weights: merge it to see the sum")
    config: dict[str, Any] = {}
    described = folder
    if adapter and (
        _CONFIGURED.fullmatch(path.name) or any(name.startswith(_PEFT_PREFIX) for name in names)
    ):
        described = folder or path.parent
    if described and adapter:
        config = adapter_config(described)
    elif folder:
        config, problem = read_config(folder / "config.json")
        warnings += [problem] if problem else []
    configs = CONFIGS if folder else ("adapter_config.json",)
    beside = (
        [described / name for name in configs if (described / name).is_file()] if described else []
    )
    name = os.fsencode(path.resolve().name).decode("utf-8", "replace")
    step = trainer_step(folder) if folder else None
    return Checkpoint(
        name=name,
        path=path,
        kind="adapter" if adapter else "full",
        format=contents.format,
        run=None,
        step=step_of(name) if step is None else step,
        config=config,
        warnings=tuple(warnings),
        files=(*weights, *beside),
        stored=contents.tensors,
    )


def placed(
    checkpoint: Checkpoint, *, name: str, kind: Kind, run: str | None, step: int | None
) -> Checkpoint:
    """The same checkpoint under another name or part in a collection."""
    return replace(checkpoint, name=name, kind=kind, run=run, step=step)

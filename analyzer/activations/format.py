"""Saved hidden states: what attention layers were given while the model read some text.

The format, ``analyzer-activations/1``, is one safetensors file. Each tensor is the input of a
module, after the norm layer in front of it, and is named after that module:
``model.layers.0.self_attn.q_proj``. Of self-attention the query projection's input is enough; of
cross-attention the key projection's input is another tensor, named after the key projection.

- Shape (L, d) for one sequence of L tokens of width d, or (N, L, d) for N sequences; float16,
  bfloat16, float32 or float64. No two tensors need agree in shape.
- ``attention_mask``, optional, shape (N, L): zero marks padding, which is left out of every
  measurement. ``<module>.attention_mask`` is the mask of that module's tensor alone.
- Metadata, strings, all optional for a file written by hand: ``format`` is
  ``analyzer-activations/1``; ``model``, the name of the model; ``text_sha256``, of the text's
  UTF-8 bytes; ``n_tokens``, the number of tokens that are not padding; ``dtype``.

Also read: a folder of ``.npy`` files or one such file, ``<module>.npy`` each, with
``attention_mask.npy`` if needed. In either form a model with one attention layer to each number
may use ``layer.N``, ``layers.N`` or ``N``, and one with two stacks ``encoder.layer.N`` and
``decoder.layer.N``, in place of every module's name.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyzer.activations.checks import (
    MASK,
    SAVE_HINT,
    checked_shape,
    is_mask,
    masks_of,
    refuse_repeated_numbers,
)
from analyzer.activations.naming import find_name
from analyzer.activations.npy_file import list_npy
from analyzer.checkpoints.files import refuse_dangling
from analyzer.checkpoints.folder import ACTIVATIONS_FORMAT, entry_names
from analyzer.checkpoints.formats import identify
from analyzer.checkpoints.safetensors_file import list_safetensors, read_metadata
from analyzer.checkpoints.stored import StoredTensor, as_tensor, content_sha256
from analyzer.checkpoints.writing import Planned, write_safetensors
from analyzer.errors import CheckpointError, CorruptFile, NonFinite, UnsupportedFormat, UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FORMAT = f"{ACTIVATIONS_FORMAT}1"


@dataclass(frozen=True, slots=True)
class Activations:
    """A file or folder of saved hidden states: listed, and read a tensor at a time.

    `shapes` gives (N, L, d) of each name. Every read opens the file anew.
    """

    path: Path
    model: str | None
    metadata: Mapping[str, str]
    shapes: Mapping[str, tuple[int, int, int]]
    stored: Mapping[str, StoredTensor] = field(repr=False)
    masks: Mapping[str, StoredTensor] = field(repr=False)

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors, in file order, masks left out."""
        return tuple(self.shapes)

    def find(
        self,
        module: str,
        layer: int | None,
        stack: str | None,
        among: Collection[str] = (),
    ) -> str | None:
        """The name of the tensor that `module` was given, None if there is none for certain.

        `among` are the query modules of all attention layers of the checkpoint: with them a name
        that would fit two layers (``layer.0`` of an encoder-decoder) fits none. With `layer` None,
        as for the keys of cross-attention, numbered names do not count.
        """
        return find_name(self.names, module, layer, stack, among)

    def read(self, name: str) -> NDArray[np.float32] | NDArray[np.float64]:
        """A tensor (N, L, d), float64 if stored so, else float32.

        Raises NonFinite, which names it, CheckpointError if the file changed or has no such tensor.
        """
        import numpy as np
        import torch

        stored = self._find(name)
        dtype = torch.float64 if stored.dtype == "float64" else torch.float32
        values = as_tensor(stored).to(dtype).contiguous().numpy().reshape(self.shapes[name])
        finite = np.isfinite(values)
        if not finite.all():
            n_nan = int(np.isnan(values).sum())
            n_inf = values.size - int(finite.sum()) - n_nan
            raise NonFinite(n_nan, n_inf, int(np.argmin(finite)), tensor=name)
        return values

    def padded(self, name: str) -> NDArray[np.bool_] | None:
        """True where a token (N, L) is padding; None if the tensor has no mask.

        Raises CheckpointError if nothing but padding is left.
        """
        self._find(name)
        mask = self.masks.get(name)
        if mask is None:
            return None
        padding = (as_tensor(mask) == 0).numpy()
        if padding.all():
            raise CheckpointError(
                "marks every token as padding",
                path=mask.path,
                tensor=mask.name,
                hint="nonzero means a real token",
            )
        return padding

    def sha256(self, name: str) -> str:
        """The content hash of a tensor, the same in every format."""
        return content_sha256(self._find(name))

    def _find(self, name: str) -> StoredTensor:
        if name not in self.stored:
            raise CheckpointError("holds no such activations", path=self.path, tensor=name)
        return self.stored[name]


def open_activations(path: str | Path) -> Activations:
    """The hidden states in a file or folder; reads headers only.

    Raises UsageError if there is no such path, a CheckpointError that says in one line what the
    file is instead, or which tensor or mask does not have the shape or dtype of one.
    """
    path = Path(path)
    refuse_dangling(path)
    if not path.exists():
        raise UsageError("no such file or folder", path=path, hint="check the spelling")
    metadata: dict[str, str] = {}
    if path.is_dir():
        files = sorted(name for name in entry_names(path) if name.endswith(".npy"))
        tensors = [list_npy(path / name, name.removesuffix(".npy")) for name in files]
    elif path.suffix == ".npy":
        tensors = [list_npy(path, path.stem)]
    else:
        if identify(path) != "safetensors":
            raise UnsupportedFormat("weights, not activations", path=path, hint=SAVE_HINT)
        tensors, metadata = list_safetensors(path), _metadata(path)
    named = {tensor.name: tensor for tensor in tensors}
    masks = {name: named.pop(name) for name in list(named) if is_mask(name)}
    if not named:
        raise CorruptFile("holds no activations", path=path, hint=SAVE_HINT)
    shapes = {
        name: checked_shape(path, name, tensor.shape, tensor.dtype)
        for name, tensor in named.items()
    }
    refuse_repeated_numbers(path, named)
    fitting = masks_of(path, shapes, {name: mask.shape for name, mask in masks.items()})
    return Activations(
        path=path,
        model=metadata.get("model"),
        metadata=metadata,
        shapes=shapes,
        stored=named,
        masks={name: masks[mask] for name, mask in fitting.items()},
    )


def write_activations(
    path: str | Path,
    tensors: Mapping[str, NDArray[Any]],
    attention_mask: NDArray[Any] | None,
    metadata: Mapping[str, str],
) -> None:
    """Write a file that is complete once it is there; format, dtype and n_tokens are added.

    Raises UsageError if it cannot be written, UnsupportedFormat for a tensor or mask that
    `open_activations` would refuse.
    """
    import numpy as np

    path = Path(path)
    if not tensors:
        raise UsageError("no activations to write", path=path)
    shapes = {
        name: checked_shape(path, name, tensor.shape, tensor.dtype.name)
        for name, tensor in tensors.items()
    }
    samples, length, _ = next(iter(shapes.values()))
    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    n_tokens = samples * length
    if attention_mask is not None:
        masks_of(path, shapes, {MASK: attention_mask.shape})
        arrays[MASK] = np.ascontiguousarray(attention_mask != 0, dtype=np.uint8)
        n_tokens = int(arrays[MASK].sum())
    dtypes = sorted({tensor.dtype.name for tensor in tensors.values()})
    own = {"format": FORMAT, "dtype": ",".join(dtypes), "n_tokens": str(n_tokens)}
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        planned = [Planned(name, array.dtype.name, array.shape) for name, array in arrays.items()]
        write_safetensors(
            partial, planned, lambda name: (arrays[name].tobytes(),), {**metadata, **own}
        )
        os.replace(partial, path)
    except OSError as error:
        raise UsageError(
            f"cannot be written: {error.strerror}",
            path=path,
            hint="name a file in a folder that exists",
        ) from None
    finally:
        partial.unlink(missing_ok=True)


def _metadata(path: Path) -> dict[str, str]:
    metadata = read_metadata(path)
    found = metadata.get("format", "")
    if found.startswith(ACTIVATIONS_FORMAT) and found != FORMAT:
        raise UnsupportedFormat(
            f"activations of the format {found}", path=path, hint="upgrade, or capture them again"
        )
    return metadata

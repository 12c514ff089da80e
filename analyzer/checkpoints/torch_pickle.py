"""What the pickle inside a PyTorch file means: which tensors, under which names, where stored.

Only torch's own few functions that rebuild tensors are interpreted; every other class or function
the file names is recorded and never imported or called.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analyzer.checkpoints.inert_pickle import Buffer, Foreign, Global, load, store
from analyzer.checkpoints.stored import BITS, MAX_EXTENT, StoredTensor, plausible_shape
from analyzer.errors import CorruptFile, UnsafePickle, UnsupportedFormat

MAX_DEPTH, MAX_TENSORS = 64, 1_000_000

STORAGES: dict[str, str] = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "LongStorage": "int64", "IntStorage": "int32",
    "ShortStorage": "int16", "CharStorage": "int8", "ByteStorage": "uint8",
    "BoolStorage": "bool", "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64", "UntypedStorage": "uint8",
}  # fmt: skip

_REBUILD = {"_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"}
_PARAMETER = {"_rebuild_parameter", "_rebuild_parameter_with_state"}
_SUBCLASS = {"_rebuild_from_type", "_rebuild_from_type_v2"}
# Keys under which training scripts keep the weights among other things, the usual one first.
_WEIGHT_KEYS = ("state_dict", "model_state_dict", "model", "module")
_NOT_WEIGHTS = re.compile(r"optimizer|exp_avg|lr_scheduler|rng")
_MODULE_ATTRIBUTES = {"_modules", "_parameters", "_buffers"}
_HARMLESS = re.compile(r"torch\.(nn\.modules\.\w+\.\w+|nn\.parameter\.\w+|Size|device|\w+Storage)$")
_DANGEROUS = re.compile(
    r"(os|posix|nt|subprocess|sys|shutil|socket|runpy|importlib|pty|ctypes|webbrowser|marshal|code"
    r"|pickle|_pickle|types|pip)\.|(builtins|__builtin__)\.(eval|exec|compile|open|getattr|"
    r"__import__|setattr|globals|apply|execfile|input)$"
)


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A storage of `numel` elements, kept in the file under `key`."""

    dtype: str
    key: str
    numel: int


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A strided window into a storage; `numel` is the storage's size in elements of `dtype`."""

    dtype: str
    key: str
    numel: int
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TorchFile:
    """What a PyTorch file holds, tensors as references; `locate` says where their bytes lie."""

    root: Any
    pickled: TorchPickle
    locate: Callable[[Mapping[str, TensorRef]], list[StoredTensor]]


@dataclass(slots=True)
class TorchPickle:
    """Interprets one file's pickles; collects its storages and the names it does not know."""

    path: Path
    unknown: dict[str, None] = field(default_factory=dict)
    storages: dict[str, StorageRef] = field(default_factory=dict)

    def load(self, data: Buffer, start: int = 0) -> tuple[Any, int]:
        """The object described at `start` and the position after it. Raises CorruptFile."""
        try:
            return load(data, self._call, self._persistent, start)
        except ValueError as error:
            raise _corrupt(self.path, str(error)) from None

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            return Foreign(function, arguments)
        if function == ("collections", "OrderedDict"):
            return _ordered(arguments)
        if function.module in ("torch._utils", "torch._tensor"):
            if function.name in _REBUILD:
                return _rebuild(arguments)
            if function.name in _PARAMETER and isinstance(arguments[0], TensorRef):
                return arguments[0]
            if function.name in _SUBCLASS:
                inner = self._call(arguments[0], arguments[2])
                if isinstance(inner, TensorRef):
                    return inner
        self.unknown.setdefault(str(function))
        return Foreign(function, arguments)

    def _persistent(self, identifier: Any) -> Any:
        """('storage', type, key, location, numel) → reference; legacy: ('module', class, …)."""
        kind, *rest = identifier
        if kind == "module":
            return rest[0]
        if kind != "storage" or len(rest) not in (4, 5) or (len(rest) == 5 and rest[4] is not None):
            raise ValueError("external data that is not a storage")
        storage_type, key, _, numel = rest[:4]
        name = storage_type.name if isinstance(storage_type, Global) else ""
        if name not in STORAGES:
            raise UnsupportedFormat(
                f"a storage of unknown type {storage_type}",
                path=self.path,
                hint="save the weights as safetensors",
            )
        if type(numel) is not int or not 0 <= numel <= MAX_EXTENT:
            raise ValueError("a storage of impossible size")
        storage = StorageRef(STORAGES[name], str(key), numel)
        if self.storages.setdefault(storage.key, storage) != storage:
            raise ValueError(f"the storage {storage.key!r} is described in two ways")
        return storage


def _ordered(arguments: tuple[Any, ...]) -> dict[Any, Any]:
    pairs = arguments[0] if arguments else ()
    found: dict[Any, Any] = {}
    for pair in pairs.items() if isinstance(pairs, dict) else pairs:
        store(found, list(pair))
    return found


def _rebuild(arguments: tuple[Any, ...]) -> TensorRef:
    """(storage, offset, shape, stride[, requires_grad, hooks[, dtype]]) → checked window."""
    storage, offset, shape, stride = arguments[:4]
    if not isinstance(storage, StorageRef):
        raise ValueError("a tensor without a storage")
    dtype, numel = storage.dtype, storage.numel
    if len(arguments) >= 7 and isinstance(arguments[6], Global):
        dtype = arguments[6].name
        numel = numel * BITS[storage.dtype] // BITS[dtype]
    shape, stride = plausible_shape(shape), plausible_shape(stride)
    if shape is None or stride is None or len(shape) != len(stride):
        raise ValueError("a tensor with an impossible shape or stride")
    if type(offset) is not int or offset < 0:
        raise ValueError("a tensor with an impossible offset")
    extent = 0 if 0 in shape else 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    if offset + extent > numel:
        raise ValueError(f"a tensor of shape {shape} reaches past its storage of {numel} elements")
    return TensorRef(dtype, storage.key, numel, offset, shape, stride)


def named_tensors(root: Any, pickled: TorchPickle) -> dict[str, TensorRef]:
    """Dotted name → tensor, of the weights in an unpickled object.

    Looks into `state_dict`, `model_state_dict`, `model` or `module`, drops optimizer, scheduler
    and random states, and the attribute names of pickled modules. Raises CorruptFile if two
    tensors have one name; if no tensor is left, UnsafePickle where code was to be run, else
    UnsupportedFormat.
    """
    path = pickled.path
    found: dict[str, TensorRef] = {}
    for name, tensor in _walk(_weights(root)):
        if name in found:
            raise _corrupt(path, f"two tensors are named {name!r}")
        found[name] = tensor
        if len(found) > MAX_TENSORS:
            raise _corrupt(path, f"more than {MAX_TENSORS} tensors")
    if not found:
        raise _no_weights(pickled)
    return found


def _no_weights(pickled: TorchPickle) -> UnsupportedFormat | UnsafePickle:
    if attack := next(filter(_DANGEROUS.match, pickled.unknown), None):
        return UnsafePickle(
            f"no weights, but a request to call {attack}",
            path=pickled.path,
            hint="do not open it with torch.load or pickle",
        )
    return UnsupportedFormat(
        "a PyTorch file without weights", path=pickled.path, hint="pass the file with the weights"
    )


def _weights(root: Any) -> Any:
    """The innermost container under one of the usual keys."""
    for _ in range(MAX_DEPTH):
        children = _children(root)
        inner = (children[key] for key in _WEIGHT_KEYS if key in children)
        containers = (child for child in inner if not isinstance(child, TensorRef))
        chosen = next((child for child in containers if next(_walk(child), None)), None)
        if chosen is None:
            return root
        root = chosen
    return root


def _walk(root: Any) -> Iterator[tuple[str, TensorRef]]:
    """Tensors below `root` with their dotted names, each container once: lists may be shared
    2⁶⁰ times, or contain themselves."""
    visited: set[int] = set()
    pending: list[tuple[tuple[str, ...], Any]] = [((), root)]
    while pending:
        names, value = pending.pop()
        if isinstance(value, TensorRef):
            yield ".".join(names), value
            continue
        if id(value) in visited or len(names) > MAX_DEPTH:
            continue
        children = _children(value)
        if children:
            visited.add(id(value))
        for key, child in reversed(children.items()):
            if _NOT_WEIGHTS.match(name := _text(key)):
                continue
            pending.append((names if name in _MODULE_ATTRIBUTES else (*names, name), child))


def _children(value: Any) -> dict[Any, Any]:
    if isinstance(value, dict):
        return value
    if isinstance(value, list | tuple) and not isinstance(value, Global):
        return dict(enumerate(value))
    if isinstance(value, Foreign):
        state = value.state if isinstance(value.state, tuple) else (value.state,)
        merged: dict[Any, Any] = {}
        for part in (*state, value.mapping):
            if isinstance(part, dict):
                merged |= part
        return merged or dict(enumerate(value.items))
    return {}


def _text(key: Any) -> str:
    return key if isinstance(key, str) else str(key)


def warnings(unknown: Mapping[str, None]) -> tuple[str, ...]:
    """One line on what a file names beside tensors, a stronger one on what would run code."""
    names = [name for name in unknown if not _HARMLESS.match(name)]
    dangerous = [name for name in names if _DANGEROUS.match(name)]
    lines = []
    if names:
        shown = ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
        lines.append(f"classes and functions the file names were not imported: {shown}")
    if dangerous:
        lines.append(
            f"the file asks to call {', '.join(dangerous[:6])}, which was not done: "
            "do not open it with torch.load or pickle"
        )
    return tuple(lines)


def _corrupt(path: Path, what: str) -> CorruptFile:
    return CorruptFile(what, path=path, hint="the file is damaged; download or save it again")

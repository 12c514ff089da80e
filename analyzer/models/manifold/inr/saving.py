"""An implicit network in one safetensors file: its parameters, and its design in the header."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from analyzer.errors import CorruptFile, UnsupportedFormat, UsageError
from analyzer.models.manifold.inr.design import Design
from analyzer.models.manifold.inr.network import WeightNetwork

FORMAT, VERSION = "implicit-weights", "1"


def save_network(network: WeightNetwork, path: str | Path) -> None:
    """Write the network to `path`; an existing file is replaced in one step.

    Raises UsageError where it cannot be written.
    """
    header = {
        "format": FORMAT,
        "version": VERSION,
        "design": json.dumps(asdict(network.design)),
        "inr_params": str(network.design.inr_params),
        "model_params": str(network.design.model_params),
    }
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    target = Path(path)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(save(tensors, header))
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(f"cannot be written: {error.strerror}", path=target) from error


def load_network(path: str | Path, device: torch.device | str = "cpu") -> WeightNetwork:
    """Read what `save_network` wrote; it generates the same weights to the last bit.

    Raises UsageError for a path without a file, UnsupportedFormat for a file of something else or
    of another version, CorruptFile where parts are missing or do not fit together.
    """
    source = Path(path)
    if not source.is_file():
        raise UsageError("no such file", path=source)
    try:
        with safe_open(source, framework="pt", device=str(device)) as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT or header.get("version") != VERSION:
                raise UnsupportedFormat(
                    f"this is not an implicit network of version {VERSION}", path=source
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        design = _design(header["design"])
        # before anything of a size that only the header claims is allocated
        if design.inr_params != sum(value.numel() for value in tensors.values()):
            raise ValueError(f"not the {design.inr_params} parameters that its design asks for")
        network = WeightNetwork(design).to(device)
        network.load_state_dict(tensors)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CorruptFile(f"a damaged implicit network: {error}", path=source) from error
    return network


def _design(text: str) -> Design:
    """Raises KeyError, TypeError or ValueError for what is no design."""
    described = json.loads(text)
    shapes = tuple((str(name), tuple(map(int, shape))) for name, shape in described.pop("shapes"))
    return Design(shapes=shapes, **described)

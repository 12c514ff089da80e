"""Which backend a device name means."""

from __future__ import annotations

import torch

from analyzer.errors import UsageError
from analyzer.spectral.backend import CPU, Backend
from analyzer.spectral.torch_backend import TorchBackend


def get_backend(device: str = "auto") -> Backend:
    """The backend for ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` (``torch-cpu`` for tests).

    Raises UsageError for a device that is not there.
    """
    if device == "auto":
        return TorchBackend("cuda") if torch.cuda.is_available() else CPU
    if device == "cpu":
        return CPU
    if device == "torch-cpu":
        return TorchBackend("cpu")
    name, _, index = device.partition(":")
    if name != "cuda" or not (index.isdigit() or not index):
        raise UsageError(f"no device named {device}", hint="choose auto, cpu, cuda or cuda:N")
    if int(index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"{device} is not available",
            hint="`analyzer doctor` lists the devices; try --device cpu",
        )
    return TorchBackend(device)

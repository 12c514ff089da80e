"""A fit in one safetensors file: arrays as tensors, the rest as JSON in the header."""

from __future__ import annotations

import json
import math
import os
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from analyzer.errors import CorruptFile, UnsupportedFormat, UsageError
from analyzer.models.funbat.core import Noise
from analyzer.models.funbat.entries import Array, Mode
from analyzer.models.funbat.factors import Factor
from analyzer.models.funbat.messages import Core
from analyzer.models.funbat.model import FunbatFit

FORMAT, VERSION = "funbat", 1

_PLAIN = (
    "noise_mode",
    "constant",
    "value_mean",
    "value_sd",
    "learned_lengthscales",
    "method",
    "converged",
    "explained",
    "n_observations",
    "n_missing",
    "seed",
    "seconds",
)
_TRACES = ("elbo_trace", "restart_elbos")
_FACTOR_ARRAYS = ("mean", "cov", "precision", "linear")


def save_fit(fit: FunbatFit, path: str | Path) -> None:
    """Write `fit` to `path`; an existing file is replaced in one step."""
    arrays: dict[str, Array] = {"noise.shape": fit.noise.shape, "noise.rate": fit.noise.rate}
    arrays |= {name: np.array(getattr(fit, name)) for name in _TRACES}
    modes: list[dict[str, Any]] = []
    for k, (mode, factor) in enumerate(zip(fit.modes, fit.factors, strict=True)):
        arrays[f"mode.{k}.grid"] = mode.grid
        arrays |= {f"mode.{k}.{name}": getattr(factor, name) for name in _FACTOR_ARRAYS}
        plain = {f.name: getattr(mode, f.name) for f in fields(Mode) if f.name != "grid"}
        length = factor.lengthscale
        plain["lengthscale"] = None if math.isnan(length) else length
        modes.append(plain | {"divergence": factor.divergence})
    described = {name: getattr(fit, name) for name in _PLAIN} | {"modes": modes}
    if fit.tucker_core is not None:
        arrays |= {"core.mean": fit.tucker_core.mean, "core.cov": fit.tucker_core.cov}
        described["core_prior_variance"] = fit.tucker_core.prior_variance
    header = {"format": FORMAT, "version": str(VERSION), "fit": json.dumps(described)}
    target = Path(path)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(
            save({name: np.ascontiguousarray(a) for name, a in arrays.items()}, header)
        )
        os.replace(partial, target)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UsageError(f"cannot be written: {error.strerror}", path=target) from error


def load_fit(path: str | Path) -> FunbatFit:
    """Read a fit that `save_fit` wrote; predictions are the same to the last bit.

    Raises UsageError for a path without a file, UnsupportedFormat for a file of something else or
    of a newer version, CorruptFile where parts are missing or do not fit together.
    """
    source = Path(path)
    if not source.is_file():
        raise UsageError("no such file", path=source)
    try:
        with safe_open(source, framework="numpy") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise UnsupportedFormat("this is not a functional Tucker fit", path=source)
            if header.get("version") != str(VERSION):
                raise UnsupportedFormat(
                    f"version {header.get('version')} of the format, {VERSION} is known",
                    path=source,
                    hint="fit again, or use a newer release",
                )
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return _assemble(json.loads(header["fit"]), arrays)
    except (SafetensorError, json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise CorruptFile(f"a damaged functional Tucker fit: {error}", path=source) from error


def _assemble(described: dict[str, Any], arrays: dict[str, Array]) -> FunbatFit:
    modes: list[Mode] = []
    factors: list[Factor] = []
    for k, plain in enumerate(described["modes"]):
        length, divergence = plain.pop("lengthscale"), plain.pop("divergence")
        modes.append(Mode(grid=arrays[f"mode.{k}.grid"], **plain))
        parts = {name: arrays[f"mode.{k}.{name}"] for name in _FACTOR_ARRAYS}
        factors.append(
            Factor(
                **parts, lengthscale=math.nan if length is None else length, divergence=divergence
            )
        )
    core = None
    if "core_prior_variance" in described:
        core = Core(arrays["core.mean"], arrays["core.cov"], described["core_prior_variance"])
    fit = FunbatFit(
        modes=tuple(modes),
        factors=tuple(factors),
        tucker_core=core,
        noise=Noise(arrays["noise.shape"], arrays["noise.rate"]),
        elbo_trace=tuple(arrays["elbo_trace"].tolist()),
        restart_elbos=tuple(arrays["restart_elbos"].tolist()),
        **{name: described[name] for name in _PLAIN},
    )
    _check_shapes(fit)
    return fit


def _check_shapes(fit: FunbatFit) -> None:
    axes = tuple(rank + fit.constant for rank in fit.ranks)
    for k, (mode, factor) in enumerate(zip(fit.modes, fit.factors, strict=True)):
        n, r = mode.grid.size, mode.rank
        expected = {"mean": (n, r), "cov": (n, r, r), "precision": (n, r, r), "linear": (n, r)}
        for name, shape in expected.items():
            if getattr(factor, name).shape != shape:
                raise ValueError(f"{name} of mode {k} has not the shape {shape}")
    if fit.tucker_core is not None and fit.tucker_core.mean.shape != axes:
        raise ValueError(f"the core has not the shape {axes}")

"""Rotary embedding as the configuration describes it: width, frequencies, attention factor.

Frequencies are θ^(-2i/w), i < w/2 (J. Su et al., arXiv 2104.09864), then scaled: all divided by a
factor (position interpolation, S. Chen et al., arXiv 2306.15595), by wavelength (Llama 3.1,
A. Dubey et al., arXiv 2407.21783) or by parts (YaRN, B. Peng et al., arXiv 2309.00071, eq. 13-23).
Scalings that depend on the length of the text, or are unknown, leave the frequencies open.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analyzer.checkpoints.attention.fused_layouts import LayoutRefused
from analyzer.checkpoints.attention.types import PairLayout, Rotary

_SHARES = ("partial_rotary_factor", "rotary_pct", "rope_pct")


@dataclass(frozen=True, slots=True)
class RotaryRule:
    """What a family's classes do where the configuration is silent.

    `local_base` is the field of θ in layers with a window, and its default, where older
    configurations give them frequencies of their own, which no scaling touches.
    """

    layout: PairLayout = "half"
    share: float = 1.0  # rotary width over head width
    base: tuple[str, float] = ("rope_theta", 10000.0)
    local_base: tuple[str, float] | None = None
    width: str | None = None  # field with the rotary width itself


def rotary(config: Mapping[str, Any], rule: RotaryRule, head_width: int, layer_type: str) -> Rotary:
    """Raises LayoutRefused if the rotary width is odd, wider than the head or not known."""
    given, theta = _parameters(config, rule, layer_type)
    width = _width(config, given, rule, head_width)
    scaling = str(given.get("rope_type") or given.get("type") or "default")
    try:
        plain = tuple(theta ** (-2.0 * i / width) for i in range(width // 2))
        frequencies, factor = _scaled(plain, theta, scaling, given, config)
    except (KeyError, TypeError, ValueError, ArithmeticError):
        detail = f"config.json does not fully describe the {scaling!r} scaling of positions"
        return Rotary(width, rule.layout, None, detail=detail)
    detail = None if frequencies else f"scaling of positions {scaling!r} is not supported"
    return Rotary(width, rule.layout, frequencies, factor, detail)


def _parameters(
    config: Mapping[str, Any], rule: RotaryRule, layer_type: str
) -> tuple[Mapping[str, Any], float]:
    """The description of the scaling and θ, from the spelling of transformers 5 or that before."""
    field, default = rule.base
    described = config.get("rope_parameters")
    local = rule.local_base is not None and layer_type == "sliding_attention"
    if isinstance(described, Mapping):
        nested = described.get(layer_type)
        given = nested if isinstance(nested, Mapping) else described
    else:
        scaling = config.get("rope_scaling")
        given = scaling if isinstance(scaling, Mapping) and not local else {}
    if local and rule.local_base is not None:
        field, default = rule.local_base
    theta = given.get("rope_theta") or config.get(field) or default
    if isinstance(theta, bool) or not isinstance(theta, int | float) or not theta > 0:
        raise LayoutRefused(f"config.json says {field} = {theta!r}")
    return given, float(theta)


def _width(
    config: Mapping[str, Any], given: Mapping[str, Any], rule: RotaryRule, head_width: int
) -> int:
    if rule.width is not None:
        width = config.get(rule.width)
        if isinstance(width, bool) or not isinstance(width, int):
            raise LayoutRefused(f"config.json does not say {rule.width}")
    else:
        said = (source.get(field) for source in (given, config) for field in _SHARES)
        share = next((s for s in said if s is not None), rule.share)
        possible = isinstance(share, int | float) and 0.0 < share <= 1.0
        width = int(head_width * share) if possible else 0
    if width < 2 or width % 2 or width > head_width:
        raise LayoutRefused(f"a rotary width of {width} in heads of {head_width} is not possible")
    return width


def _scaled(
    plain: tuple[float, ...],
    theta: float,
    scaling: str,
    given: Mapping[str, Any],
    config: Mapping[str, Any],
) -> tuple[tuple[float, ...] | None, float]:
    """Frequencies, None if they are not known from the configuration alone, and the factor."""
    if scaling == "default":
        return plain, 1.0
    if scaling == "linear":
        return tuple(f / given["factor"] for f in plain), 1.0
    if scaling == "llama3":
        return _llama3(plain, given, _trained_length(given, config)), 1.0
    if scaling == "yarn":
        return _yarn(plain, theta, given, config)
    return None, 1.0


def _trained_length(given: Mapping[str, Any], config: Mapping[str, Any]) -> float:
    """The context before it was extended; a field of its own in Phi-3 and DeepSeek."""
    field = "original_max_position_embeddings"
    return config.get(field) or given.get(field) or config["max_position_embeddings"]


def _llama3(plain: tuple[float, ...], given: Mapping[str, Any], length: float) -> tuple[float, ...]:
    """Short wavelengths stay, long ones are divided by the factor, in between they blend."""
    factor, low, high = (
        given[field] for field in ("factor", "low_freq_factor", "high_freq_factor")
    )

    def scaled(frequency: float) -> float:
        turns = length * frequency / (2.0 * math.pi)  # over the context the model was trained on
        blend = min(max((turns - low) / (high - low), 0.0), 1.0)
        return frequency * (blend + (1.0 - blend) / factor)

    return tuple(map(scaled, plain))


def _yarn(
    plain: tuple[float, ...], theta: float, given: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[tuple[float, ...], float]:
    """Channels that turn often over the trained context stay, the others are interpolated."""
    length = _trained_length(given, config)
    factor = given.get("factor") or config["max_position_embeddings"] / length
    width = 2 * len(plain)

    def channel(turns: float) -> float:
        return width * math.log(length / (turns * 2.0 * math.pi)) / (2.0 * math.log(theta))

    low = channel(given.get("beta_fast") or 32.0)
    high = channel(given.get("beta_slow") or 1.0)
    if given.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    if low == high:
        high += 0.001
    ramp = (min(max((i - low) / (high - low), 0.0), 1.0) for i in range(len(plain)))
    frequencies = tuple(f * ((1.0 - r) + r / factor) for f, r in zip(plain, ramp, strict=True))
    return frequencies, _attention_factor(given, factor)


def _attention_factor(given: Mapping[str, Any], factor: float) -> float:
    said = given.get("attention_factor")
    if said is not None:
        return float(said)

    def magnitude(weight: float) -> float:
        return 1.0 if factor <= 1.0 else 0.1 * weight * math.log(factor) + 1.0

    weight, over = given.get("mscale"), given.get("mscale_all_dim")
    return magnitude(weight) / magnitude(over) if weight and over else magnitude(1.0)

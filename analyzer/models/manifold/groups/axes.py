"""What lies along every axis of a tensor, in a short notation that the tables of families use.

One word an axis, in the order of the stored tensor. ``-`` is an axis without permutable units:
network inputs, classes, the vocabulary, positions, kernel taps, the channels of a head. Else
``>space`` for an axis that produces the units of a space and ``<space`` for one that consumes them.
``>space*2`` holds two parts of all units one after the other, ``>space/k`` k consecutive entries a
unit. ``@`` in a space stands for each index of the first axis in turn. A word ``#space`` in front
of the others says that the whole tensor is a unit of `space`. Attention has the spaces ``q_…``
(queries and the inputs of the output projection), ``kv_…`` and ``qkv_…`` (all three, one after the
other), which become groups of heads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from analyzer.models.manifold.groups.types import Role

_WORD = re.compile(r"([<>])([^*/]+)(?:\*(\d+))?(?:/(\d+))?")


@dataclass(frozen=True, slots=True)
class Axis:
    """Units of `space` along one axis: `parts` times all of them, `size` entries each."""

    space: str
    role: Role
    parts: int = 1
    size: int = 1


@dataclass(frozen=True, slots=True)
class TensorAxes:
    """The axes of one tensor, None for those without units, and the space it is a unit of."""

    axes: tuple[Axis | None, ...]
    unit_of: str | None = None


def parse(words: str) -> TensorAxes:
    """Reads the notation above. Raises ValueError for a word that is none of it."""
    unit_of = None
    axes: list[Axis | None] = []
    for word in words.split():
        if word.startswith("#"):
            unit_of = word[1:]
        elif word == "-":
            axes.append(None)
        elif match := _WORD.fullmatch(word):
            role: Role = "produces" if match[1] == ">" else "consumes"
            axes.append(Axis(match[2], role, int(match[3] or 1), int(match[4] or 1)))
        else:
            raise ValueError(f"{word!r} describes no axis: use -, >space or <space")
    return TensorAxes(tuple(axes), unit_of)


Rule = tuple[re.Pattern[str], str]


def rules(*pairs: tuple[str, str]) -> tuple[Rule, ...]:
    """Patterns of whole names, and axes that may use their named groups in braces."""
    return tuple((re.compile(pattern), words) for pattern, words in pairs)


def axes_of(name: str, table: Iterable[Rule]) -> TensorAxes | None:
    """The axes of the first rule that knows this name, None if none does."""
    for pattern, words in table:
        if match := pattern.fullmatch(name):
            return parse(words.format(**match.groupdict()))
    return None

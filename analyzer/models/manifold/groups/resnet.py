"""Axes of residual convolutional networks, as torchvision and Hugging Face name them.

K. He et al., "Deep Residual Learning", arXiv 1512.03385. Every block adds to the stream of its
stage, so that a stage has one order; a block without a projection on its shortcut passes the order
of its input on.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable

from analyzer.models.manifold.groups.axes import Rule, TensorAxes, axes_of, parse, rules

_NORM = r"(?:weight|bias|running_mean|running_var)"
_COUNT = "num_batches_tracked"
_FIXED: tuple[Rule, ...] = rules(
    (r"conv1\.weight|(?:resnet\.)?embedder\.embedder\.convolution\.weight", ">stem - - -"),
    (rf"bn1\.{_NORM}|(?:resnet\.)?embedder\.embedder\.normalization\.{_NORM}", ">stem"),
    (rf".*\.{_COUNT}", ""),
    (r"(?:fc|classifier\.1)\.weight", "- <last"),
    (r"(?:fc|classifier\.1)\.bias", "-"),
)
_PLACES = (
    r"layer(?P<stage>\d+)\.(?P<block>\d+)\.",
    r"(?:resnet\.)?encoder\.stages\.(?P<stage>\d+)\.layers\.(?P<block>\d+)\.",
)
_CONV = re.compile("|".join((r"conv(\d+)\.weight", r"layer\.(\d+)\.convolution\.weight")))
_AFTER = re.compile("|".join((rf"bn(\d+)\.{_NORM}", rf"layer\.(\d+)\.normalization\.{_NORM}")))
_SHORTCUT_CONV = re.compile(r"downsample\.0\.weight|shortcut\.convolution\.weight")
_SHORTCUT_NORM = re.compile(rf"(?:downsample\.1|shortcut\.normalization)\.{_NORM}")

Block = tuple[int, int]


def is_resnet(names: Iterable[str]) -> bool:
    """Whether the names are those of torchvision's ResNet."""
    return {"conv1.weight", "bn1.running_mean", "layer1.0.conv1.weight", "fc.weight"} <= set(names)


def resnet_axes(name: str) -> TensorAxes | None:
    """The axes of one tensor; None if it is not known.

    Spaces: ``hid_s.b_k`` behind convolution k of block b in stage s, of which k = 0 is the block's
    input; ``out_s.b`` behind its shortcut.
    """
    if fixed := axes_of(name, _FIXED):
        return fixed
    place = _place(name)
    if place is None:
        return None
    (stage, block), rest = place
    if _SHORTCUT_CONV.fullmatch(rest):
        return parse(f">out_{stage}.{block} <hid_{stage}.{block}_0 - -")
    if _SHORTCUT_NORM.fullmatch(rest):
        return parse(f">out_{stage}.{block}")
    if match := _CONV.fullmatch(rest):
        k = _number(match)
        return parse(f">hid_{stage}.{block}_{k} <hid_{stage}.{block}_{k - 1} - -")
    if match := _AFTER.fullmatch(rest):
        return parse(f">hid_{stage}.{block}_{_number(match)}")
    return None


def resnet_links(names: Iterable[str]) -> list[tuple[str, str]]:
    """Pairs of spaces that are one, because a block adds what stands in both."""
    depth: defaultdict[Block, int] = defaultdict(int)
    projected: set[Block] = set()
    for name in names:
        if (place := _place(name)) is None:
            continue
        block, rest = place
        if match := _CONV.fullmatch(rest):
            depth[block] = max(depth[block], _number(match))
        elif _SHORTCUT_CONV.fullmatch(rest):
            projected.add(block)
    pairs: list[tuple[str, str]] = []
    before = "stem"
    for stage, block in sorted(depth):
        here = f"{stage}.{block}"
        pairs += [(before, f"hid_{here}_0"), (f"out_{here}", f"hid_{here}_{depth[stage, block]}")]
        if (stage, block) not in projected:
            pairs.append((f"hid_{here}_0", f"out_{here}"))
        before = f"out_{here}"
    return [*pairs, (before, "last")]


def _place(name: str) -> tuple[Block, str] | None:
    for pattern in _PLACES:
        if match := re.match(pattern, name):
            return (int(match["stage"]), int(match["block"])), name[match.end() :]
    return None


def _number(match: re.Match[str]) -> int:
    """1-based number of the convolution: torchvision counts from 1, Hugging Face from 0."""
    return int(match[1]) if match[1] else int(match[2]) + 1

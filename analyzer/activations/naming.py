"""Which of the saved names belongs to a module of a checkpoint."""

from __future__ import annotations

import re
from collections.abc import Collection

from analyzer.checkpoints.names import describe, strip_wrappers

_NUMBERED = re.compile(r"(?:(encoder|decoder|vision|audio)\.)?(?:layers?\.)?(\d{1,9})")

_STACK = re.compile(
    r"(?:^|\.)(?:encoder|decoder|vision\w*|visual|image_encoder|audio\w*|speech\w*)(?:\.|$)"
)


def layer_number(name: str) -> tuple[str | None, int] | None:
    """(stack, layer) of a name such as ``layer.3``, ``3`` or ``encoder.layer.3``; None of others.

    The stack is None where the name does not give one.
    """
    match = _NUMBERED.fullmatch(name)
    return (match.group(1), int(match.group(2))) if match else None


def find_name(
    names: Collection[str],
    module: str,
    layer: int | None,
    stack: str | None,
    among: Collection[str] = (),
) -> str | None:
    """The one of `names` that holds the input of `module`, None if there is none for certain.

    A name equal to the module's path wins. Otherwise the two paths may differ in wrappers
    (``base_model.model.``) and in what stands in front (``model.``, ``transformer.``), as long as
    one is the end of the other with the layer's number in it and only one name fits. If every name
    is a number it is the layer's, unless `layer` is None. `among` are the query modules of the
    whole checkpoint: a name that fits several of them is nobody's.
    """
    if module in names:
        return module
    others = [other for other in among if other != module]
    numbers = {name: layer_number(name) for name in names}
    if all(numbers.values()):
        fitting = [
            name
            for name, number in numbers.items()
            if number and number[0] in (None, stack) and number[1] == layer
        ]
        rivals = [
            other for other in others if fitting and _shares_number(other, layer, fitting[0], stack)
        ]
    else:
        fitting = [name for name in names if _same_module(name, module)]
        rivals = [other for other in others if any(_same_module(name, other) for name in fitting)]
    return fitting[0] if len(fitting) == 1 and not rivals else None


def _shares_number(other: str, layer: int | None, name: str, stack: str | None) -> bool:
    """Whether the numbered `name` could mean the module `other` as well."""
    role, number = describe(other), layer_number(name)
    whole_model = number is not None and number[0] is None
    return role.layer == layer and (whole_model or role.stack == stack)


def _same_module(name: str, module: str) -> bool:
    """Whether two module paths are equal but for what stands in front of them."""
    short, long = sorted(map(_plain, (name, module)), key=len)
    if short == long:
        return True
    dropped = long.removesuffix(f".{short}")
    if dropped == long or describe(short).layer is None:  # without a layer it would fit them all
        return False
    return not _STACK.search(dropped)  # such a name in front tells two stacks apart


def _plain(path: str) -> str:
    return strip_wrappers(f"{path}.").removesuffix(".")

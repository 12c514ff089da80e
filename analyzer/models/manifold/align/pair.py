"""Two checkpoints of the same parameters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.matching import match_names
from analyzer.checkpoints.parameters import is_parameter, untied
from analyzer.errors import ShapeMismatch, UsageError
from analyzer.models.manifold.groups import PermutationGroup

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Pair:
    """Two checkpoints of the same parameters; `names` gives B's name of a tensor of A."""

    a: Checkpoint
    b: Checkpoint
    names: dict[str, str]

    def read_b(self, name: str) -> torch.Tensor:
        return self.b.read(self.names[name])

    def own_names(self) -> dict[str, str]:
        """A's name of every tensor of B that has one; of tied ones, that of the matched one."""
        named = {own: name for name, own in self.names.items()}
        places = {(t.storage_id, t.shape): named[t.name] for t in self.b.stored if t.name in named}
        known = {
            t.name: named.get(t.name, places.get((t.storage_id, t.shape))) for t in self.b.stored
        }
        return {own: name for own, name in known.items() if name is not None}


def paired(a: Checkpoint, b: Checkpoint, groups: Iterable[PermutationGroup]) -> Pair:
    """Raises ShapeMismatch listing parameters, and tensors of the groups, that are not in both with
    one shape."""
    for one in (a, b):
        if one.kind == "adapter":
            raise UsageError("an adapter has no channels of its own: merge it", path=one.path)
    stored = {tensor.name: tensor for tensor in b.stored}
    matched = match_names((tensor.name for tensor in a.stored), stored)
    names = {name: own for own, name in matched.items()}
    wrong: list[str] = []
    grouped = {name for group in groups for name in group.tensors()}
    for tensor in untied(a.stored):
        if not is_parameter(tensor) and tensor.name not in grouped:
            continue
        own = stored.get(names.get(tensor.name, ""))
        if own is None or own.shape != tensor.shape:
            found = "absent" if own is None else str(own.shape)
            wrong.append(f"{tensor.name} {tensor.shape} and {found}")
    pair = Pair(a, b, names)
    known = pair.own_names()
    wrong += [
        f"{t.name} absent and {t.shape}"
        for t in b.stored
        if is_parameter(t) and t.name not in known
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        listed = ", ".join(wrong[:4])
        raise ShapeMismatch(f"other tensors than {a.name}: {listed}{more}", path=b.path)
    return pair

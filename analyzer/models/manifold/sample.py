"""A checkpoint of other widths from one checkpoint, without data unless the caller evaluates.

Widening copies units and keeps the function (T. Chen et al., "Net2Net", arXiv 1511.05641, ICLR
2016). Narrowing merges units, or samples the weights as functions of the units' order at fewer
points (K. Solodskikh et al., "Integral Neural Networks", CVPR 2023; X. Yang & X. Wang, "Neural
Metamorphosis", arXiv 2410.11878, ECCV 2024); pruning is the baseline.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from analyzer.checkpoints.checkpoint import Checkpoint
from analyzer.checkpoints.parameters import count_parameters
from analyzer.checkpoints.stored import chunks
from analyzer.checkpoints.writing import Planned, tensor_bytes, write_checkpoint
from analyzer.errors import UsageError
from analyzer.models.manifold.batch_norms import Statistics, renewed
from analyzer.models.manifold.groups import PermutationGroup, permutation_groups
from analyzer.models.manifold.operators import ALONG_ORDER, Operator
from analyzer.models.manifold.sample_config import resized_config
from analyzer.models.manifold.sample_plans import (
    GroupSample,
    Plan,
    make_plans,
    new_shapes,
    new_tensor,
)
from analyzer.models.manifold.sample_widths import new_sizes
from analyzer.models.manifold.smoothness import GroupSmoothness

if TYPE_CHECKING:
    import torch

Evaluate = Callable[[dict[str, "torch.Tensor"]], Mapping[str, float]]

# In four small networks resampling along the order beat pruning above this and lost below it.
ROUGH = 0.1


@dataclass(frozen=True, slots=True)
class Candidate:
    """An operator for the narrowed groups: the sum of their certificates, and what `eval_fn` said
    of the whole network (None: not asked)."""

    operator: Operator
    certificate: float
    loss: float | None
    acc: float | None


@dataclass(frozen=True, slots=True)
class SampledCheckpoint:
    """What was written; `candidates` best first, groups that kept their width left out.

    `stored_params`: parameters in the new checkpoint; `gamma_params` = 1 - stored_params/old.
    """

    path: Path
    operator: Operator
    groups: tuple[GroupSample, ...]
    candidates: tuple[Candidate, ...]
    gamma_params: float
    stored_params: int
    source_sha256: str
    order_sha256: str
    warnings: tuple[str, ...]


def sample_checkpoint(
    checkpoint: Checkpoint,
    out_dir: str | Path,
    *,
    widths: Mapping[str, int],
    operator: Operator | None = None,
    groups: Sequence[PermutationGroup] | None = None,
    smoothness: Mapping[str, GroupSmoothness] | None = None,
    allow_approximate: bool = False,
    eval_fn: Evaluate | None = None,
    statistics_fn: Statistics | None = None,
    seed: int = 0,
) -> SampledCheckpoint:
    """Writes a checkpoint whose groups have the named widths to a new folder `out_dir`.

    `widths`: units by kind or name of a group; of ``heads`` the number of attention heads, which
    grouped queries change by whole key heads. `operator` None copies units where the width grows
    and tries ``merge`` (k-means), ``path``, ``area``, ``dct`` and ``prune`` where it shrinks: the
    lowest loss of `eval_fn` (a state dict to ``loss`` and, if it likes, ``acc``) wins, without it
    the smallest certificate. `groups` None are those of the architecture, `smoothness` by group
    (which holds the orders) is measured where it is needed and not given. `allow_approximate`
    permits the residual width, which norms make inexact even when it grows. `statistics_fn` maps a
    state dict to its batch norms' running statistics by name, as `batch_norm_statistics` gives them
    for a model that holds it; they count for `eval_fn` and are what is written.

    Tensors keep names and dtypes; those of groups whose width does not change keep every bit.
    Raises UsageError for widths that cannot be had, before anything is written; NonFinite and
    QuantUnknown naming the tensor.
    """
    folder = Path(out_dir)
    if folder.exists():
        raise UsageError("exists already", path=folder, hint="name a new folder")
    own = tuple(groups) if groups is not None else permutation_groups(checkpoint)[0]
    sizes = new_sizes(own, widths, checkpoint.config, allow_approximate=allow_approximate)
    config, warnings = resized_config(checkpoint.config, own, sizes)
    changed = [group for group in own if group.name in sizes]
    shapes = new_shapes(checkpoint, changed, sizes)
    plans = make_plans(checkpoint, changed, sizes, operator, dict(smoothness or {}), seed)

    def resampled(plan: Plan) -> dict[str, torch.Tensor]:
        return {name: new_tensor(checkpoint.read, name, changed, plan) for name in shapes}

    def state(plan: Plan) -> dict[str, torch.Tensor]:
        tensors = resampled(plan)
        return tensors if statistics_fn is None else tensors | renewed(tensors, statistics_fn)

    judged = [(plan, _candidate(plan, eval_fn, state)) for plan in plans]
    judged.sort(key=lambda pair: _preference(pair[1]))
    best = judged[0][0]
    running = {} if statistics_fn is None else renewed(resampled(best), statistics_fn)
    source, order = _identity(checkpoint), _order_hash(best)
    metadata = {"source_sha256": source, "order_sha256": order}
    _write(folder, checkpoint, changed, best, shapes, running, config, metadata)
    touched = {site.tensor for group in changed for site in group.sites}
    after = count_parameters(replace(t, shape=shapes[t.name]) for t in checkpoint.stored)
    return SampledCheckpoint(
        path=folder,
        operator=best.operator,
        groups=best.samples,
        candidates=tuple(candidate for _, candidate in judged),
        gamma_params=1.0 - after / checkpoint.n_params,
        stored_params=after,
        source_sha256=source,
        order_sha256=order,
        warnings=(*warnings, *_warnings(best, touched - set(running))),
    )


def _write(
    folder: Path,
    checkpoint: Checkpoint,
    changed: Sequence[PermutationGroup],
    plan: Plan,
    shapes: Mapping[str, tuple[int, ...]],
    running: Mapping[str, torch.Tensor],
    config: Mapping[str, Any],
    metadata: Mapping[str, str],
) -> None:
    """One tensor in memory at a time; those that nothing changed as the bytes they were."""
    touched = {site.tensor for group in changed for site in group.sites}
    stored = {tensor.name: tensor for tensor in checkpoint.stored}

    def content(name: str) -> Iterable[bytes | memoryview]:
        if name in running:
            return (tensor_bytes(running[name]),)
        if name in touched:
            return (tensor_bytes(new_tensor(checkpoint.read, name, changed, plan)),)
        return chunks(stored[name])

    write_checkpoint(
        folder,
        [Planned(name, stored[name].dtype, shape) for name, shape in shapes.items()],
        content,
        metadata={
            "format": "pt",
            "method": "manifold sample",
            "operator": plan.operator,
            **metadata,
            "widths": json.dumps({s.group: f"{s.n}->{s.m}" for s in plan.samples}),
        },
        config=config,
    )


def _candidate(
    plan: Plan, eval_fn: Evaluate | None, state: Callable[[Plan], dict[str, torch.Tensor]]
) -> Candidate:
    total = sum(sample.certificate for sample in plan.samples)
    if eval_fn is None:
        return Candidate(plan.operator, total, None, None)
    said = eval_fn(state(plan))
    if "loss" not in said:
        raise UsageError("eval_fn must return a mapping with the key 'loss'")
    acc = said.get("acc")
    return Candidate(plan.operator, total, float(said["loss"]), None if acc is None else float(acc))


def _preference(candidate: Candidate) -> tuple[float, float]:
    """Lower is better; a loss that is not a number comes last."""
    loss = 0.0 if candidate.loss is None else candidate.loss
    return (math.inf if math.isnan(loss) else loss), candidate.certificate


def _warnings(plan: Plan, touched: Iterable[str]) -> list[str]:
    found = [
        f"{s.group}: smoothness {s.smoothness:.2f} is below {ROUGH}: merging or pruning is likely"
        f" better than {s.operator}"
        for s in plan.samples
        if s.operator in ALONG_ORDER and s.smoothness is not None and s.smoothness < ROUGH
    ]
    exact = all(sample.operator == "duplicate" for sample in plan.samples)
    if not exact and any(name.endswith(("running_mean", "running_var")) for name in touched):
        found.append("running statistics of batch norms were resampled: estimate them again")
    return found


def _identity(checkpoint: Checkpoint) -> str:
    """SHA-256 over the sorted names and content hashes of the tensors."""
    digest = hashlib.sha256()
    for name in sorted(tensor.name for tensor in checkpoint.stored):
        digest.update(f"{name}\0{checkpoint.content_sha256(name)}\n".encode())
    return digest.hexdigest()


def _order_hash(plan: Plan) -> str:
    """SHA-256 over what each group's change was built from: order, parts or kept units."""
    digest = hashlib.sha256()
    for name, made in sorted(plan.recipes.items()):
        digest.update(f"{name}\0{made.operator}\0{made.n}\0{made.m}\0".encode())
        digest.update(made.index.astype("<i8").tobytes())
    return digest.hexdigest()

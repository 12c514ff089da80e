"""Implicit networks of weights on scikit-learn's digits, published routing beside the exact one.

    OMP_NUM_THREADS=1 python tests/benchmarks/manifold_inr_digits.py [--seeds 0 1 2] [--json FILE]

A convolutional network with three hidden groups of 16 channels is trained, and its channels are
ordered for least total variation. From there other widths come

- in closed form: sampled along the order (area, dct), merged (path, k-means) or pruned by L1 norm
  (H. Li et al., arXiv 1608.08710), all of them storing as many numbers as the narrow network;
  truncated SVD keeps the width and stores at most as many;
- from an implicit network (X. Yang & X. Wang, arXiv 2410.11878) fitted to the weights and to their
  path-merged samples at widths 4 to 15, then trained on the task with every layer morphing, widths
  drawn at random and the published settings (Adam 1e-3, no weight decay). Published and exact
  routing start from the same fit and see the same batches and widths; under the published one
  coordinate noise also picks the network that answers. One more run starts from a fit of width 16
  alone.

Accuracy is of 360 held-out digits (standard error .011 at .95, .026 at .5); with noise that of the
mean of K generations. Seconds are of the processor.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from analyzer.models.manifold.axis_parts import resize
from analyzer.models.manifold.groups import PermutationGroup, Site, apply_orders
from analyzer.models.manifold.inr import (
    ImplicitFit,
    TrainingSettings,
    evaluate,
    fit_implicit,
    generate,
    resized_shapes,
    sample,
    train_implicit,
)
from analyzer.models.manifold.inr.design import design_for
from analyzer.models.manifold.operators import Operator, recipe, unit_weights
from analyzer.models.manifold.smoothness import group_smoothness
from theory.resampling.fit_errors import svd_rank_for

FULL, TRAINED, TESTED = 16, tuple(range(4, 17)), (16, 12, 8, 4)
READERS = ("3.weight", "6.weight", "10.weight")
GROUPS = tuple(
    PermutationGroup(
        f"c{i}", "channels", FULL,
        (Site(f"{3 * i}.weight", 0), Site(f"{3 * i}.bias", 0), Site(reader, 1, role="consumes")),
    )
    for i, reader in enumerate(READERS)
)  # fmt: skip
State = dict[str, Tensor]
CLOSED: dict[str, Operator] = {
    "area, along the order": "area", "dct, along the order": "dct",
    "path merge, along the order": "path", "k-means merge": "merge", "L1 channel pruning": "prune",
}  # fmt: skip


def network(width: int) -> nn.Module:
    """Three convolutions, 8 × 8 inputs pooled to one pixel, eight tensors."""
    return nn.Sequential(
        *(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        nn.Linear(width, 10),
    )


class Batches:
    """Shuffled batches of 64, a new order each time through."""

    def __init__(self, x: Tensor, y: Tensor, seed: int) -> None:
        self.x, self.y = x, y
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self):
        order = torch.randperm(len(self.x), generator=self.generator)
        for rows in order.split(64):
            yield self.x[rows], self.y[rows]


def digits(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise SystemExit("the digits come with scikit-learn: pip install scikit-learn") from None
    pixels, labels = load_digits(return_X_y=True)
    x = torch.tensor(np.asarray(pixels) / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8)
    y = torch.tensor(np.asarray(labels), dtype=torch.long)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(x)))
    held, kept = order[:360], order[360:]
    return x[kept], y[kept], x[held], y[held]


def trained_alone(width: int, batches: Batches, steps: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = network(width)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    done = 0
    while done < steps:
        for x, y in batches:
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            done += 1
            if done == steps:
                break
    return model.eval()


def resized(weights: State, width: int, operator: Operator) -> State:
    """The ordered network's weights at another width."""
    if width == FULL:
        return weights
    changes = {
        g.name: recipe(
            operator, unit_weights(weights.__getitem__, g), width, range(g.size)
        ).change()
        for g in GROUPS
    }
    sites = [(site, changes[g.name]) for g in GROUPS for site in g.sites]
    return {
        name: torch.from_numpy(
            resize(value.double().numpy(), [(s, c) for s, c in sites if s.tensor == name])
        ).float()
        for name, value in weights.items()
    }


def truncated(weights: State, stored: Mapping[str, int]) -> State:
    """Each tensor's (out, in · taps) matrix by an SVD of at most as many numbers as `stored`."""
    result = dict(weights)
    for name, value in weights.items():
        if value.ndim > 1:
            W = value.flatten(1)
            rank = svd_rank_for(stored[name], (W.shape[0], W.shape[1]))
            u, s, v = torch.linalg.svd(W, full_matrices=False)
            result[name] = ((u[:, :rank] * s[:rank]) @ v[:rank]).reshape(value.shape)
    return result


@dataclass(frozen=True)
class Row:
    """Accuracies and stored numbers at the widths of TESTED."""

    accuracies: list[float]
    stored: list[int]
    status: str
    seconds: float


def size(weights: Mapping[str, Tensor]) -> int:
    return sum(value.numel() for value in weights.values())


def closed_forms(ordered: State, held: list[tuple[Tensor, Tensor]]) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for name, operator in CLOSED.items():
        started = time.process_time()
        made = [resized(ordered, width, operator) for width in TESTED]
        seconds = time.process_time() - started
        found = [evaluate(network(w), x, held).accuracy for w, x in zip(TESTED, made, strict=True)]
        rows[name] = Row(found, [size(x) for x in made], "", seconds)
    started = time.process_time()
    narrow = [resized(ordered, width, "prune") for width in TESTED]
    made = [truncated(ordered, {k: v.numel() for k, v in x.items()}) for x in narrow[1:]]
    found = [evaluate(network(FULL), x, held).accuracy for x in (ordered, *made)]
    seconds = time.process_time() - started
    rows["truncated SVD, width kept"] = Row(found, [size(x) for x in narrow], "", seconds)
    return rows


def implicit(
    ordered: State, batches: Callable[[], Batches], held: list[tuple[Tensor, Tensor]],
    seed: int, options: argparse.Namespace,
) -> dict[str, Row]:  # fmt: skip
    """Rows of the implicit networks."""
    full = {name: tuple(value.shape) for name, value in ordered.items()}
    shapes = {w: resized_shapes(full, GROUPS, {g.name: w for g in GROUPS}) for w in TRAINED}
    design = design_for(full, hidden=options.hidden)
    rows: dict[str, Row] = {}

    def add(name: str, weights_at: Callable[[int], State], status: str, seconds: float) -> None:
        found = [evaluate(network(w), weights_at(w), held).accuracy for w in TESTED]
        rows[name] = Row(found, [design.inr_params] * len(TESTED), status, seconds)
        print(f"  seed {seed}: {name}: " + " ".join(f"{a:.3f}" for a in found), flush=True)

    def fitted(others: list[State]) -> ImplicitFit:
        return fit_implicit(
            ordered, others=others, design=design, steps=options.recon_steps, learning_rate=5e-3,
            seed=seed,
        )  # fmt: skip

    started = time.process_time()
    fit = fitted([resized(ordered, width, "path") for width in TRAINED if width < FULL])
    seconds = time.process_time() - started
    add("implicit, fitted to weights only", lambda w: generate(fit.network, shapes[w]), "", seconds)
    alone = fitted([])
    noise = options.noise
    for name, start, amplitude, published in (
        (f"published routing, noise {noise:g}", fit, noise, True),
        (f"exact routing, noise {noise:g}", fit, noise, False),
        ("exact routing, no noise", fit, 0.0, False),
        ("the same, from a fit of width 16", alone, 0.0, False),
    ):
        started = time.process_time()
        settings = TrainingSettings(
            steps=options.steps,
            coordinate_noise=amplitude,
            published_routing=published,
            weight_decay=0.0,
            abort_at_chance=False,
        )
        done = train_implicit(
            start.network, ordered, network, TRAINED, batches(), settings, seed=seed
        )
        drawn = {
            width: sample(
                done.network, shapes[width], k=options.generations if amplitude else 1,
                noise=amplitude, seed=seed, published_routing=published,
            )
            for width in TESTED
        }  # fmt: skip
        add(name, drawn.__getitem__, done.status, time.process_time() - started)
    return rows


def one_seed(seed: int, options: argparse.Namespace) -> dict[str, Row]:
    x, y, held_x, held_y = digits(seed)
    held = [(held_x, held_y)]
    started = time.process_time()
    alone = {w: trained_alone(w, Batches(x, y, seed), 500, seed) for w in TESTED}
    own = {w: {k: v.detach() for k, v in m.named_parameters()} for w, m in alone.items()}
    rows = {
        "trained at that width alone": Row(
            [evaluate(alone[w], own[w], held).accuracy for w in TESTED],
            [size(own[w]) for w in TESTED], "", time.process_time() - started,
        )
    }  # fmt: skip
    measured = {g.name: group_smoothness(own[FULL].__getitem__, g) for g in GROUPS}
    print(f"seed {seed}: smoothness " + ", ".join(f"{m.smoothness:.2f}" for m in measured.values()))
    ordered = apply_orders(own[FULL], GROUPS, {name: m.order for name, m in measured.items()})
    rows |= closed_forms(ordered, held)
    return rows | implicit(ordered, lambda: Batches(x, y, seed), held, seed, options)


def print_table(every: list[dict[str, Row]]) -> None:
    print(f"\nAccuracy at widths {TESTED}, mean ± sd of {len(every)} seeds; stored numbers")
    for name in every[0]:
        runs = [rows[name] for rows in every]
        a = np.array([run.accuracies for run in runs])
        spread = a.std(axis=0, ddof=1) if len(runs) > 1 else np.zeros(len(TESTED))
        cells = "  ".join(f"{m:.3f} ± {s:.3f}" for m, s in zip(a.mean(axis=0), spread, strict=True))
        stored = sorted(set(runs[0].stored), reverse=True)
        counts: defaultdict[str, int] = defaultdict(int)
        for run in runs:
            counts[run.status] += 1
        status = ", ".join(f"{n} {text}" for text, n in counts.items() if text)
        seconds = np.mean([run.seconds for run in runs])
        numbers = "/".join(map(str, stored))
        print(f"{name:34} {cells}   {numbers:20} {seconds:6.1f} s  {status}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--recon-steps", type=int, default=1500)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--noise", type=float, default=1.0, help="coordinate noise, 1 as published")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--generations", type=int, default=50)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    every = [one_seed(seed, options) for seed in options.seeds]
    print_table(every)
    if options.json:
        listed = [{name: vars(row) for name, row in rows.items()} for rows in every]
        options.json.write_text(json.dumps(listed, indent=2) + "\n")


if __name__ == "__main__":
    main()

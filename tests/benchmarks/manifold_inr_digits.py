"""Implicit networks of weights on scikit-learn's digits: published routing beside the exact one.

    OMP_NUM_THREADS=1 python tests/benchmarks/manifold_inr_digits.py [--seeds 0 1] [--noise 1]

A convolutional network with three hidden groups of channels is trained at full width, its channels
are ordered for least total variation, an implicit network is fitted to the weights alone and then
trained on the task with every layer morphing, widths 4 to 16 drawn at random. All runs start from
the same fit and see the same batches, widths and published settings (Adam 1e-3, no weight decay);
under the published routing coordinate noise also picks the network that answers. Accuracy on 360
held-out digits at each width is that of the mean of K generations, beside networks trained at that
width alone. Seconds are of the processor.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from torch import Tensor, nn

from analyzer.models.manifold.groups import PermutationGroup, Site, apply_orders
from analyzer.models.manifold.inr import (
    TrainingSettings,
    evaluate,
    fit_implicit,
    generate,
    resized_shapes,
    sample,
    train_implicit,
)
from analyzer.models.manifold.inr.design import design_for
from analyzer.models.manifold.smoothness import group_smoothness

FULL, TRAINED, TESTED = 16, tuple(range(4, 17)), (16, 12, 8, 4)
GROUPS = tuple(
    PermutationGroup(
        name=f"c{i}",
        kind="channels",
        size=FULL,
        sites=(
            Site(f"{3 * i}.weight", 0),
            Site(f"{3 * i}.bias", 0),
            Site(("3.weight", "6.weight", "10.weight")[i], 1, role="consumes"),
        ),
    )
    for i in range(3)
)


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


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--recon-steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--noise", type=float, default=1.0, help="coordinate noise, 1 as published")
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--generations", type=int, default=50)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("seed | variant | " + " | ".join(f"width {w}" for w in TESTED) + " | status | s")
    for seed in options.seeds:
        one_seed(seed, options)


def one_seed(seed: int, options: argparse.Namespace) -> None:
    x, y, held_x, held_y = digits(seed)
    held = [(held_x, held_y)]

    def row(variant: str, accuracies: list[float], status: str, started: float) -> None:
        cells = " | ".join(f"{a:.3f}" for a in accuracies)
        seconds = time.process_time() - started
        print(f"{seed} | {variant} | {cells} | {status} | {seconds:.0f}", flush=True)

    def through(variant: str, weights_at, status: str, started: float) -> None:
        found = [evaluate(network(w), weights_at(shapes[w]), held).accuracy for w in TESTED]
        row(variant, found, status, started)

    started = time.process_time()
    alone = {w: trained_alone(w, Batches(x, y, seed), 500, seed) for w in TESTED}
    own = {w: dict(model.named_parameters()) for w, model in alone.items()}
    row("trained alone", [evaluate(alone[w], own[w], held).accuracy for w in TESTED], "-", started)
    weights = {name: value.detach() for name, value in own[FULL].items()}
    orders = {g.name: group_smoothness(weights.__getitem__, g).order for g in GROUPS}
    ordered = apply_orders(weights, GROUPS, orders)
    full = {name: tuple(value.shape) for name, value in ordered.items()}
    shapes = {w: resized_shapes(full, GROUPS, {g.name: w for g in GROUPS}) for w in TRAINED}
    design = design_for(full, hidden=options.hidden)

    started = time.process_time()
    fit = fit_implicit(
        ordered, design=design, steps=options.recon_steps, learning_rate=5e-3, seed=seed
    )
    through("fit to the weights alone", lambda s: generate(fit.network, s), "-", started)
    for name, noise, published in (
        (f"published routing, noise {options.noise:g}", options.noise, True),
        (f"exact routing, noise {options.noise:g}", options.noise, False),
        ("exact routing, no noise", 0.0, False),
    ):
        started = time.process_time()
        settings = TrainingSettings(
            steps=options.steps,
            coordinate_noise=noise,
            published_routing=published,
            weight_decay=0.0,
            abort_at_chance=False,
        )
        done = train_implicit(
            fit.network, ordered, network, TRAINED, Batches(x, y, seed), settings, seed=seed
        )
        count = options.generations if noise else 1

        def weights_at(s, done=done, noise=noise, published=published, count=count):
            return sample(
                done.network, s, k=count, noise=noise, seed=seed, published_routing=published
            )

        through(name, weights_at, done.status, started)
    errors = [e for e in fit.rel_fro.values() if e is not None]
    print(
        f"{seed} | {fit.inr_params} parameters of the implicit network for {fit.model_params} "
        f"weights at width {FULL}; fit: relative error {min(errors):.3f} to {max(errors):.3f}"
    )


if __name__ == "__main__":
    main()

"""A small real collection made offline: a base, a full fine-tune and three LoRA adapters."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from analyzer.errors import UsageError

MARKER = "demo.json"
ACTIVATIONS = "activations.safetensors"
README = "README.md"  # written last: its presence says that the collection is complete


def make_demo(
    folder: Path,
    *,
    steps: int = 300,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Train the collection into `folder` and return it; what is already there is kept.

    The base trains for `steps` steps, each tuned model for a quarter of them; `progress` is called
    with (phase, step, steps of the phase) after every step. Raises `UsageError` if `folder` holds
    something else, or a demo with other settings. The same settings, thread count, Python and
    torch give the same weights.
    """
    if steps < 1:
        raise UsageError(f"{steps} training steps", hint="use 1 or more")
    _claim(folder, {"made_by": "analyzer demo", "steps": steps, "seed": seed})
    if not (folder / README).exists():
        _train_missing(folder, steps, seed, progress)
    return folder


def _claim(folder: Path, settings: dict[str, object]) -> None:
    """Mark an empty folder as ours, or check that it is."""
    if folder.exists() and not folder.is_dir():
        raise UsageError("is a file", path=folder, hint="name a folder to create")
    marker = folder / MARKER
    if not marker.exists():
        if folder.exists() and any(folder.iterdir()):
            raise UsageError(
                "the folder holds something else", path=folder, hint="name an empty or new folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        marker.write_text(json.dumps(settings) + "\n", encoding="utf-8")
        return
    try:
        found = json.loads(marker.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if found != settings:
        raise UsageError(
            "the folder holds a demo made with other settings",
            path=folder,
            hint="name another folder, or delete this one",
        )


def _train_missing(
    folder: Path, steps: int, seed: int, progress: Callable[[str, int, int], None] | None
) -> None:
    import torch

    from analyzer.demo.corpus import read_corpus
    from analyzer.demo.hidden_states import save_hidden_states
    from analyzer.demo.readme import readme
    from analyzer.demo.runs import TUNINGS, load_base, make_base, make_tuned, tuning_steps

    corpus = read_corpus()
    with torch.random.fork_rng(devices=[]):
        make_base(folder / "base", corpus, steps=steps, seed=seed, progress=progress)
        for name, tuning in TUNINGS.items():
            make_tuned(
                folder / name,
                folder / "base",
                corpus,
                tuning,
                steps=tuning_steps(steps),
                seed=seed,
                progress=progress,
            )
        save_hidden_states(folder / ACTIVATIONS, load_base(folder / "base"), corpus)
    (folder / README).write_text(readme(folder, steps, seed), encoding="utf-8")

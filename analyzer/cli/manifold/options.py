"""Arguments and options that several manifold commands share, and what is made of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from analyzer.errors import UsageError

if TYPE_CHECKING:
    from analyzer.checkpoints.checkpoint import Checkpoint
    from analyzer.models.manifold.groups import PermutationGroup

model_argument = click.argument("model", type=click.Path(path_type=Path))
output_option = click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="New folder."
)
groups_option = click.option(
    "--groups", "spec", type=click.Path(path_type=Path), help="YAML or JSON that names the groups."
)
base_option = click.option(
    "--base", type=click.Path(path_type=Path), help="What they were tuned from."
)
seed_option = click.option("--seed", type=int, default=0, show_default=True)
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
quiet_option = click.option("-q", "--quiet", is_flag=True, help="No progress.")


def opened_checkpoint(path: Path) -> Checkpoint:
    from analyzer.checkpoints.checkpoint import open_checkpoint

    return open_checkpoint(path)


def checkpoint_and_groups(
    path: Path, spec: Path | None
) -> tuple[Checkpoint, tuple[PermutationGroup, ...]]:
    """A checkpoint and its groups; what could not be mapped is said on stderr."""
    from analyzer.models.manifold.groups import groups_from_yaml, permutation_groups

    checkpoint = opened_checkpoint(path)
    mapped = permutation_groups(checkpoint) if spec is None else groups_from_yaml(spec, checkpoint)
    for axis in mapped[1][:3]:
        click.echo(f"left in place: {axis}", err=True)
    if not mapped[0]:
        raise UsageError("no permutation group", path=path, hint="name them with --groups FILE")
    return checkpoint, mapped[0]


def widths_of(pairs: tuple[str, ...]) -> dict[str, int]:
    found: dict[str, int] = {}
    for pair in pairs:
        name, _, count = pair.partition("=")
        if not count.isdigit():
            raise UsageError(f"--width {pair}", hint="write GROUP=N, such as mlp=512")
        found[name] = int(count)
    return found


def function_of(place: str | None, option: str) -> Callable[..., Any] | None:
    """The user's own function. Raises UsageError where there is none."""
    if place is None:
        return None
    import runpy

    file, _, name = place.rpartition(":")
    if not file or not Path(file).is_file():
        raise UsageError(f"{option} {place}", hint="write FILE.py:FUNCTION")
    function: Any = runpy.run_path(file).get(name)
    if not callable(function):
        raise UsageError(f"no function {name}", path=file)
    return function


def evaluation_of(place: str | None) -> Callable[..., Any] | None:
    """The user's own loss; a bare number counts as one. Raises UsageError where there is none."""
    function = function_of(place, "--eval")
    if function is None:
        return None

    def evaluate(state: Any) -> Any:
        said: Any = function(state)
        return said if isinstance(said, dict) else {"loss": float(said)}

    return evaluate


@contextmanager
def bar(quiet: bool) -> Iterator[Callable[[int, int, str], None]]:
    from analyzer.cli.progress import progress_bar
    from analyzer.scanning.pool import Progress

    with progress_bar(quiet) as report:

        def show(done: int, total: int, what: str) -> None:
            if report is not None:
                report(Progress(done / max(total, 1), what))

        yield show
